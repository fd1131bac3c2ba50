"""The blocks of a GGUF file, taken apart into the parts of `Packed` and put together from them.

They are the same numbers, bit for bit in float32.

A row of a matrix is a row of blocks, each of 32 or 256 values with the scales that they share. In a block of 256, a "K"
kind, the scale of each group is itself a small whole number times a float16 of the whole block.
"""

import torch
from torch import Tensor

from minexaone.gguf_file import BLOCKS
from minexaone.linear.packed import Packed, pack4, unpack4

ROWS = 1024  # of a matrix, to be unpacked at once: bounds the memory of what is computed in between


def unpack_blocks(kind: str, rows: Tensor) -> dict[str, Tensor]:
    """Some rows of a matrix, uint8 [n, bytes of a row], as weight, scale and, if the kind has them, zero and offset."""
    values, scale, offset = UNPACK[kind](rows.unflatten(1, (-1, BLOCKS[kind].size)))
    parts = {"weight": values.flatten(1), "scale": scale.flatten(1)}
    if offset is not None:
        parts["offset"] = offset.flatten(1)
    if BLOCKS[kind].bits == 4:
        parts["weight"] = pack4(parts["weight"] - 8 if offset is not None else parts["weight"])
        if offset is not None:  # their values begin at 0, those of `pack4` at -8
            parts["zero"] = torch.full(parts["scale"].shape, -8, dtype=torch.int8)
    return parts


def fields(octets: Tensor, bits: int, width: int) -> Tensor:
    """Values of 1, 2 or 4 bits, int8 [..., n · 8 / bits], of octets [..., n]: out of each run of `width` octets first
    the lowest bits of all, then the next ones."""
    runs = octets.unflatten(-1, (-1, width))
    parts = [runs >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return torch.stack(parts, dim=-2).flatten(-3).to(torch.int8)


def halves(octets: Tensor) -> Tensor:
    """octets [..., 2] as a float16 [..., 1]."""
    return octets.contiguous().view(torch.float16)


def six_bits(octets: Tensor) -> tuple[Tensor, Tensor]:
    """Two times eight numbers of 6 bits, float32 [..., 8], of octets [..., 12]: the first four of each have their own
    octets, whose two highest bits go to the last four, which find their lowest four in the third row of octets."""
    first, second, low = octets.unflatten(-1, (3, 4)).unbind(-2)
    return (torch.cat((first & 63, low & 15 | first >> 2 & 48), dim=-1).float(),
            torch.cat((second & 63, low >> 4 | second >> 2 & 48), dim=-1).float())


# Each takes blocks uint8 [..., size] apart into values int8 [..., values], scale and offset (or None) [..., groups].

def _q4_0(block):
    return fields(block[..., 2:], 4, 16) - 8, halves(block[..., :2]), None


def _q4_1(block):
    return fields(block[..., 4:], 4, 16), halves(block[..., :2]), halves(block[..., 2:4])


def _q5_0(block):
    return (fields(block[..., 6:], 4, 16) | fields(block[..., 2:6], 1, 1) << 4) - 16, halves(block[..., :2]), None


def _q5_1(block):
    return (fields(block[..., 8:], 4, 16) | fields(block[..., 4:8], 1, 1) << 4, halves(block[..., :2]),
            halves(block[..., 2:4]))


def _q8_0(block):
    return block[..., 2:].view(torch.int8), halves(block[..., :2]), None


def _q2_k(block):
    scale, offset = fields(block[..., :16], 4, 16).unflatten(-1, (2, 16)).unbind(-2)
    return (fields(block[..., 16:80], 2, 32), halves(block[..., 80:82]).float() * scale,
            -halves(block[..., 82:]).float() * offset)


def _q3_k(block):
    high = fields(block[..., :32], 1, 32) << 2
    scale = fields(block[..., 96:104], 4, 8) | fields(block[..., 104:108], 2, 4) << 4
    return (fields(block[..., 32:96], 2, 32) | high) - 4, halves(block[..., 108:]).float() * (scale - 32), None


def _q4_k(block):
    scale, offset = six_bits(block[..., 4:16])
    return (fields(block[..., 16:], 4, 32), halves(block[..., :2]).float() * scale,
            -halves(block[..., 2:4]).float() * offset)


def _q5_k(block):
    scale, offset = six_bits(block[..., 4:16])
    return (fields(block[..., 48:], 4, 32) | fields(block[..., 16:48], 1, 32) << 4,
            halves(block[..., :2]).float() * scale, -halves(block[..., 2:4]).float() * offset)


def _q6_k(block):
    values = fields(block[..., :128], 4, 64) | fields(block[..., 128:192], 2, 32) << 4
    return values - 32, halves(block[..., 208:]).float() * block[..., 192:208].view(torch.int8), None


UNPACK = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
          "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}


# ------------------------------------------------------------------------------------------------- the other way


def block_kind(module: Packed) -> str | None:
    """Q4_0 or Q8_0, if its blocks of 32 can hold the very numbers of a packed matrix; else None."""
    scale = module.scale.float()
    plain = not module.weight.is_floating_point() and module.offset is module.order is module.table is None
    whole = module.shape[1] % 32 == 0 and (module.group % 32 == 0 or scale.shape[1] == 1)
    if plain and whole and (module.zero is None or not module.zero.any()) and scale.half().float().equal(scale):
        return {4: "Q4_0", 8: "Q8_0"}[module.bits]
    return None


def packed_blocks(module: Packed) -> Tensor:
    """The blocks of a packed matrix that has a `block_kind`, uint8 [O, bytes of a row]."""
    blocks = module.shape[1] // 32
    scale = module.scale.half().repeat_interleave(-(-module.group // 32), dim=1)[:, :blocks]
    weight = module.weight.flatten(1)
    values = (unpack4(weight) if module.bits == 4 else weight).unflatten(1, (blocks, 32))
    if module.bits == 4:
        low, high = (values + 8).view(torch.uint8).unflatten(2, (2, 16)).unbind(2)
        values = low | high << 4
    return torch.cat((scale.contiguous().view(torch.uint8).unflatten(1, (blocks, 2)), values.view(torch.uint8)),
                     dim=2).flatten(1)
