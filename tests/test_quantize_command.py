"""`python -m minexaone quantize` and what measures its cost: what layers see, folders, wrong options, sums by hand."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from minexaone import quantize_report
from minexaone.__main__ import main
from minexaone.config_json import layer_types
from minexaone.files import SHIPPED, read_json
from minexaone.linear.gptq import gram
from minexaone.linear.packed import Packed, PackedLinear
from minexaone.linear.rounding import round_to_nearest
from minexaone.model import Config, Exaone4
from minexaone.quantize import LENGTH, MATRICES, METHODS, READERS, file_texts, own_texts, quantize_layers
from minexaone.quantize_report import VARIANTS, Variant, divergence, input_statistics, interval, quantized, statistics
from minexaone.tasks import TASKS
from minexaone.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent


def small_model(dtype="float32"):
    torch.manual_seed(0)
    config = Config(vocab_size=2560, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=32, layer_types=layer_types("LG", 2), sliding_window=16,
                    tie_word_embeddings=True, eos_token_id=14, initializer_range=0.2)
    return Exaone4(config).to(getattr(torch, dtype)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model of random weights with the shipped tokenizer."""
    folder = tmp_path_factory.mktemp("small")
    small_model("bfloat16").save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(SHIPPED / name, folder / name)
    return folder


TEXTS = [list(range(20 + n, 50 + 3 * n)) for n in range(5)]  # two of them longer than the window


def test_every_matrix_gets_the_hessian_of_what_it_reads_behind_rounded_layers():
    model, given = small_model(), []

    def pack(weight, hessian):
        given.append((weight.clone(), hessian.clone()))
        return round_to_nearest(weight, 4, 32)

    original = small_model()
    quantize_layers(model, TEXTS, pack)
    assert [tuple(weight.shape) for weight, _ in given] == [tuple(module.weight.shape) for layer in original.layers
                                                            for module in map(layer.get_submodule, MATRICES)]
    names, found = [f"layers.{n}.{name}" for n in range(2) for name in MATRICES], {}
    for number in range(2):  # rounded up to this layer, not in it
        mixed = small_model()
        for name in names[:number * len(MATRICES)]:
            mixed.set_submodule(name, model.get_submodule(name))
        for name in READERS:
            mixed.layers[number].get_submodule(name).register_forward_pre_hook(
                lambda module, args, key=(number, name): found.setdefault(key, []).append(args[0]))
        for ids in TEXTS:
            mixed(torch.tensor([ids]))
    for n, (weight, hessian) in enumerate(given):
        number, name = n // len(MATRICES), MATRICES[n % len(MATRICES)]
        assert torch.equal(weight, original.get_submodule(names[n]).weight)
        first = next(first for first, readers in READERS.items() if name in readers)
        expected = sum(gram(x) for x in found[number, first])
        assert torch.allclose(hessian, expected, rtol=1e-4, atol=1e-4 * expected.abs().max()), names[n]


@pytest.mark.parametrize("method", METHODS)
def test_the_errors_are_those_of_the_outputs(method):
    """The first layer reads the same inputs before and after: its share of the errors by hand."""
    model, original = small_model(), small_model()
    model.layers = model.layers[:1]
    errors = quantize_layers(model, TEXTS, lambda w, hessian: METHODS[method](w, hessian, 4, 32))
    x = torch.cat([original.embed_tokens(torch.tensor(ids)) for ids in TEXTS])
    for name in ("self_attn.q_proj", "self_attn.v_proj"):
        before, after = (m.layers[0].get_submodule(name)(x) for m in (original, model))
        assert errors[name] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-3)


def test_gptq_errs_less_and_only_the_named_matrices_change():
    errors = {}
    for method in METHODS:
        model = small_model()
        errors[method] = quantize_layers(model, TEXTS, lambda *args, m=method: METHODS[m](*args, 4, 32),
                                         ["mlp.up_proj", "mlp.down_proj"])
        packed = [name for name, module in model.named_modules() if isinstance(module, Packed)]
        assert packed == [f"layers.{n}.mlp.{kind}_proj" for n in range(2) for kind in ("up", "down")]
    assert all(errors["gptq"][name] < errors["nearest"][name] for name in errors["gptq"]) and len(errors["gptq"]) == 2


