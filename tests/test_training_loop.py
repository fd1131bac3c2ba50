"""The loop of all stages: learns, resumes exactly, and gives the same losses with two processes as with one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
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


@pytest.fixture
def killed(tmp_path):
    """The folder of a stage that was killed after its second checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        fit(small_model(), partial(draw, killed_at=10), likelihood_loss, RECIPE, tmp_path, "stage")
    return tmp_path


def test_one_wrong_bit_anywhere_in_a_checkpoint_is_seen(killed):
    file = killed / "stage.state.safetensors"
    whole = file.read_bytes()
    words = (whole.index(word) for word in (b"steps", b"loss", b"exp_avg"))
    for place in (*words, *range(3, len(whole), len(whole) // 9)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        with pytest.raises(CheckpointError, match="stage.state.safetensors is not a checkpoint.*delete it"):
            fit(small_model(), draw, likelihood_loss, RECIPE, killed, "stage")


def test_a_checkpoint_of_another_stage_recipe_or_model_is_refused(killed):
    (killed / "other.state.safetensors").write_bytes((killed / "stage.state.safetensors").read_bytes())
    for recipe, name, told in ((replace(RECIPE, steps=20), "stage", "steps 12, not 20"),
                               (replace(RECIPE, learning_rate=1e-3), "stage", "learning_rate 0.01, not 0.001"),
                               (RECIPE, "other", "name stage, not other")):
        with pytest.raises(CheckpointError, match=told):
            fit(small_model(), draw, likelihood_loss, recipe, killed, name)
    model = small_model()
    del model.layers[-1]
    with pytest.raises(CheckpointError, match="of another model"):
        fit(model, draw, likelihood_loss, RECIPE, killed, "stage")


def test_a_full_disk_is_an_oserror_and_leaves_the_checkpoint_before(killed):
    resource = pytest.importorskip("resource")
    before, limits = (killed / "stage.state.safetensors").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError):
            fit(small_model(), draw, likelihood_loss, RECIPE, killed, "stage")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_bytes() for path in killed.iterdir()] == [before]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("killed_at", [None, 2])
def test_process_and_model_are_left_as_they_were(deterministic, killed_at, tmp_path):
    def flags():
        return (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
                torch.utils.deterministic.fill_uninitialized_memory, torch.get_float32_matmul_precision())

    model = small_model().train(deterministic)
    model.norm.weight.requires_grad_(False)
    frozen = model.norm.weight.clone()
    model.embed_tokens.weight.grad = torch.full_like(model.embed_tokens.weight, 1e3)  # of something else: not counted
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    before = flags()
    try:
        log = fit(model, partial(draw, killed_at=killed_at), likelihood_loss, RECIPE, tmp_path, "stage")
        assert log["steps"][0]["norm"] < 100
    except KeyboardInterrupt:
        assert killed_at
    finally:
        after = flags()
        torch.use_deterministic_algorithms(False)
    assert after == before and model.training == deterministic
    assert all(p.grad is None and p.requires_grad == (p is not model.norm.weight) for p in model.parameters())
    assert torch.equal(model.norm.weight, frozen)


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
