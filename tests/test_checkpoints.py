"""Checkpoint folders: every published form loads to the same model, every bad one ends in one clear error."""

import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Exaone4Config, Exaone4ForCausalLM

import minexaone.model as model_module
from minexaone.__main__ import main
from minexaone.config_json import sampling_advice
from minexaone.files import SHIPPED, CheckpointError, replace_folder, resolve, write_json
from minexaone.linear.rounding import quantize
from minexaone.model import Config, Exaone4

SLIDING, GLOBAL = "sliding_attention", "full_attention"
LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
SIZES = {"vocab_size": 96, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 8, "num_attention_heads": 6,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
HYBRID = SIZES | {"sliding_window": 4, "layer_types": [*[SLIDING] * 3, GLOBAL] * 2, "tie_word_embeddings": False}
PLAIN = SIZES | {"sliding_window": None, "layer_types": [GLOBAL] * 8, "tie_word_embeddings": True}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
GATE = "model.layers.3.mlp.gate_proj.weight"  # [40, 24], in SECOND
IDS = torch.randint(3, 96, (2, 30), generator=torch.Generator().manual_seed(0))


def write_with_transformers(folder, values, dtype=torch.float32, **options):
    """A checkpoint as transformers writes it, and the logits that transformers computes with it."""
    torch.manual_seed(0)
    reference = Exaone4ForCausalLM(Exaone4Config(**values, rope_parameters={"rope_theta": 1e6} | LLAMA3)).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    reference.to(dtype).save_pretrained(folder, **options)
    with torch.inference_mode():
        return reference(IDS).logits


def write_config(folder, values):
    (folder / "config.json").write_text(json.dumps(values))


def logits(folder, **options):
    with torch.inference_mode():
        return Exaone4.from_pretrained(folder, device="cpu", **options)(IDS)


# ------------------------------------------------------------------------------------------------- good forms


def older(values):
    """config.json as transformers 4 wrote it."""
    return values | {"model_type": "exaone4", "rope_theta": 1e6, "rope_scaling": LLAMA3, "torch_dtype": "float32",
                     "architectures": ["Exaone4ForCausalLM"], "hidden_act": "silu", "attention_dropout": 0.0}


def newer(values):
    """config.json as transformers 5 writes it."""
    values = older(values) | {"rope_parameters": {"rope_theta": 1e6} | LLAMA3, "dtype": "float32"}
    return without(values, "rope_theta", "rope_scaling", "torch_dtype")


def without(values, *keys):
    return {key: value for key, value in values.items() if key not in keys}


FORMS = {
    "older": older(HYBRID),
    "newer": newer(HYBRID),
    "pattern 4": without(older(HYBRID), "layer_types") | {"sliding_window_pattern": 4},
    "pattern LLLG": without(newer(HYBRID), "layer_types") | {"sliding_window_pattern": "LLLG"},
    "pattern of full length": older(HYBRID) | {"layer_types": None, "sliding_window_pattern": "LLLGLLLG"},
    "layer_types outrank the pattern": older(HYBRID) | {"sliding_window_pattern": 2},
    "plain, older": older(PLAIN),
    "plain, newer": newer(PLAIN),
    "plain, null pattern": without(older(PLAIN), "layer_types") | {"sliding_window_pattern": None},
    "plain, no pattern": without(newer(PLAIN), "layer_types"),
    "plain, no window outranks the pattern": without(older(PLAIN), "layer_types") | {"sliding_window_pattern": 4},
    "plain, no window outranks sliding layers": older(PLAIN) | {"layer_types": [SLIDING] * 8},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folders and logits of the two models, as transformers writes and computes them."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("hybrid", "plain")}
    return {name: (folder, write_with_transformers(folder, PLAIN if name == "plain" else HYBRID))
            for name, folder in folders.items()}


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_of_config_gives_the_same_logits(form, written, tmp_path):
    folder, expected = written["plain" if form.startswith("plain") else "hybrid"]
    shutil.copy(folder / "model.safetensors", tmp_path)
    write_config(tmp_path, FORMS[form])
    assert (logits(tmp_path) - expected).abs().max() < 1e-4 * expected.std()


def test_scaling_and_window_are_not_ignored(written, tmp_path):
    """The forms above could agree because nobody reads them."""
    folder, expected = written["hybrid"]
    shutil.copy(folder / "model.safetensors", tmp_path)
    for change in ({"rope_scaling": None}, {"rope_theta": 1e4}, {"sliding_window": 5}, {"layer_types": [GLOBAL] * 8}):
        write_config(tmp_path, older(HYBRID) | change)
        assert (logits(tmp_path) - expected).abs().max() > 1e-2 * expected.std(), change


@pytest.mark.parametrize("values", [HYBRID, PLAIN], ids=["untied", "tied"])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_checkpoint_written_by_transformers(values, shard, tmp_path):
    expected = write_with_transformers(tmp_path, values, max_shard_size=shard)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 2) == (shard == "20KB") == (tmp_path / "model.safetensors.index.json").exists()
    model = Exaone4.from_pretrained(tmp_path, device="cpu")
    with torch.inference_mode():
        assert (model(IDS) - expected).abs().max() < 1e-4 * expected.std()
    # Every tensor of the files is one parameter, bit for bit, and there is no further parameter.
    stored = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    parameters = {name if name == "lm_head.weight" else f"model.{name}": p for name, p in model.named_parameters()}
    assert parameters.keys() == stored.keys() and ("lm_head.weight" in stored) == (not values["tie_word_embeddings"])
    assert all(torch.equal(parameters[name], stored[name]) for name in stored)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_auto_is_the_checkpoints_and_any_other_can_be_asked_for(stored, tmp_path):
    write_with_transformers(tmp_path, PLAIN, stored)
    for asked, expected in (("auto", stored), ("float32", torch.float32), (torch.bfloat16, torch.bfloat16)):
        model = Exaone4.from_pretrained(tmp_path, dtype=asked, device="cpu")
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
        assert model.frequencies.dtype == torch.float32  # angles are always computed in float32
    with pytest.raises(ValueError, match="float8"):
        Exaone4.from_pretrained(tmp_path, dtype="float8")


@pytest.mark.parametrize("keys", [("dtype", "torch_dtype"), ("torch_dtype", "dtype")], ids="-".join)
@pytest.mark.parametrize("stale", ["float32", "float16"])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_where_two_keys_tell_two_dtypes_the_tensors_are_believed(keys, stale, shard, tmp_path):
    """transformers before 4.56 saves the type under torch_dtype and keeps a dtype as it was; by hand both may be."""
    write_with_transformers(tmp_path, PLAIN, torch.bfloat16, max_shard_size=shard)
    for values in ((stale, "bfloat16"), ("bfloat16", stale)):
        write_config(tmp_path, without(older(PLAIN), "torch_dtype") | dict(zip(keys, values, strict=True)))
        model = Exaone4.from_pretrained(tmp_path, device="cpu")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert model.config.dtype == "bfloat16"


@pytest.mark.parametrize("letters, pattern", [
    ("LLLGLLLG", "LLLG"), ("LLLGLLLGL", "LLLG"), ("LGLG", "LG"), ("LLL", "L"), ("LLG", "LLG"), ("LLGG", "LLGG"),
    ("GLLGL", "GLL"), ("GGG", "G")])
def test_the_kinds_of_layers_are_saved_as_a_pattern_too(letters, pattern, tmp_path):
    kinds = [{"L": SLIDING, "G": GLOBAL}[letter] for letter in letters]
    config = Config(**HYBRID | {"num_hidden_layers": len(letters), "layer_types": kinds})
    torch.manual_seed(0)
    with warnings.catch_warnings():  # about a window that no layer has
        warnings.simplefilter("ignore")
        Exaone4(config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["sliding_window_pattern"] == pattern
    assert Config.from_dict(without(saved, "layer_types")).layer_types == kinds
    theirs = Exaone4ForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.layer_types == kinds
    with torch.inference_mode():
        assert (theirs(IDS).logits - logits(tmp_path)).abs().max() < 1e-4 * float(logits(tmp_path).std())


def test_a_model_without_a_window_is_saved_without_a_pattern(tmp_path):
    Exaone4(Config(**PLAIN)).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["sliding_window"] is saved["sliding_window_pattern"] is None
    theirs = Exaone4ForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.layer_types == [GLOBAL] * 8 and theirs.config.sliding_window is None


def test_config_survives_to_dict_and_json():
    for values in FORMS.values():
        config = Config.from_dict(values)
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_stop_ids_of_generation_config_win(written, tmp_path):
    shutil.copytree(written["plain"][0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8], "pad_token_id": null}')
    config = Exaone4.from_pretrained(tmp_path, device="cpu").config
    assert config.stop_ids == [7, 8] and config.pad_token_id == 0


# ------------------------------------------------------------------------------------------------- bad folders


class Trap:
    """Creates the file `marker` when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in ("single", "sharded", "tied")}
    write_with_transformers(folders["single"], HYBRID)
    write_with_transformers(folders["sharded"], HYBRID)
    stored = load_file(folders["sharded"] / WEIGHTS)
    listed = {name: SECOND if ".layers." in name else FIRST for name in stored}
    for shard in (FIRST, SECOND):
        save_file({name: stored[name] for name in stored if listed[name] == shard}, folders["sharded"] / shard)
    (folders["sharded"] / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    (folders["sharded"] / WEIGHTS).unlink()
    write_with_transformers(folders["tied"], PLAIN)
    return folders


@pytest.fixture
def error_of(templates, tmp_path):
    """Spoil a copy of a good folder, with traps planted in it, and return the message of the error it gives."""
    def error_of(spoil, template="single"):
        folder, marker = tmp_path / "checkpoint", tmp_path / "marker"
        shutil.copytree(templates[template], folder)
        for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth"):
            (folder / name).write_bytes(pickle.dumps(Trap(marker)))
        code = f"open({str(marker)!r}, 'w')"
        (folder / "modeling_exaone4.py").write_text(code)
        (folder / "__init__.py").write_text(code)
        spoil(folder)
        with pytest.raises(CheckpointError) as caught:
            Exaone4.from_pretrained(folder, device="cpu")
        assert not marker.exists(), "something in the folder was executed"
        message, error = str(caught.value), caught.value
        assert "\n" not in message and ": " in message
        assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)
        return message
    return error_of


def test_the_traps_work(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def cut(name, size):
    """Keep the first `size` bytes, or all but -size."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def text(name, content):
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def remove(name):
    return lambda folder: (folder / name).unlink()


def tensors(change, name=WEIGHTS):
    def spoil(folder):
        stored = load_file(folder / name)
        change(stored)
        save_file(stored, folder / name)
    return spoil


def replace(convert):
    return tensors(lambda stored: stored.update({GATE: convert(stored[GATE]).contiguous()}))


def header(old, new):
    """Change the JSON header of the file, keeping its length."""
    def spoil(folder):
        data = (folder / WEIGHTS).read_bytes()
        assert old in data and len(old) == len(new)
        (folder / WEIGHTS).write_bytes(data.replace(old, new, 1))
    return spoil


def config(**changes):
    return lambda folder: write_config(folder, json.loads((folder / "config.json").read_text()) | changes)


def index(change):
    def spoil(folder):
        raw = json.loads((folder / INDEX).read_text())
        change(raw["weight_map"])
        (folder / INDEX).write_text(json.dumps(raw))
    return spoil


def both(*spoilers):
    return lambda folder: [spoil(folder) for spoil in spoilers]


def file_name(name):
    return index(lambda weight_map: weight_map.update({GATE: name}))


def stop_id(value):
    return both(config(eos_token_id=value), remove("generation_config.json"))


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
BAD = {  # id: (how to spoil a good folder, what the message must say)
    "weights cut in the length": (cut(WEIGHTS, 5), [WEIGHTS, "cut short", "download it again"]),
    "weights cut in the header": (cut(WEIGHTS, 200), [WEIGHTS, "cut short", "download it again"]),
    "weights cut in the data": (cut(WEIGHTS, -1), [WEIGHTS, "cut short", "download it again"]),
    "weights empty": (text(WEIGHTS, ""), [WEIGHTS, "download it again"]),
    "weights are a web page": (text(WEIGHTS, "<!DOCTYPE html>" * 99), [WEIGHTS, "download it again"]),
    "weights are a Git LFS pointer": (text(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), [WEIGHTS]),
    "weights are a pickle": (lambda f: (f / "model.pt").replace(f / WEIGHTS), [WEIGHTS, "download it again"]),
    "header of many gigabytes": (text(WEIGHTS, b"\xff" * 7 + b"\x0f{}"), [WEIGHTS, "download it again"]),
    "header is no JSON": (header(b'{"', b'(("'[:2]), [WEIGHTS, "download it again"]),
    "data offsets overlap": (header(b'"data_offsets":[0,', b'"data_offsets":[8,'), [WEIGHTS, "download it again"]),
    "weights missing": (remove(WEIGHTS), [WEIGHTS, INDEX, "pickled", "never loaded", "download the weights"]),
    "tensor missing": (tensors(lambda stored: stored.pop(GATE)), [f"missing {GATE};", "download both"]),
    "tensor too many": (tensors(lambda stored: stored.update(surplus=torch.zeros(1))), ["model: surplus:", "download"]),
    "tensor with a bias": (tensors(lambda stored: stored.update({f"{GATE[:-6]}bias": torch.zeros(40)})), ["proj.bias"]),
    "shape transposed": (replace(torch.t), [WEIGHTS, GATE, "[24, 40]", "[40, 24]", "download both"]),
    "shape flattened": (replace(torch.flatten), [WEIGHTS, GATE, "[960]", "[40, 24]"]),
    "int8": (replace(torch.Tensor.char), [WEIGHTS, GATE, "I8", "unquantized"]),
    "int64": (replace(torch.Tensor.long), [WEIGHTS, GATE, "I64", "unquantized"]),
    "float8": (replace(lambda tensor: tensor.to(torch.float8_e4m3fn)), [WEIGHTS, GATE, "F8_E4M3", "unquantized"]),
    "float64": (replace(torch.Tensor.double), [WEIGHTS, GATE, "F64", "expected"]),
    "unknown dtype": (header(b'"dtype":"F32"', b'"dtype":"X32"'), [WEIGHTS, "download it again"]),
    "config missing": (remove("config.json"), ["config.json", "missing", "download it again"]),
    "config empty": (text("config.json", ""), ["config.json", "not readable JSON", "again"]),
    "config cut": (cut("config.json", -30), ["config.json", "not readable JSON", "again"]),
    "config binary": (text("config.json", b"\x80\x04\x95\xff"), ["config.json", "not readable JSON", "again"]),
    "config a list": (text("config.json", "[1, 2]"), ["config.json", "JSON object"]),
    "config null": (text("config.json", "null"), ["config.json", "JSON object"]),
    "config too deep": (text("config.json", "[" * 100_000), ["config.json", "not readable JSON"]),
    "config a folder": (both(remove("config.json"), lambda f: (f / "config.json").mkdir()), ["config", "readable"]),
    "generation_config cut": (cut("generation_config.json", 20), ["generation_config.json", "not readable JSON"]),
    "generation_config a list": (text("generation_config.json", "[]"), ["generation_config.json", "JSON object"]),
    "model_type unknown": (config(model_type="llama"), ["config.json", "model_type", "'llama'", "'exaone4'"]),
    "model_type missing": (text("config.json", "{}"), ["config.json", "model_type", "None"]),
    "quantized": (config(quantization_config=GPTQ), ["config.json", "quantization_config", "gptq", "unquantized"]),
    "another activation": (config(hidden_act="gelu"), ["config.json", "hidden_act", "'gelu'", "'silu'"]),
    "heads not divisible": (config(num_attention_heads=5), ["num_attention_heads", "5", "num_key_value_heads = 2"]),
    "head size odd": (config(head_dim=7), ["head_dim", "7", "even"]),
    "layer_types short": (config(layer_types=[GLOBAL] * 7), ["layer_types has 7 ", "num_hidden_layers = 8"]),
    "layer_types unknown": (config(layer_types=[GLOBAL] * 7 + ["linear"]), ["layer_types", "'linear'"]),
    "layer_types not names": (config(layer_types=[1, {}] * 4), ["layer_types"]),
    "layer_types a string": (config(layer_types=GLOBAL), ["layer_types"]),
    "pattern zero": (config(layer_types=None, sliding_window_pattern=0), ["sliding_window_pattern", "0"]),
    "pattern negative": (config(layer_types=None, sliding_window_pattern=-4), ["sliding_window_pattern", "-4"]),
    "pattern huge": (config(layer_types=None, sliding_window_pattern=10**30), ["sliding_window_pattern"]),
    "pattern true": (config(layer_types=None, sliding_window_pattern=True), ["sliding_window_pattern", "True"]),
    "pattern null": (config(layer_types=None, sliding_window_pattern=None), ["sliding_window_pattern", "None"]),
    "pattern empty": (config(layer_types=None, sliding_window_pattern=""), ["sliding_window_pattern", "''"]),
    "pattern unknown": (config(layer_types=None, sliding_window_pattern="LLXG"), ["sliding_window_pattern", "LLXG"]),
    "pattern a list": (config(layer_types=None, sliding_window_pattern=["L", "G"]), ["sliding_window_pattern"]),
    "layers huge, no layer_types": (config(layer_types=None, sliding_window_pattern=4, num_hidden_layers=10**12),
                                    ["num_hidden_layers", "10000"]),
    "rope_type unknown": (config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e6}),
                          ["rope_scaling", "yarn", "llama3"]),
    "rope_parameters a string": (config(rope_parameters="llama3"), ["config.json", "str"]),
    "rope bands swapped": (config(rope_parameters=LLAMA3 | {"rope_theta": 1e6, "low_freq_factor": 8.0}),
                           ["rope_scaling", "8.0", "low below high"]),
    "tied as a string": (config(tie_word_embeddings="false"), ["tie_word_embeddings", "'false'", "true or false"]),
    "dtype unknown": (config(dtype="int4"), ["dtype", "'int4'", "bfloat16"]),
    "dtype a list": (config(dtype=["float32"]), ["dtype", "bfloat16"]),
    "stop id a string": (stop_id("[EOS]"), ["eos_token_id", "[EOS]"]),
    "stop id missing": (stop_id(None), ["eos_token_id", "None"]),
    "stop id negative": (stop_id(-1), ["eos_token_id", "-1"]),
    "stop ids empty": (stop_id([]), ["eos_token_id"]),
    "of another size": (config(intermediate_size=48), [WEIGHTS, "mlp", "[40, 24]", "[48, 24]", "download both"]),
    "of another depth": (config(num_hidden_layers=4, layer_types=[GLOBAL] * 4), ["model.layers.4.", "download both"]),
}
BAD_SHARDS = {
    "index cut": (cut(INDEX, -9), [INDEX, "not readable JSON", "again"]),
    "index a list": (text(INDEX, "[]"), [INDEX, "weight_map", "download it again"]),
    "index without weight_map": (text(INDEX, "{}"), [INDEX, "weight_map", "download it again"]),
    "index of numbers": (file_name(5), [INDEX, "weight_map", "file names"]),
    "index empty": (text(INDEX, '{"weight_map": {}}'), ["missing", "lm_head.weight", "download both"]),
    "file above": (file_name("../x.safetensors"), [INDEX, "../x.safetensors", "same folder"]),
    "file absolute": (file_name("/etc/x.safetensors"), [INDEX, "/etc/x.safetensors", "same folder"]),
    "file below": (file_name("sub/x.safetensors"), [INDEX, "sub/x.safetensors", "same folder"]),
    "file with a backslash": (file_name("..\\x.safetensors"), [INDEX, "safetensors", "same folder"]),
    "file a pickle": (file_name("pytorch_model.bin"), [INDEX, "pytorch_model.bin", "*.safetensors"]),
    "file without a name": (file_name(""), [INDEX, "''", "same folder"]),
    "file with a zero byte": (file_name("\0.safetensors"), [".safetensors"]),
    "file not there": (file_name("other.safetensors"), ["other.safetensors", "missing", "download it again"]),
    "shard missing": (remove(FIRST), [FIRST, "missing", "download it again"]),
    "shard cut": (cut(FIRST, -1), [FIRST, "cut short", "download it again"]),
    "shard twice": (lambda folder: shutil.copy(folder / FIRST, folder / SECOND), [INDEX, "lm_head.weight", "more is"]),
    "tensor not listed": (index(lambda weight_map: weight_map.pop(GATE)), [INDEX, GATE, "download them again"]),
    "tensor listed elsewhere": (file_name(FIRST), [INDEX, GATE, "download them again"]),
    "tensor in two shards": (tensors(lambda stored: stored.update({GATE: torch.zeros(40, 24)}), FIRST),
                             [INDEX, GATE, "download them again"]),
    "tensor in no shard": (index(lambda weight_map: weight_map.update(ghost=FIRST)), [INDEX, "ghost", "download them"]),
    "tensor missing": (both(index(lambda weight_map: weight_map.pop(GATE)),
                            tensors(lambda stored: stored.pop(GATE), SECOND)), [f"missing {GATE};", "download"]),
}


