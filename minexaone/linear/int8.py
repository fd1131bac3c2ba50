"""Weights in 8 bits: half the memory of bfloat16, and faster steps, since reading the weights is what takes the time.

Every row of a matrix is stored as whole numbers from -127 to 127 and one float32 scale: weight ≈ integer · scale, with
scale = max |weight| / 127. The activations, the norms and the cache keep their precision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class Int8Linear(nn.Module):
    """A linear layer without bias from `quantize_rows`: weight int8 [out, in], scale float32 [out]."""

    def __init__(self, weight: Tensor, scale: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out], with the weights in x's dtype."""
        return F.linear(x, self.weight.to(x.dtype).mul_(self.scale[:, None].to(x.dtype)))


class Int8Embedding(nn.Module):
    """An embedding from `quantize_rows`, whose vectors are of `dtype`."""

    def __init__(self, weight: Tensor, scale: Tensor, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] to [..., hidden_size]."""
        return (self.weight[ids] * self.scale[ids][..., None]).to(self.dtype)


@torch.no_grad()
def quantize(model):
    """Quantise every matrix of an `Exaone4`, in place; returns the model, which can neither be trained nor saved.

    One matrix at a time is replaced, so that the model is never held twice. A tied head shares the embedding's tensors.
    """
    def replace(parent):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(*quantize_rows(child.weight)))
            elif isinstance(child, nn.Embedding):
                setattr(parent, name, Int8Embedding(*quantize_rows(child.weight), child.weight.dtype))

    model.apply(replace)  # to each module after its children
    if model.lm_head is None:
        model.lm_head = Int8Linear(model.embed_tokens.weight, model.embed_tokens.scale)
    return model
