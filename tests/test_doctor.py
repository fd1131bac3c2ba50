"""`python -m minexaone doctor`: its arithmetic, and that it advises what fits."""

from importlib.metadata import version

import pytest
import torch

from minexaone import doctor
from minexaone.__main__ import main
from minexaone.bench import SHAPES
from minexaone.config_json import GLOBAL
from minexaone.linear.rounding import quantize
from minexaone.model import Config, Exaone4

SMALL = Config(vocab_size=512, hidden_size=256, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
               num_key_value_heads=2, head_dim=64, layer_types=[GLOBAL] * 3, max_position_embeddings=64)


@pytest.mark.parametrize("bits", doctor.WIDTHS)
def test_needed_memory_is_that_of_the_tensors(bits):
    model = Exaone4(SMALL).to(torch.bfloat16)
    if bits < 16:
        quantize(model, bits)
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    assert doctor.needed(SMALL, bits, 1) - doctor.ROOM == pytest.approx(held, rel=0.03)


def test_the_published_shapes_have_their_published_sizes():
    assert doctor.needed(SHAPES["32b"], 16, 1) - doctor.ROOM == pytest.approx(2 * 32.0e9, rel=0.01)
    assert doctor.needed(SHAPES["1.2b"], 16, 1) - doctor.ROOM == pytest.approx(2 * 1.279e9, rel=0.01)


@pytest.mark.parametrize(("free", "small", "large"), [
    (80e9, "fits as it is", "fits as it is"), (40e9, "fits as it is", "in 8 bits"),
    (24e9, "fits as it is", "in 4 bits"), (3e9, "in 8 bits", "does not fit"), (1e9, "does not fit", "does not fit")])
def test_advice(monkeypatch, free, small, large):
    monkeypatch.setattr(doctor, "memory", lambda device: (free, 2 * free))
    _, one, two = doctor.fits(torch.device("cpu"))
    assert small in one and large in two


def test_the_command_names_versions_device_and_what_fits(capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    for text in (version("torch"), "tested with", "device           cpu", "threads", "fast path", "reads them fastest",
                 "EXAONE-4.0-32B"):
        assert text in shown


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
    def missing():
        raise RuntimeError("install g++")

    monkeypatch.setattr(doctor, "check_compiler", missing)
    assert doctor.fast_path(torch.device("cpu")) == "no: install g++"