def test_the_shards_are_good_before_they_are_spoilt(templates):
    assert torch.equal(logits(templates["sharded"]), logits(templates["single"]))


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoint(name, error_of):
    spoil, words = BAD[name]
    message = error_of(spoil)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("name", BAD_SHARDS)
def test_bad_shards(name, error_of):
    spoil, words = BAD_SHARDS[name]
    message = error_of(spoil, "sharded")
    assert [word for word in words if word not in message] == [], message


def test_no_head_in_an_untied_checkpoint(error_of):
    assert "missing lm_head.weight;" in error_of(config(tie_word_embeddings=False), "tied")


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def renamed(rename):
    """Store the tensors under other names."""
    def change(stored):
        items = list(stored.items())
        stored.clear()
        stored.update({rename(name): tensor for name, tensor in items})
    return tensors(change)


def add(**new):
    """Add tensors, each made from those that are there."""
    return tensors(lambda stored: stored.update({name: make(stored) for name, make in new.items()}))


def byte_order_mark(name):
    return lambda folder: (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())


ALSO_GOOD = {  # id: (template, what programs do to it that changes no logit)
    "tied, with its head": ("tied", add(**{HEAD: lambda stored: stored[EMBEDDING].clone()})),
    "tied, with its head alone": ("tied", renamed(lambda name: HEAD if name == EMBEDDING else name)),
    "tied, compiled, with its head": ("tied", both(add(**{HEAD: lambda stored: stored[EMBEDDING].clone()}),
                                                   renamed(lambda name: f"_orig_mod.{name}"))),
    "frequencies": ("single", add(**{"model.rotary_emb.inv_freq": lambda stored: torch.ones(4)})),
    "frequencies of a layer": ("single", add(**{"model.layers.0.self_attn.rotary_emb.inv_freq":
                                                lambda stored: torch.ones(4, dtype=torch.float64)})),
    "compiled": ("single", renamed(lambda name: f"_orig_mod.{name}")),
    "layers compiled": ("single", renamed(lambda name: name.replace("layers.3.", "layers.3._orig_mod."))),
    "wrapped for several processes": ("single", renamed(lambda name: f"module.{name}")),
    "without the prefix": ("single", renamed(lambda name: name.removeprefix("model."))),
    "without the prefix, tied": ("tied", renamed(lambda name: name.removeprefix("model."))),
    "byte order marks": ("sharded", both(*map(byte_order_mark, ("config.json", "generation_config.json", INDEX)))),
    "dtype with its module": ("single", config(dtype="torch.float32")),
    "torch_dtype beside an older dtype": ("single", config(dtype="float16", torch_dtype="float32")),
    "dtype null": ("single", config(dtype=None, torch_dtype="float32")),
    "head_dim null": ("single", config(head_dim=None, hidden_size=24, num_attention_heads=6)),
    "two forms that agree": ("single", config(rope_theta=1e6, rope_scaling=LLAMA3)),
}


