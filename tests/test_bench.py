"""The benchmark's own arithmetic against counts made otherwise, and one run of the command."""

import copy
import json
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from minexaone import bench
from minexaone.__main__ import main
from minexaone.config_json import GLOBAL
from minexaone.linear.rounding import quantize
from minexaone.model import Config, Exaone4, KVCache


@pytest.mark.parametrize("bits", [8, 4])
def test_a_packed_head_that_shares_the_embeddings_tensors_is_read(bits):
    model = quantize(Exaone4.from_pretrained(device="cpu"), bits)
    assert model.lm_head.weight is model.embed_tokens.weight
    layers = sum(tensor.nbytes for module in (model.layers, model.norm) for tensor in module.state_dict().values())
    vocabulary, hidden = model.lm_head.shape
    assert bench.decode_bytes(model, 0) == layers + vocabulary * hidden + 4 * vocabulary  # bytes, and scales in float32


def test_published_shapes_have_the_published_sizes():
    with torch.device("meta"):
        small, large = (Exaone4(bench.SHAPES[name]).bfloat16() for name in ("1.2b", "32b"))
    count = [sum(parameter.numel() for parameter in model.parameters()) for model in (small, large)]
    assert count == [1_279_391_488, 32_003_216_384]
    assert bench.decode_bytes(small, 0) == 2 * count[0]  # the tied embedding is read as the head
    assert bench.decode_bytes(large, 0) == 2 * (count[1] - large.embed_tokens.weight.numel())  # a row of it is not
    # 2 (keys, values) · 8 heads · 64 · 2 bytes a token and layer
    assert bench.decode_bytes(small, 1000, rows=3) - bench.decode_bytes(small, 0) == 3 * 1000 * 30 * 2 * 8 * 64 * 2
    assert bench.decode_bytes(large, 5000) - bench.decode_bytes(large, 0) == (16 * 5000 + 48 * 4096) * 2 * 8 * 128 * 2


@pytest.mark.parametrize("length", [50, 300])  # shorter than the window of 128 and longer
def test_prefill_flops(length):
    model = Exaone4.from_pretrained(device="cpu")
    config = model.config
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.ones(1, length, dtype=torch.long), KVCache(config), logits_to_keep=1)
    products = sum(flops for operator, flops in counter.get_flop_counts()["Global"].items() if "mm" in str(operator))
    pairs = sum(j <= i and (config.window(layer) is None or i - config.window(layer) < j)
                for layer in range(config.num_hidden_layers) for i in range(length) for j in range(length))
    attention = 4 * config.num_attention_heads * config.head_dim * pairs  # two products of 2 operations each
    assert bench.prefill_flops(config, length) == products + attention


def test_the_command_measures_and_writes_what_it_measured(tmp_path, capsys):
    options = ["--versions", "naive,clear", "--against", "transformers", "--device", "cpu", "--context", "30", "--rows",
               "1,2", "--prefill", "40", "--new", "6", "--rounds", "1", "--turn", "400"]
    assert main(["bench", *options, "--json", str(tmp_path / "r.json")]) == 0
    report, printed = json.loads((tmp_path / "r.json").read_text()), capsys.readouterr().out
    decode = [row for row in report["results"] if row["what"] == "decode"]
    assert [(row["version"], row["rows"]) for row in decode] == [
        (name, rows) for rows in (1, 2) for name in ("naive", "clear", "transformers")]
    assert [row["version"] for row in report["results"] if row["what"] == "prefill"] == ["clear", "transformers"]
    for row in decode:
        assert len(row["seconds"]) == 1 and 0 < row["roofline_share"] < 1
        assert row["tokens_per_s"] * row["bytes"] == pytest.approx(row["rows"] * row["bytes_per_s"])
        assert f"{row['tokens_per_s']:,.1f} tokens/s" in printed
    kept, anew = (row for row in report["results"] if row["what"] == "turn")
    assert (kept["version"], kept["way"], anew["way"]) == ("clear", "kept", "anew") and anew["share"] == 1
    assert kept["first_token_s"] == kept["seconds"][0] == pytest.approx(kept["share"] * anew["seconds"][0])
    assert f"{kept['first_token_s'] * 1000:,.1f} ms to the first token" in printed
    pytest.importorskip("matplotlib")
    bench.plot([tmp_path / "r.json"], tmp_path / "r.svg")
    drawn = (tmp_path / "r.svg").read_text()
    assert all(len(re.findall(f"<!-- {name}: [0-9.,]+ -->", drawn)) == 1 for name in ("transformers", "clear"))


@pytest.mark.parametrize(("options", "message"), [
    (["--versions", "clear,quick"], "unknown version quick: choose from naive"),
    (["--context", "0"], "--context is '0', expected whole numbers from 1"),
    (["--new", "3"], "--new must be at least"),
    (["model", "--shape", "1.2b"], "give a model or --shape"),
    (["--accept", "1.5"], "--accept wants numbers from 0 to 1"),
    (["--versions", "clear", "--accept", "0.5"], "--accept needs the version fast"),
    (["--against", "llama.cpp"], "llama.cpp reads a GGUF file, one row at a time"),
    (["m.gguf", "--against", "llama.cpp", "--rows", "1,4"], "llama.cpp reads a GGUF file, one row at a time"),
    (["--dtype", "int4"], "--dtype is 'int4', expected bfloat16"),
])
def test_wrong_usage_is_named(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *options])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_forced_guesses_are_right_as_often_as_they_should_be_and_change_no_id():
    torch.manual_seed(0)
    model = Exaone4(Config(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, head_dim=8,
                           num_attention_heads=2, num_key_value_heads=1, layer_types=[GLOBAL], eos_token_id=2)).eval()
    options = {"max_new_tokens": 400, "stop_ids": []}
    reply = model.generate([[5, 6, 7, 8]], **options)
    for rate in (0.0, 0.8, 1.0):
        draft, calls = bench.Forced(reply, 4, rate, 40, bench.DraftModel(copy.deepcopy(model), 4)), []
        hook = model.register_forward_pre_hook(lambda _, args, calls=calls: calls.append(args[0].shape[1]))
        assert model.generate([[5, 6, 7, 8]], draft=draft, **options) == reply
        hook.remove()
        expected = 5 if rate == 1 else (1 - rate**5) / (1 - rate)
        assert 399 / len(calls[1:]) == pytest.approx(expected, rel=0.15)  # twice the deviation of 120 passes
    drafted = bench.Drafted("fast, 4 × 0.8", bench.Ours("clear", model), 4, 0.8, copy.deepcopy(model))
    results = bench.measure_decode(model, [drafted], 10, 40, 2, 1, tqdm(disable=True))
    assert [(row["version"], row["rows"]) for row in results] == [("fast, 4 × 0.8", 2)]
    assert results[0]["tokens_per_s"] > 0
    expected, calls = (1 - 0.8**5) / 0.2, []  # although the model itself would reply otherwise
    drafted.small = None
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert len(drafted.decode([[5, 6, 7, 8]], 400)) == 400
    hook.remove()
    assert 399 / (len(calls) - 1) == pytest.approx(expected, rel=0.15)
