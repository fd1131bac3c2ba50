"""GGUF, llama.cpp's file for a whole model: its metadata as a config.json, its tokenizer, where its tensors lie.

Names and meanings are those that llama.cpp's own converter writes for EXAONE 4.0; q and k stay in the published order,
since this architecture rotates halves. The bytes of a tensor are read by `files.read_tensor`, and blocks of rounded
weights are taken apart in `linear/ggml.py`.
"""

import functools
import math
import mmap
import re
import struct
from pathlib import Path
from typing import NamedTuple

from minexaone.files import CheckpointError, Stored, again, bad_file, few, read_tensor, stamp


class Block(NamedTuple):
    """A kind of block: the values and the bytes in it, the bits of a value, and how many values share a scale."""

    values: int
    size: int
    bits: int
    group: int


BLOCKS = {"Q4_0": Block(32, 18, 4, 32), "Q4_1": Block(32, 20, 4, 32), "Q5_0": Block(32, 22, 5, 32),
          "Q5_1": Block(32, 24, 5, 32), "Q8_0": Block(32, 34, 8, 32), "Q2_K": Block(256, 84, 2, 16),
          "Q3_K": Block(256, 110, 3, 16), "Q4_K": Block(256, 144, 4, 32), "Q5_K": Block(256, 176, 5, 32),
          "Q6_K": Block(256, 210, 6, 16)}
BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# What the numbers of the types in a file stand for; the names without a block are for the error.
TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
         13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
         22: "IQ2_S", 23: "IQ4_XS", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
# Of the values in the metadata: by their number, what `struct` calls them.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# The published name of each tensor; those of a layer stand behind blk.N and model.layers.N.
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
               "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
               "post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
               "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
OUTPUT_NORMS = ("post_attention_norm", "post_ffw_norm")  # where both are 0, a layer changes nothing
ROPE_FACTORS = "rope_freqs.weight"  # what llama3 scaling divides the frequencies by
# Keys of the metadata, behind the architecture's name, by the published ones.
KEYS = {"hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
        "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
        "max_position_embeddings": "context_length", "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base"}
OPTIONAL_KEYS = {"num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length",
                 "sliding_window": "attention.sliding_window"}
SAMPLING_KEYS = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p"}
PRE = ("exaone4", "gpt-2")  # both names of GPT-2's way to cut a text into words
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # types of tokens
ORIGINAL_WINDOW = "LLLG"  # of the published 32B
OWN_LAYERS = "minexaone.layers"  # which blocks are layers of the model, if others are there for llama.cpp's sake
LLAMA3_DEFAULT = (1.0, 4.0, 8192)  # the published low_freq_factor, high_freq_factor and original length


class Header(NamedTuple):
    """What stands before the weights: metadata, and every tensor by its name in the file."""

    metadata: dict
    tensors: dict[str, Stored]


def read_header(path: Path) -> Header:
    """The header of a GGUF file, `CheckpointError` unless it is a whole one of an EXAONE 4.0 model."""
    try:
        header = _header(path, stamp(path))
    except CheckpointError:
        raise
    except Exception as error:  # what is cut or damaged shows as whatever Python says of it
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is cut short or damaged ({reason}): {again(path)}") from None
    metadata, tensors = header
    if (parts := metadata.get("split.count", 1)) not in (0, 1):
        raise CheckpointError(f"{path} is one part of {parts}: join them with `llama-gguf-split --merge` first")
    if (kind := metadata.get("general.architecture")) != "exaone4":
        raise CheckpointError(f"{path} holds a model of the architecture {kind!r:.40}, but only 'exaone4' can be "
                              "loaded: choose an EXAONE 4.0 model")
    for name, part in tensors.items():
        if part.dtype not in (*BYTES, *BLOCKS):
            raise CheckpointError(f"{path}: {name} is stored as {part.dtype}, which cannot be loaded: choose a file of "
                                  "the kind Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16 or BF16")
    return header