@pytest.mark.parametrize("name", ALSO_GOOD)
def test_what_other_programs_write_gives_the_same_logits(name, templates, tmp_path):
    template, change = ALSO_GOOD[name]
    folder = shutil.copytree(templates[template], tmp_path / "checkpoint")
    if name == "head_dim null":  # where 24 / 6 = 4 is the size of a head
        write_with_transformers(folder, HYBRID | {"head_dim": 4})
        expected = logits(folder)
    else:
        expected = logits(templates[template])
    change(folder)
    model = Exaone4.from_pretrained(folder, device="cpu")
    with torch.inference_mode():
        assert model.config.dtype == "float32" and torch.equal(model(IDS), expected)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2558\n"
CONTRADICTIONS = {  # id: (template, how to spoil it, what the message must say)
    "head unlike the embedding": ("tied", add(**{HEAD: lambda stored: stored[EMBEDDING] + 1}),
                                  ["tie_word_embeddings", HEAD, EMBEDDING, "differ", "false"]),
    "head of another shape": ("tied", add(**{HEAD: lambda stored: torch.ones(96, 12)}), [HEAD, "[96, 12]", "[96, 24]"]),
    "two names, compiled": ("single", add(**{f"_orig_mod.{GATE}": lambda stored: stored[GATE].clone()}),
                            [f"stores {GATE} twice", f"_orig_mod.{GATE}", "remove one"]),
    "two names, without the prefix": ("single", add(**{GATE[6:]: lambda stored: stored[GATE].clone()}),
                                      [f"stores {GATE} twice", f"as {GATE[6:]}", "remove one"]),
    "two theta": ("single", config(rope_theta=1e4), ["rope_parameters: 1000000.0", "rope_theta: 10000.0", "remove"]),
    "two scalings": ("single", config(rope_scaling=LLAMA3 | {"factor": 8.0}), ["rope_parameters: ", "rope_scaling: "]),
    "scaling without its type": ("single", config(rope_parameters=without(LLAMA3, "rope_type") | {"rope_theta": 1e6}),
                                 ["rope_parameters", "factor", "no rope_type", "llama3"]),
    "older scaling without its type": ("single", lambda folder: write_config(
        folder, older(HYBRID) | {"rope_scaling": without(LLAMA3, "rope_type")}), ["rope_scaling", "no rope_type"]),
}
NAMED = {
    "weights in Git LFS": ("single", text(WEIGHTS, LFS), [WEIGHTS, "Git LFS pointer", "git lfs pull"]),
    "shard in Git LFS": ("sharded", text(FIRST, LFS), [FIRST, "Git LFS pointer", "git lfs pull"]),
    "index in Git LFS": ("sharded", text(INDEX, LFS), [INDEX, "Git LFS pointer", "git lfs pull"]),
    "config in Git LFS": ("single", text("config.json", LFS), ["config.json", "Git LFS pointer", "git lfs pull"]),
    "adapter": ("single", both(remove("config.json"), text("adapter_config.json", "{}")), ["LoRA adapter", "merge"]),
    "adapter's weights": ("single", both(remove(WEIGHTS), text("adapter_model.safetensors", "")), ["LoRA", "merge"]),
    "adapter beside a model": ("single", text("adapter_config.json", "{}"), ["LoRA adapter", "merge", "out"]),
    "GGUF": ("single", both(remove("config.json"), text("b.gguf", "GGUF")), ["GGUF", "named itself", "b.gguf"]),
    "GGUF and config": ("single", both(remove(WEIGHTS), text("a.gguf", "GGUF")), ["GGUF", "named itself", "a.gguf"]),
    "gptq": ("single", config(quantization_config=GPTQ), ["quantized (gptq, 4 bits)", "unquantized"]),
    "awq": ("single", config(quantization_config={"quant_method": "awq", "w_bit": 4}), ["(awq, 4 bits)"]),
    "fp8": ("single", config(quantization_config={"quant_method": "fp8", "fmt": "e4m3"}), ["(fp8, 8 bits)"]),
    "bitsandbytes": ("single", config(quantization_config={
        "quant_method": "bitsandbytes", "load_in_8bit": False, "load_in_4bit": True}), ["(bitsandbytes, 4 bits)"]),
    "compressed-tensors": ("single", config(quantization_config={
        "quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
        "format": "pack-quantized"}), ["(compressed-tensors, 4 bits)"]),
    "mlx": ("single", config(quantization={"group_size": 64, "bits": 8}), ["(mlx, 8 bits)", "unquantized"]),
    "quantized somehow": ("single", config(quantization_config=[1]), ["quantized (an unknown method)"]),
    "dtype empty": ("single", config(dtype=""), ["config.json: dtype is ''", "bfloat16"]),
    "dtype an empty list": ("single", config(dtype=[]), ["config.json: dtype is []", "bfloat16"]),
    "dtype zero": ("single", config(dtype=0), ["config.json: dtype is 0", "bfloat16"]),
    "pruned": ("single", config(num_hidden_layers=6), ["layer_types has 8 entries", "num_hidden_layers = 6"]),
    "heads of a fraction": ("single", config(num_attention_heads=1.5, head_dim=None), ["num_attention_heads is 1.5"]),
    "size of 400 digits": ("single", config(hidden_size=10**400, num_attention_heads=1.5, head_dim=None),
                           ["config.json", "size"]),
    "a value without end": ("single", config(layer_types=["x" * 10**6]), ["layer_types is"]),
    "config too large": ("single", text("config.json", " " * (64 * 2**20 + 1)), ["config.json", "67,108,865 bytes"]),
    "config endless": ("single", both(remove("config.json"), lambda f: (f / "config.json").symlink_to("/dev/zero")),
                       ["config.json", "no regular file"]),
    "config a pipe": ("single", both(remove("config.json"), lambda f: os.mkfifo(f / "config.json")),
                      ["config.json", "no regular file"]),
    "shard a pipe": ("sharded", both(remove(FIRST), lambda f: os.mkfifo(f / FIRST)), [FIRST, "missing"]),
    "dangling link to the weights": ("single", both(remove(WEIGHTS), lambda f: (f / WEIGHTS).symlink_to("../blob")),
                                     [WEIGHTS, "link to ../blob, which is missing"]),
    "dangling link to stop ids": ("single", both(remove("generation_config.json"), lambda f: (
        f / "generation_config.json").symlink_to("gone")), ["generation_config.json", "link to gone"]),
    "dangling link to config": ("single", both(remove("config.json"), lambda f: (f / "config.json").symlink_to("gone")),
                                ["config.json", "link to gone, which is missing"]),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_named(name, error_of):
    template, spoil, words = CONTRADICTIONS[name]
    message = error_of(spoil, template)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("name", NAMED)
def test_every_thing_is_named_for_what_it_is(name, error_of):
    template, spoil, words = NAMED[name]
    if os.name == "nt" and ("pipe" in name or "link" in name or "endless" in name):
        pytest.skip("Windows has no such files")
    message = error_of(spoil, template)
    assert [word for word in words if word not in message] == [] and len(message) < 800, message


def test_a_configuration_built_in_python_does_not_blame_a_file():
    with pytest.raises(CheckpointError, match="^vocab_size is 0, expected an integer from 1"):
        Config(**without(HYBRID, "vocab_size"), vocab_size=0)
    with pytest.raises(CheckpointError, match="^config.json: vocab_size is 0, expected an integer from 1"):
        Config.from_dict(older(HYBRID) | {"vocab_size": 0})


@pytest.mark.parametrize("key, value, words", [
    ("quantization_config", GPTQ, "gptq, 4 bits, groups of 128 inputs"),
    ("quantization_config", {"quant_method": "gptq", "bits": 8, "group_size": -1}, "gptq, 8 bits, one group a row"),
    ("quantization_config", {"quant_method": "compressed-tensors", "config_groups": {
        "a": {"weights": {"num_bits": 4, "group_size": 32}}, "b": {"weights": {"num_bits": 8, "group_size": None}}}},
     "compressed-tensors, 4 and 8 bits, groups of 32 inputs"),
    ("quantization", {"group_size": 64, "bits": 8}, "mlx, 8 bits, groups of 64 inputs")])
def test_info_describes_a_quantized_model_with_and_without_its_weights(key, value, words, tmp_path, capsys):
    write_config(tmp_path, older(HYBRID) | {key: value})
    assert main(["info", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "in float32 if they were not quantized\n" in shown and "LLLGLLLG" in shown
    assert f"quantized    {words}\n" in shown
    (tmp_path / "model.safetensors").write_bytes(bytes(5000))
    assert main(["info", str(tmp_path)]) == 0
    assert f"quantized    {words}: 5.00 kB\n" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["replaced", "cut short", "deleted"])
def test_weights_replaced_while_they_are_read_are_no_mixture(change, templates, tmp_path, monkeypatch):
    folder = shutil.copytree(templates["single"], tmp_path / "checkpoint")
    read, calls = model_module.read_tensor, []

    def then_change(*args):
        calls.append(args)
        tensor = read(*args).clone()
        if len(calls) == 5 and change == "replaced":
            save_file({name: tensor + 1 for name, tensor in load_file(folder / WEIGHTS).items()}, folder / "new")
            os.replace(folder / "new", folder / WEIGHTS)
        elif len(calls) == 5 and change == "cut short":
            cut(WEIGHTS, 300)(folder)
        elif len(calls) == 5:
            remove(WEIGHTS)(folder)
        return tensor

    monkeypatch.setattr(model_module, "read_tensor", then_change)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} was replaced while it was read.*load again"):
        Exaone4.from_pretrained(folder, device="cpu")


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1", "0", "1" + "0" * 30, "1" + "0" * 400, '"8"', "true", "[]"]
COUNTS = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window"]
REALS = ["rope_theta", "rms_norm_eps", "initializer_range"]


@pytest.mark.parametrize("key", COUNTS[:5] + COUNTS[7:] + ["rope_theta"])
def test_missing_key_in_config(key, error_of):
    message = error_of(lambda folder: write_config(folder, without(older(HYBRID), key)))
    assert f"{key} is missing: download it again" in message


@pytest.mark.parametrize("literal", NUMBERS)
@pytest.mark.parametrize("key", COUNTS + REALS + [f"rope_scaling.{key}" for key in LLAMA3 if key != "rope_type"]
                         + ["rope_parameters.rope_theta"])
def test_bad_number_in_config(key, literal, error_of):
    def spoil(folder):
        values = newer(HYBRID) if key.startswith("rope_parameters") else older(HYBRID)
        if "." in key:
            outer, inner = key.split(".")
            values[outer] = values[outer] | {inner: "@"}
        else:
            values[key] = "@"
        (folder / "config.json").write_text(json.dumps(values).replace('"@"', literal))

    message = error_of(spoil)
    assert "config.json" in message
    if literal in ("NaN", "Infinity", "-Infinity"):  # JSON has no such values: the file as a whole is refused
        assert "not readable JSON" in message and literal in message
    else:
        assert (key.split(".")[0] in message or key.split(".")[-1] in message) and "expected" in message


@pytest.mark.parametrize("key", COUNTS[:5] + COUNTS[7:8] + REALS)
@pytest.mark.parametrize("value", [None, 1.5])
def test_null_or_fraction_in_config(key, value, error_of):
    if value is None or key in COUNTS:
        message = error_of(lambda folder: write_config(folder, older(HYBRID) | {key: value}))
        assert key in message or value is None and "None" in message


def test_source_that_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights/model.gguf").touch()
    for source in (tmp_path / "missing", "./missing/folder", "missing", "http://host/owner/name"):
        with pytest.raises(CheckpointError, match="neither a folder nor a hub id of the form owner/name: check"):
            resolve(source)
    for source in ("weights/model.safetensors", tmp_path / "weights/model.safetensors"):
        with pytest.raises(CheckpointError, match=f"is a file: name the folder .*{Path(source).parent}"):
            resolve(source)
    assert resolve("weights/model.gguf") == Path("weights/model.gguf")
    for source in ("", " "):
        with pytest.raises(CheckpointError, match="name is empty.*MINEXAONE_MODEL"):
            resolve(source)
    for source in (None, "weights", tmp_path):
        with pytest.raises(CheckpointError, match="is a folder and has no revision 'main'"):
            resolve(source, "main")


# ------------------------------------------------------------------------------------------------------ saving


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
@pytest.mark.parametrize("moment", ["weights half written", "weights written", "config half written"])
def test_interrupted_save_leaves_the_old_checkpoint_whole(moment, error, tmp_path, monkeypatch):
    expected = write_with_transformers(tmp_path, PLAIN)
    old = contents(tmp_path)
    model = Exaone4.from_pretrained(tmp_path, device="cpu")
    with torch.no_grad():
        model.norm.weight += 1

    def half_write_text(path, *args, **kwargs):
        path.write_bytes(b"{")
        raise error

    def fail(*args):
        raise error

    if moment == "weights half written":
        monkeypatch.setattr(torch.Tensor, "numpy", fail)  # after the header
    elif moment == "weights written":
        monkeypatch.setattr("os.replace", fail)
    else:
        monkeypatch.setattr(Path, "write_text", half_write_text)
    with pytest.raises(type(error)):
        model.save_pretrained(tmp_path)
    monkeypatch.undo()
    new = contents(tmp_path)
    assert new.keys() == old.keys(), "a temporary file was left"
    changed = {name for name in old if new[name] != old[name]}
    assert changed == ({WEIGHTS} if moment == "config half written" else set())
    if not changed:
        assert (logits(tmp_path) - expected).abs().max() < 1e-4 * expected.std()


def test_save_over_the_folder_it_was_loaded_from(tmp_path):
    """The weights may still be mapped from the very file that is replaced."""
    write_with_transformers(tmp_path, PLAIN)
    model = Exaone4.from_pretrained(tmp_path, device="cpu")
    with torch.no_grad():
        model.norm.weight += 1
    with torch.inference_mode():
        expected = model(IDS)
        for _ in range(2):
            model.save_pretrained(tmp_path)
            assert torch.equal(model(IDS), expected)
            assert torch.equal(logits(tmp_path), expected)
            model = Exaone4.from_pretrained(tmp_path, device="cpu")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and limits")
def test_saved_files_are_for_all_that_the_umask_lets_read_and_a_full_disk_is_an_oserror(tmp_path):
    import resource

    write_with_transformers(tmp_path / "old", PLAIN)
    model = Exaone4.from_pretrained(tmp_path / "old", device="cpu")
    umask = os.umask(0o022)
    try:
        model.save_pretrained(tmp_path / "new")
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o644}
    old, limits = contents(tmp_path / "new"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError):
            model.save_pretrained(tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path / "new") == old