def run(capsys, *argv):
    """(exit status, standard output, the last line of standard error)."""
    try:
        status = main(["quantize", *map(str, argv)])
    except SystemExit as exit:
        status = exit.code
    out, err = capsys.readouterr()
    return status, out, err.strip().splitlines()[-1] if err.strip() else ""


@pytest.mark.parametrize("options, bits, group, zero", [
    (["--format", "gptq", "--group", 32], 4, 32, False),
    (["--format", "gptq_v2", "--group", 32, "--asymmetric"], 4, 32, True),
    (["--method", "nearest", "--group", 64, "--asymmetric"], 4, 64, True),
    (["--bits", 8, "--group", -1, "--format", "int-quantized"], 8, None, False),
])
def test_a_folder_that_opens(options, bits, group, zero, folder, tmp_path, capsys):
    out = tmp_path / "a" / "out"
    status, text, error = run(capsys, folder, "--out", out, "--samples", 3, "--device", "cpu", *options)
    assert status == 0, error
    assert text.count("\n") == 1 and "MB are" in text and all(name.split(".")[1] in text for name in MATRICES)
    assert {file.name for file in folder.iterdir()} == {file.name for file in out.iterdir()}
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    model, original = Exaone4.from_pretrained(out, device="cpu"), Exaone4.from_pretrained(folder, device="cpu")
    for name in MATRICES:
        module = model.layers[1].get_submodule(name)
        assert type(module) is PackedLinear and module.bits == bits and (module.zero is not None) == zero
        assert module.group == (group or module.shape[1])
        assert module.scale.dtype == (torch.float16 if {"gptq", "gptq_v2"} & {*options} else torch.bfloat16)
    ids = torch.tensor(TEXTS[:1])
    first, second = original(ids), model(ids)
    assert (first - second).norm() < (0.05 if bits == 8 else 0.6) * first.norm() and not torch.equal(first, second)
    assert Tokenizer.from_pretrained(out).encode("Hello") == Tokenizer.from_pretrained(folder).encode("Hello")
    assert list((tmp_path / "a").iterdir()) == [out]


@pytest.mark.parametrize("options, message", [
    (["--group", 48], "group is 48, but a matrix has 64 inputs: choose an even divisor of that, or -1"),
    (["--group", 0], "group is 0, but"),
    (["--bits", 3], "argument --bits: invalid choice: 3"),
    (["--method", "awq"], "argument --method: invalid choice"),
    (["--format", "gguf"], "argument --format: invalid choice"),
    (["--format", "gptq", "--asymmetric"], "write --format gptq_v2 or compressed-tensors, or leave --asymmetric out"),
    (["--format", "int-quantized"], "int-quantized has 8 bits, one scale a row and no zeros"),
    (["--samples", 0], "--samples is 0, expected at least 1"),
    (["--group", 32, "--texts", "missing.txt"], "No such file"),
    (["--device", "abacus"], "device is 'abacus'"),
])
def test_wrong_options_are_one_line(options, message, folder, tmp_path, capsys):
    status, text, error = run(capsys, folder, "--out", tmp_path / "out", *options)
    assert status in (1, 2) and message in error and not text and not any(tmp_path.iterdir())


def test_folders_that_cannot_be(folder, tmp_path, capsys):
    status, _, error = run(capsys, folder, "--out", folder)
    assert status == 1 and "which exists: name a new folder" in error
    model = small_model("bfloat16")
    quantize_layers(model, TEXTS, lambda weight, hessian: round_to_nearest(weight, 4, 32))
    model.save_pretrained(tmp_path / "packed")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SHIPPED / name, tmp_path / "packed" / name)
    status, _, error = run(capsys, tmp_path / "packed", "--out", tmp_path / "out", "--group", 32)
    assert status == 1 and "quantized already (layers.0.self_attn.q_proj, 4 bits)" in error
    status, _, error = run(capsys, tmp_path / "nothing", "--out", tmp_path / "out")
    assert status == 1 and "neither a folder nor a hub id" in error
    assert not (tmp_path / "out").exists()


