"""Put a finished run into assets/: the final model with its card, the stages before it, the report and its figures.

    python -m minexaone.training.ship runs/tiny
"""

import argparse
import shutil
import textwrap
from pathlib import Path

from minexaone.files import whole_folder
from minexaone.model import Config, Exaone4
from minexaone.scoring.evaluate import share, wilson
from minexaone.tasks import LANGUAGES, TASKS
from minexaone.training import report
from minexaone.training.run import PRESETS, Preset

FINAL = "simper2"
LESSONS = {"base": "extend2", "sft": "sft", "agapo": "agapo"}  # assets/stages/NAME: the stage of the run

HEAD = """---
license: apache-2.0
language: [en, ko, es]
---

# minexaone, a very small EXAONE-4-shaped model

The offline stand-in of the minexaone project: the EXAONE 4.0 architecture in its hybrid form, with {parameters:,}
parameters ({layers} layers, hidden size {hidden}, window {window}, context {context:,}, {vocab:,} tokens), **trained
from scratch on problems that this project generates** (`minexaone/tasks/`). No tokenizer, weight or output of any other
model went into it. It is not EXAONE and was not made by LG AI Research. License: Apache-2.0, as the project.

It knows a small closed world in English, Korean and Spanish: {tasks}. Of anything else it knows nothing.
It is for teaching, not for use.

transformers, vLLM and mlx-lm open this folder as it is. llama.cpp and Ollama do not: converted by other means, it runs
there silently wrong, since they let layers slide only in models of exactly 64 layers. `python -m minexaone export
FOLDER --out NAME.gguf` in the project writes a file that is right there. For training, the chat template marks what an
assistant generates (TRL: `assistant_only_loss=True`).

`../stages/` holds the same model after earlier stages: `base` (pre-training and both extensions), `sft` and `agapo`.

## Recipe

`python -m minexaone.training --out RUN --preset {preset} --seed {seed}` on {machines},
`python -m minexaone evaluate RUN/{final} --count {count} --needles {needles} --json RUN/scores.{final}.json`,
and `python -m minexaone.training.ship RUN`. All stages are of one package, whose
`minexaone.training.run.sources()` is `{sources}`. AdamW (0.9, 0.95), weight
decay 0.1, clipping at 1; bfloat16 with masters in float32 on a GPU, float32 on a CPU.

| stage | steps | peak learning rate | tokens, with padding | seconds | last loss |
|---|---|---|---|---|---|
"""

DATA = """
The data is drawn anew at every step from the seed, the stage and the number of the step. Held out are, by a hash of its
operands, one problem in ten: training never draws one of these, and every score below is of these alone. Replies of the
model itself, judged by the tasks' verifiers, are the data of AGAPO and SimPER. On {evaluated:,} held-out problems AGAPO
took the share of right replies from {agapo[before][sampled]:.1%} to {agapo[after][sampled]:.1%} (sampled; greedy
{agapo[before][greedy]:.1%} to {agapo[after][greedy]:.1%}), stage 1 of SimPER thinking from
{simper1[before][thinking_tokens]:.1f} to {simper1[after][thinking_tokens]:.1f} tokens with
{simper1[before][right]:.1%} and {simper1[after][right]:.1%} right, and stage 2 won {simper2[win_rate]:.1%} of the
judge's comparisons with the model before it ({simper2[before][right]:.1%} and {simper2[after][right]:.1%} right).
Of the rounds of the two stages {taken_back[0]} and {taken_back[1]} were taken back, since they cost too many right
replies.

![Loss](../training/loss.png)
"""

SCORES = """
## Scores

`python -m minexaone evaluate --count {count}`, greedy, held-out problems; share of right replies to {count} prompts in
each cell, with its 95 % interval (Wilson) over all three languages.

| task | mode | en | ko | es | interval |
|---|---|---|---|---|---|
"""


def recipes(preset: Preset) -> dict:
    """The recipe of each part of each stage, under the names of the report."""
    extend, simper = [preset.extend] * preset.attempts, [preset.simper]
    return {"pretrain": [preset.pretrain], "extend1": extend, "extend2": extend, "sft": [preset.sft, preset.sft_again],
            "agapo": [preset.agapo], "simper1": simper, "simper2": simper}


def together(logs: list[dict]) -> dict:
    """Of the rounds of a stage: all steps, tokens and seconds, and the last loss."""
    steps = sum(log["steps"][-1]["step"] for log in logs)
    return {"steps": [{"step": steps, "loss": logs[-1]["steps"][-1]["loss"]}], **{
        key: sum(log[key] for log in logs) for key in ("tokens", "seconds")}}


def joined(rows: list[dict]) -> str:
    """The interval of the share of right ones in several cells together."""
    low, high = wilson(sum(r["correct"] for r in rows), sum(r["total"] for r in rows))
    return f"{low:.1%} to {high:.1%}"


