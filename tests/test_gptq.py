"""GPTQ of one matrix: against least squares solved anew for every input, and against rounding to the nearest."""

import pytest
import torch

from minexaone.linear.gptq import gptq, gram
from minexaone.linear.rounding import round_to_nearest

BITS = [(4, True), (4, False), (3, True), (8, False)]


def data(outputs, inputs, samples, seed=0):
    """A matrix, and inputs of which a few directions and a few coordinates are much larger than the rest."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.linspace(0.02, 1, inputs)[:, None] ** 2
    x = torch.randn(2 * samples, inputs, generator=generator) @ mixing
    x[:, 3] *= 8
    return torch.randn(outputs, inputs, generator=generator) * 0.05, x[:samples], x[samples:]


def slowly(weight, hessian, packed, bits, damping):
    """The values of a matrix rounded input by input: after each, all that are left are solved for, exactly.

    Only the grid is taken from `packed`. The rest of row d minimises d H dᵀ, where d is final for the inputs so far.
    """
    weight, scale = weight.double(), packed.scale.double().repeat_interleave(packed.group, 1)
    zero = torch.zeros_like(scale) if packed.zero is None else packed.zero.double().repeat_interleave(packed.group, 1)
    H = hessian.double()
    dead = H.diagonal() == 0
    H = H + torch.diag(dead + damping * H.diagonal().mean())
    order = hessian.diagonal().argsort(descending=True, stable=True).tolist()
    final, left, values = torch.zeros_like(weight), list(order), torch.zeros_like(weight)
    now = weight.clone()
    for i in order:
        steps = (now[:, i] / scale[:, i] + zero[:, i]).round().clamp(-2**(bits - 1), 2**(bits - 1) - 1)
        values[:, i], final[:, i] = steps, (steps - zero[:, i]) * scale[:, i] - weight[:, i]
        left.remove(i)
        done = [j for j in range(len(H)) if j not in left]
        if left:  # H[left, left] d[left] = -H[left, done] d[done]
            solved = torch.linalg.solve(H[left][:, left], -H[left][:, done] @ final[:, done].T)
            now[:, left] = weight[:, left] + solved.T
    return values


def stored_values(packed):
    """The whole numbers of a matrix, from its weights, scales and zeros."""
    scale = packed.scale.double().repeat_interleave(packed.group, 1)
    zero = 0 if packed.zero is None else packed.zero.double().repeat_interleave(packed.group, 1)
    return packed.unpacked(torch.float32).double() / scale + zero


@pytest.mark.parametrize("bits, symmetric", BITS)
@pytest.mark.parametrize("inputs, group", [(48, 16), (40, -1), (160, 32)])  # 160: more than one block
def test_every_input_is_rounded_after_least_squares_for_those_before(inputs, group, bits, symmetric):
    weight, x, _ = data(6, inputs, 2 * inputs)
    x[:, 5] = 0  # never seen: nothing can be carried on from it or to it
    packed = gptq(weight, gram(x), bits, group, symmetric)
    expected = slowly(weight, gram(x), packed, bits, 0.01)
    same = (stored_values(packed) - expected).abs() < 0.01
    assert same.float().mean() > 0.995  # float32 may round a tie the other way, and then that row goes on differently
    nearest = round_to_nearest(weight, bits, group, symmetric)
    assert torch.equal(packed.scale, nearest.scale)
    assert torch.equal(packed.unpacked(torch.float32)[:, 5], nearest.unpacked(torch.float32)[:, 5])
    assert not torch.equal(packed.weight, nearest.weight)


@pytest.mark.parametrize("bits, symmetric", BITS)
@pytest.mark.parametrize("group", [32, -1])
def test_the_output_is_nearer_than_rounded_to_the_nearest_on_inputs_not_seen(bits, symmetric, group):
    weight, seen, unseen = data(64, 256, 2048)
    exact = unseen @ weight.T
    errors = [(unseen @ packed.unpacked(torch.float32).T - exact).norm() / exact.norm() for packed in (
        gptq(weight, gram(seen), bits, group, symmetric), round_to_nearest(weight, bits, group, symmetric))]
    assert errors[0] < 0.6 * errors[1], errors


def test_without_correlations_it_is_the_nearest():
    weight = data(16, 64, 1)[0]
    for hessian in (torch.eye(64), torch.diag(torch.linspace(0, 9, 64)), torch.zeros(64, 64)):
        assert torch.equal(gptq(weight, hessian, 4, 16).weight, round_to_nearest(weight, 4, 16).weight)


def test_fewer_inputs_than_dimensions_need_the_damping_only():
    weight, x, _ = data(8, 128, 10)
    packed = gptq(weight, gram(x), 4, 32)
    nearest = round_to_nearest(weight, 4, 32)
    error = [((x @ (p.unpacked(torch.float32) - weight).T).norm()) for p in (packed, nearest)]
    assert error[0] < 0.5 * error[1]


def test_the_hessian_is_a_sum_over_parts():
    x = torch.randn(3, 5, 16)
    assert torch.allclose(gram(x), gram(x[:1]) + gram(x[1:]), atol=1e-5) and gram(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("group", [48, 0, -2, 256, 1])
def test_groups_that_do_not_fill_a_row_are_named(group):
    weight = torch.randn(8, 128)
    for round_it in (lambda: gptq(weight, torch.eye(128), 4, group), lambda: round_to_nearest(weight, 4, group)):
        with pytest.raises(ValueError, match=f"group is {group}, but a matrix has 128 inputs"):
            round_it()


def test_a_hessian_that_overflowed_is_named():
    with pytest.raises(ValueError, match="not finite"):
        gptq(torch.randn(8, 16), torch.full((16, 16), float("inf")), 4)