def test_saving_warns_of_a_window_that_other_programs_read_differently(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in (HYBRID, PLAIN):
            Exaone4(Config(**values)).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="sliding_window.*no RoPE.*None"):
        Exaone4(Config(**PLAIN | {"sliding_window": 4})).save_pretrained(tmp_path)


def test_a_model_in_8_bits_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="int8 cannot be saved: save it before"):
        quantize(Exaone4(Config(**PLAIN))).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_save_into_a_new_folder_and_in_another_dtype(tmp_path):
    write_with_transformers(tmp_path / "old", HYBRID)
    model = Exaone4.from_pretrained(tmp_path / "old", dtype="bfloat16", device="cpu")
    model.save_pretrained(tmp_path / "new/inner")
    assert sorted(contents(tmp_path / "new/inner")) == ["config.json", "generation_config.json", WEIGHTS]
    again = Exaone4.from_pretrained(str(tmp_path / "new/inner"), device="cpu")
    assert again.config == model.config and again.config.dtype == "bfloat16"
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


# ---------------------------------------------------------------------------------------------------- sampling

CARD = {"temperature": 0.6, "top_p": 0.95}
PENALTY, ALL = {"presence_penalty": 1.5}, {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "presence_penalty": 1.5}
ADVICE = {  # id: (generation_config.json, options with reasoning, options without)
    "no file": (None, CARD, {}),
    "published": ({"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 361, "temperature": None}, CARD, {}),
    "greedy": ({"do_sample": False}, {}, {}),
    "greedy outranks": ({"do_sample": False, "temperature": 0.6} | PENALTY, PENALTY, PENALTY),
    "numbers": ({"do_sample": True, "min_p": 0.1} | ALL, ALL, ALL),
    "numbers without do_sample": ({"temperature": 0.7}, {"temperature": 0.7}, {"temperature": 0.7}),
    "do_sample without numbers": ({"do_sample": True}, {"temperature": 1.0}, {"temperature": 1.0}),
    "penalty alone": (PENALTY, {"temperature": 0.6, "top_p": 0.95} | PENALTY, PENALTY),
}


@pytest.mark.parametrize("name", ADVICE)
def test_sampling_advice(name, tmp_path):
    raw, reasoning, plain = ADVICE[name]
    if raw is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(raw))
    assert sampling_advice(tmp_path, True) == reasoning and sampling_advice(tmp_path, False) == plain


@pytest.mark.parametrize("advice", ['{"do_sample": 1}', '{"temperature": "0.6"}', '{"temperature": -1}',
                                    '{"temperature": 1e999}', '{"top_k": 1.5}', '{"top_k": -1}', '{"top_p": 0}',
                                    '{"top_p": true}', '{"presence_penalty": 3}', '{"do_sample": false, "top_k": []}'])
def test_bad_sampling_advice(advice, tmp_path):
    (tmp_path / "generation_config.json").write_text(advice)
    key = list(json.loads(advice))[-1]
    with pytest.raises(CheckpointError, match=f"generation_config.json: {key} is .*, expected "):
        sampling_advice(tmp_path, True)


def test_a_saved_model_keeps_the_advice_and_a_new_one_is_greedy(tmp_path):
    model = Exaone4(Config(**PLAIN))
    for expected, advice in ((({}, {}), None), ((CARD, {}), {}), (({"temperature": 0.3},) * 2, {"temperature": 0.3})):
        if advice is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(advice))
            model = Exaone4.from_pretrained(tmp_path, device="cpu")
        model.save_pretrained(tmp_path)
        assert (sampling_advice(tmp_path, True), sampling_advice(tmp_path, False)) == expected
    assert sampling_advice(resolve(), True) == {}


