"""Unified supervised fine-tuning: both modes in one run, then a second round on code and tools."""

from functools import partial

from minexaone.training.data import Steps, sft_documents
from minexaone.training.loop import fit, workers_here
from minexaone.training.packing import likelihood_loss
from minexaone.training.run import Run


def sft(run: Run):
    """Assistant turns in both modes, 1.5 tokens of reasoning data for each token of non-reasoning data."""
    model, context = run.load("extend2"), run.preset.contexts[-1]
    logs = []
    for second, recipe in enumerate((run.preset.sft, run.preset.sft_again)):
        name = f"sft.{second}"
        documents = partial(sft_documents, context=context, second=bool(second))
        steps = Steps(run.tokenizer_folder, documents, name, run.seed, recipe.steps, run.preset.rows, run.preset.tokens,
                      context, run.fits)
        logs.append(fit(model, partial(steps.draw, workers=workers_here(run.device)), likelihood_loss, recipe,
                        run.folder, name))
    run.save("sft", model, {"logs": logs})
