"""Rounding weights to 8 or 4 bits: less memory, and faster steps, since reading the weights is what takes the time.

In 8 bits every row of a matrix is stored as whole numbers from -127 to 127 and one float32 scale: weight ≈ integer ·
scale, with scale = max |weight| / 127. In 4 bits there are 16 steps, and a scale for each group of inputs. The
activations, the norms and the cache keep their precision.
"""

import torch
from torch import Tensor, nn

from minexaone.linear.packed import PackedEmbedding, PackedLinear, pack4, tied_head

BLOCK = 1024  # rows quantised at once: bounds the memory of what is computed in between


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] as int8 [out, in] and scale, float32 [out], each rounded to the nearest."""
    low, high = weight.aminmax(dim=1)
    scale = torch.maximum(-low, high).float() / 127
    scale.clamp_(min=torch.finfo(torch.float32).tiny)  # a row of zeros
    integers = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    for whole, part, s in zip(integers.split(BLOCK), weight.split(BLOCK), scale.split(BLOCK), strict=True):
        whole.copy_((part / s[:, None]).round_())
    return integers, scale


def group_size(inputs: int, group: int) -> int:
    """How many inputs share a scale: `group`, or all of them if it is -1. `ValueError` if groups do not fill a row
    or are odd: two values of 4 bits share a byte, and a scale.
    """
    if group == -1:
        return inputs
    if group < 1 or inputs % group or group % 2:
        raise ValueError(f"group is {group}, but a matrix has {inputs:,} inputs: choose an even divisor of that, or -1 "
                         "for one scale a row")
    return group


def grid(weight: Tensor, bits: int, symmetric: bool = True, stored: torch.dtype = torch.float16
         ) -> tuple[Tensor, Tensor]:
    """The steps for groups of weights [..., group]: scale and zero, float32 [..., 1], for values from -2^(bits - 1).

    Symmetric: zero is 0, and the largest magnitude lies half a step beyond the largest value (as in compressed-tensors
    and GPTQ). Otherwise from the smallest to the largest weight, 0 always among the steps. stored: of the scales.
    """
    steps, low, high = 2**bits - 1, *weight.float().aminmax(dim=-1, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = ((high - low) / steps).to(stored).float()  # weights are rounded to the steps that will be read
    scale = torch.where(scale == 0, 1.0, scale)  # a group of zeros
    zero = torch.zeros_like(scale) if symmetric else (-low / scale).round().clamp(0, steps) - 2**(bits - 1)
    return scale, zero


def round_to(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest values, float32 and whole, of weights on a grid."""
    return (weight / scale + zero).round().clamp(-2**(bits - 1), 2**(bits - 1) - 1)


def round_to_nearest(weight: Tensor, bits: int, group: int, symmetric: bool = True,
                     stored: torch.dtype = torch.float16) -> PackedLinear:
    """weight [O, I], its inputs in groups (-1: one a row), each weight rounded by itself. stored: of the scales."""
    group = group_size(weight.shape[1], group)
    groups = weight.detach().float().unflatten(1, (-1, group))
    scale, zero = grid(groups, bits, symmetric, stored)
    values = round_to(groups, scale, zero, bits).flatten(1)
    return packed_linear(values, scale[..., 0].to(stored), None if symmetric else zero[..., 0], group, bits)


def packed_linear(values: Tensor, scale: Tensor, zero: Tensor | None, group: int, bits: int) -> PackedLinear:
    """From whole numbers: values [O, I], zero [O, groups]; 3 bits are kept in 4."""
    values = values.to(torch.int8)
    return PackedLinear(pack4(values) if bits <= 4 else values, scale, group,
                        None if zero is None else zero.to(torch.int8))


@torch.no_grad()
def quantize(model, bits: int = 8, group: int = 128):
    """Quantise every matrix of an `Exaone4`, in place; returns the model, which can neither be trained nor saved.

    bits: 8, or 4 in groups for the layers, and 8 for the embedding and the head. One matrix at a time is replaced, so
    that the model is never held twice. A tied head shares the embedding's tensors.
    """
    def packed(weight):
        integers, scale = quantize_rows(weight)
        return integers, scale[:, None], weight.shape[1]

    def replace(parent):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Embedding):
                setattr(parent, name, PackedEmbedding(*packed(child.weight), dtype=child.weight.dtype))
            elif isinstance(child, nn.Linear) and bits == 4 and parent is not model:
                setattr(parent, name, round_to_nearest(child.weight, 4, group))
            elif isinstance(child, nn.Linear):
                setattr(parent, name, PackedLinear(*packed(child.weight)))

    model.apply(replace)  # to each module after its children
    if model.lm_head is None:
        model.lm_head = tied_head(model.embed_tokens)
    return model