# ------------------------------------------------------------------------------------------------ interruptions


def test_what_a_killed_write_left_goes_with_the_next(tmp_path):
    for name in (".a[1].json.7.part", ".a[1].json.8.part", ".b.json.7.part"):
        (tmp_path / name).write_text("{")
    write_json(tmp_path / "a[1].json", {"whole": True})
    assert sorted(contents(tmp_path)) == [".b.json.7.part", "a[1].json"]


@pytest.mark.parametrize("fails", [None, 0, 1, 2, 3])
def test_at_every_moment_the_old_or_the_new_folder_is_whole(fails, tmp_path, monkeypatch):
    """fails: the call in which it is interrupted, of those that rename or delete; then it is called again."""
    folder, new, calls = tmp_path / "model", tmp_path / ".model.1.part", []

    def make(text):
        new.mkdir()
        for name in "abc":
            (new / name).write_text(text)

    def whole():
        return [path for path in tmp_path.iterdir() if len(contents(path)) == 3]

    def interrupt(real):
        def call(*args, **kwargs):
            calls.append(real)
            if len(calls) - 1 == fails:
                raise KeyboardInterrupt
            assert whole()
            return real(*args, **kwargs)
        return call

    make("old")
    replace_folder(new, folder)
    make("new")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupt(Path.rename))
        patch.setattr("shutil.rmtree", interrupt(shutil.rmtree))
        try:
            replace_folder(new, folder)
        except KeyboardInterrupt:
            assert whole()
            assert set(contents(folder).values()) in ({b"old"}, {b"new"})
    if new.exists():
        replace_folder(new, folder)
    assert set(contents(folder).values()) == {b"new"}
    make("newer")
    replace_folder(new, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["qweight", "weight_packed", "weight_scale"])
def test_quantized_weights_are_named_also_where_config_json_is_silent(tmp_path, name):
    shutil.copytree(SHIPPED, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors[f"model.layers.0.mlp.up_proj.{name}"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"are quantized .*{name}.*choose the unquantized"):
        Exaone4.from_pretrained(tmp_path / "model")
