"""What fewer bits cost the shipped model: `python -m minexaone.quantize_report assets/bench/quantized.json`.

Held-out replies are read by the model and by its quantized copies: the loss, and the divergence of what they predict
(Kullback-Leibler, from the unquantized model, in nats a token), which needs far fewer tokens to tell two copies apart.
Then tasks are scored, which takes most of the time; the file is written anew whenever there is more.
"""

import argparse
import copy
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minexaone.files import resolve, write_json
from minexaone.linear.packed import PackedLinear
from minexaone.model import Exaone4
from minexaone.quantize import MATRICES, METHODS, READERS, alone, own_texts, quantize_layers, watched
from minexaone.scoring.evaluate import by_task, needle_grid
from minexaone.tasks import LANGUAGES, TASKS, Example, sample
from minexaone.tokenizer import Tokenizer
from minexaone.training.data import turn_ids

BATCH = 1024  # tokens read together: more are slower on a CPU


@dataclass(frozen=True)
class Variant:
    """A way to quantize: bits 0 is none, group -1 a whole row; only: the one kind of matrix that is, None for all."""

    bits: int
    group: int = 128
    method: str = "gptq"
    symmetric: bool = True
    only: str | None = None


WHOLE = Variant(0)
VARIANTS = [Variant(bits, group, method) for bits in (8, 4, 3) for group in ((128,) if bits == 8 else (64, 128, -1))
            for method in ("nearest", "gptq")] + [Variant(4, 64, method, False) for method in ("nearest", "gptq")]
KINDS = [Variant(4, 128, "nearest", only=name) for name in MATRICES]
SCORED = [WHOLE] + [Variant(bits, 128, method) for bits in (8, 4, 3) for method in ("nearest", "gptq")
                    if (bits, method) != (8, "gptq")]
LENGTHS = (512, 2048)  # of the texts with needles, in tokens


def quantized(model: Exaone4, variant: Variant, texts: list[list[int]]) -> Exaone4:
    """A copy of a model with the weights of a variant, unpacked again, so that it is as fast as the model."""
    model = copy.deepcopy(model)
    if not variant.bits:
        return model
    if variant.method == "nearest":
        texts = texts[:1]  # they change nothing
    quantize_layers(model, texts, lambda weight, hessian: METHODS[variant.method](
        weight, hessian, variant.bits, variant.group, variant.symmetric), [variant.only] if variant.only else MATRICES)
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            dense = nn.Linear(*module.shape[::-1], bias=False, device=model.device)
            dense.weight = nn.Parameter(module.unpacked(model.embed_tokens.weight.dtype), requires_grad=False)
            model.set_submodule(name, dense)
    return model


# ------------------------------------------------------------------------------------------ loss and divergence


def held_out(tokenizer: Tokenizer, count: int) -> list[tuple[Example, list[int], list[int]]]:
    """(example, prompt, right reply): `count` of each task, language and mode, none of them drawn for training."""
    rng = Random("divergence")
    examples = [sample(rng, "test", task, language, reasoning) for task in TASKS for language in LANGUAGES
                for reasoning in (False, True) for _ in range(count)]
    return [(example, *turn_ids(example, tokenizer)) for example in examples]


