"""Threads are chosen by the work, what a user chose stays, and everything is as before afterwards."""

import pytest
import torch

from minexaone import threads
from minexaone.config_json import GLOBAL
from minexaone.model import Config, Exaone4
from minexaone.threads import threads_for, use_one_thread


@pytest.fixture
def two_threads(monkeypatch):
    """A process that began with two threads, which nobody chose."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "AT_START", 2)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Exaone4(Config(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                          num_attention_heads=2, num_key_value_heads=1, head_dim=16, layer_types=[GLOBAL] * 2,
                          eos_token_id=2)).eval()


def used(model):
    """The numbers of threads with which the model ran in a generation."""
    found = set()
    hook = model.register_forward_pre_hook(lambda *_: found.add(torch.get_num_threads()))
    steps = model.stream([3, 4, 5], max_new_tokens=4, stop_ids=[])
    outside = {torch.get_num_threads() for _ in steps}
    hook.remove()
    return found, outside


def test_a_small_model_runs_on_one_thread_and_leaves_the_others_alone(model, two_threads, monkeypatch):
    assert used(model) == ({1}, {2}) and torch.get_num_threads() == 2


def test_work_that_is_worth_it_is_shared(model, two_threads, monkeypatch):
    monkeypatch.setattr(threads, "WORTH_SHARING", 1)
    assert used(model) == ({2}, {2})


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_what_the_environment_says_counts(model, two_threads, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    assert used(model) == ({2}, {2})
    use_one_thread()
    assert torch.get_num_threads() == 2


def test_what_the_user_set_counts(model, two_threads, monkeypatch):
    torch.set_num_threads(3)
    assert used(model) == ({3}, {3})
    use_one_thread()
    assert torch.get_num_threads() == 3


def test_an_error_gives_the_threads_back(model, two_threads):
    with pytest.raises(KeyError), threads_for(model, 1):
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2
    use_one_thread()
    assert torch.get_num_threads() == 1


def test_the_size_counts_what_a_token_is_multiplied_with(model):
    matrices = [p.numel() for name, p in model.named_parameters() if p.dim() == 2 and not name.startswith("embed")]
    assert threads.size(model) == sum(matrices)