def test_a_matrix_that_gptq_cannot_hold_is_known_before_the_work(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minexaone.quantize.quantize_layers", lambda *args: pytest.fail("the work has begun"))
    model = small_model()
    model.layers[1].mlp.up_proj = nn.Linear(64, 72, bias=False)
    monkeypatch.setattr(Exaone4, "from_pretrained", lambda *args, **options: model)
    status, _, error = run(capsys, folder, "--out", tmp_path / "out", "--group", 32, "--format", "gptq")
    assert status == 1 and "layers.1.mlp.up_proj is 72 × 64, but gptq takes multiples of 32" in error


def test_an_error_on_the_way_leaves_nothing(folder, tmp_path, capsys, monkeypatch):
    def fail(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(Exaone4, "save_pretrained", fail)
    status, _, error = run(capsys, folder, "--out", tmp_path / "out", "--group", 32, "--samples", 1)
    assert status == 1 and "No space left" in error and not any(tmp_path.iterdir())


def test_calibration_texts(tmp_path):
    tokenizer = Tokenizer.from_pretrained(SHIPPED)
    texts = own_texts(tokenizer, 20)
    assert len(texts) == 20 and texts == own_texts(tokenizer, 25)[:20] and all(0 < len(ids) <= LENGTH for ids in texts)
    path = tmp_path / "text.txt"
    path.write_text("\ufeff" + "".join(f"{n} is a number. " for n in range(3000)), encoding="utf-8")
    pieces = [tokenizer.decode(ids) for ids in file_texts(path, tokenizer, 4, 100)]
    assert len(pieces) == 4 and pieces[0].startswith("0 is a number.") and len(set(pieces)) == 4
    assert all(len(ids) == 100 for ids in file_texts(path, tokenizer, 4, 100))
    path.write_text("한 문장", encoding="utf-8")
    assert [tokenizer.decode(ids) for ids in file_texts(path, tokenizer, 4)] == ["한 문장"]
    for data, message in ((b"", "is empty"), (b" \n", "is empty"), (b"caf\xe9 noir", "is not UTF-8 .* at byte 3")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            file_texts(path, tokenizer, 4)


# ------------------------------------------------------------------------------------------------- its cost


def test_divergence_by_hand():
    model, other = small_model(), quantized(small_model(), Variant(4, 32, "nearest"), TEXTS)
    turns = [(ids[:7 + n], ids[7 + n:]) for n, ids in enumerate(TEXTS)]
    sums = divergence(model, {"other": other}, turns)
    assert sums.keys() == {None, "other"}
    for n, (prompt, reply) in enumerate(turns):
        p, q = (m(torch.tensor([prompt + reply]))[0, len(prompt) - 1:-1].double().softmax(-1) for m in (model, other))
        kl = float((p * (p / q).log()).sum())
        nll = -sum(math.log(y[id]) for y, id in zip(q, reply, strict=True))
        same = sum(int(x.argmax()) == int(y.argmax()) for x, y in zip(p, q, strict=True))
        assert sums["other"][n].tolist() == pytest.approx([len(reply), nll, kl, same], rel=1e-3)
        assert sums[None][n, 2] == 0 and sums[None][n, 3] == len(reply)
        assert kl > 0


def test_an_interval_covers_the_ratio():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 50, (400,), generator=generator).double()
    values = tokens * (2 + torch.randn(400, generator=generator))
    ratio, low, high = interval(values, tokens)
    assert ratio == pytest.approx(float(values.sum() / tokens.sum()), rel=1e-3) and low < 2 < high
    spread = float((values - ratio * tokens).std() / tokens.mean()) / math.sqrt(400)  # of a ratio, by the delta method
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_statistics_of_known_activations():
    x = torch.randn(4000, 200, generator=torch.Generator().manual_seed(0))
    plain = statistics(x)
    assert plain["rms"] == pytest.approx(1, abs=0.01) and plain["kurtosis"] == pytest.approx(3, abs=0.05)
    assert plain["channels"] == pytest.approx(2 / 200, rel=0.1) and plain["tokens"] == pytest.approx(1.12, abs=0.03)
    uneven = statistics(x * torch.cat([torch.full((40, 1), 30.0), torch.ones(3960, 1)]))
    assert uneven["kurtosis"] > 50 and uneven["kurtosis_of_even_tokens"] == pytest.approx(3, abs=0.05)
    channels = statistics(torch.cat([x[:, :198], 50 * x[:, 198:]], 1))
    assert channels["channels"] > 0.95 and channels["int8"] > 4 * plain["int8"]
    rows = input_statistics(small_model(), TEXTS)
    assert [(row["layer"], row["reader"]) for row in rows] == [(n, name) for n in range(2) for name in READERS]


def test_the_report_is_written_as_far_as_it_is_measured(folder, tmp_path, monkeypatch):
    some = [Variant(8, 32, "nearest"), Variant(4, 32, "nearest"), Variant(4, 32, "gptq")]
    monkeypatch.setattr("minexaone.quantize_report.VARIANTS", some)
    monkeypatch.setattr("minexaone.quantize_report.KINDS", [Variant(4, 32, "nearest", only="mlp.up_proj")])
    monkeypatch.setattr("minexaone.quantize_report.SCORED", some[:2])
    monkeypatch.setattr("minexaone.quantize_report.own_texts", lambda tokenizer, count: TEXTS)
    monkeypatch.setattr("minexaone.quantize_report.needle_grid", lambda *args: [{"correct": 1, "total": 2}])

    def fail_later(model, *args):
        if len(read_json(out)["scores"]):
            raise ValueError("the second variant")
        return [{"correct": 1, "total": 3}]

    out = tmp_path / "out.json"
    monkeypatch.setattr("minexaone.quantize_report.TASKS", {"facts": TASKS["facts"], "sums": TASKS["sums"]})
    monkeypatch.setattr("minexaone.quantize_report.by_task", fail_later)
    with pytest.raises(SystemExit) as exit:
        quantize_report.main([str(out), "--model", str(folder), "--replies", "2", "--device", "cpu"])
    assert exit.value.code == 1
    found = read_json(out)
    assert found["replies"] == 24 and len(found["scores"]) == 2 and len(found["needles"]) == 1
    kl = {row["method"] + str(row["bits"]): row["kl"] for row in found["variants"]}
    assert 0 < kl["nearest8"][0] < kl["nearest4"][0] and all(low <= mean <= high for mean, low, high in kl.values())
    assert found["kinds"][0]["kl"][0] < kl["nearest4"][0]
    gptq = next(row for row in found["variants"] if row["method"] == "gptq")
    assert gptq["kl_by_nearest"][0] == pytest.approx(kl["gptq4"][0] / kl["nearest4"][0], rel=1e-2)
    parts = [row for row in found["parts"] if row["bits"] == 4]
    assert [row.get("domain") or row.get("language") or row.get("mode") for row in parts] == [
        "world knowledge", "math", "en", "ko", "es", "non-reasoning", "reasoning"]
    assert len(found["inputs"]) == 2 * len(READERS)


def test_what_was_measured_is_what_the_report_measures():
    found = read_json(ROOT / "assets" / "bench" / "quantized.json")
    keys = ("bits", "group", "method", "symmetric", "only")
    assert [Variant(*(row[key] for key in keys)) for row in found["variants"]] == VARIANTS
    assert [row["only"] for row in found["kinds"]] == list(MATRICES)
    kl = {tuple(row[key] for key in keys[:4]): row["kl"][0] for row in found["variants"]}
    for method in METHODS:
        assert kl[8, 128, method, True] < kl[4, 128, method, True] < kl[3, 128, method, True]
    assert json.dumps(found).count("NaN") == 0
