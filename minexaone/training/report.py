"""The report of a run: one JSON file, and a figure for each question that a reader has.

    python -m minexaone.training.report RUN --out assets/training
"""

import argparse
from pathlib import Path

from minexaone.files import read_json, write_json
from minexaone.scoring.evaluate import share

STAGES = ("pretrain", "extend1", "extend2", "sft", "agapo", "simper1", "simper2")
COLOURS = {"pretrain": "#4c72b0", "extend1": "#55a868", "extend2": "#8172b3", "sft": "#c44e52", "agapo": "#dd8452",
           "simper1": "#937860", "simper2": "#da8bc3"}


def collect(run: Path) -> dict:
    """Every stage's report, and the scores that `python -m minexaone evaluate` left beside it."""
    report = {"stages": {}, "scores": {}, "comparisons": {}}
    for stage in STAGES:
        if (run / stage / "report.json").is_file():
            report["stages"][stage] = read_json(run / stage / "report.json")
        if (run / f"scores.{stage}.json").is_file():
            report["scores"][stage] = read_json(run / f"scores.{stage}.json")
    for file in sorted(run.glob("compare.*.json")):
        report["comparisons"][file.name.split(".")[1]] = read_json(file)
    return report


def logs(stage: dict) -> list[dict]:
    """The logs of a stage's parts, in their order."""
    if "attempts" in stage:
        return [attempt["log"] for attempt in stage["attempts"]]
    return stage.get("logs") or [stage["log"]]


def draw_losses(report: dict, axes):
    """Loss against tokens, stage after stage."""
    offset = 0
    for name in ("pretrain", "extend1", "extend2", "sft"):
        for log in logs(report["stages"][name]) if name in report["stages"] else ():
            per_step = log["tokens"] / log["steps"][-1]["step"]
            x = [(offset + entry["step"] * per_step) / 1e6 for entry in log["steps"]]
            axes.plot(x, [entry["loss"] for entry in log["steps"]], color=COLOURS[name], lw=1)
            offset += log["tokens"]
        if name in report["stages"]:
            axes.plot([], [], color=COLOURS[name], label=name)
    axes.set(xlabel="million tokens (with padding)", ylabel="loss of the tokens that count", yscale="log",
             title="Pre-training, longer contexts, SFT")
    axes.legend()


