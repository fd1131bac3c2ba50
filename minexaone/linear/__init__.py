"""What may stand in the place of `nn.Linear`. Only these files read a projection's weight.

All others call the module, or ask for its kernel form here.
"""

import torch
from torch import Tensor, nn

from minexaone.linear.packed import Packed, PackedEmbedding, PackedLinear


def altered(module: nn.Module) -> bool:
    """Whether calling the module does something else than its class says: it has hooks, or a forward of its own."""
    return bool("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks)


def kernel_form(module: nn.Module) -> tuple[Tensor, ...]:
    """What a kernel needs to compute what the module does: (weight [out, in],) of a linear layer without bias or of an
    embedding, (int8 weight, scale [out]) of one in 8 bits. Raises ValueError for anything else.
    """
    if altered(module):
        raise ValueError(f"a {type(module).__name__} with hooks or a forward of its own has no kernel form")
    if type(module) in (PackedLinear, PackedEmbedding) and module.weight.dtype == torch.int8 \
            and module.scale.shape[1] == 1 and {name for name, _ in module.named_buffers()} == {"weight", "scale"}:
        return module.weight, module.scale[:, 0]
    if type(module) in (nn.Linear, nn.Embedding) and getattr(module, "bias", None) is None:
        return (module.weight.detach(),)
    raise ValueError(f"a {type(module).__name__} has no kernel form")


@torch.no_grad()
def fuse(*linears: nn.Linear) -> Tensor:
    """One weight [sum of out, in] for several projections of the same input; theirs become views of it."""
    joined = torch.cat([weight for linear in linears for weight in kernel_form(linear)])
    for linear, part in zip(linears, joined.split([linear.out_features for linear in linears]), strict=True):
        linear.weight.data = part  # the parameter stays the same object: an optimizer may hold it
    return joined


__all__ = ["Packed", "PackedEmbedding", "PackedLinear", "altered", "fuse", "kernel_form"]
