"""AGAPO beside GRPO with clipping: the same queries, the same number of samples and steps, several seeds.

    python -m minexaone.training.compare RUN --seeds 3
"""

import argparse
from pathlib import Path

from minexaone.files import write_json
from minexaone.training.__main__ import prepare
from minexaone.training.agapo import learn_from_rewards, pass_rate
from minexaone.training.run import PRESETS, Run

ALGORITHMS = ("agapo", "grpo")


def main(argv=None):
    """Train from the SFT model with each algorithm and seed; write RUN/compare.ALGORITHM-SEED.json for each."""
    parser = argparse.ArgumentParser(description="Compare AGAPO with GRPO from the SFT model of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1500, help="held-out problems of the hard half (1500)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    run = Run(args.run, PRESETS[args.preset], 0, prepare(args.device))
    if not run.is_done("sft"):
        parser.exit(1, f"minexaone.training.compare: {args.run} has no finished sft: train it first\n")
    before = pass_rate(run.load("sft"), run.tokenizer, args.count, run.preset.max_new_tokens)
    for seed in range(args.seeds):
        for algorithm in ALGORITHMS:
            name = f"compare.{algorithm}-{seed}"
            if (run.folder / f"{name}.json").is_file():
                continue
            model, log, found = learn_from_rewards(run, name, algorithm, seed)
            after = pass_rate(model, run.tokenizer, args.count, run.preset.max_new_tokens)
            write_json(run.folder / f"{name}.json", {"algorithm": algorithm, "seed": seed, **found, "sft": before,
                                                     "after": after, "log": log})
            (run.folder / f"{name}.state.safetensors").unlink(missing_ok=True)
            print(f"{name}: {before} -> {after}", flush=True)


if __name__ == "__main__":
    main()
