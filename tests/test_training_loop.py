"""The loop of all stages: learns, resumes exactly, and gives the same losses with two processes as with one."""

import json
import os
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from test_packing import random_documents, small_model

from minexaone.files import CheckpointError
from minexaone.training import loop
from minexaone.training.loop import Recipe, fit
from minexaone.training.packing import likelihood_loss, pack

RECIPE = Recipe(steps=12, learning_rate=1e-2, save_every=4)


def draw(start, killed_at=None):
    """Four batches a step, which depend on the number of the step alone."""
    for step in range(start, 10**6):
        if step == killed_at:
            raise KeyboardInterrupt
        lengths = [Random(f"{step} {i}").randint(2, 60) for i in range(12)]
        batches = pack(random_documents(lengths, seed=step % 3), tokens=128, longest=64)
        total = sum(batch.weights.sum() for batch in batches)
        for batch in batches:
            batch.weights /= total
        yield batches, {"batches": len(batches)}


def losses(log):
    return [entry["loss"] for entry in log["steps"]]


@pytest.fixture(autouse=True)
def log_every_step(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


def test_the_same_losses_again_and_after_a_kill(tmp_path):
    first, second = small_model(), small_model()
    log = fit(first, draw, likelihood_loss, RECIPE, tmp_path / "a", "stage")
    assert losses(log)[-1] < losses(log)[0] - 0.1 and len(losses(log)) == 12
    assert log["steps"][3]["batches"] == len(next(islice(draw(3), 1))[0])
    with pytest.raises(KeyboardInterrupt):
        fit(second, partial(draw, killed_at=10), likelihood_loss, RECIPE, tmp_path / "b", "stage")
    resumed = small_model(seed=5)  # its weights come from the checkpoint
    log_resumed = fit(resumed, draw, likelihood_loss, RECIPE, tmp_path / "b", "stage")
    assert losses(log_resumed) == losses(log)
    assert log_resumed["tokens"] == log["tokens"]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), resumed.parameters(), strict=True))


def test_a_broken_checkpoint_is_named(tmp_path):
    (tmp_path / "stage.state.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="stage.state.safetensors.*delete it"):
        fit(small_model(), draw, likelihood_loss, RECIPE, tmp_path, "stage")


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    with pytest.raises(RuntimeError, match="loss is nan at step 1: lower the learning rate"):
        fit(small_model(), draw, lambda logp, batch: logp.sum() * float("nan"), RECIPE, tmp_path, "stage")


def test_schedules():
    cosine, wsd = Recipe(100, 1.0), Recipe(100, 1.0, "wsd")
    assert [round(cosine.rate(s), 3) for s in (0, 4, 5, 52, 99)] == [0.2, 1.0, 1.0, 0.518, 0.02]
    assert [round(wsd.rate(s), 3) for s in (0, 4, 50, 80, 90, 99)] == [0.2, 1.0, 1.0, 1.0, 0.5, 0.05]


def test_two_processes_give_the_losses_of_one(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}",
                                "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__,
                    str(tmp_path)], env=environment, check=True, capture_output=True, timeout=120)
    two = json.loads((tmp_path / "two.json").read_text())
    one = losses(fit(small_model(), draw, likelihood_loss, RECIPE, tmp_path / "one", "stage"))
    assert two == pytest.approx(one, abs=2e-5) and len(two) == 12


if __name__ == "__main__":  # one of two processes
    torch.distributed.init_process_group("gloo")
    loop.LOG_EVERY = 1
    result = losses(fit(small_model(), draw, likelihood_loss, RECIPE, Path(sys.argv[1]), "stage"))
    if torch.distributed.get_rank() == 0:
        (Path(sys.argv[1]) / "two.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()
