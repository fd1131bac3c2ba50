"""Weights in 8 bits: the rounding itself, against slow formulas, and what it costs the shipped model."""

import copy

import pytest
import torch

from minexaone.fast.cpu import FastCPU
from minexaone.linear.packed import PackedEmbedding, PackedLinear
from minexaone.linear.rounding import quantize, quantize_rows
from minexaone.model import Exaone4, KVCache


def slowly(row):
    """One row by the definition, in Python's own numbers: the integers and their scale."""
    scale = max(abs(value) for value in row) / 127
    return [round(value / scale) if scale else 0 for value in row], scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_rounded_to_the_nearest_of_255_steps(dtype):
    weight = torch.randn(1030, 24, generator=torch.Generator().manual_seed(0)).to(dtype)  # more than one block of rows
    weight[5] = 0
    weight[7] *= 100
    integers, scale = quantize_rows(weight)
    assert integers.dtype == torch.int8 and scale.dtype == torch.float32
    for row in [0, 5, 7, 1023, 1024, 1029]:
        expected, s = slowly(weight[row].tolist())
        assert integers[row].tolist() == expected and scale[row].item() == pytest.approx(s, rel=1e-6, abs=1e-37)
    error = (integers * scale[:, None] - weight.float()).abs()
    assert (error <= 0.501 * scale[:, None]).all() and integers.abs().max() == 127


def test_modules_compute_with_the_rounded_weights():
    weight = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    integers, scale = quantize_rows(weight)
    rounded = torch.tensor([[i * s for i in row] for row, s in zip(integers.tolist(), scale.tolist(), strict=True)])
    packed, x = (integers, scale[:, None], 24), torch.randn(2, 3, 24)
    expected = torch.tensor([[[sum(a * b for a, b in zip(row, v, strict=True)) for row in rounded.tolist()]
                              for v in part] for part in x.tolist()])
    assert torch.allclose(PackedLinear(*packed)(x), expected, atol=1e-5)
    out = PackedLinear(*packed)(x.bfloat16())
    assert out.dtype == torch.bfloat16 and (out - expected).std() < 0.01 * expected.std()
    ids = torch.tensor([[3, 39], [0, 3]])
    assert torch.allclose(PackedEmbedding(*packed, dtype=torch.float32)(ids), rounded[ids])
    assert PackedEmbedding(*packed, dtype=torch.bfloat16)(ids).dtype == torch.bfloat16


@pytest.fixture(scope="module")
def models():
    """The shipped model in float32, and quantised."""
    model = Exaone4.from_pretrained(device="cpu", dtype="float32")
    quantised = copy.deepcopy(model)
    assert quantize(quantised) is quantised
    return model, quantised


def test_every_matrix_is_replaced_and_nothing_else(models):
    model, quantised = models
    assert [p.dim() for p in quantised.parameters()] == [1] * (4 * model.config.num_hidden_layers + 1)  # norms
    assert not any(isinstance(module, torch.nn.Linear | torch.nn.Embedding) for module in quantised.modules())
    stored = {tensor.data_ptr(): tensor for tensor in quantised.state_dict().values()}.values()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sum(tensor.nbytes for tensor in stored) < 1.03 * count  # one byte a weight, and the head's shared if tied


@torch.inference_mode()
def test_what_it_costs_the_shipped_model(models):
    model, quantised = models
    prompt = torch.randint(400, model.config.vocab_size, (20,), generator=torch.Generator().manual_seed(0)).tolist()
    ids = torch.tensor([prompt + model.generate(prompt, max_new_tokens=280, stop_ids=[])])
    exact, rounded = model(ids)[0], quantised(ids)[0]
    error = (rounded - exact).std() / exact.std()
    agreement = (rounded[20:].argmax(-1) == exact[20:].argmax(-1)).float().mean()
    print(f"int8: error {error:.4f} of the logits' spread, greedy agreement {agreement:.3f}")
    assert error < 0.05 and agreement > 0.95


@torch.inference_mode()
def test_fast_steps_equal_the_clear_path(models):
    _, model = models
    fast, ids = FastCPU(model), torch.arange(400, 700)[None]
    cache, parts = KVCache(model.config), []
    for t in range(ids.shape[1]):  # past two windows, in turn
        parts.append((fast if t % 3 else model)(ids[:, t:t + 1], cache))
    clear = model(ids)
    assert (torch.cat(parts, 1) - clear).abs().max() < 5e-5 * clear.std()
