"""Matrices whose weights stay packed in 4 or 8 bits each, and are unpacked where they are used.

One form for whatever rounds weights in groups of inputs, GPTQ, AWQ and compressed-tensors among it:

    W[o, i] = (value[o, i] - zero[o, g]) · scale[o, g] + offset[o, g],   g = i // group
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Weights unpacked at once, which bounds the memory of what is computed in between. On a CPU that stays in its cache.
BLOCK = {"cpu": 2**19, "other": 2**24}


def pack4(values: Tensor) -> Tensor:
    """Values from -8 to 7, int8 [..., I], two in a byte, each plus 8, the first in the low half: uint8 [..., I / 2]."""
    low, high = (values + 8).to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
    return low | high << 4


def unpack4(packed: Tensor) -> Tensor:
    """What `pack4` has packed, int8 [..., I]."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2).to(torch.int8) - 8


def of_products(x: Tensor) -> torch.dtype:
    """The dtype in which to multiply with x: its own; on a CPU float32 instead of float16, and without AVX-512 instead
    of bfloat16, too, which is emulated there (128 x 2,048 by 2,048 x 4,096 on two such cores: 45 ms in float32, 100 in
    float16, 120 in bfloat16)."""
    slow = {torch.float16} | ({torch.bfloat16} if torch.backends.cpu.get_cpu_capability() == "AVX2" else set())
    return torch.float32 if x.device.type == "cpu" and x.dtype in slow else x.dtype


class Packed(nn.Module):
    """A matrix [O, I] as it is stored.

    weight: the values, int8 or float8_e4m3fn [O, I], or uint8 [O, I / 2] by `pack4`; where `word_form` has put them
    into another order in memory, a view of them whose flatten(1) is that. scale: floating [O, groups]; the last group
    may be short, and groups of 4-bit values are even. zero: int8 [O, groups], or None where it is 0
    everywhere; offset: floating, likewise. order: int64 [I], which input belongs to each column of values, or None for
    their own order. table: float32 [16], what the values of 4 bits stand for, or None for themselves.
    """

    def __init__(self, weight: Tensor, scale: Tensor, group: int, zero: Tensor | None = None,
                 offset: Tensor | None = None, order: Tensor | None = None, table: Tensor | None = None):
        super().__init__()
        self.group = group
        parts = {"weight": weight, "scale": scale, "zero": zero, "offset": offset, "order": order, "table": table}
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)

    @property
    def bits(self) -> int:
        """Of each value."""
        return 4 if self.weight.dtype == torch.uint8 else 8

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return len(self.weight), self.weight[0].numel() * (8 // self.bits)

    def halves(self, index: slice | Tensor) -> Tensor:
        """Some rows of the matrix in float32, [n, I]; of 4 bits first the even inputs, then the odd ones, since to
        separate the two values of a byte is quick, and to put them side by side is not."""
        groups, inputs = self.scale.shape[1], self.shape[1]
        zero, scale, offset = (None if part is None else part[index, :, None].float()
                               for part in (self.zero, self.scale, self.offset))
        weight, parts = self.weight[index], []
        if weight.dim() > 2:  # the order of `word_form`, undone a word of four bytes at a time
            weight = weight.view(torch.int32).flatten(1).view(weight.dtype)
        for values in (weight & 15, weight >> 4) if self.bits == 4 else (weight,):
            values = self.table[values.long()] if self.table is not None else values.float()
            if self.bits == 4 and self.table is None:
                values -= 8
            width = self.group * self.bits // 8  # of a group's inputs, those in this half
            if short := groups * width - values.shape[1]:
                values = F.pad(values, (0, short))
            values = values.unflatten(1, (groups, width))  # float32 of its own, altered where it is
            values = (values if zero is None else values.sub_(zero)).mul_(scale)
            values = values if offset is None else values.add_(offset)
            parts.append(values.flatten(1)[:, :inputs * self.bits // 8])
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def rows(self, index: slice | Tensor) -> Tensor:
        """Some rows of the matrix in float32, [n, I], the inputs in the order of the values."""
        return self.halves(index).unflatten(1, (8 // self.bits, -1)).transpose(1, 2).flatten(1)

    def blocks(self) -> list[slice]:
        """The rows, so many at once as may be unpacked."""
        outputs, inputs = self.shape
        step = max(1, BLOCK["cpu" if self.weight.device.type == "cpu" else "other"] // inputs)
        return [slice(start, start + step) for start in range(0, outputs, step)]

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The whole matrix [O, I]."""
        out = torch.empty(self.shape, dtype=dtype, device=self.weight.device)
        for rows in self.blocks():
            out[rows] = self.rows(rows)
        return out

    def _apply(self, fn, recurse=True):
        """Goes where the model goes, and stays as precise as it is: `model.to(torch.bfloat16)` changes nothing here."""
        device = fn(self.scale.new_empty(0)).device
        if device != self.weight.device:
            self.weight = self.weight.flatten(1)
        for name, buffer in self._buffers.items():
            self._buffers[name] = None if buffer is None else buffer.to(device)
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = destination[prefix + "weight"].flatten(1)

    def _load_from_state_dict(self, *args):
        self.weight = self.weight.flatten(1)
        super()._load_from_state_dict(*args)


class PackedLinear(Packed):
    """A linear layer without bias."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] to [..., O], with the weights rounded to the product's dtype (see `of_products`)."""
        return _Product.apply(x, self) if x.requires_grad and torch.is_grad_enabled() else self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """As `forward`, without a gradient."""
        if self.order is not None:
            x = x[..., self.order]
        out, x, part = x.dtype, x.to(of_products(x)), self.rows
        if self.bits == 4:
            x, part = torch.cat((x[..., ::2], x[..., 1::2]), -1), self.halves
        elif self.scale.shape[1] == 1 and self.zero is self.offset is None and x.dtype != torch.float16:
            # One scale a row can wait for the product (which might overflow in float16).
            return (F.linear(x, self.weight.flatten(1).to(x.dtype)) * self.scale[:, 0]).to(out)
        parts = (part(rows).to(x.dtype) for rows in self.blocks())
        return torch.cat([F.linear(x, weight) for weight in parts], -1).to(out)


class _Product(torch.autograd.Function):
    """A packed matrix times x. For the gradient it is unpacked once more: kept from the forward pass, those of all
    layers would be the whole model unpacked."""

    @staticmethod
    def forward(ctx, x, matrix):
        ctx.matrix = matrix
        return matrix.product(x)

    @staticmethod
    def backward(ctx, grad):
        out = grad @ ctx.matrix.unpacked(grad.dtype)
        return (out if ctx.matrix.order is None else out[..., ctx.matrix.order.argsort()]), None


class PackedEmbedding(Packed):
    """An embedding, whose vectors are of `dtype`."""

    def __init__(self, *parts, dtype: torch.dtype, **more):
        super().__init__(*parts, **more)
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] to [..., I]."""
        return self.rows(ids.flatten()).to(self.dtype).unflatten(0, ids.shape)


def tied_head(embedding: PackedEmbedding) -> PackedLinear:
    """The head of a model whose embedding is its head, too: the same tensors."""
    return PackedLinear(**dict(embedding.named_buffers()), group=embedding.group)
