"""Experiments that the report leaves open, every setting at several seeds; results as data.

    python -m minexaone.training.lab --out runs/lab

Small enough for a CPU, where all of it takes up to three hours of one core:
layers, window: small models, from nothing, on strings that repeat: what came after this letter the last time?
ratio: the shipped base model, fine-tuned on mixtures of both modes.
languages: the same at 1.5, in three languages and with German as a fourth, which thinks or does not.
agapo: the shipped SFT model, reinforced with AGAPO, with GRPO, and with AGAPO without each of its parts.
Settings that are in the files already are skipped.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from minexaone.config_json import SLIDING, layer_types
from minexaone.fast import speed_up
from minexaone.files import SHIPPED, read_json, write_json
from minexaone.model import Config, Exaone4, cache_bytes
from minexaone.scoring.evaluate import cell, mode_kept
from minexaone.scoring.rollouts import language_kept, roll_out
from minexaone.tasks import LANGUAGES, sample
from minexaone.tokenizer import Tokenizer
from minexaone.training.agapo import ALGORITHMS, Rollouts
from minexaone.training.data import RATIO, Steps, draw_level, turn_document
from minexaone.training.loop import Recipe, fit, workers_here
from minexaone.training.packing import Document, likelihood_loss
from minexaone.training.run import prepare, small_gains

PATTERNS = ("L", "LLLLG", "LLLG", "LLG", "LG", "G")
RATIOS = (0.67, RATIO, 3.0)
FOURTH = "de"  # it has phrases for SFT_TASKS alone
LANGUAGE_SETTINGS = {"three": (LANGUAGES, ()), "four": ((*LANGUAGES, FOURTH), ()),
                     "four, the fourth without reasoning": ((*LANGUAGES, FOURTH), (FOURTH,))}
SFT_TASKS = ("compare", "sums")
LETTERS, SHORTEST = 64, 4  # in a repeating string: how many different letters, and the shortest period
EXPERIMENTS = ("layers", "window", "ratio", "languages", "agapo")
STAGES = SHIPPED.parent / "stages"


@dataclass(frozen=True)
class Lab:
    """Sizes. Lengths are in tokens."""

    hidden: int  # of the models that are trained from nothing
    layers: int
    window: int
    windows: tuple[int, ...]
    length: int  # of a string
    rows: int  # strings in a step
    steps: int
    far: int  # a text whose reading is timed
    sft: Recipe
    languages: Recipe  # of SFT in three or four languages
    sft_tokens: int  # in a step
    count: int  # prompts in a cell
    longest: int  # reply
    rounds: int  # of reinforcement
    pool: int  # queries for it
    round: tuple[int, int, int]  # queries, replies to each, and updates, of a round


LABS = {
    "laptop": Lab(hidden=32, layers=10, window=8, windows=(4, 16, 64), length=128, rows=16, steps=600, far=8192,
                  sft=Recipe(30, 1.2e-3), languages=Recipe(120, 1.2e-3), sft_tokens=4096, count=40, longest=200,
                  rounds=8, pool=32, round=(16, 8, 4)),
    "smoke": Lab(hidden=32, layers=5, window=8, windows=(8, 16), length=32, rows=2, steps=2, far=64,
                 sft=Recipe(2, 1e-3), languages=Recipe(2, 1e-3), sft_tokens=2048, count=1, longest=4,
                 rounds=1, pool=2, round=(2, 2, 2)),
}


def settings(lab: Lab) -> Iterator[tuple[str, str]]:
    """(experiment, setting) of every setting."""
    for experiment, names in (("layers", PATTERNS), ("window", lab.windows), ("ratio", RATIOS),
                              ("languages", LANGUAGE_SETTINGS), ("agapo", ALGORITHMS)):
        for name in names:
            yield experiment, f"{name:g}" if isinstance(name, float) else str(name)


# -------------------------------------------------------------------------------------------- layers and window


def repeating(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Strings [rows, length] that repeat, and their periods [rows].

    The periods go from SHORTEST to ⅔ length; of each doubling there are as many.
    """
    most = length * 2 // 3
    period = (SHORTEST * (most / SHORTEST) ** torch.rand(rows, generator=generator)).long()
    ids = torch.randint(0, LETTERS, (rows, length), generator=generator)
    return ids.gather(1, torch.arange(length) % period[:, None]), period


def predictable(period: Tensor, length: int) -> Tensor:
    """Which of the letters 1 … length - 1 can be known [rows, length - 1]: those after the second period's first."""
    return torch.arange(1, length) > period[:, None]


