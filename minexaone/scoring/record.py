"""The board of records in assets/records/: who trains the best small model on this project's problems?

    python -m minexaone.scoring.record RUN/sft --track cpu --json entry.json    # measure a model: an entry to hand in
    python -m minexaone.scoring.record RUN/sft --check assets/records/cpu.json  # measure again what an entry claims

The score is the mean share of right replies over every task, mode and language, greedy, on held-out problems: each cell
counts the same. Only problems of the training split may be learnt from. The time is the entrant's word, as is the
command, with which anyone can train the model again.
"""

import argparse
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from minexaone.fast import speed_up
from minexaone.files import read_json, write_json
from minexaone.model import Exaone4
from minexaone.scoring.evaluate import by_task, share
from minexaone.tokenizer import Tokenizer


@dataclass(frozen=True)
class Track:
    """What an entry may use."""

    hardware: str
    minutes: int
    parameters: int


TOLD = ("command", "commit", "sources", "hardware", "seconds")
WANTED = ("track", *TOLD, "parameters", "score", "low", "high", "weights")
TRACKS = {"gpu": Track("one H100", 20, 6_000_000), "cpu": Track("two CPU cores", 5, 300_000)}


def weights(folder: Path) -> str:
    """The SHA-256 of a checkpoint's tensors file."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def measure(folder: Path, count: int, seed: int, device="auto") -> dict:
    """The score of a checkpoint with its 95 % interval; `count` problems in each cell are drawn from the seed."""
    model, tokenizer = Exaone4.from_pretrained(folder, device=device), Tokenizer.from_pretrained(folder)
    if model.device.type == "cuda":
        speed_up(model)
    shares = [share(row) for row in by_task(model, tokenizer, folder, count, seed=seed)]
    score = sum(shares) / len(shares)
    error = math.sqrt(sum(p * (1 - p) for p in shares) / count) / len(shares)  # every cell has its own variance
    return {"score": round(score, 4), "low": round(score - 1.96 * error, 4), "high": round(score + 1.96 * error, 4),
            "count": count, "seed": seed, "parameters": sum(p.numel() for p in model.parameters()),
            "weights": weights(folder)}


def refused(entry: dict, found: dict) -> str:
    """Why an entry does not stand, given what `measure` found of its model; "" if it does."""
    if empty := [name for name in WANTED if entry.get(name) in (None, "")]:
        return f"it has no {', '.join(empty)}: write down what was used"
    track = TRACKS.get(entry["track"])
    if track is None:
        return f"track {entry['track']!r}, expected one of {', '.join(TRACKS)}"
    if found["parameters"] > track.parameters:
        return f"{found['parameters']:,} parameters, at most {track.parameters:,}"
    if entry["seconds"] > 60 * track.minutes:
        return f"{entry['seconds']:,} seconds of {track.hardware}, at most {60 * track.minutes:,}"
    if found["weights"] != entry["weights"]:
        return "these are other weights than the entry's: it is checked with the checkpoint that it was measured on"
    if not found["low"] <= entry["score"] <= found["high"]:
        return f"score {entry['score']}, measured {found['score']} ({found['low']} to {found['high']})"
    return ""


def main(argv=None):
    """Measure a model; write an entry, or check one."""
    parser = argparse.ArgumentParser(prog="python -m minexaone.scoring.record",
                                     description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the checkpoint")
    parser.add_argument("--track", choices=TRACKS, default="gpu", help="; ".join(
        f"{name}: {track.minutes} minutes of {track.hardware}, {track.parameters:,} parameters"
        for name, track in TRACKS.items()))
    parser.add_argument("--check", type=Path, metavar="ENTRY", help="an entry whose claim is measured again")
    parser.add_argument("--count", type=int, default=20, help="problems in each of the cells (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the problems (1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the entry, to be completed, there")
    args = parser.parse_args(argv)
    try:
        report = args.model / "report.json"  # which `minexaone.training` writes
        known = read_json(report) if report.is_file() else {}
        entry = read_json(args.check) if args.check else {
            "track": args.track, "command": "", "commit": "", "sources": known.get("sources", ""),
            "hardware": known.get("hardware", ""), "seconds": None, "training_seed": known.get("seed", 0)}
        if args.check and (reason := refused(entry, entry | {"weights": weights(args.model)})):  # before minutes go by
            raise ValueError(f"{args.check} does not stand: {reason}")
        found = measure(args.model, args.count, args.seed, args.device)
        if args.check and (reason := refused(entry, found)):
            raise ValueError(f"{args.check} does not stand: {reason}")
    except (ValueError, OSError) as error:
        parser.exit(1, f"minexaone.scoring.record: {error}\n")
    if args.json:
        write_json(args.json, {**entry, **found})
    print(f"{found['score']:.2%} right ({found['low']:.2%} to {found['high']:.2%}), {found['parameters']:,} parameters"
          + (", as the entry says" if args.check else ""))


if __name__ == "__main__":
    main()
