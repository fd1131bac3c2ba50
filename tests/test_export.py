"""GGUF files of our own making: read back to the same model, with blocks that do nothing where llama.cpp wants them.

What llama.cpp itself makes of them is compared by `engines.py`, by hand.
"""

import json
import sys
from dataclasses import replace

import pytest
import torch
from transformers import Exaone4ForCausalLM

from minexaone.__main__ import main
from minexaone.config_json import layer_types
from minexaone.export import blocks_of, export
from minexaone.files import SHIPPED, CheckpointError
from minexaone.gguf_file import read_header
from minexaone.linear.packed import Packed, PackedLinear, pack4
from minexaone.linear.rounding import quantize
from minexaone.model import Config, Exaone4
from minexaone.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")

LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
SIZES = {"vocab_size": 720, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16,
         "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": False, "eos_token_id": 14}
IDS = torch.randint(0, 700, (2, 40), generator=torch.Generator().manual_seed(0))  # five windows


def random_model(letters="LLLGLL", window=8, seed=0, **changes):
    """letters: of the layers; without a window all are global."""
    torch.manual_seed(seed)
    kinds = layer_types(letters, len(letters))
    model = Exaone4(Config(**SIZES | {"num_hidden_layers": len(letters), "layer_types": kinds,
                                      "sliding_window": window} | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1) if parameter.dim() == 2 else parameter.uniform_(0.6, 1.4)
    return model


def logits(model):
    with torch.inference_mode():
        return model(IDS)


def exported(model, tokenizer, folder, kind="auto", dtype="auto"):
    export(model, tokenizer, folder / "model.gguf", kind)
    return Exaone4.from_pretrained(folder / "model.gguf", dtype, device="cpu")


def without_key(file, key):
    """The same file without one key of its metadata."""
    reader, other = gguf.GGUFReader(file), file.with_name("other.gguf")
    writer = gguf.GGUFWriter(other, "exaone4")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")) and field.name != key:
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind,
                                 field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return other


# ----------------------------------------------------------------------------------------------- the same model


@pytest.mark.parametrize("letters, window, places", [
    ("LLLGLLLG", 8, [*range(8)]), ("LLLGLL", 8, [*range(6)]), ("LG", 8, [0, 3]), ("GLGGL", 8, [3, 4, 7, 11, 12]),
    ("GGG", 8, [3, 7, 11]), ("LLLG" * 16, 8, [*range(64)]), ("GGG", None, [0, 1, 2]), ("G" * 63, None, [*range(63)]),
    ("G" * 64, None, [*range(64)]), ("G" * 65, None, [*range(65)])], ids=lambda value: str(value)[:12])
@pytest.mark.filterwarnings("ignore:a sliding_window in a model with global layers alone")
def test_layers_stand_where_llama_cpp_has_their_kind(letters, window, places, toy_tokenizer, tmp_path):
    model = random_model(letters, window)
    loaded = exported(model, toy_tokenizer, tmp_path)
    assert logits(loaded).equal(logits(model)) and loaded.config == replace(model.config)
    metadata, tensors = read_header(tmp_path / "model.gguf")
    blocks = 64 if window else 65 if len(letters) == 64 else len(letters)  # llama.cpp's rule: 64 layers have windows
    assert metadata["exaone4.block_count"] == blocks and blocks_of(model.config) == (places, blocks)
    assert metadata.get("minexaone.layers", [*range(blocks)]) == places
    assert len([name for name in tensors if name.endswith("ffn_up.weight")]) == blocks
    if window:
        assert metadata["exaone4.attention.sliding_window_pattern"] == [True, True, True, False] * 16
        assert metadata["exaone4.attention.sliding_window"] == window
        assert ["LG"[place % 4 == 3] for place in places] == list(letters)  # whoever goes by the number is right too
    else:
        assert not [key for key in metadata if "sliding" in key]


@pytest.mark.parametrize("letters, window", [("LLLGLL", 8), ("GLG", 8), ("G" * 64, None)])
def test_the_blocks_between_are_identities_in_transformers(letters, window, toy_tokenizer, tmp_path):
    model = random_model(letters, window, rope_scaling=LLAMA3)
    exported(model, toy_tokenizer, tmp_path)
    whole = Exaone4.from_pretrained(without_key(tmp_path / "model.gguf", "minexaone.layers"), device="cpu")
    assert whole.config.num_hidden_layers == 64 + (window is None)
    whole.save_pretrained(tmp_path / "whole")
    theirs = Exaone4ForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    assert len(theirs.model.layers) == 64 + (window is None)
    with torch.inference_mode():
        assert (theirs(IDS).logits - logits(model)).abs().max() < 1e-4 * float(logits(model).std())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_type_is_that_of_the_model_or_the_one_asked_for(dtype, tied, toy_tokenizer, tmp_path):
    model = random_model(tie_word_embeddings=tied, rope_scaling=LLAMA3).to(dtype)
    model.config = replace(model.config, dtype=str(dtype).removeprefix("torch."))
    loaded = exported(model, toy_tokenizer, tmp_path)
    assert loaded.config == model.config and loaded.frequencies.allclose(model.frequencies, rtol=1e-6, atol=0)
    assert all(other.equal(own) for own, other in zip(model.parameters(), loaded.parameters(), strict=True))
    for kind, wanted in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        other = exported(model, toy_tokenizer, tmp_path, kind)
        assert all(their.equal(own.to(wanted)) for own, their in
                   zip(model.parameters(), other.parameters(), strict=True) if own.dim() == 2)


def test_q8_0_is_the_packages(toy_tokenizer, tmp_path):
    model = random_model()
    exported(model, toy_tokenizer, tmp_path, "q8_0")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    for name, weight in (("token_embd", model.embed_tokens.weight), ("output", model.lm_head.weight),
                         ("blk.3.ffn_down", model.layers[3].mlp.down_proj.weight)):
        part = found[f"{name}.weight"]
        assert part.tensor_type == gguf.GGMLQuantizationType.Q8_0
        rounded = gguf.quants.dequantize(part.data, part.tensor_type)
        step = weight.detach().unflatten(1, (-1, 32)).abs().amax(2, keepdim=True) / 127
        error = (torch.from_numpy(rounded) - weight.detach()).unflatten(1, (-1, 32)).abs()
        # Half a step, and what the step in float16 adds at 127 steps.
        assert (error <= 0.57 * step).all()


# ------------------------------------------------------------------------------------------------ packed weights


def packed_model(bits, group, scale_dtype, **parts):
    """A model of which every linear layer of the layers has random values in groups of `group`."""
    model, generator = random_model(), torch.Generator().manual_seed(1)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            rows, inputs = module.weight.shape
            groups = 1 if group == -1 else -(-inputs // group)
            values = torch.randint(-2**(bits - 1), 2**(bits - 1), (rows, inputs), generator=generator).to(torch.int8)
            scale = (0.01 + 0.01 * torch.rand(rows, groups, generator=generator)).to(scale_dtype)
            more = {key: make(rows, groups, inputs) for key, make in parts.items()}
            model.set_submodule(name, PackedLinear(pack4(values) if bits == 4 else values, scale,
                                                   inputs if group == -1 else group, **more))
    return model


@pytest.mark.parametrize("bits, kind", [(4, "Q4_0"), (8, "Q8_0")])
@pytest.mark.parametrize("group", [32, 64, 128, -1])
@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16])
def test_packed_weights_keep_their_very_numbers(bits, kind, group, scale_dtype, toy_tokenizer, tmp_path):
    model = packed_model(bits, group, scale_dtype)
    loaded = exported(model, toy_tokenizer, tmp_path, dtype="float32")
    layers = [(own, loaded.get_submodule(name)) for name, own in model.named_modules() if isinstance(own, Packed)]
    assert len(layers) == 7 * 6
    for own, other in layers:
        assert isinstance(other, Packed) and own.unpacked(torch.float32).equal(other.unpacked(torch.float32))
    tensors = read_header(tmp_path / "model.gguf").tensors
    assert {part.dtype for name, part in tensors.items() if "ffn_up" in name} == {kind}
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group, scale_dtype, parts", [
    (16, torch.float16, {}), (64, torch.float32, {}),
    (32, torch.float16, {"zero": lambda rows, groups, inputs: torch.ones(rows, groups, dtype=torch.int8)}),
    (32, torch.float16, {"offset": lambda rows, groups, inputs: torch.ones(rows, groups)}),
    (32, torch.float16, {"order": lambda rows, groups, inputs: torch.arange(inputs).flip(0)})],
    ids=["groups of 16", "scales beyond float16", "zeros", "offsets", "order"])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_without_such_blocks_are_unpacked(bits, group, scale_dtype, parts, toy_tokenizer, tmp_path):
    model = packed_model(bits, group, scale_dtype, **parts)
    loaded = exported(model, toy_tokenizer, tmp_path, "f32")
    assert not any(isinstance(module, Packed) for module in loaded.modules())
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)