def draw_needles(grid: list[dict], axes, title: str):
    """A grid of needles: depth downwards, length to the right."""
    lengths, depths = (sorted({row[key] for row in grid}) for key in ("length", "depth"))
    values = [[next(share(r) for r in grid if (r["length"], r["depth"]) == (length, depth)) for length in lengths]
              for depth in depths]
    axes.imshow(values, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            axes.text(x, y, f"{value:.0%}", ha="center", va="center", fontsize=8,
                      color="white" if value > 0.85 or value < 0.15 else "black")
    axes.set(xticks=range(len(lengths)), xticklabels=[f"{n:,}" for n in lengths], yticks=range(len(depths)),
             yticklabels=[f"{depth:.0%}" for depth in depths], xlabel="tokens", ylabel="depth", title=title)


def draw_rewards(report: dict, axes):
    """The pass rate of the sampled replies during reinforcement learning, every seed of every algorithm."""
    runs = {"AGAPO, the shipped run": logs(report["stages"]["agapo"])} if "agapo" in report["stages"] else {}
    for comparison in report["comparisons"].values():
        runs.setdefault(comparison["algorithm"], []).append(comparison["log"])
    for n, (algorithm, found) in enumerate(runs.items()):
        for log in found:
            axes.plot([e["step"] for e in log["steps"]], [e["reward"] for e in log["steps"]], color=f"C{n}", lw=1)
        axes.plot([], [], color=f"C{n}", label=algorithm)
    axes.set(xlabel="steps", ylabel="pass rate of the samples", title="Reinforcement learning, hard training problems")
    axes.legend()


def draw_levels(scores: dict, axes):
    """Accuracy by level in both modes, a line for each task, mean of the languages."""
    for n, task in enumerate(("compare", "sums", "story")):
        for mode, style in ((True, "o-"), (False, "o--")):
            rows = [r for r in scores["by_level"] if (r["task"], r["reasoning"]) == (task, mode)]
            levels = sorted({r["level"] for r in rows})
            means = [[share(r) for r in rows if r["level"] == level] for level in levels]
            axes.plot(levels, [sum(m) / len(m) for m in means], style, color=f"C{n}", label=task if mode else None)
    axes.set(xlabel="level", ylabel="right", title="With reasoning (solid) and without (dashed)", ylim=(0, 1.02))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def draw_thinking(report: dict, axes):
    """Mean thinking tokens before and after each stage of SimPER on its held-out queries, and how many are right."""
    stages = {name: report["stages"][name] for name in ("simper1", "simper2") if name in report["stages"]}
    points = {f"{when}\n{name}": stage[when] for name, stage in stages.items() for when in ("before", "after")}
    axes.bar(list(points), [point["thinking_tokens"] for point in points.values()], color="#c9d4e8")
    axes.set(ylabel="thinking tokens (bars)", title="Thinking, and what it brings (each stage has its own queries)")
    right = axes.twinx()
    for n in range(0, len(points), 2):
        right.plot([n, n + 1], [point["right"] for point in points.values()][n:n + 2], "o-", color="#c44e52")
    right.set(ylabel="right (lines)", ylim=(0.5, 1.0))


def draw_budget(scores: dict, axes):
    """Accuracy against the budget of thinking tokens."""
    budgets = [b for b in dict.fromkeys(row["budget"] for row in scores["budget"])]
    for task in dict.fromkeys(row["task"] for row in scores["budget"]):
        axes.plot(range(len(budgets)), [share(r) for r in scores["budget"] if r["task"] == task], "o-", label=task)
    axes.set(xticks=range(len(budgets)), xticklabels=["none" if b is None else b for b in budgets], ylim=(0, 1.02),
             xlabel="budget of thinking tokens", ylabel="right", title="Reasoning budget")
    axes.legend()


def write_figures(report: dict, folder: Path) -> list[Path]:
    """One PNG for each figure that the report has data for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scores, stages = report["scores"], report["stages"]
    final = next((scores[name] for name in reversed(STAGES) if name in scores), None)
    figures = {"loss": (draw_losses, [report])} if "pretrain" in stages else {}
    if "agapo" in stages or report["comparisons"]:
        figures["agapo"] = (draw_rewards, [report])
    if final:
        figures |= {"levels": (draw_levels, [final]), "budget": (draw_budget, [final])}
    if "simper1" in stages:
        figures["thinking"] = (draw_thinking, [report])
    written = []
    for name, (draw, values) in figures.items():
        figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
        draw(*values, axes)
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1], dpi=130)
        pyplot.close(figure)
    grids = {}
    for name in ("extend1", "extend2"):
        if name in stages:
            grids |= {f"before {name}": stages[name]["grid_before"],
                      f"after {name}": stages[name]["attempts"][-1]["grid"]}
    if final:
        grids["the final model"] = final["needles"]
    if grids:
        figure, axes = pyplot.subplots(1, len(grids), figsize=(4 * len(grids), 3.4), layout="constrained",
                                       squeeze=False)
        for (title, grid), panel in zip(grids.items(), axes[0], strict=True):
            draw_needles(grid, panel, title)
        written.append(folder / "needles.png")
        figure.savefig(written[-1], dpi=110)
        pyplot.close(figure)
    return written


def main(argv=None):
    """Write the report of a run."""
    parser = argparse.ArgumentParser(description="Collect a run's reports and scores, and draw them.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for report.json and figures")
    args = parser.parse_args(argv)
    report = collect(args.run)
    if not report["stages"]:
        parser.exit(1, f"minexaone.training.report: {args.run} holds no finished stage: train first, with "
                       f"`python -m minexaone.training --out {args.run}`\n")
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "report.json", report)
    for file in write_figures(report, args.out):
        print(file)


if __name__ == "__main__":
    main()