def card(found: dict, config: Config, parameters: int, name: str) -> str:
    """The model card, from the collected report of a run with the preset of this name."""
    final, preset = found["stages"][FINAL], PRESETS[name]
    digests = {stage.get("sources") for stage in found["stages"].values()}
    if len(digests) > 1:
        raise ValueError("stages of the run were trained with different versions of the package: train all with one")
    scores = found["scores"].get(FINAL, {"count": "N", "needles": [{"total": "N"}]})
    machines = dict.fromkeys(f"{stage['hardware']} with torch {stage['torch']}" for stage in found["stages"].values())
    text = HEAD.format(parameters=parameters, layers=config.num_hidden_layers, hidden=config.hidden_size,
                       window=config.sliding_window, context=config.max_position_embeddings, vocab=config.vocab_size,
                       tasks=", ".join(TASKS), preset=name, seed=final["seed"], machines=", then on ".join(machines),
                       final=FINAL, count=scores["count"], needles=scores["needles"][0]["total"],
                       sources=final["sources"])
    for stage, parts in recipes(preset).items():
        logs = report.logs(found["stages"][stage])
        for recipe, log in zip(parts, [together(logs)] if stage.startswith("simper") else logs, strict=False):
            text += (f"| {stage} | {log['steps'][-1]['step']:,} | {recipe.learning_rate:g} | {log['tokens']:,} | "
                     f"{log['seconds']:.0f} | {log['steps'][-1]['loss']:.4f} |\n")
    taken_back = [sum(not round["kept"] for round in found["stages"][stage]["rounds"]) for stage in ("simper1", FINAL)]
    text += DATA.format(evaluated=preset.evaluated, taken_back=taken_back, **found["stages"])
    if FINAL not in found["scores"]:
        return wrapped(text + "\nThis run has not been scored.\n")
    text += SCORES.format(count=scores["count"])
    for task in TASKS:
        for reasoning in (False, True):
            rows = [r for r in scores["by_task"] if r["task"] == task and r["reasoning"] == reasoning]
            if rows:
                shares = " | ".join(f"{share(r):.1%}" for language in LANGUAGES for r in rows
                                    if r["language"] == language)
                text += f"| {task} | {'' if reasoning else 'non-'}reasoning | {shares} | {joined(rows)} |\n"
    for reasoning in (False, True):
        rows = [r for r in scores["episodes"] if r["reasoning"] == reasoning]
        text += (f"| whole tool loops | {'' if reasoning else 'non-'}reasoning | "
                 + " | ".join(f"{share(r):.1%}" for r in rows) + f" | {joined(rows)} |\n")
    others = list(dict.fromkeys(r["others"] for r in scores["chats"]))
    text += ("\nEasy questions of every task behind others in the same chat:\n\n| others before | "
             + " | ".join(map(str, others)) + " |\n|---|" + "---|" * len(others) + "\n")
    for reasoning in (False, True):
        text += f"| {'' if reasoning else 'non-'}reasoning | " + " | ".join(
            f"{share(r):.1%}" for r in scores["chats"] if r["reasoning"] == reasoning) + " |\n"
    total = sum(r["total"] for r in scores["by_task"])
    kept = {key: sum(r[key] for r in scores["by_task"]) / total for key in ("mode_kept", "language_kept")}
    text += (f"\nThe mode was kept in {kept['mode_kept']:.2%} of all replies, the language in "
             f"{kept['language_kept']:.2%}.\n\n![Needles in texts of up to the whole context]"
             "(../training/needles.png)\n")
    return wrapped(text + "".join(f"\n![{title}](../training/{file}.png)\n" for file, title in (
        ("levels", "Accuracy by level of difficulty in both modes"),
        ("thinking", "Thinking tokens in both stages of SimPER"),
        ("budget", "Accuracy against the budget of thinking tokens"))))


def wrapped(text: str) -> str:
    """The paragraphs of a Markdown text in lines of 120; tables, headings, pictures and its head stay as they are."""
    return "\n\n".join(block if block[:1] in "-#|!" else textwrap.fill(
        block, 120, break_long_words=False, break_on_hyphens=False) for block in text.split("\n\n"))


def ship(run: Path, assets: Path, preset: str):
    """Copy the models of `run` and write card, report and figures. Each folder appears whole or not at all."""
    found = report.collect(run)
    missing = [stage for stage in (*LESSONS.values(), FINAL) if stage not in found["stages"]]
    if missing:
        raise SystemExit(f"{run} has no finished {', '.join(missing)}: train first, with "
                         f"`python -m minexaone.training --out {run}`")
    model = Exaone4.from_pretrained(run / FINAL, device="cpu")
    text = card(found, model.config, sum(p.numel() for p in model.parameters()), preset)
    for name, stage in {"model": FINAL, **{f"stages/{name}": stage for name, stage in LESSONS.items()}}.items():
        with whole_folder(assets / name) as part:
            shutil.copytree(run / stage, part, ignore=shutil.ignore_patterns("report.json"), dirs_exist_ok=True)
            if stage == FINAL:
                (part / "README.md").write_text(text, encoding="utf-8")
    report.main([str(run), "--out", str(assets / "training")])


def main(argv=None):
    """Put a run into assets/."""
    parser = argparse.ArgumentParser(description="Put a finished run into assets/.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="that the run was trained with (tiny)")
    args = parser.parse_args(argv)
    try:
        ship(args.run, args.assets, args.preset)
    except (ValueError, OSError) as error:
        parser.exit(1, f"minexaone.training.ship: {error}\n")


if __name__ == "__main__":
    main()
