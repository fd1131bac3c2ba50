"""`python -m minexaone quantize`: a model with its layers in 4 or 8 bits, in a new folder that other engines open.

One layer after the other: calibration texts run through it, its seven matrices are rounded, and the texts go on as they
come out of the rounded layer, so that later layers see the errors of earlier ones. Beside the weights there are only
the texts' hidden states, the Hessians of one layer and that layer in float32 in memory.
"""

import argparse
import math
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minexaone.files import PATTERNS, resolve, whole_folder
from minexaone.linear.gptq import gptq, gram
from minexaone.linear.lora import load_adapter, merge_lora
from minexaone.linear.packed import Packed, PackedLinear
from minexaone.linear.rounding import group_size, round_to_nearest
from minexaone.linear.writing import FORMATS, GPTQ, check_gptq_shape
from minexaone.model import Exaone4, attention
from minexaone.tokenizer import Tokenizer
from minexaone.training.data import sft_documents

# The matrices of a layer, by the first of those that read the same inputs.
READERS = {"self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
           "self_attn.o_proj": ("self_attn.o_proj",), "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
           "mlp.down_proj": ("mlp.down_proj",)}
MATRICES = tuple(name for names in READERS.values() for name in names)
METHODS = {"gptq": gptq, "nearest": lambda weight, hessian, *options: round_to_nearest(weight, *options)}
LENGTH = 512  # tokens of a calibration text at most
NOT_COPIED = ("config.json", "model.safetensors.index.json", "quantize_config.json", "quantization_config.json")


# -------------------------------------------------------------------------------------------- calibration texts


def own_texts(tokenizer: Tokenizer, samples: int, length: int = LENGTH) -> list[list[int]]:
    """Texts of the project's own training data, with the model's chat template: token ids of each."""
    documents = sft_documents(Random("calibration"), tokenizer, length)
    return [document.ids for document in islice(documents, samples)]


def file_texts(path: Path, tokenizer: Tokenizer, samples: int, length: int = LENGTH) -> list[list[int]]:
    """Pieces of a UTF-8 text, evenly spread over it. `ValueError` if there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start:,}): save it as UTF-8") from None
    if not text.strip():
        raise ValueError(f"{path} is empty: name a file with text like the model will read")
    characters = 8 * length  # enough for so many tokens in most languages
    count = min(samples, -(-len(text) // characters))
    starts = [n * len(text) // count for n in range(count)]
    return [tokenizer.encode(text[start:start + characters], parse_special=True)[:length] for start in starts]


# ------------------------------------------------------------------------------------------- a layer at a time


def alone(model: Exaone4, length: int) -> tuple:
    """The last two arguments of a layer in float32, for a text of so many tokens by itself."""
    positions = torch.arange(length, device=model.device)
    angles = positions[:, None, None] * model.frequencies.to(model.device)

    def attend(attn, q, k, v):
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return attention(q, k, v, positions, positions, attn.window).transpose(1, 2)

    return (angles.cos(), angles.sin()), attend


def watched(layer: nn.Module, watch: Callable[[str, Tensor], None], run: Callable[[], None]):
    """Call run(); watch(name, x) gets what each of `READERS` reads in it."""
    hooks = [layer.get_submodule(name).register_forward_pre_hook(lambda module, args, name=name: watch(name, args[0]))
             for name in READERS]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def quantize_layers(model: Exaone4, texts: list[list[int]], pack: Callable[[Tensor, Tensor], PackedLinear],
                    names=MATRICES) -> dict[str, float]:
    """Replace the matrices of these names in every layer, in place, by pack(weight, Hessian).

    Returns the error of each kind: of its output on the texts, over all layers, as a share of the output (both as root
    mean squares).
    """
    hidden = [model.embed_tokens(torch.tensor([ids], device=model.device)).float() for ids in texts]
    around, dtype = [alone(model, len(ids)) for ids in texts], model.embed_tokens.weight.dtype
    squares = {name: [0.0, 0.0] for name in names}  # of the errors, of the outputs
    steps = len(model.layers) * (2 * len(texts) + len(names))
    with tqdm(total=steps, desc="quantizing", unit="step", disable=None) as progress:
        for layer in model.layers:
            layer.float()
            hessians = {}

            def add(name, x, hessians=hessians):
                hessians[name] = hessians[name] + gram(x) if name in hessians else gram(x)

            def run(layer=layer):
                for x, rest in zip(hidden, around, strict=True):
                    layer(x, *rest)
                    progress.update()

            watched(layer, add, run)
            for first, readers in READERS.items():
                hessian = hessians.pop(first)
                for name in (reader for reader in readers if reader in names):
                    weight = layer.get_submodule(name).weight
                    packed = pack(weight, hessian)
                    for n, matrix in enumerate((packed.unpacked(torch.float32) - weight, weight)):
                        squares[name][n] += float(((matrix @ hessian) * matrix).sum())
                    layer.set_submodule(name, packed)
                    progress.update()
            for n, rest in enumerate(around):
                hidden[n] = layer(hidden[n], *rest)
                progress.update()
            layer.to(dtype)
    return {name: math.sqrt(max(error, 0) / output) for name, (error, output) in squares.items()}


# --------------------------------------------------------------------------------------------------- the command


def weight_bytes(model: Exaone4) -> int:
    """Of all tensors of a model."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def check(model: Exaone4, group: int, form: str):
    """`ValueError` if a model's matrices cannot be quantized so: known before the work is done."""
    for name, module in model.named_modules():
        if isinstance(module, Packed):
            raise ValueError(f"the model is quantized already ({name}, {module.bits} bits): name the unquantized one")
        if isinstance(module, nn.Linear) and name != "lm_head":
            group_size(module.in_features, group)
            if form in GPTQ:
                check_gptq_shape(name, module.out_features, module.in_features)


