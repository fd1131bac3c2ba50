"""AGAPO beside GRPO with clipping, and AGAPO without each of its parts: the same queries, samples and updates.

    python -m minexaone.training.compare RUN            # AGAPO and GRPO
    python -m minexaone.training.compare RUN --parts    # also without each part

Each round of samples is used for several updates, so that the policy moves away from the one that sampled, and
clipping has something to clip.
"""

import argparse
from pathlib import Path

from minexaone.files import write_json
from minexaone.training.agapo import ALGORITHMS, learn_from_rewards, pass_rate, prefilter
from minexaone.training.run import PRESETS, Run, begun, prepare


def main(argv=None):
    """Train from the SFT model with each algorithm and seed; write RUN/compare.ALGORITHM-SEED.json for each."""
    parser = argparse.ArgumentParser(description="Compare AGAPO with GRPO from the SFT model of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--parts", action="store_true", help="also AGAPO without each of its parts")
    parser.add_argument("--count", type=int, default=1000, help="held-out problems of the hard half (1000)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    try:
        run = Run(args.run, PRESETS[args.preset], begun(args.run).get("seed", 0), prepare(args.device))
        run.check()
        if not run.is_done("sft"):
            raise ValueError(f"{args.run} has no finished sft: train it first")
        compare(run, list(ALGORITHMS) if args.parts else ["agapo", "grpo"], args.seeds, args.count)
    except (ValueError, OSError) as error:
        parser.exit(1, f"minexaone.training.compare: {error}\n")


def compare(run: Run, algorithms: list[str], seeds: list[int], count: int):
    """Train with each algorithm and seed, the pass rates before and after on `count` problems; what is done is done."""
    preset, tokenizer = run.preset, run.load_tokenizer()
    before = pass_rate(run.load("sft"), tokenizer, count, preset.max_new_tokens)
    examples, _ = prefilter(run.load("sft"), tokenizer, preset.queries, run.seed, preset.max_new_tokens)
    for seed in seeds:
        for algorithm in algorithms:
            name = f"compare.{algorithm.replace(' ', '_')}-{seed}"
            if (run.folder / f"{name}.json").is_file():
                continue
            model, log = learn_from_rewards(run, name, ALGORITHMS[algorithm], examples, preset.compared,
                                            preset.compared_round, seed)
            after = pass_rate(model, tokenizer, count, preset.max_new_tokens)
            write_json(run.folder / f"{name}.json", {"algorithm": algorithm, "seed": seed, "sft": before,
                                                     "after": after, "log": log})
            (run.folder / f"{name}.state.safetensors").unlink(missing_ok=True)
            print(f"{name}: {before} -> {after}", flush=True)


if __name__ == "__main__":
    main()
