"""`python -m minexaone export`: a checkpoint as one GGUF file that llama.cpp runs as it is meant.

llama.cpp gives an EXAONE 4.0 model its window, and global layers without RoPE, only if it has exactly 64 layers, as the
published 32B has. Any other hybrid runs there as if all its layers were global, without a word, and a model that is
global with 64 layers gets a window. So blocks that do nothing are put between or behind the layers: their output norms
are 0, so that they add nothing, and their matrices are 0 as well. The file names the others, and is read back without.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from torch import Tensor
from tqdm import tqdm

from minexaone.config_json import DTYPES, SLIDING, layer_types
from minexaone.files import resolve, with_temporary
from minexaone.gguf_file import (
    CONTROL,
    KEYS,
    LAYER_NAMES,
    NAMES,
    OPTIONAL_KEYS,
    ORIGINAL_WINDOW,
    OWN_LAYERS,
    ROPE_FACTORS,
    SAMPLING_KEYS,
    UNUSED,
    USER_DEFINED,
    tensor_bytes,
)
from minexaone.linear.ggml import block_kind, packed_blocks
from minexaone.linear.packed import Packed
from minexaone.model import Config, Exaone4, published_name, rope_frequencies
from minexaone.tokenizer import Tokenizer, without_marks

TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}  # of the dense matrices, by the option --type
AUTO = dict(zip(DTYPES, ("f32", "bf16", "f16"), strict=True))
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # llama.cpp's numbers for what most matrices are
ROWS = 4096  # of a matrix, to be rounded at once: bounds the memory of what is computed in between
NORMAL = 1  # type of a token
BLOCKS = 64  # with exactly so many llama.cpp lets layers slide
ENDS = ("eos", "eot", "eom")  # llama.cpp's names for ids at which it stops
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}  # GPT-2's way to cut a text into words


class Part(NamedTuple):
    """A tensor of the file: its name, kind and shape there, and what makes its numbers, or the octets of blocks."""

    name: str
    kind: str
    shape: list[int]
    make: Callable[[], Tensor]


def blocks_of(config: Config) -> tuple[list[int], int]:
    """(the block of each layer, the number of blocks): llama.cpp's are LLLG LLLG ... where any of them slides.

    `ValueError` if the layers do not fit there in their order.
    """
    layers = config.num_hidden_layers
    if config.sliding_window is None:
        return [*range(layers)], layers + (layers == BLOCKS)
    kinds, places = layer_types(ORIGINAL_WINDOW, BLOCKS), []
    for kind in config.layer_types:
        first = places[-1] + 1 if places else 0
        if kind not in kinds[first:]:
            raise ValueError(f"llama.cpp runs sliding windows in {BLOCKS} layers, {ORIGINAL_WINDOW} again and again: "
                             f"the {layers} layers of this model do not fit in there in their order")
        places.append(kinds.index(kind, first))
    return places, BLOCKS


def parts_of(model: Exaone4, kind: str) -> list[Part]:
    """Every tensor of the file; kind: see `part_of`."""
    places, blocks = blocks_of(model.config)
    packed = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Packed)}
    matrices = packed | {name: tensor for name, tensor in model.state_dict().items()
                         if f"{name.rpartition('.')[0]}.weight" not in packed}
    if model.config.tie_word_embeddings:
        matrices.pop("lm_head.weight", None)
    parts = [part_of(file_name(name, places), matrix, kind) for name, matrix in matrices.items()]
    first = f"blk.{places[0]}."
    like = [part for part in parts if part.name.startswith(first)]
    for block in set(range(blocks)) - {*places}:
        parts += [part._replace(name=part.name.replace(first, f"blk.{block}."), make=partial(nothing, part))
                  for part in like]
    if model.config.rope_scaling:
        factors = rope_frequencies(replace(model.config, rope_scaling=None)) / rope_frequencies(model.config)
        parts.append(part_of(ROPE_FACTORS, factors, kind))
    return parts


def part_of(name: str, matrix: Tensor | Packed, kind: str) -> Part:
    """A tensor under its name in the file; kind: of a matrix that is dense, or has no blocks of the same numbers."""
    shape = list(matrix.shape)
    if isinstance(matrix, Packed):
        exact = block_kind(matrix)
        part = Part(name, exact or kind, shape, partial(packed_blocks if exact else unpacked, matrix))
    else:
        part = Part(name, kind if len(shape) == 2 else "F32", shape, lambda: matrix)
    if part.kind == "Q8_0" and shape[1] % 32:
        raise ValueError(f"{name} has rows of {shape[1]} numbers, q8_0 takes multiples of 32: choose --type bf16")
    return part


def nothing(part: Part) -> Tensor:
    """As many octets of 0 as a tensor has: of every kind they are numbers 0."""
    return torch.zeros(tensor_bytes(*part[:3]), dtype=torch.uint8)


def file_name(name: str, places: list[int]) -> str:
    """The name in the file of a parameter of `Exaone4`; places: the block of each layer."""
    name = published_name(name).removesuffix(".weight")
    if name.startswith("model.layers."):
        layer, name = name.removeprefix("model.layers.").split(".", 1)
        return f"blk.{places[int(layer)]}.{_of(LAYER_NAMES)[name]}.weight"
    return f"{_of(NAMES)[name]}.weight"


def _of(names):
    return {published: own for own, published in names.items()}


def unpacked(module: Packed) -> Tensor:
    """A packed matrix in float32 [O, I], with its inputs in their own order."""
    matrix = module.unpacked(torch.float32)
    return matrix if module.order is None else matrix[:, module.order.argsort()]


def octets(part: Part, gguf):
    """The bytes of a tensor as a NumPy array. `ValueError` if its numbers are beyond float16 and that was asked for."""
    tensor = part.make().detach().cpu()
    if tensor.dtype == torch.uint8:
        return tensor.numpy()
    if part.kind not in FLOATS:
        return numpy.concatenate([gguf.quants.quantize(rows.float().numpy(), gguf.GGMLQuantizationType[part.kind])
                                  for rows in tensor.split(ROWS)])
    rounded = tensor.to(FLOATS[part.kind])
    if part.kind == "F16" and not rounded.isfinite().all():
        raise ValueError(f"{part.name} has numbers beyond float16's range: choose --type bf16")
    return rounded.contiguous().view(torch.uint8).numpy()


# ----------------------------------------------------------------------------------------------------- metadata


def add_shape(writer, config: Config):
    """What llama.cpp has to know of the model, under the names that its own converter gives."""
    places, blocks = blocks_of(config)
    values = {name: getattr(config, key) for key, name in (KEYS | OPTIONAL_KEYS).items()}
    values |= {"block_count": blocks, "vocab_size": config.vocab_size, "attention.value_length": config.head_dim,
               "rope.dimension_count": config.head_dim}
    for name, value in values.items():
        if name in (KEYS["rms_norm_eps"], KEYS["rope_theta"]):
            writer.add_float32(f"exaone4.{name}", value)
        elif value is not None:  # there may be no window
            writer.add_uint32(f"exaone4.{name}", value)
    if config.sliding_window is not None:
        writer.add_sliding_window_pattern([kind == SLIDING for kind in layer_types(ORIGINAL_WINDOW, blocks)])
    if len(places) < blocks:
        writer.add_array(OWN_LAYERS, places)


def add_tokenizer(writer, config: Config, tokenizer: Tokenizer):
    """The vocabulary, with a name for each id of the model, and the chat template. `ValueError` if llama.cpp could not
    cut texts in the same way, or the ids do not fit."""
    raw = tokenizer.to_dict()
    words = raw["pre_tokenizer"] or {}
    if any(words.get(key) != value for key, value in WORDS.items()) or raw["model"].get("ignore_merges"):
        raise ValueError("the tokenizer does not cut texts into words as GPT-2's does, and llama.cpp has names for "
                         "known ways alone: convert the model with llama.cpp's own converter")
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model {config.vocab_size:,}: they "
                         "are not of one checkpoint")
    tokens, types = [f"[PAD{id}]" for id in range(config.vocab_size)], [UNUSED] * config.vocab_size
    for token, id in raw["model"]["vocab"].items():
        tokens[id], types[id] = token, NORMAL
    for token in raw["added_tokens"]:
        tokens[token["id"]], types[token["id"]] = token["content"], CONTROL if token["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in raw["model"]["merges"]])
    ends = sorted(config.stop_ids, key=lambda id: id != tokenizer.eos_token_id)  # stable: the tokenizer's own first
    if len(ends) > len(ENDS):
        raise ValueError(f"eos_token_id names {len(ends)} ids, but a GGUF file has room for {len(ENDS)}: take some out "
                         "of config.json and generation_config.json")
    ids = dict(zip(ENDS, ends, strict=False)) | {
        "bos": config.bos_token_id, "padding": config.pad_token_id, "unknown": tokenizer.unk_token_id}
    for name, id in ids.items():
        if id is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(without_marks(tokenizer.chat_template))  # older programs stumble over the marks


def add_sampling(writer, sampling: dict):
    """What generation_config.json advises: llama.cpp samples at temperature 0.8 where nothing is said."""
    advice = sampling if sampling.get("do_sample", True) else {"temperature": 0}
    for key, name in SAMPLING_KEYS.items():
        if key in advice:
            add = writer.add_int32 if key == "top_k" else writer.add_float32
            add(f"general.sampling.{name}", advice[key])


# ------------------------------------------------------------------------------------------------------ the command


def library():
    """The gguf package, which nothing else needs. `ValueError` if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise ValueError("GGUF files are written by the package gguf, which is not installed: run `pip install "
                         "\"gguf>=0.19\"`") from None
    return gguf