def quantize_checkpoint(source, out: Path, bits: int, group: int, method: str, form: str, symmetric=True,
                        texts: Path | None = None, samples=128, device="auto", adapter=None) -> str:
    """Write `out`, whole or not at all, and say in a line what it cost. See `main` for the arguments."""
    if form == "int-quantized" and (bits != 8 or group != -1 or not symmetric):
        raise ValueError("int-quantized has 8 bits, one scale a row and no zeros: use --bits 8 --group -1, without "
                         "--asymmetric")
    if form == "gptq" and not symmetric:  # gptqmodel 7.6 opens those of its own making alone
        raise ValueError("gptq files with zero points are refused by other engines: write --format gptq_v2 or "
                         "compressed-tensors, or leave --asymmetric out")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"--out is {out}, which exists: name a new folder")
    folder = resolve(source)
    tokenizer, model = Tokenizer.from_pretrained(folder), Exaone4.from_pretrained(folder, device=device)
    check(model, group, form)
    if adapter:
        merge_lora(load_adapter(model, adapter))
    length = min(LENGTH, model.config.max_position_embeddings)
    ids = file_texts(texts, tokenizer, samples, length) if texts else own_texts(tokenizer, samples, length)
    stored = torch.float16 if form in GPTQ else model.embed_tokens.weight.dtype
    before = weight_bytes(model)
    with whole_folder(out) as part:
        errors = quantize_layers(model, ids, lambda weight, hessian: METHODS[method](
            weight, hessian, bits, group, symmetric, stored))
        model.save_pretrained(part, form)
        for file in (file for pattern in PATTERNS for file in sorted(folder.glob(pattern))):
            if file.name not in NOT_COPIED:
                shutil.copyfile(file, part / file.name)
        if folder.is_file():  # GGUF: nothing to copy
            tokenizer.save_pretrained(part)
    return (f"{out}: {before / 1e6:,.1f} MB are {weight_bytes(model) / 1e6:,.1f} MB; error of the outputs on "
            f"{sum(map(len, ids)):,} tokens: "
            + ", ".join(f"{name.split('.')[1]} {error:.2%}" for name, error in errors.items()))


def main(argv=None):
    """Quantize a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m minexaone quantize", description="Round a model's layers to 4 or "
                                     "8 bits and write a new checkpoint. Embedding, norms and head stay.")
    parser.add_argument("model", help="folder or hub id of an unquantized checkpoint")
    parser.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter to merge into the model first")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, which appears when it is whole")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4, help="of each weight (4)")
    parser.add_argument("--group", type=int, default=128, help="inputs that share a scale; -1 is a whole row (128)")
    parser.add_argument("--method", choices=METHODS, default="gptq", help="gptq, or each weight to the nearest (gptq)")
    parser.add_argument("--format", choices=FORMATS, default="compressed-tensors", help="most engines read both gptq "
                        "and compressed-tensors; int-quantized is what they call W8A8 (compressed-tensors)")
    parser.add_argument("--asymmetric", action="store_true", help="from the smallest to the largest weight of a group, "
                        "not as far to both sides of 0")
    parser.add_argument("--texts", type=Path, help="UTF-8 file to calibrate with (the project's own training texts)")
    parser.add_argument("--samples", type=int, default=128, help=f"texts, each of {LENGTH} tokens at most (128)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    if args.samples < 1:
        raise ValueError(f"--samples is {args.samples}, expected at least 1")
    print(quantize_checkpoint(args.model, args.out, args.bits, args.group, args.method, args.format,
                              not args.asymmetric, args.texts, args.samples, args.device, args.adapter))