def small_model(lab: Lab, pattern: str, window: int, seed: int) -> Exaone4:
    """A model with this pattern of sliding (L) and global (G) layers; without L all have RoPE, as in the 1.2B."""
    kinds = layer_types(pattern, lab.layers)
    torch.manual_seed(seed)
    model = Exaone4(Config(
        vocab_size=LETTERS, hidden_size=lab.hidden, intermediate_size=2 * lab.hidden, num_hidden_layers=lab.layers,
        head_dim=16, num_attention_heads=lab.hidden // 16, num_key_value_heads=1, eos_token_id=0,
        layer_types=kinds, sliding_window=window if SLIDING in kinds else None, rope_theta=10_000.0,
        max_position_embeddings=lab.far))
    small_gains(model)
    return model


def from_nothing(lab: Lab, pattern: str, window: int, seed: int, device: torch.device) -> dict:
    """Train a model on repeating strings: its loss, what it finds how far away, the time and the cache it needs."""
    model, recipe = small_model(lab, pattern, window, seed).to(device), Recipe(lab.steps, 3e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    generator, losses = torch.Generator().manual_seed(seed), []
    for step in tqdm(range(lab.steps), desc=f"{pattern}, window {window}, seed {seed}", leave=False):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * recipe.rate(step)
        ids, period = repeating(lab.rows, lab.length, generator)
        known, ids = predictable(period, lab.length).to(device), ids.to(device)
        loss = F.cross_entropy(model(ids[:, :-1])[known], ids[:, 1:][known])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        losses.append(loss.item())
    return {"curve": [round(sum(part) / len(part), 4) for i in range(0, lab.steps, 20) if (part := losses[i:i + 20])],
            "found": found_by_distance(lab, model), "seconds": reading_time(lab, model),
            "cache_bytes": cache_bytes(model.config, 65_536)}


@torch.no_grad()
def found_by_distance(lab: Lab, model: Exaone4) -> list[dict]:
    """A cell for each doubling of the period: letters that the model predicts, of those that can be known."""
    ids, period = repeating(16 * lab.rows, lab.length, torch.Generator().manual_seed(10**6))  # the same for all models
    known, ids = predictable(period, lab.length), ids.to(model.device)
    right = torch.cat([(model(part[:, :-1]).argmax(-1) == part[:, 1:]).cpu() for part in ids.split(lab.rows)])
    cells, low = [], SHORTEST
    while low < lab.length * 2 // 3:
        rows = (period >= low) & (period < 2 * low)
        if rows.any():
            cells.append(cell(int((right & known)[rows].sum()), int(known[rows].sum()), period=low))
        low *= 2
    return cells


@torch.no_grad()
def reading_time(lab: Lab, model: Exaone4) -> float:
    """Seconds to read lab.far tokens at once, the best of three."""
    ids, best = torch.zeros(1, lab.far, dtype=torch.long, device=model.device), float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        model(ids)[0, -1, 0].item()  # reading a number waits for the device
        best = min(best, time.perf_counter() - begin)
    return round(best, 4)


# -------------------------------------------------------------------------------------- from the shipped stages


def shipped(stage: str, device: torch.device) -> tuple[Exaone4, Tokenizer]:
    """The model that a stage of the shipped run left, and the tokenizer."""
    folder = STAGES / stage
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    model = Exaone4.from_pretrained(folder, device=device, dtype=dtype)
    return speed_up(model) if device.type == "cuda" else model, Tokenizer.from_pretrained(folder)


def trained(model: Exaone4, draw, loss, recipe: Recipe) -> dict:
    """The log of `fit`, without checkpoints: a setting is short, and begins anew."""
    with TemporaryDirectory() as folder:
        return fit(model, draw, loss, replace(recipe, save_every=recipe.steps), Path(folder), "lab")


def mixture(rng: Random, tokenizer: Tokenizer, ratio: float, languages=("en",), silent=()) -> Iterator[Document]:
    """Endless comparisons and sums, at `ratio` tokens with reasoning for each one without; those languages that are
    `silent` have none with."""
    tokens = {True: 0.0, False: 0.0}
    while True:
        reasoning, task = tokens[True] < ratio * tokens[False], rng.choice(SFT_TASKS)
        language = rng.choice([language for language in languages if not reasoning or language not in silent])
        document = turn_document(sample(rng, task=task, language=language, reasoning=reasoning,
                                        level=draw_level(rng, task)), tokenizer, rng)
        tokens[reasoning] += len(document.ids)
        yield document


def fine_tuned(lab: Lab, recipe: Recipe, documents, asked_in: tuple[str, ...], seed: int, device: torch.device) -> dict:
    """Fine-tune the base model on documents(rng, tokenizer), and measure both modes in these languages."""
    model, tokenizer = shipped("base", device)
    steps = Steps(STAGES / "base", documents, "lab", seed, recipe.steps, 1, lab.sft_tokens, 1024)
    log = trained(model, partial(steps.draw, workers=workers_here(device)), likelihood_loss, recipe)
    rng, rows = Random(f"lab sft {seed}"), []
    for language, task, reasoning in product(asked_in, SFT_TASKS, (False, True)):
        asked = [sample(rng, "test", task, language, reasoning) for _ in range(lab.count)]
        replies = roll_out(model, tokenizer, asked, seed, lab.longest, temperature=0.0)
        rows.append(cell(sum(int(r.reward) for r in replies), lab.count, task=task, language=language,
                         reasoning=reasoning)
                    | {"language_kept": sum(map(language_kept, replies)), "mode_kept": sum(map(mode_kept, replies)),
                       "tokens": sum(len(r.ids) for r in replies) / lab.count})
    return {"loss": log["steps"][-1]["loss"], "tokens": log["tokens"], "scores": rows}


def reinforced(lab: Lab, name: str, seed: int, device: torch.device) -> dict:
    """Reinforce the SFT model on sums without thinking: its pass rate on these and on held-out ones, before and after.

    The queries are those that the model does not always get right, the same for every algorithm.
    """
    (model, tokenizer), (reference, _) = shipped("sft", device), shipped("sft", device)
    queries, group, updates = lab.round
    rng = Random(f"lab {seed}")
    drawn = [sample(rng, "train", "sums", "en", False, 3) for _ in range(4 * lab.pool)]
    held_out = [sample(rng, "test", "sums", "en", False, 3) for _ in range(4 * lab.pool)]
    tries = roll_out(model, tokenizer, drawn, seed, 32, group=8)
    rates = [sum(r.reward for r in tries[8 * i:8 * i + 8]) / 8 for i in range(len(drawn))]
    pool = [drawn[i] for i, rate in enumerate(rates) if rate < 1][:lab.pool] or drawn[:1]

    def pass_rate():
        rewards = {where: [r.reward for r in roll_out(model, tokenizer, examples, 10**6 + seed, 32, group=4)]
                   for where, examples in (("pool", pool), ("held_out", held_out))}
        return {where: round(sum(values) / len(values), 4) for where, values in rewards.items()}

    before = pass_rate()
    algorithm = ALGORITHMS[name]
    rollouts = Rollouts(model, reference, tokenizer, pool, algorithm=algorithm, queries=queries,
                        group=group, updates=updates, max_new_tokens=32, tokens=1024, longest=512, seed=seed)
    log = trained(model, rollouts.draw, algorithm.loss, Recipe(lab.rounds * updates, 4e-5, "wsd"))
    return {"before": before, "after": pass_rate(), "steps": log["steps"]}


# --------------------------------------------------------------------------------------------------------- main


def measured(lab: Lab, experiment: str, setting: str, seed: int, device: torch.device) -> dict:
    """What one setting of an experiment gives."""
    if experiment == "layers":
        return from_nothing(lab, setting, lab.window, seed, device)
    if experiment == "window":
        return from_nothing(lab, "LLLG", int(setting), seed, device)
    if experiment == "ratio":
        return fine_tuned(lab, lab.sft, partial(mixture, ratio=float(setting)), ("en",), seed, device)
    if experiment == "languages":
        languages, silent = LANGUAGE_SETTINGS[setting]
        documents = partial(mixture, ratio=RATIO, languages=languages, silent=silent)
        return fine_tuned(lab, lab.languages, documents, (*LANGUAGES, FOURTH), seed, device)
    return reinforced(lab, setting, seed, device)


def main(argv=None):
    """Run what is missing; write OUT/EXPERIMENT.SEED.json, with an entry for each setting."""
    parser = argparse.ArgumentParser(description="Experiments that the report leaves open.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=LABS, default="laptop")
    parser.add_argument("--only", choices=EXPERIMENTS, help="one experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    lab, device = LABS[args.preset], prepare(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for experiment, setting in settings(lab):
            file = args.out / f"{experiment}.{seed}.json"
            rows = read_json(file) if file.is_file() else []
            if args.only not in (None, experiment) or any(row["setting"] == setting for row in rows):
                continue
            begin = time.time()
            found = measured(lab, experiment, setting, seed, device)
            write_json(file, [*rows, {"setting": setting, "seed": seed, **found}])
            print(f"{experiment} {setting}, seed {seed}: {time.time() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