def export(model: Exaone4, tokenizer: Tokenizer, out: Path, kind: str = "auto", name: str = "") -> str:
    """Write a GGUF file, whole or not at all, and say in a line what it holds.

    kind: of the dense matrices, see `TYPES`; "auto" is the model's own. Packed ones stay Q4_0 or Q8_0 where those hold
    the same numbers, else they are unpacked to `kind`. `ValueError` for what llama.cpp could not run as it is meant.
    """
    gguf, config = library(), model.config
    if config.hidden_size != (width := config.num_attention_heads * config.head_dim):
        raise ValueError(f"llama.cpp runs EXAONE 4.0 only where hidden_size is the size of all heads, but here "
                         f"{config.hidden_size:,} is not {config.num_attention_heads} × {config.head_dim} = {width:,}")
    parts = parts_of(model, TYPES[AUTO[config.dtype] if kind == "auto" else kind])
    kinds = Counter(part.kind for part in parts if len(part.shape) == 2)

    def write(path):
        writer = gguf.GGUFWriter(path, "exaone4")
        try:
            writer.add_type("model")
            writer.add_name(name or out.stem)
            writer.add_file_type(FILE_TYPES[kinds.most_common(1)[0][0]])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            add_sampling(writer, model.sampling)
            add_shape(writer, config)
            add_tokenizer(writer, config, tokenizer)
            for part in parts:
                writer.add_tensor_info(part.name, part.shape, None, tensor_bytes(*part[:3]),
                                       gguf.GGMLQuantizationType[part.kind])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for part in tqdm(parts, desc="writing", unit="tensor", disable=None):  # one at a time in memory
                writer.write_tensor_data(octets(part, gguf))
        finally:
            writer.close()

    with_temporary(out, write)
    places, blocks = blocks_of(config)
    said = f"{out}: {out.stat().st_size / 1e6:,.1f} MB, matrices in {' and '.join(kinds)}"
    return said + f", {len(places)} layers in {blocks} blocks, the others do nothing" * (blocks > len(places))


def main(argv=None):
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m minexaone export", description="Write a model with its tokenizer "
                                     "and chat template as a GGUF file, for llama.cpp and what is built on it.")
    parser.add_argument("model", help="folder, GGUF file or hub id of a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="file to write, NAME.gguf")
    parser.add_argument("--type", choices=["auto", *TYPES], default="auto", help="of the matrices; those that are "
                        "quantized already keep their numbers where Q4_0 or Q8_0 hold them (auto: as stored)")
    args = parser.parse_args(argv)
    if args.out.suffix != ".gguf" or args.out.exists():
        raise ValueError(f"--out is {args.out}, expected the name of a new file that ends in .gguf")
    library()  # a missing one is known before a long download
    folder = resolve(args.model)
    model, tokenizer = Exaone4.from_pretrained(folder, device="cpu"), Tokenizer.from_pretrained(folder)
    print(export(model, tokenizer, args.out, args.type, Path(args.model).name))
