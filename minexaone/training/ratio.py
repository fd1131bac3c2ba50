"""SFT on all tasks with several ratios of reasoning to non-reasoning tokens: does either mode suffer?

    python -m minexaone.training.ratio RUN

Each ratio and seed begins at the run's base model. The report chose 1.5 (EXAONE 4.0 report, SFT).
"""

import argparse
from functools import partial
from pathlib import Path

from minexaone.files import read_json, write_json
from minexaone.scoring.evaluate import by_task
from minexaone.training.data import RATIO, Steps, sft_documents
from minexaone.training.loop import fit, workers_here
from minexaone.training.packing import likelihood_loss
from minexaone.training.run import PRESETS, Run, begun, prepare, sources

RATIOS = (0.67, 1.0, RATIO, 3.0)


def main(argv=None):
    """Train with each ratio and seed; write RUN/ratio.RATIO-SEED.json for each, and all in RUN/ratio.json."""
    parser = argparse.ArgumentParser(prog="python -m minexaone.training.ratio", description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--count", type=int, default=60, help="held-out problems of each task, language and mode (60)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    try:
        run = Run(args.run, PRESETS[args.preset], begun(args.run).get("seed", 0), prepare(args.device))
        run.check()
        if not run.is_done("extend2"):
            raise ValueError(f"{args.run} has no finished extend2: train it first")
        for seed in args.seeds:
            for ratio in args.ratios:
                name = f"ratio.{ratio:g}-{seed}"
                if not (run.folder / f"{name}.json").is_file():
                    write_json(run.folder / f"{name}.json", tuned(run, name, ratio, seed, args.count))
                    (run.folder / f"{name}.state.safetensors").unlink(missing_ok=True)
        rows = [read_json(file) for file in run.folder.glob("ratio.*-*.json")]
        write_json(run.folder / "ratio.json", sorted(rows, key=lambda row: (row["ratio"], row["seed"])))
    except (ValueError, OSError) as error:
        parser.exit(1, f"minexaone.training.ratio: {error}\n")


def tuned(run: Run, name: str, ratio: float, seed: int, count: int) -> dict:
    """Fine-tune at a ratio; of each mode: the shares of right replies and of kept modes, and mean tokens of a reply."""
    preset, model = run.preset, run.load("extend2")
    context = preset.contexts[-1]
    steps = Steps(run.tokenizer_folder, partial(sft_documents, context=context, ratio=ratio), name, seed,
                  preset.ratio.steps, preset.rows, preset.tokens, context, run.fits)
    log = fit(model, partial(steps.draw, workers=workers_here(run.device)), likelihood_loss, preset.ratio, run.folder,
              name)
    rows = by_task(model, run.load_tokenizer(), run.tokenizer_folder, count)
    modes = {}
    for mode, reasoning in (("non-reasoning", False), ("reasoning", True)):
        mine = [row for row in rows if row["reasoning"] == reasoning]
        total = sum(row["total"] for row in mine)
        modes[mode] = {"right": round(sum(row["correct"] for row in mine) / total, 4),
                       "mode_kept": round(sum(row["mode_kept"] for row in mine) / total, 4),
                       "tokens": round(sum(row["tokens"] for row in mine) / len(mine), 1)}
    print(f"{name}: {modes}", flush=True)
    return {"ratio": ratio, "seed": seed, "sources": sources(), "count": count, **modes, "tokens": log["tokens"],
            "seconds": log["seconds"], "loss": log["steps"][-1]["loss"]}


if __name__ == "__main__":
    main()