@torch.inference_mode()
def divergence(model: Exaone4, others: dict, turns: list[tuple[list[int], list[int]]]) -> dict[object, Tensor]:
    """For every other model, and None for the model itself, sums over the tokens of each reply, float64 [replies, 4]:

    tokens, negative log-likelihood, divergence from the model, and how many likeliest tokens are the model's.
    turns: (prompt, reply) of each, as token ids.
    """
    order = sorted(range(len(turns)), key=lambda n: sum(map(len, turns[n])))
    sums = {key: torch.zeros(len(turns), 4, dtype=torch.float64) for key in (None, *others)}
    with tqdm(total=len(turns), desc="divergence", unit="reply") as progress:
        while order:
            longest = sum(map(len, turns[order[-1]]))
            rows, order = order[-max(1, BATCH // longest):], order[:-max(1, BATCH // longest)]
            ids = [turns[n][0] + turns[n][1] for n in rows]
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=model.device)
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=model.device)
            # The positions that predict a token of a reply, in the rows one after the other.
            replies = [slice(len(turns[n][0]) - 1, sum(map(len, turns[n])) - 1) for n in rows]
            owner = torch.tensor([n for n in rows for _ in turns[n][1]])
            targets = torch.tensor([id for n in rows for id in turns[n][1]], device=model.device)[:, None]
            exact = None
            for key, other in {None: model, **others}.items():
                logits = other(ids, attention_mask=mask)
                logprobs = torch.cat([row[part] for row, part in zip(logits, replies, strict=True)]).float()
                logprobs = F.log_softmax(logprobs, -1)
                exact = logprobs if exact is None else exact
                found = torch.stack([torch.ones(len(owner), device=model.device), -logprobs.gather(1, targets)[:, 0],
                                     (exact.exp() * (exact - logprobs)).sum(-1),
                                     (exact.argmax(-1) == logprobs.argmax(-1)).float()], 1)
                sums[key].index_add_(0, owner, found.double().cpu())
            progress.update(len(rows))
    return sums


