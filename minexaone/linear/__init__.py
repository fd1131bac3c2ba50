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


def parts(module: nn.Module) -> tuple[Tensor, ...]:
    """All tensors that the module computes with; raises ValueError as `kernel_form` does, if it has none here."""
    if isinstance(module, Packed) and not altered(module):
        return tuple(module.buffers())
    return kernel_form(module)


@torch.no_grad()
def fuse_packed(*linears: PackedLinear) -> PackedLinear:
    """As `fuse`, for packed ones; raises ValueError unless they are packed alike."""
    first, names = linears[0], [{name for name, _ in linear.named_buffers()} for linear in linears]
    alike = all(linear.group == first.group and linear.bits == first.bits and linear.scale.dtype == first.scale.dtype
                for linear in linears) and all(found == names[0] for found in names)
    if not alike or any(not torch.equal(linear.order, first.order) for linear in linears if first.order is not None):
        raise ValueError("projections of the same input that are packed in different ways cannot be fused")
    joined = {}
    for name in names[0]:
        if name == "order":
            joined[name] = first.order
            continue
        joined[name] = torch.cat([getattr(linear, name) for linear in linears])
        for linear, part in zip(linears, joined[name].split([linear.shape[0] for linear in linears]), strict=True):
            linear._buffers[name] = part
    return PackedLinear(**joined, group=first.group)


__all__ = ["Packed", "PackedEmbedding", "PackedLinear", "altered", "fuse", "fuse_packed", "kernel_form", "parts"]