def test_a_packed_embedding_that_is_the_head_is_stored_once(toy_tokenizer, tmp_path):
    model = random_model(tie_word_embeddings=True)
    quantize(model, 4, 32)
    expected = logits(model)
    loaded = exported(model, toy_tokenizer, tmp_path, "f32")
    assert "output.weight" not in read_header(tmp_path / "model.gguf").tensors and loaded.config.tie_word_embeddings
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------------- the command


def test_the_shipped_model_as_one_file(tmp_path, capsys):
    file = tmp_path / "shipped.gguf"
    assert main(["export", str(SHIPPED), "--out", str(file)]) == 0
    assert "BF16, 8 layers in 64 blocks" in capsys.readouterr().out
    ours, theirs = Tokenizer.from_pretrained(), Tokenizer.from_pretrained(file)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "reasoning_content": "a"},
            {"role": "user", "content": "[|endofturn|] 너는 누구야?\t\t 3.12"}]
    for options in ({}, {"enable_thinking": True}, {"parse_special": False}):
        assert ours.apply_chat_template(chat, **options) == theirs.apply_chat_template(chat, **options)
    assert ours.special_ids == theirs.special_ids and ours.vocab_size == theirs.vocab_size
    metadata = read_header(file).metadata
    assert metadata["tokenizer.ggml.pre"] == "gpt-2" and "generation %" not in metadata["tokenizer.chat_template"]
    assert metadata["tokenizer.ggml.add_bos_token"] is metadata["tokenizer.ggml.add_eos_token"] is False
    ids = {name: metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding", "unknown")}
    assert ids == {"bos": 1, "eos": 14, "padding": 0, "unknown": 3}
    assert metadata["general.sampling.temp"] == 0  # the folder advises greedy replies
    a, b = Exaone4.from_pretrained(device="cpu"), Exaone4.from_pretrained(file, device="cpu")
    assert a.config == b.config
    assert all(own.equal(other) for own, other in zip(a.parameters(), b.parameters(), strict=True))


def test_several_ends_are_kept_with_the_tokenizers_own_first(toy_tokenizer, tmp_path):
    end = toy_tokenizer.eos_token_id
    loaded = exported(random_model(eos_token_id=[5, 6, end]), toy_tokenizer, tmp_path)
    assert loaded.config.eos_token_id == [end, 5, 6]


def test_what_a_published_checkpoint_needs(published, tmp_path):
    model = random_model("GGG", None, rope_scaling=LLAMA3, vocab_size=published.vocab_size, eos_token_id=361)
    loaded = exported(model, published, tmp_path, "f16")
    assert loaded.config.rope_scaling == LLAMA3 and loaded.config.eos_token_id == 361
    text = "너가 얼마나 대단한지 설명해 봐 🚀 [|endofturn|]\n<think>\n\n    x"
    assert Tokenizer.from_pretrained(tmp_path / "model.gguf").encode(text, True) == published.encode(text, True)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("changes, kind, words", [
    ({"letters": "LLLG" * 16 + "L"}, "f32", ["sliding windows in 64 layers", "65 layers"]),
    ({"letters": "G" * 17}, "f32", ["sliding windows in 64 layers", "17 layers"]),
    ({"head_dim": 32}, "f32", ["hidden_size", "64 is not 4 × 32 = 128"]),
    ({"intermediate_size": 40}, "q8_0", ["rows of 40", "multiples of 32", "--type bf16"]),
    ({"vocab_size": 300}, "f32", ["tokens, the model 300", "not of one checkpoint"]),
    ({"eos_token_id": [1, 2, 3, 4]}, "f32", ["4 ids", "room for 3"])], ids=lambda value: str(value)[:24])
def test_what_llama_cpp_could_not_run_is_refused_in_a_line(changes, kind, words, toy_tokenizer, tmp_path):
    with pytest.raises(ValueError) as caught:
        exported(random_model(**changes), toy_tokenizer, tmp_path, kind)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value
    assert not list(tmp_path.iterdir())


def test_numbers_beyond_float16_are_refused(toy_tokenizer, tmp_path):
    model = random_model()
    model.layers[1].mlp.up_proj.weight.data[3, 4] = 1e5
    with pytest.raises(ValueError, match="blk.1.ffn_up.weight.*beyond float16.*bf16"):
        exported(model, toy_tokenizer, tmp_path, "f16")
    assert not list(tmp_path.iterdir())  # nor half a file


@pytest.mark.parametrize("change", [
    {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
    {"ignore_merges": True}], ids=["words", "merges"])
def test_another_way_to_cut_texts_is_refused(change, toy_folder, tmp_path):
    raw = json.loads((toy_folder / "tokenizer.json").read_text(encoding="utf-8"))
    (raw if "pre_tokenizer" in change else raw["model"]).update(change)
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_bytes((toy_folder / "tokenizer_config.json").read_bytes())
    with pytest.raises(ValueError, match="GPT-2's does.*llama.cpp's own converter"):
        export(random_model(), Tokenizer.from_pretrained(tmp_path), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_missing_package_is_named_before_anything_is_downloaded(toy_tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert main(["export", "nobody/nothing", "--out", str(tmp_path / "model.gguf")]) == 1
    assert 'pip install "gguf>=0.19"' in capsys.readouterr().err
    with pytest.raises(ValueError, match="package gguf.*pip install"):
        export(random_model(), toy_tokenizer, tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["model.bin", "there.gguf"])
def test_the_name_of_the_file(name, tmp_path, capsys):
    (tmp_path / "there.gguf").write_text("mine")
    assert main(["export", str(SHIPPED), "--out", str(tmp_path / name)]) == 1
    assert "expected the name of a new file that ends in .gguf" in capsys.readouterr().err
    assert (tmp_path / "there.gguf").read_text() == "mine"


@pytest.mark.parametrize("own", [[0, 2, 1], [0, 64], [-1, 0], [0, 0], ["a"]], ids=str)
def test_a_file_that_names_its_layers_wrongly_is_refused(own, toy_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("minexaone.export.OWN_LAYERS", "ignored")
    write = gguf.GGUFWriter.add_array
    monkeypatch.setattr(gguf.GGUFWriter, "add_array", lambda self, key, value: write(
        self, *(("minexaone.layers", own) if key == "ignored" else (key, value))))
    with pytest.raises(CheckpointError, match="minexaone.layers is .*expected numbers from 0 to 63"):
        exported(random_model(), toy_tokenizer, tmp_path)


def test_a_block_that_does_something_is_not_left_out(toy_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("minexaone.export.OWN_LAYERS", "ignored")
    write = gguf.GGUFWriter.add_array
    monkeypatch.setattr(gguf.GGUFWriter, "add_array", lambda self, key, value: write(
        self, *(("minexaone.layers", [0, 1, 2, 3]) if key == "ignored" else (key, value))))
    with pytest.raises(CheckpointError, match="blk.4.post_attention_norm.weight is not 0"):
        exported(random_model(), toy_tokenizer, tmp_path)