def interval(numerator: Tensor, denominator: Tensor, draws=2000) -> list[float]:
    """A ratio of sums over replies with its 95 % bootstrap interval: [ratio, low, high]."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(numerator), (draws, len(numerator)), generator=generator)
    ratios = (numerator[picks].sum(1) / denominator[picks].sum(1)).quantile(
        torch.tensor([0.025, 0.975], dtype=numerator.dtype))
    return [float(f"{float(x):.4g}") for x in (numerator.sum() / denominator.sum(), *ratios)]


def costs(sums: Tensor, exact: Tensor) -> dict:
    """Loss (also as a ratio to the model's), divergence and agreement with intervals, from two of `divergence`."""
    tokens = sums[:, 0]
    return {"loss_ratio": interval(sums[:, 1], exact[:, 1]), "kl": interval(sums[:, 2], tokens),
            "same": interval(sums[:, 3], tokens)}


# ------------------------------------------------------------------------------------ what a quantizer sees


@torch.inference_mode()
def input_statistics(model: Exaone4, texts: list[list[int]]) -> list[dict]:
    """Of what the matrices of each layer read, a row for each layer and name in `READERS`:

    rms; kurtosis (3 for a normal distribution) as it is and with each token scaled to an rms of 1; largest magnitude by
    rms; channels, the share of the sum of squares in the largest hundredth of them; tokens, the 99th percentile of the
    tokens' rms by the median; int8, the relative error of rounding each token to 255 steps.
    """
    hidden, rows = [model.embed_tokens(torch.tensor([ids], device=model.device)).float() for ids in texts], []
    for number, layer in enumerate(model.layers):
        seen = defaultdict(list)

        def run(layer=layer, hidden=hidden):
            for n, x in enumerate(hidden):
                hidden[n] = layer(x, *alone(model, x.shape[1]))

        watched(layer, lambda name, x, seen=seen: seen[name].append(x[0]), run)
        rows += [{"layer": number, "reader": name, **statistics(torch.cat(seen[name]))} for name in READERS]
    return rows


def statistics(x: Tensor) -> dict:
    """Of activations [tokens, channels]: see `input_statistics`."""
    rms, tokens = x.square().mean().sqrt(), x.square().mean(1, keepdim=True).sqrt()
    channels = x.square().sum(0).sort(descending=True).values
    scale = x.abs().amax(1, keepdim=True) / 127
    error = ((x / scale).round() * scale - x).square().mean().sqrt()
    numbers = {"rms": rms, "kurtosis": kurtosis(x), "kurtosis_of_even_tokens": kurtosis(x / tokens),
               "largest": x.abs().max() / rms, "channels": channels[:math.ceil(len(channels) / 100)].sum()
               / channels.sum(), "tokens": tokens.quantile(0.99) / tokens.median(), "int8": error / rms}
    return {name: float(f"{float(number):.4g}") for name, number in numbers.items()}


def kurtosis(x: Tensor) -> Tensor:
    """The mean fourth power by the squared mean square."""
    return x.pow(4).mean() / x.square().mean().square()


# --------------------------------------------------------------------------------------------------- the report


def report(source, replies: int, count: int, needles: int, device="auto") -> Iterator[dict]:
    """All of the above, as far as it is measured: first all but the scores, then those of one variant after the other.

    replies: in a cell of the divergence; count, needles: prompts in a cell of the scores.
    """
    folder = resolve(source)
    tokenizer, model = Tokenizer.from_pretrained(folder), Exaone4.from_pretrained(folder, "float32", device)
    texts, turns = own_texts(tokenizer, 128), held_out(tokenizer, replies)
    models = {variant: quantized(model, variant, texts) for variant in VARIANTS + KINDS}
    sums = divergence(model, models, [turn[1:] for turn in turns])
    exact = sums[None]
    found = {"model": str(source or "shipped"), "replies": len(turns), "tokens": int(exact[:, 0].sum()),
             "loss": interval(exact[:, 1], exact[:, 0]), "calibration_tokens": sum(map(len, texts)),
             "variants": [{**asdict(v), **costs(sums[v], exact), "kl_by_nearest": interval(
                 sums[v][:, 2], sums[replace(v, method="nearest")][:, 2])} for v in VARIANTS],
             "kinds": [{**asdict(v), **costs(sums[v], exact)} for v in KINDS],
             "parts": by_part(sums, [turn[0] for turn in turns]), "inputs": input_statistics(model, texts),
             "scores": [], "needles": []}
    yield found
    for variant in SCORED if count else []:
        other = models.get(variant, model)
        # A task at a time: the rows of a batch wait for the longest.
        rows = [row for task in TASKS for row in by_task(other, tokenizer, folder, count, [task])]
        grid = needle_grid(other, tokenizer, folder, LENGTHS, needles)
        found["scores"] += [{**asdict(variant), **row} for row in rows]
        found["needles"] += [{**asdict(variant), **cell} for cell in grid]
        yield found


def by_part(sums: dict[object, Tensor], examples: list[Example]) -> list[dict]:
    """The costs of the variants in `SCORED` in each domain, language and mode."""
    groups = {"domain": lambda e: TASKS[e.task].domain, "language": lambda e: e.language,
              "mode": lambda e: "reasoning" if e.reasoning else "non-reasoning"}
    rows = []
    for variant in (variant for variant in VARIANTS if variant in SCORED):
        for key, of in groups.items():
            for value in dict.fromkeys(map(of, examples)):
                chosen = torch.tensor([of(example) == value for example in examples])
                rows.append({**asdict(variant), key: value, **costs(sums[variant][chosen], sums[None][chosen])})
    return rows


def main(argv=None):
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m minexaone.quantize_report", description="Measure what fewer bits "
                                     "cost a model, and write it as JSON.")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--model", help="folder; the shipped model if left out")
    parser.add_argument("--replies", type=int, default=3, help="held-out replies of each task, language and mode (3)")
    parser.add_argument("--count", type=int, default=5, help="prompts in a cell of the scores, 0 for none (5)")
    parser.add_argument("--needles", type=int, default=4, help="prompts in a cell of the needle grid (4)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    try:
        for found in report(args.model, args.replies, args.count, args.needles, args.device):
            write_json(args.out, found)
    except (ValueError, OSError) as error:
        parser.exit(1, f"minexaone.quantize_report: {error}\n")


if __name__ == "__main__":
    main()
