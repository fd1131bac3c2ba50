"""Quantized checkpoints as the libraries write them: which tensors stand for one matrix, and how they are packed.

Each reader takes a matrix [O, I] apart into the parts of `Packed`. A word is an int32 that holds 32 / bits values, the
first one in the lowest bits.
"""

import json
from collections.abc import Callable

import torch
from torch import Tensor

from minexaone.config_json import quantization, quantization_details
from minexaone.files import FLOATS, CheckpointError, Stored, read_tensor
from minexaone.gguf_file import BLOCKS
from minexaone.linear.ggml import ROWS, unpack_blocks
from minexaone.linear.packed import Packed, PackedEmbedding, PackedLinear, pack4, unpack4

AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # output k of eight is at bits 4 · AWQ_ORDER[k]


class Parts:
    """The stored tensors of one matrix [O, I], read one at a time, each with the shape and type that it must have.

    details: of config.json, how the weights are quantized; words: the same for people.
    """

    def __init__(self, name: str, stored: dict[str, Stored], shape: tuple[int, int], details: dict, words: str):
        self.name, self.stored, self.details, self.words = name, stored, details, words
        self.outs, self.ins = shape
        self.path = next(iter(stored.values())).path

    def __contains__(self, part):
        return part in self.stored

    def size(self, part: str, dim: int) -> int:
        """Of one dimension of a part, as stored; `CheckpointError` unless it has two."""
        if len(shape := self.stored[part].shape) != 2:
            raise self.wrong(f"{self.name}.{part} has the shape {shape}")
        return shape[dim]

    def read(self, part: str, *shape: int, dtypes: tuple[str, ...] = FLOATS) -> Tensor:
        """One part; `CheckpointError` if it is of another shape or type."""
        return read_tensor(self.stored[part], shape, dtypes)

    def wrong(self, what: str) -> CheckpointError:
        """The error for weights that are not as their format and config.json say."""
        return CheckpointError(f"{self.path}: {what} (quantized: {self.words}): the file is damaged, or config.json is "
                               "not its own; download both again")

    def unreadable(self, what: str) -> CheckpointError:
        """The error for a form that is not read here."""
        return CheckpointError(f"{self.path}: {self.name} is quantized in a form that cannot be loaded ({self.words}; "
                               f"{what}): choose GPTQ, AWQ (gemm), compressed-tensors, bitsandbytes or mlx in 4 or 8 "
                               "bits, or the unquantized checkpoint")

    def bits(self, width: int, length: int, settings: list[dict], *names: str) -> int:
        """Of each value, where `width` words hold `length` values: 4 or 8, and one that a setting names."""
        named = {setting[name] for setting in settings for name in names if type(setting.get(name)) is int}
        fitting = [bits for bits in named if -(-length * bits // 32) == width]
        if not fitting and named & {4, 8}:
            raise self.wrong(f"{self.name} has {width} words for {length} values")
        if fitting not in ([4], [8]):
            raise self.unreadable(f"{width} words for {length} values")
        return fitting[0]

    def group(self, groups: int, settings: list[dict], *names: str) -> int:
        """The inputs in a group, where a row has so many groups; -1 or nothing in a setting is one group."""
        sizes = {next((setting[name] for name in names if setting.get(name) is not None), -1) for setting in settings}
        sizes = {size if size != -1 else self.ins for size in sizes if type(size) is int}
        fitting = [size for size in sizes if size > 0 and -(-self.ins // size) == groups]
        if len(fitting) != 1:
            raise self.wrong(f"{self.name} has {groups} groups for {self.ins} inputs, and config.json groups of "
                             + (" or ".join(map(str, sorted(sizes))) or "no size"))
        return min(fitting[0], self.ins)


# ------------------------------------------------------------------------------------------- one reader for each format


def read_gptq(parts: Parts) -> dict:
    """qweight [I / p, O] packed along the inputs, qzeros [groups, O / p] along the outputs, scales [groups, O], and
    g_idx [I], the group of each input; p values in a word.

    The format "gptq" subtracts 1 from every zero point of a word at once, carries included; "gptq_v2" does not.
    """
    kind = parts.details.get("checkpoint_format") or parts.details.get("format") or "gptq"
    if kind not in ("gptq", "gptq_v2"):
        raise parts.unreadable(f"checkpoint_format {kind!r:.40}")
    outs, ins, settings = parts.outs, parts.ins, [parts.details, *overrides(parts.details.get("dynamic"))]
    bits = parts.bits(parts.size("qweight", 0), ins, settings, "bits", "w_bit")
    groups = parts.size("scales", 0)
    group = parts.group(groups, settings, "group_size", "q_group_size")
    weight = along_inputs(parts.read("qweight", -(-ins * bits // 32), outs, dtypes=("I32",)).T, bits, ins)
    zero = parts.read("qzeros", groups, -(-outs * bits // 32), dtypes=("I32",))
    if kind == "gptq":
        zero = zero + (0x11111111 if bits == 4 else 0x01010101)
    fields = {"scale": parts.read("scales", groups, outs).T.contiguous(), "group": group,
              "zero": zeros(signed(unpack_words(zero, bits)[:, :outs].T, bits))}
    if "g_idx" not in parts and parts.details.get("desc_act"):
        raise parts.wrong(f"{parts.name}.g_idx is missing")
    g_idx = parts.read("g_idx", ins, dtypes=("I32",)) if "g_idx" in parts else None
    return fields | by_groups(parts, weight, g_idx, group)


def read_awq(parts: Parts) -> dict:
    """qweight [I, O / 8] and qzeros [groups, O / 8], packed along the outputs in AWQ's order, and scales [groups, O].
    """
    outs, ins, settings = parts.outs, parts.ins, [parts.details]
    version = str(parts.details.get("version") or "gemm").lower()
    if parts.bits(parts.size("qweight", 1), outs, settings, "bits", "w_bit") != 4 or version != "gemm":
        raise parts.unreadable(f"version {version!r:.40}")
    groups = parts.size("scales", 0)

    def outputs_first(name, rows):
        values = unpack_words(parts.read(name, rows, outs // 8, dtypes=("I32",)), 4).unflatten(1, (-1, 8))
        return signed(values[..., AWQ_ORDER].flatten(1).T.contiguous(), 4)

    return {"weight": pack4(outputs_first("qweight", ins)), "scale": parts.read("scales", groups, outs).T.contiguous(),
            "group": parts.group(groups, settings, "group_size", "q_group_size"),
            "zero": zeros(outputs_first("qzeros", groups))}


def read_pack_quantized(parts: Parts) -> dict:
    """weight_packed [O, I / p] along the inputs, weight_scale [O, groups], weight_shape, unless symmetric
    weight_zero_point [O / p, groups] along the outputs, and in older files weight_g_idx [I]."""
    outs, ins, settings = parts.outs, parts.ins, overrides(parts.details.get("config_groups"), "weights")
    bits = parts.bits(parts.size("weight_packed", 1), ins, settings, "num_bits")
    groups = parts.size("weight_scale", 1)
    fields = {"scale": parts.read("weight_scale", outs, groups), "group": parts.group(groups, settings, "group_size")}
    if parts.read("weight_shape", 2, dtypes=("I64", "I32")).tolist() != [outs, ins]:
        raise parts.wrong(f"{parts.name}.weight_shape is not [{outs}, {ins}]")
    weight = along_inputs(parts.read("weight_packed", outs, -(-ins * bits // 32), dtypes=("I32",)), bits, ins)
    if "weight_zero_point" in parts:
        words = parts.read("weight_zero_point", -(-outs * bits // 32), groups, dtypes=("I32",))
        fields["zero"] = zeros(signed(unpack_words(words.T, bits)[:, :outs].T, bits))
    if "weight_g_idx" not in parts and all(setting.get("actorder") == "group" for setting in settings):
        raise parts.wrong(f"{parts.name}.weight_g_idx is missing")
    g_idx = parts.read("weight_g_idx", ins, dtypes=("I32", "I64")) if "weight_g_idx" in parts else None
    return fields | by_groups(parts, weight, g_idx, fields["group"])


def read_values(parts: Parts) -> dict:
    """weight I8 or F8_E4M3 [O, I], and weight_scale: of rows [O, 1], of groups [O, groups], of all weights [1], or of
    blocks [O / n, I / k]. What quantizes the activations at run time is left out: they keep their precision here."""
    outs, ins, settings = parts.outs, parts.ins, overrides(parts.details.get("config_groups"), "weights")
    shape = parts.stored["weight_scale"].shape
    scale = parts.read("weight_scale", *shape)
    blocks = [setting["block_structure"] for setting in settings if isinstance(setting.get("block_structure"), list)]
    block = next((block for block in blocks if len(block) == 2 and all(type(n) is int and n > 0 for n in block)
                  and shape == [-(-outs // block[0]), -(-ins // block[1])]), None)
    if block:
        fields = {"scale": scale.repeat_interleave(block[0], 0)[:outs], "group": min(block[1], ins)}
    elif shape in ([], [1], [1, 1]) or shape == [outs]:
        fields = {"scale": scale.reshape(-1, 1).expand(outs, 1).contiguous(), "group": ins}
    else:
        groups = parts.size("weight_scale", 1)
        fields = {"scale": parts.read("weight_scale", outs, groups),
                  "group": parts.group(groups, settings, "group_size")}
    if "weight_zero_point" in parts:
        zero = parts.read("weight_zero_point", *shape, dtypes=("I8",)).reshape(-1, *shape[1:] or [1])
        fields["zero"] = zeros(zero.expand(fields["scale"].shape))
    return fields | {"weight": parts.read("weight", outs, ins, dtypes=("I8", "F8_E4M3"))}


def read_mlx(parts: Parts) -> dict:
    """weight U32 [O, I / p] along the inputs, scales and biases [O, groups]: value · scale + bias, values from 0."""
    outs, ins, own = parts.outs, parts.ins, parts.details.get(parts.name)
    settings = [own if isinstance(own, dict) else parts.details]
    bits = parts.bits(parts.size("weight", 1), ins, settings, "bits")
    groups = parts.size("scales", 1)
    return {"weight": along_inputs(parts.read("weight", outs, -(-ins * bits // 32), dtypes=("U32",)), bits, ins),
            "scale": parts.read("scales", outs, groups), "group": parts.group(groups, settings, "group_size"),
            "zero": torch.full((outs, groups), -2**(bits - 1), dtype=torch.int8),  # values from 0 are ours plus that
            "offset": parts.read("biases", outs, groups)}


def read_bitsandbytes_int8(parts: Parts) -> dict:
    """weight I8 [O, I], and SCB [O], the largest magnitude of every row."""
    return {"weight": parts.read("weight", parts.outs, parts.ins, dtypes=("I8",)), "group": parts.ins,
            "scale": parts.read("SCB", parts.outs)[:, None] / 127}


def read_bitsandbytes_4bit(parts: Parts) -> dict:
    """weight U8 [O · I / 2, 1], the high half of a byte first, weight.quant_map [16], what the values stand for, and
    weight.absmax, by which each block of inputs is multiplied: F32, or U8 and quantized itself in the same way."""
    outs, ins, state = parts.outs, parts.ins, {}
    for part in parts.stored:
        if part.startswith("weight.quant_state."):
            text = bytes(parts.read(part, *parts.stored[part].shape, dtypes=("U8",)).flatten().tolist())
            try:
                state = json.loads(text)
            except ValueError:
                raise parts.wrong(f"{parts.name}.{part} is not JSON") from None
    size = state.get("blocksize") if isinstance(state, dict) else None
    if type(size) is not int or size < 1 or ins % size:
        raise parts.unreadable(f"blocks of {size!r:.20} for {ins} inputs")
    if "weight.nested_absmax" in parts:
        values = parts.read("weight.absmax", outs * ins // size, dtypes=("U8",)).long()
        table = parts.read("weight.nested_quant_map", 256)
        nested = parts.read("weight.nested_absmax", *parts.stored["weight.nested_absmax"].shape)
        inner, offset = state.get("nested_blocksize"), state.get("nested_offset")
        if type(inner) is not int or inner < 1 or -(-len(values) // inner) != len(nested) or type(offset) is not float:
            raise parts.wrong(f"{parts.name}.weight.nested_absmax does not fit {len(values)} blocks")
        absmax = table[values] * nested.repeat_interleave(inner)[:len(values)] + offset
    else:
        absmax = parts.read("weight.absmax", outs * ins // size, dtypes=("F32",))
    octets = parts.read("weight", outs * ins // 2, 1, dtypes=("U8",)).view(outs, ins // 2)
    return {"weight": octets >> 4 | octets << 4, "scale": absmax.view(outs, -1), "group": size,
            "table": parts.read("weight.quant_map", 16, dtypes=("F32",))}


def read_gguf(parts: Parts) -> dict:
    """weight [O, bytes of a row], in blocks of the kind that its tensor is of, whatever config.json says."""
    kind = parts.stored["weight"].dtype
    octets = parts.read("weight", parts.outs, parts.ins, dtypes=(kind,))
    pieces = [unpack_blocks(kind, rows) for rows in octets.split(ROWS)]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]} | {"group": BLOCKS[kind].group}


def overrides(table, key: str | None = None) -> list[dict]:
    """The dictionaries in a table of settings (or those at a key of each of its entries), whatever else it holds."""
    entries = list(table.values()) if isinstance(table, dict) else []
    if key:
        entries = [entry.get(key) for entry in entries if isinstance(entry, dict)]
    return [entry for entry in entries if isinstance(entry, dict)]


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """Words [..., n] of 32 bits as values from 0, uint8 [..., n · 32 / bits]; bits is 4 or 8."""
    octets = words.contiguous().view(torch.uint8)
    return octets if bits == 8 else torch.stack((octets & 15, octets >> 4), dim=-1).flatten(-2)


def signed(values: Tensor, bits: int) -> Tensor:
    """Values from 0 as int8 values from -2^(bits - 1)."""
    return (values.to(torch.int16) - 2**(bits - 1)).to(torch.int8)


def along_inputs(words: Tensor, bits: int, inputs: int) -> Tensor:
    """Words [O, n] packed along the inputs as `Packed` keeps them; those of 4 bits are the same bytes already."""
    octets = words.contiguous().view(torch.uint8)[:, :-(-inputs * bits // 8)].contiguous()
    return octets if bits == 4 else (octets ^ 128).view(torch.int8)  # value - 128, as two's complement


def zeros(values: Tensor) -> Tensor | None:
    """Zero points, or None if all are 0."""
    return values.contiguous() if values.any() else None


def by_groups(parts: Parts, weight: Tensor, g_idx: Tensor | None, group: int) -> dict:
    """The weight with its inputs sorted by their groups, and that order, unless they are sorted (g_idx None, or -1)."""
    regular = torch.arange(parts.ins) // group
    if g_idx is None or (g_idx == -1).all() or (g_idx := g_idx.long()).equal(regular):
        return {"weight": weight}
    order = g_idx.argsort(stable=True)
    if not g_idx[order].equal(regular):
        raise parts.wrong(f"{parts.name}: the group indices of the inputs are {g_idx.min()} to {g_idx.max()}, expected "
                          f"0 to {regular[-1]}, each {group} times")
    if weight.dtype == torch.uint8:
        return {"weight": pack4(unpack4(weight)[:, order]), "order": order}
    return {"weight": weight[:, order], "order": order}


# --------------------------------------------------------------------------------------------------- a whole checkpoint

# By quant_method: readers, the tensors that each one needs, and those that it takes besides.
READERS = {
    "gptq": [(read_gptq, {"qweight", "qzeros", "scales"}, {"g_idx"})],
    "awq": [(read_awq, {"qweight", "qzeros", "scales"}, set())],
    "compressed-tensors": [
        (read_pack_quantized, {"weight_packed", "weight_scale", "weight_shape"}, {"weight_zero_point", "weight_g_idx"}),
        (read_values, {"weight", "weight_scale"}, {"weight_zero_point"})],
    "bitsandbytes": [
        (read_bitsandbytes_int8, {"weight", "SCB"}, {"weight_format"}),
        (read_bitsandbytes_4bit, {"weight", "weight.absmax", "weight.quant_map"},
         {"weight.nested_absmax", "weight.nested_quant_map", "weight.quant_state.bitsandbytes__nf4",
          "weight.quant_state.bitsandbytes__fp4"})],
    "mlx": [(read_mlx, {"weight", "scales", "biases"}, set())],
    "gguf": [(read_gguf, {"weight"}, set())],
}
# Names by which quantized weights show, should config.json be silent.
SIGNS = (".qweight", ".weight_packed", ".weight_scale", ".scales", ".SCB", ".absmax")
# What is about activations and the cache, which keep their precision here.
OF_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "q_scale", "k_scale", "v_scale")
# What stays beside a matrix that its library has unpacked and saved again.
LEFT_OVER = ("weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")


def packed_layers(raw: dict, stored: dict[str, Stored], shapes: dict) -> dict[str, Callable[..., Packed]]:
    """Map the name of every quantized matrix to what reads it, and take its tensors out of `stored`.

    raw: config.json. shapes: of all parameters, by published name. What is quantized is seen by what is stored;
    config.json says how. `CheckpointError` if it does not, or if the form cannot be read.
    """
    words, details = quantization(raw), quantization_details(raw)
    if not words:
        if sign := next((name for name in sorted(stored) if name.endswith(SIGNS)), None):
            raise CheckpointError(f"{stored[sign].path}: the weights are quantized ({sign}), though config.json does "
                                  "not say how: choose the unquantized checkpoint, or get its config.json anew")
        return {}
    for name in [name for name in stored if name.rpartition(".")[2] in OF_ACTIVATIONS]:
        del stored[name]
    layers = {}
    for matrix, tensors in by_matrix(stored, shapes).items():
        if "weight" in tensors and tensors["weight"].dtype in FLOATS:
            for part in LEFT_OVER:
                stored.pop(f"{matrix}.{part}", None)
            continue
        parts = Parts(matrix, tensors, shapes[f"{matrix}.weight"], details, words)
        reader, needed, others = max(READERS.get(details.get("quant_method"), [(None, set(), set())]),
                                     key=lambda entry: len(entry[1] & tensors.keys()))
        if not needed & tensors.keys():
            raise parts.unreadable("it is stored as " + ", ".join(sorted(tensors)))
        for part in tensors.keys() & {"weight_packed", "scales"}:
            if tensors[part].dtype == "U8":  # floats of 4 bits (NVFP4, MXFP4), which have other parts besides
                raise parts.unreadable(f"{part} is U8")
        if missing := sorted(needed - tensors.keys()):
            raise parts.wrong(f"{matrix}.{missing[0]} is missing")
        for part in tensors.keys() & (needed | others):
            del stored[f"{matrix}.{part}"]
        layers[f"{matrix}.weight"] = reading(reader, parts)
    if not layers and details.get("quantization_status") != "decompressed":
        raise CheckpointError(f"by quantization_config in config.json the weights are quantized ({words}), but none is "
                              "stored so: choose the unquantized checkpoint with its own config.json")
    return layers


def by_matrix(stored: dict[str, Stored], shapes: dict) -> dict[str, dict[str, Stored]]:
    """The tensors of every matrix, by what its name is followed by: "weight", "qweight", "weight.absmax"."""
    matrices = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2}
    found = {}
    for name, place in stored.items():
        words = name.split(".")
        for end in range(len(words) - 1, 0, -1):
            if (matrix := ".".join(words[:end])) in matrices:
                found.setdefault(matrix, {})[".".join(words[end:])] = place
                break
    return found


def reading(reader: Callable[[Parts], dict], parts: Parts) -> Callable[..., Packed]:
    """What reads one matrix as a linear layer, or as an embedding with vectors of the dtype that it is given."""
    def read(dtype: torch.dtype | None = None) -> Packed:
        fields = reader(parts)
        packed = PackedLinear(**fields) if dtype is None else PackedEmbedding(**fields, dtype=dtype)
        if packed.shape != (parts.outs, parts.ins) or packed.bits == 4 and packed.group % 2:
            raise parts.unreadable(f"groups of {packed.group} in {parts.ins} inputs, an odd number")
        return packed

    return read
