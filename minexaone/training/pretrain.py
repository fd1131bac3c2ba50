"""Pre-training at a short context, then two extensions, each done again, as often as allowed, if it misses needles."""

from functools import partial

import torch

from minexaone.model import Exaone4
from minexaone.scoring.evaluate import needle_grid, share
from minexaone.training.data import Steps, pretraining_documents
from minexaone.training.loop import fit, workers_here
from minexaone.training.packing import PackedModel, likelihood_loss
from minexaone.training.run import Run

GREEN = 0.98  # share of needles found in every cell


def pretrain(run: Run):
    """Stage 1: plain texts of at most contexts[0] tokens."""
    model = run.untrained(run.preset.contexts[0])
    log = _read(run, model, "pretrain", run.preset.contexts[0], run.preset.pretrain)
    run.save("pretrain", model, {"log": log, "short_loss": held_out_loss(run, model)})


def extend(run: Run, number: int):
    """Extension 1 or 2: longer texts among short ones, until the needle grid is green."""
    context, before = run.preset.contexts[number], "pretrain" if number == 1 else "extend1"
    model = run.load(before, context)
    shorter = run.preset.contexts[number - 1]
    lengths = (shorter, (shorter + context) // 2, context)
    find = partial(needle_grid, model, run.load_tokenizer(), run.tokenizer_folder, lengths, run.preset.needles,
                   plain_text=True)
    attempts, grid_before = [], find()
    for attempt in range(run.preset.attempts):
        name = f"extend{number}.{attempt}"
        log = _read(run, model, name, context, run.preset.extend)
        attempts.append({"log": log, "grid": find(), "short_loss": held_out_loss(run, model)})
        if all(share(cell) >= GREEN for cell in attempts[-1]["grid"]):
            break
    run.save(f"extend{number}", model, {"grid_before": grid_before, "attempts": attempts})


def _read(run, model, name, context, recipe):
    steps = Steps(run.tokenizer_folder, partial(pretraining_documents, context=context), name, run.seed, recipe.steps,
                  run.preset.rows, run.preset.tokens, context, run.fits)
    return fit(model, partial(steps.draw, workers=workers_here(run.device)), likelihood_loss, recipe, run.folder, name)


@torch.no_grad()
def held_out_loss(run: Run, model: Exaone4) -> float:
    """Mean negative log-likelihood of one step's short texts that training does not see: it draws from another seed."""
    context = run.preset.contexts[0]
    steps = Steps(run.tokenizer_folder, partial(pretraining_documents, context=context), "held out", run.seed, 1,
                  run.preset.rows, run.preset.tokens, context, run.fits)
    batches, packed = steps[0][0], PackedModel(model)
    return round(sum(float(likelihood_loss(packed(b := batch.to(run.device)), b)) for batch in batches), 4)
