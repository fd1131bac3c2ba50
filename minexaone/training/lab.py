"""Experiments that the report leaves open, every setting at several seeds; results as data.

    python -m minexaone.training.lab RUN --out assets/lab

RUN: a finished run, which lends its tokenizer, and its base model for the experiment on SFT. Runs that are in the files
already are skipped. What AGAPO's parts do is measured by `minexaone.training.compare`.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from minexaone.evaluate import by_task, needle_grid, share
from minexaone.files import read_json, write_json
from minexaone.model import Exaone4, cache_bytes
from minexaone.training.__main__ import prepare
from minexaone.training.data import Steps, pretraining_documents, sft_documents
from minexaone.training.loop import Recipe, fit, workers_here
from minexaone.training.packing import PackedModel, likelihood_loss
from minexaone.training.run import PRESETS, Preset, Run

PATTERNS = ("L", "LLLLG", "LLLG", "LLG", "LG", "G")
RATIOS = (0.67, 1.0, 1.5, 2.0, 3.0)
SFT_TASKS = ("compare", "sums", "story", "logic", "facts")


@dataclass(frozen=True)
class Lab:
    """Sizes: small models, so that many can be trained. Lengths are in tokens."""

    model: Preset
    context: int
    windows: tuple[int, ...]
    steps: int
    sft: Recipe
    count: int  # prompts in a cell


LABS = {
    "tiny": Lab(replace(PRESETS["tiny"], hidden_size=128, intermediate_size=320, layers=12, heads=4, window=64),
                context=1024, windows=(16, 32, 64, 128, 256), steps=500, sft=Recipe(800, 1.2e-3), count=60),
    "smoke": Lab(replace(PRESETS["smoke"], layers=6), context=1024, windows=(16, 32), steps=2, sft=Recipe(2, 1e-3),
                 count=1),
}


def settings(lab: Lab) -> Iterator[tuple[str, str, Preset | float]]:
    """(experiment, setting, what it is trained with) of every setting."""
    for pattern in PATTERNS:
        yield "layers", pattern, replace(lab.model, pattern=pattern)
    for window in lab.windows:
        yield "window", str(window), replace(lab.model, window=window)
    for ratio in RATIOS:
        yield "ratio", f"{ratio:g}", ratio


class Batches:
    """The steps of a seed, drawn once and used for every setting: drawing takes longer than training on them."""

    def __init__(self, steps: Steps, workers: int):
        self.steps, self.workers, self.drawn = steps, workers, None

    def draw(self, start: int):
        """The steps from `start` on."""
        self.drawn = self.drawn or list(self.steps.draw(0, self.workers))
        return iter(self.drawn[start:])


def steps_of(run: Run, lab: Lab, documents, name: str, seed: int, steps: int, context: int) -> Steps:
    """Steps of the lab's size."""
    return Steps(run.tokenizer_folder, documents, name, seed, steps, lab.model.rows, lab.model.tokens, context)


@torch.no_grad()
def loss_by_distance(run: Run, lab: Lab, model: Exaone4) -> list[float | None]:
    """Mean loss on held-out long pages, in each doubling of the position from 64 on; None where no page reaches."""
    documents = partial(pretraining_documents, context=lab.context)
    sums = torch.zeros(2, lab.context.bit_length() - 6, device=run.device)
    for batch in steps_of(run, lab, documents, "held out", 1, 1, lab.context)[0][0]:
        batch = batch.to(run.device)
        bucket = (batch.positions.clamp(min=64).log2().floor().long() - 6).clamp(max=sums.shape[1] - 1)
        for row, values in enumerate((-PackedModel(model)(batch) * batch.weights, batch.weights)):
            sums[row].index_add_(0, bucket, values)
    return [round(total / count, 4) if count else None for total, count in sums.T.tolist()]


def pretrained(run: Run, lab: Lab, preset: Preset, batches: Batches, seed: int, checkpoint: str) -> dict:
    """Train a model of this shape from nothing, and measure it."""
    run = Run(run.folder, preset, seed, run.device)
    model, lengths = run.untrained(lab.context), (lab.context // 4, lab.context // 2, lab.context)
    begin = time.time()
    log = fit(model, batches.draw, likelihood_loss, Recipe(lab.steps, 2e-3, "wsd", save_every=lab.steps), run.folder,
              checkpoint)
    seconds = time.time() - begin
    grid = needle_grid(model, run.tokenizer, run.tokenizer_folder, lengths, lab.count, plain_text=True)
    return {"loss": log["steps"][-1]["loss"], "loss_by_distance": loss_by_distance(run, lab, model), "needles": grid,
            "seconds": round(seconds, 1), "parameters": sum(p.numel() for p in model.parameters()),
            "cache_bytes": {str(n): cache_bytes(model.config, n) for n in (1024, 4096, 65536)}}


def fine_tuned(run: Run, lab: Lab, batches: Batches, seed: int, checkpoint: str) -> dict:
    """Fine-tune the run's base model, and measure both modes."""
    model = run.load("extend2")
    log = fit(model, batches.draw, likelihood_loss, replace(lab.sft, save_every=lab.sft.steps), run.folder,
              checkpoint)
    return {"loss": log["steps"][-1]["loss"],
            "by_task": by_task(model, run.tokenizer, run.tokenizer_folder, lab.count, SFT_TASKS, seed=seed)}


def main(argv=None):
    """Run what is missing; write OUT/layers.SEED.json, OUT/window.SEED.json and OUT/ratio.SEED.json, an entry a run."""
    parser = argparse.ArgumentParser(description="Experiments that the report leaves open.")
    parser.add_argument("run", type=Path, help="a finished run: tokenizer and base model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=LABS, default="tiny")
    parser.add_argument("--only", choices=("layers", "window", "ratio"), help="one experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    lab, run = LABS[args.preset], Run(args.run, PRESETS[args.preset], 0, prepare(args.device))
    if not run.is_done("extend2"):
        parser.exit(1, f"minexaone.training.lab: {args.run} has no finished extend2: train it first\n")
    workers, context = workers_here(run.device), run.preset.contexts[-1]
    torch._dynamo.config.recompile_limit = 64  # every window is compiled once
    for seed in args.seeds:
        checkpoint = f".lab-{seed}"
        pages = Batches(steps_of(run, lab, partial(pretraining_documents, context=lab.context), "lab", seed, lab.steps,
                                 lab.context), workers)
        for experiment, setting, what in settings(lab):
            file = args.out / f"{experiment}.{seed}.json"
            rows = read_json(file) if file.is_file() else []
            if args.only not in (None, experiment) or any(row["setting"] == setting for row in rows):
                continue
            (run.folder / f"{checkpoint}.state.safetensors").unlink(missing_ok=True)
            if experiment == "ratio":
                turns = steps_of(run, lab, partial(sft_documents, context=context, ratio=what), "lab sft", seed,
                                 lab.sft.steps, context)
                found = fine_tuned(run, lab, Batches(turns, workers), seed, checkpoint)
            else:
                found = pretrained(run, lab, what, pages, seed, checkpoint)
            write_json(file, [*rows, {"setting": setting, "seed": seed, **found}])
            told = sum(map(share, found["needles"])) / len(found["needles"]) if "needles" in found else found["loss"]
            print(f"{experiment} {setting}, seed {seed}: {told:.3f}", flush=True)
        (run.folder / f"{checkpoint}.state.safetensors").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