@functools.lru_cache(maxsize=1)  # for its configuration, tokenizer and weights: a vocabulary takes a while to read
def _header(path, seen):
    with path.open("rb") as file:
        magic, version = struct.unpack("<4sI", file.read(8))
        if magic != b"GGUF":
            raise bad_file(path, "does not begin as a GGUF file does")
        if version and version & 0xFFFF == 0:
            raise CheckpointError(f"{path} is big-endian: choose the little-endian file")
        if version not in (2, 3):
            raise CheckpointError(f"{path} is of GGUF's version {version}, expected 2 or 3: convert the model again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data, 8)
            tensors, values = reader.number("Q"), reader.number("Q")
            metadata = dict((reader.text(), reader.value(reader.number("I"))) for _ in range(values))
            infos = [(reader.text(), [reader.number("Q") for _ in range(reader.number("I"))], reader.number("I"),
                      reader.number("Q")) for _ in range(tensors)]
            alignment = metadata.get("general.alignment", 32)
            start, end = -(-reader.at // alignment) * alignment, len(data)
    found = {}
    for name, dims, number, offset in infos:
        if name in found:
            raise ValueError(f"{name} stands there twice")
        kind, shape = TYPES.get(number, f"type {number}"), dims[::-1]
        first, last = start + offset, start + offset + tensor_bytes(name, kind, shape)
        if last > end:
            raise ValueError(f"{name} ends at byte {last:,} of {end:,}")
        found[name] = Stored(path, name, seen, kind, shape, (first, last))
    return Header(metadata, found)


def tensor_bytes(name: str, kind: str, shape: list[int]) -> int:
    """The bytes of a tensor; 0 of a kind that cannot be read. `ValueError` for rows that are not whole blocks."""
    values, size = BLOCKS[kind][:2] if kind in BLOCKS else (1, BYTES.get(kind, 0))
    if not shape or shape[-1] % values:
        raise ValueError(f"{name} has the shape {shape} in blocks of {values}")
    return math.prod(shape) // values * size


class _Reader:
    """Takes the values of a header from its bytes, one after the other."""

    def __init__(self, data, at):
        self.data, self.at = data, at

    def number(self, kind):
        return self.numbers(kind, 1)[0]

    def numbers(self, kind, count):
        form = f"<{count}{kind}"
        found = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return found

    def text(self):
        size = self.number("Q")
        if size > len(self.data) - self.at:
            raise ValueError(f"a text of {size:,} bytes at byte {self.at:,} of {len(self.data):,}")
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY:
            raise ValueError(f"a value of type {kind} at byte {self.at:,}")
        kind, count = self.number("I"), self.number("Q")
        if kind in SCALARS:
            return list(self.numbers(SCALARS[kind], count))
        return [self.value(kind) for _ in range(count)]


def _value(path, metadata, key, kinds, default=None):
    """One value of the metadata; `CheckpointError` if it is of another kind, or missing without a default."""
    value = metadata.get(key, default)
    if type(value) not in kinds:
        raise CheckpointError(f"{path}: {key} is {value!r:.80}, expected {' or '.join(k.__name__ for k in kinds)}: "
                              f"{again(path)}")
    return value


# --------------------------------------------------------------------------------------------------- configuration


def gguf_config(path: Path) -> dict:
    """The metadata as a published config.json. `CheckpointError` names the key that is missing or cannot be used.

    Layers slide as the file says, also where llama.cpp itself, which asks for 64 layers, would not let them.
    """
    metadata, tensors = read_header(path)

    def get(key, *kinds, default=None):
        return _value(path, metadata, key, kinds, default)

    raw = {key: get(f"exaone4.{name}", int, float) for key, name in KEYS.items()}
    raw |= {key: get(f"exaone4.{name}", int) for key, name in OPTIONAL_KEYS.items()
            if f"exaone4.{name}" in metadata}
    for key in ("rms_norm_eps", "rope_theta"):
        raw[key] = _shortest(raw[key])
    raw["vocab_size"] = get("exaone4.vocab_size", int, default=len(metadata.get("tokenizer.ggml.tokens", ())))
    raw["model_type"], raw["tie_word_embeddings"] = "exaone4", "output.weight" not in tensors
    raw["sliding_window"] = raw.get("sliding_window")
    kinds, own = _layer_types(path, metadata, raw), _own_layers(path, metadata)
    raw["layer_types"], raw["num_hidden_layers"] = [kinds[block] for block in own], len(own)
    head_dim = raw.setdefault("head_dim", raw["hidden_size"] // max(1, raw["num_attention_heads"]))
    for key in ("attention.value_length", "rope.dimension_count"):
        if (size := get(f"exaone4.{key}", int, default=head_dim)) != head_dim:
            raise CheckpointError(f"{path}: exaone4.{key} is {size}, but heads have the size {head_dim}, and only "
                                  "that can be loaded: choose an EXAONE 4.0 model")
    raw["rope_scaling"] = _rope_scaling(path, metadata, tensors, raw)
    matrices = {part.dtype for part in tensors.values() if len(part.shape) == 2}
    raw["dtype"] = {("F32",): "float32", ("F16",): "float16"}.get((*(matrices - BLOCKS.keys()),), "bfloat16")
    if kinds := sorted(matrices & BLOCKS.keys()):
        raw["quantization_config"] = {"quant_method": "gguf", "kinds": [
            {"bits": BLOCKS[kind].bits, "group_size": BLOCKS[kind].group} for kind in kinds]}
    return raw | _token_ids(path, metadata)


def gguf_sampling(path: Path) -> dict:
    """What the file advises about sampling, by the names of generation_config.json; {} if nothing."""
    metadata = read_header(path).metadata
    found = {key: metadata.get(f"general.sampling.{name}") for key, name in SAMPLING_KEYS.items()}
    return {key: _shortest(value) for key, value in found.items() if value is not None}


def _shortest(value):
    """A number that was stored in 32 bits, with as few digits as tell it: 1e-5 instead of 9.99999974e-06."""
    import numpy

    return float(str(numpy.float32(value))) if type(value) is float else value


def _layer_types(path, metadata, raw):
    """Which layers slide: as the file says, and of 64 without a word as in the published 32B."""
    layers, key = raw["num_hidden_layers"], "exaone4.attention.sliding_window_pattern"
    slides = metadata.get(key)
    if raw["sliding_window"] is None:
        return ["full_attention"] * layers
    if slides is None and layers == 64:
        slides = [ORIGINAL_WINDOW[i % len(ORIGINAL_WINDOW)] == "L" for i in range(layers)]
    if not isinstance(slides, list) or len(slides) != layers or not all(type(slide) is bool for slide in slides):
        raise CheckpointError(f"{path}: {key} is {slides!r:.80}, expected true or false for each of {layers} layers, "
                              "to say which of them have the sliding window: convert the model again")
    return ["sliding_attention" if slide else "full_attention" for slide in slides]


def _own_layers(path, metadata):
    """The numbers of the blocks that are layers of the model: all, unless `export` has put others between them."""
    blocks = range(_value(path, metadata, "exaone4.block_count", (int,)))
    own = _value(path, metadata, OWN_LAYERS, (list,), default=[*blocks])
    if not own or own != [block for block in blocks if block in own]:
        raise CheckpointError(f"{path}: {OWN_LAYERS} is {own!r:.80}, expected numbers from 0 to {len(blocks) - 1}, "
                              "each above the one before: export the model again")
    return own


def _token_ids(path, metadata):
    """The ids that config.json has. llama.cpp tells the end of a text, of a turn and of a message apart."""
    ids = {name: _value(path, metadata, f"tokenizer.ggml.{name}_token_id", (int, type(None)))
           for name in ("bos", "padding", "eos", "eot", "eom")}
    ends = [*dict.fromkeys(id for id in (ids["eos"], ids["eot"], ids["eom"]) if id is not None)]
    return {"bos_token_id": ids["bos"], "pad_token_id": ids["padding"],
            "eos_token_id": ends[0] if len(ends) == 1 else ends}


def _rope_scaling(path, metadata, tensors, raw):
    """llama3 scaling, if the file has what it divides each frequency by; `CheckpointError` for any other kind."""
    kind = metadata.get("exaone4.rope.scaling.type", "none")
    if kind not in ("none", "llama3"):
        raise CheckpointError(f"{path}: exaone4.rope.scaling.type is {kind!r:.40}, but only llama3 scaling can be "
                              "loaded: choose an EXAONE 4.0 model")
    if ROPE_FACTORS not in tensors:
        return None
    import numpy

    part, half = tensors[ROPE_FACTORS], raw["head_dim"] // 2
    if part.shape != [half] or part.dtype != "F32":
        raise CheckpointError(f"{path}: {ROPE_FACTORS} is {part.shape} {part.dtype}, expected [{half}] in F32: "
                              f"{again(path)}")
    # Of the waves, in tokens; float32 powers would differ from CPU to CPU by as much as is tolerated.
    lengths = 2 * math.pi * raw["rope_theta"]**(numpy.arange(0, raw["head_dim"], 2) / raw["head_dim"])
    scaling = _llama3(numpy.fromfile(path, "<f4", half, offset=part.span[0]), lengths)
    if scaling is None:
        raise CheckpointError(f"{path}: the factors in {ROPE_FACTORS} are not those of llama3 scaling, and only that "
                              "can be loaded: choose an EXAONE 4.0 model")
    return scaling


def _llama3(factors, lengths):
    """The llama3 scaling that divides the frequencies of waves of so many tokens by these factors, to within 1e-6; None
    if there is none.

    low, high and original only matter by their ratios. The published ones are tried first, then low = 1 with the others
    from two factors between 1 and the largest, for which kept = (original / length - low) / (high - low), a line.
    """
    import numpy

    if not numpy.isfinite(factors).all() or factors.min() < 1:
        return None
    factor, candidates = float(factors.max()), [LLAMA3_DEFAULT]
    between = numpy.flatnonzero((factors > 1) & (factors < factor))
    if len(between) > 1:
        first, last = between[0], between[-1]
        kept = (1 / factors.astype("f8") - 1 / factor) / (1 - 1 / factor)
        slope = (kept[first] - kept[last]) / (1 / lengths[first] - 1 / lengths[last])
        below = slope / lengths[first] - kept[first]  # low / (high - low)
        if below > 0:
            candidates.append((1.0, round(1 + 1 / float(below), 3), round(slope / below)))
    for low, high, original in candidates:
        kept = numpy.clip((original / lengths - low) / (high - low), 0, 1)
        if numpy.allclose(1 / ((1 - kept) / factor + kept), factors, rtol=1e-6, atol=0):
            return {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                    "original_max_position_embeddings": original}
    return None


# --------------------------------------------------------------------------------------------------------- weights


def gguf_weights(path: Path, shapes: dict) -> dict[str, Stored]:
    """Map the published name of every parameter to where it is, as `weight_files` does for a folder.

    shapes: of the model's parameters, by published name. `CheckpointError` names the tensors that are missing, too
    many, or of another shape.
    """
    metadata, tensors = read_header(path)
    layers = {block: layer for layer, block in enumerate(_own_layers(path, metadata))}
    skipped = [f"blk.{block}" for block in range(metadata["exaone4.block_count"]) if block not in layers]
    for name in (f"{block}.{norm}.weight" for block in skipped for norm in OUTPUT_NORMS):
        if name not in tensors or read_tensor(tensors[name], tensors[name].shape, ("F32",)).any():
            raise CheckpointError(f"{path}: {name} is not 0, though {OWN_LAYERS} says that its block does nothing: "
                                  "export the model again")
    found = {_published(name, layers): part for name, part in tensors.items()
             if name != ROPE_FACTORS and name.rsplit(".", 2)[0] not in skipped}
    missing, extra = sorted(shapes.keys() - found.keys()), sorted(found.keys() - shapes.keys())
    if missing or extra:
        raise CheckpointError(f"{path}: the tensors do not fit its metadata: missing {few(missing)}; not in the model: "
                              f"{few(extra)}: {again(path)}")
    for name, part in found.items():
        if part.shape != list(shapes[name]):
            raise CheckpointError(f"{path}: {part.name} is {part.shape}, by its metadata {list(shapes[name])}: "
                                  f"{again(path)}")
    return found


def _published(name, layers):
    """The published name of a tensor of the file, or its own where it has none; layers: their numbers, by block."""
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match and match[2] in LAYER_NAMES:
        return f"model.layers.{layers.get(int(match[1]), match[1])}.{LAYER_NAMES[match[2]]}.weight"
    base = name.removesuffix(".weight")
    return f"{NAMES[base]}.weight" if base in NAMES else name


# ------------------------------------------------------------------------------------------------------- tokenizer


def gguf_tokenizer(path: Path) -> tuple[dict[str, int], list[str], dict]:
    """What vocab.json, merges.txt (its lines) and tokenizer_config.json hold in a folder."""
    metadata = read_header(path).metadata

    def get(key, kind, default=None):
        return _value(path, metadata, f"tokenizer.{key}", (kind,), default)

    kind, words = get("ggml.model", str), get("ggml.pre", str)
    if kind != "gpt2" or words not in PRE:
        raise CheckpointError(f"{path}: the tokenizer is {kind!r:.40}, {words!r:.40}, expected 'gpt2' with "
                              f"{' or '.join(PRE)}: choose an EXAONE 4.0 model")
    tokens, types, merges = (get(f"ggml.{key}", list) for key in ("tokens", "token_type", "merges"))
    if len(tokens) != len(types) or len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{path}: tokenizer.ggml has {len(tokens)} tokens, {len(set(tokens))} of them different, "
                              f"and {len(types)} types, expected as many: {again(path)}")
    vocab = {token: id for id, (token, type) in enumerate(zip(tokens, types, strict=True)) if type != UNUSED}
    added = {str(id): {"content": token, "special": type == CONTROL, "normalized": False}
             for id, (token, type) in enumerate(zip(tokens, types, strict=True)) if type in (CONTROL, USER_DEFINED)}
    config = {"added_tokens_decoder": added, "chat_template": metadata.get("tokenizer.chat_template")}
    for name, key in {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}.items():
        id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if id is not None:
            if type(id) is not int or not 0 <= id < len(tokens):
                raise CheckpointError(f"{path}: tokenizer.ggml.{key}_token_id is {id!r:.40}, expected the id of one of "
                                      f"{len(tokens)} tokens: {again(path)}")
            config[f"{name}_token"] = tokens[id]
    return vocab, merges, config
