"""What may stand in the place of `nn.Linear`. Only these files read a projection's weight.

All others call the module, or ask for its kernel form here.
"""

import torch
from torch import Tensor, nn

from minexaone.linear.packed import BLOCK, Packed, PackedEmbedding, PackedLinear, of_products

LANES = 16  # numbers of 32 bits in the widest vector register of a CPU (AVX-512)


def altered(module: nn.Module) -> bool:
    """Whether calling the module does something else than its class says: it has hooks, or a forward of its own."""
    hooks = module._forward_hooks.keys() | module._forward_pre_hooks.keys()
    return bool("forward" in vars(module) or hooks - getattr(module, "parallel_hooks", set()))


def processes(module: nn.Module):
    """The process group among which `tensor_parallel` has divided the module's weight, or None."""
    return getattr(module, "processes", None)


def kernel_form(module: nn.Module, divided: bool = False) -> tuple[Tensor]:
    """(weight [out, in],) of a linear layer without bias or of an embedding; if divided, this process's part of it, the
    sums being the caller's. Raises ValueError for anything else."""
    tensors = tensors_of(module)
    if processes(module) and not divided:
        raise ValueError(f"a {type(module).__name__} that is divided among processes has no kernel form here")
    if isinstance(module, Packed):
        raise ValueError(f"a {type(module).__name__} of {module.bits} bits has no kernel form")
    return tensors


def tensors_of(module: nn.Module) -> tuple[Tensor, ...]:
    """The tensors with which a linear layer or an embedding computes. ValueError for a module that does something else
    than its class says, or of which nothing is known here."""
    if altered(module):
        raise ValueError(f"a {type(module).__name__} with hooks or a forward of its own has no kernel form")
    if type(module) in (PackedLinear, PackedEmbedding):
        return tuple(module.buffers())
    if type(module) in (nn.Linear, nn.Embedding) and getattr(module, "bias", None) is None:
        return (module.weight.detach(),)
    raise ValueError(f"a {type(module).__name__} has no kernel form")


def word_form(module: Packed) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """What a kernel needs that takes the values four bytes at a time, several words at once.

    words: int32 [O, groups, n], and scale: float32 [O, groups, 1], if a vector register can be filled with words of one
    group. Otherwise with the same word of several groups: int32 [O, n, groups] and float32 [O, 1, groups]; the module's
    weight is put into this order and becomes a view of it. What is added to a group's values once they are scaled:
    float32 [O, groups], or None. order: the module's. ValueError for what has no kernel: float8, tables of values,
    groups that do not fill a row, or of which some share a word.
    """
    tensors_of(module)
    inputs, count = module.shape[1], 32 // module.bits
    what = ("values from a table" if module.table is not None else
            "values in float8" if module.weight.is_floating_point() else
            f"groups of {module.group} in {inputs:,} inputs" if inputs % module.group or module.group % count else None)
    if what:
        raise ValueError(f"a {type(module).__name__} with {what} has no kernel form")
    groups, width = inputs // module.group, module.group // count
    scale, added = module.scale.float(), None if module.offset is None else module.offset.float()
    if module.zero is not None:
        added = (0 if added is None else added) - module.zero * scale
    if width % LANES == 0 or groups == 1:
        words = module.weight.contiguous().view(torch.int32).unflatten(1, (groups, width))
        return words, scale[:, :, None], added, module.order
    if module.weight.dim() == 2:
        octets = module.weight.unflatten(1, (groups, width, 4))
        module.weight = octets.transpose(1, 2).contiguous().transpose(1, 2)
    return module.weight.transpose(1, 2).flatten(2).view(torch.int32), scale[:, None], added, module.order


@torch.no_grad()
def fuse(*linears: nn.Linear) -> Tensor:
    """One weight [sum of out, in] for several projections of the same input; theirs become views of it. Of those that
    are divided among processes, this one's parts."""
    joined = torch.cat([weight for linear in linears for weight in kernel_form(linear, divided=True)])
    for linear, part in zip(linears, joined.split([linear.out_features for linear in linears]), strict=True):
        linear.weight.data = part  # the parameter stays the same object: an optimizer may hold it
    return joined


@torch.no_grad()
def fuse_packed(*linears: PackedLinear) -> PackedLinear:
    """As `fuse`, for packed ones; raises ValueError unless they are packed alike."""
    first, names = linears[0], [{name for name, _ in linear.named_buffers()} for linear in linears]
    alike = all(linear.group == first.group and linear.bits == first.bits and linear.scale.dtype == first.scale.dtype
                for linear in linears) and all(found == names[0] for found in names)
    if not alike or any(not torch.equal(linear.order, first.order) for linear in linears if first.order is not None):
        raise ValueError("projections of the same input that are packed in different ways cannot be fused: set "
                         "model.fast = None for the clear path")
    joined = {}
    for name in names[0]:
        if name == "order":
            joined[name] = first.order
            continue
        joined[name] = torch.cat([getattr(linear, name) for linear in linears])
        for linear, part in zip(linears, joined[name].split([linear.shape[0] for linear in linears]), strict=True):
            linear._buffers[name] = part
    return PackedLinear(**joined, group=first.group)


__all__ = ["BLOCK", "Packed", "PackedEmbedding", "PackedLinear", "altered", "fuse", "fuse_packed", "kernel_form",
           "of_products", "processes", "tensors_of", "word_form"]
