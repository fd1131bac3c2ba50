"""GGUF: every kind of block against the gguf package's own, whole models, tokenizers, and files that are refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minexaone.__main__ import main
from minexaone.config_json import GLOBAL, SLIDING, sampling_advice
from minexaone.files import CheckpointError, resolve
from minexaone.gguf_file import BLOCKS, gguf_config
from minexaone.linear.ggml import unpack_blocks
from minexaone.linear.packed import Packed, PackedLinear
from minexaone.model import Config, Exaone4, rope_frequencies
from minexaone.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")
GOLDEN = Path(__file__).parent / "golden" / "gguf"
Kind = gguf.GGMLQuantizationType

LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
CONFIG = {"vocab_size": 700, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 3,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
          "layer_types": [SLIDING, GLOBAL, SLIDING], "sliding_window": 8, "tie_word_embeddings": True,
          "rope_theta": 10000.0, "eos_token_id": 361}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def random_blocks(kind, rows, inputs, seed=0):
    """Bytes [rows, …] of a matrix with any values, and scales between 2^-10 and 2^-6 or their negatives."""
    values, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    blocks = np.random.default_rng(seed).integers(0, 256, (rows, inputs // values, size), dtype=np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2),
              "Q5_K": (0, 2)}.get(kind, (0,))
    for start in halves:
        high = blocks[..., start + 1]
        blocks[..., start + 1] = high & 0x80 | 20 + high % 12  # the exponent, 5 bits, is 5 to 7
    return blocks.reshape(rows, -1)


def dequantize(octets, kind):
    return torch.from_numpy(gguf.quants.dequantize(octets, Kind[kind]).copy())


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_the_librarys_bit_for_bit(kind):
    octets = random_blocks(kind, 1030, 512)
    expected = dequantize(octets, kind)
    assert expected.isfinite().all() and expected.unique().numel() > 1000
    packed = PackedLinear(**unpack_blocks(kind, torch.from_numpy(octets)), group=BLOCKS[kind].group)
    assert packed.shape == (1030, 512) and packed.unpacked(torch.float32).equal(expected)
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(packed(x), x @ expected.double().T)


def random_model(seed=0, **changes):
    torch.manual_seed(seed)
    model = Exaone4(Config(**CONFIG | changes)).eval()
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.normal_(0, 0.05) if parameter.dim() == 2 else parameter.uniform_(0.6, 1.4)
            if name == "embed_tokens.weight":
                parameter.mul_(4)
    return model


def write(path, model, tokenizer=None, kind=lambda name: "F32", change=None, **options):
    """A file as llama.cpp's converter writes it, each matrix of the kind that `kind` says for its name; into the model
    go the weights that the file then has. change(writer, tensors): what else to put in, tensors being those of the
    file, by name: (array, kind)."""
    config, tensors = model.config, {}
    for key, parameter in model.named_parameters():
        name = key.removesuffix(".weight")
        if name.startswith("layers."):
            _, layer, name = name.split(".", 2)
            name = f"blk.{layer}.{NAMES[name]}"
        name = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}.get(name, name)
        wanted = kind(name) if parameter.dim() == 2 else "F32"
        values = parameter.detach().float().numpy()
        if wanted.endswith("_K"):  # the package cannot round to these
            octets = random_blocks(wanted, *values.shape, seed=len(tensors))
        else:
            octets = gguf.quants.quantize(values, Kind[wanted])
        tensors[f"{name}.weight"] = octets, wanted
        parameter.data = dequantize(octets, wanted).reshape(values.shape)
    writer = gguf.GGUFWriter(path, "exaone4", **options)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_eos_token_id(config.eos_token_id)
    if config.sliding_window:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == SLIDING for kind in config.layer_types])
    if config.rope_scaling:
        tensors["rope_freqs.weight"] = rope_factors(config), "F32"
    if tokenizer:
        add_tokenizer(writer, tokenizer, config.vocab_size)
    if change:
        change(writer, tensors)
    for name, (octets, wanted) in tensors.items():
        writer.add_tensor(name, octets, raw_dtype=Kind[wanted])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rope_factors(config):
    plain = 1 / config.rope_theta**(torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    return (plain / rope_frequencies(config)).numpy()


def add_tokenizer(writer, folder, vocab_size):
    """From a folder with tokenizer.json, as the converter does."""
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens, types = [f"[PAD{id}]" for id in range(vocab_size)], [5] * vocab_size
    for token, id in raw["model"]["vocab"].items():
        tokens[id], types[id] = token, 1
    for token in raw["added_tokens"]:
        tokens[token["id"]], types[token["id"]] = token["content"], 3 if token["special"] else 4
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("exaone4")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in raw["model"]["merges"]])
    writer.add_bos_token_id(tokens.index(named["bos_token"]))
    writer.add_pad_token_id(tokens.index(named["pad_token"]))
    writer.add_unk_token_id(tokens.index(named["unk_token"]))
    writer.add_chat_template(Tokenizer.from_pretrained(folder).chat_template)


def logits(model):
    ids = torch.randint(700, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(ids)


def mixed(name):
    """As in a Q4_K_M: the embedding and some matrices finer than the others."""
    return "Q6_K" if re.search("token_embd|output$|attn_v|ffn_down", name) else "Q4_K"


# --------------------------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", *BLOCKS, "mixed"])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_the_dequantized_weights(kind, tied, tmp_path):
    model = random_model(tie_word_embeddings=tied)
    file = write(tmp_path / "model.gguf", model, kind=mixed if kind == "mixed" else lambda name: kind)
    loaded = Exaone4.from_pretrained(file, "float32")
    expected = logits(model)
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-5 * float(expected.std()))
    packed = sum(isinstance(module, Packed) for module in loaded.modules())
    assert packed == (0 if kind in ("F32", "F16", "BF16") else 3 * 7 + 2)
    assert gguf_config(file)["dtype"] == {"F32": "float32", "F16": "float16"}.get(kind, "bfloat16")
    assert loaded.config.to_dict() == model.config.to_dict() | {"bos_token_id": None, "pad_token_id": None}


def test_what_llama_cpp_converted_and_computed():
    """A file by its converter (gguf 0.19, late 2026) from a random model, with every fifth token's logits by its own
    code in float32."""
    model, expected = Exaone4.from_pretrained(GOLDEN / "model.gguf"), load_file(GOLDEN / "expected.safetensors")
    with torch.inference_mode():
        torch.testing.assert_close(model(expected["input_ids"])[:, ::5], expected["logits"], atol=1e-4, rtol=1e-4)
    assert model.config == Config(
        vocab_size=272, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, layer_types=[GLOBAL] * 2, rope_scaling=LLAMA3, eos_token_id=14,
        max_position_embeddings=65536, tie_word_embeddings=True)


def test_the_tokenizer_that_llama_cpp_converted_is_the_folders(shared):
    assert_same_tokenizer(Tokenizer.from_pretrained(GOLDEN / "model.gguf"),
                          Tokenizer.from_pretrained(shared / "quantized" / "source"))


def test_the_window_and_its_absence_are_read(tmp_path):
    model = random_model()
    assert not torch.allclose(logits(model), logits(random_model(sliding_window=None, layer_types=[GLOBAL] * 3)))
    for changes in ({}, {"sliding_window": None, "layer_types": [GLOBAL] * 3},
                    {"layer_types": [GLOBAL, SLIDING, GLOBAL]}):
        model = random_model(**changes)
        loaded = Exaone4.from_pretrained(write(tmp_path / "model.gguf", model))
        assert (loaded.config.layer_types, loaded.config.sliding_window) == (
            model.config.layer_types, model.config.sliding_window)
        assert logits(loaded).equal(logits(model))


def test_64_layers_without_a_pattern_are_those_of_the_32b(tmp_path):
    model = random_model(num_hidden_layers=64, layer_types=[SLIDING] * 64, hidden_size=32, intermediate_size=32,
                         head_dim=8)
    file = write(tmp_path / "model.gguf", model, change=lambda writer, _: writer.kv_data[0].pop(
        "exaone4.attention.sliding_window_pattern"))
    assert gguf_config(file)["layer_types"] == [SLIDING, SLIDING, SLIDING, GLOBAL] * 16


@pytest.mark.parametrize("scaling", [
    LLAMA3, LLAMA3 | {"factor": 8.0}, LLAMA3 | {"original_max_position_embeddings": 4096},
    LLAMA3 | {"high_freq_factor": 8.0}, LLAMA3 | {"low_freq_factor": 2.0, "high_freq_factor": 5.0}], ids=str)
@pytest.mark.parametrize("head_dim, theta", [(64, 1e6), (128, 1e6), (80, 5e5), (128, 1e4)])
def test_llama3_scaling_is_found_from_its_factors(scaling, head_dim, theta, tmp_path):
    model = random_model(rope_scaling=scaling, head_dim=head_dim, rope_theta=theta)
    loaded = Exaone4.from_pretrained(write(tmp_path / "model.gguf", model))
    torch.testing.assert_close(loaded.frequencies, model.frequencies, rtol=1e-6, atol=0)
    if scaling["low_freq_factor"] == 1:
        assert loaded.config.rope_scaling == scaling


def test_it_answers_and_describes_itself(tmp_path, toy_folder, toy_tokenizer, capsys):
    # Untied: a tied random model says the same token again and again.
    model = random_model(tie_word_embeddings=False, vocab_size=toy_tokenizer.vocab_size)
    file = write(tmp_path / "model.gguf", model, toy_folder, kind=mixed)
    folder = tmp_path / "folder"  # the same model as one
    model.save_pretrained(folder)
    Tokenizer.from_pretrained(toy_folder).save_pretrained(folder)
    said = set()
    for source in (file, folder):
        assert main(["--model", str(source), "--dtype", "float32", "--temperature", "50", "--seed", "0",
                     "--max-new-tokens", "20", "Hello"]) == 0
        said.add(capsys.readouterr().out)
    assert len(said) == 1 and said.pop().strip()
    assert main(["info", str(file)]) == 0
    told = capsys.readouterr().out
    assert "3: LGL" in told and "gguf, 4 and 6 bits, groups of 16 and 32 inputs" in told
    assert f"{file.stat().st_size / 1e6:.2f} MB" in told


def test_it_can_be_quantized_anew(tmp_path, toy_folder):
    model = random_model()
    file = write(tmp_path / "model.gguf", model, toy_folder, kind=lambda name: "F16")
    out = tmp_path / "out"
    assert main(["quantize", str(file), "--out", str(out), "--method", "nearest", "--samples", "1"]) == 0
    assert Tokenizer.from_pretrained(out).encode("Hello") == Tokenizer.from_pretrained(file).encode("Hello")
    assert Exaone4.from_pretrained(out).config.layer_types == model.config.layer_types


def test_advice_for_sampling_is_read(tmp_path):
    file = write(tmp_path / "model.gguf", random_model())
    assert sampling_advice(file, False) == {} and sampling_advice(file, True) == {"temperature": 0.6, "top_p": 0.95}

    def add(writer, _):
        writer.add_float32("general.sampling.temp", 0.7)
        writer.add_int32("general.sampling.top_k", 20)

    file = write(tmp_path / "model.gguf", random_model(), change=add)
    assert sampling_advice(file, False) == {"temperature": 0.7, "top_k": 20}
    assert Exaone4.from_pretrained(file).sampling == {"temperature": 0.7, "top_k": 20}


# ------------------------------------------------------------------------------------------------------ tokenizer


TEXTS = ["The quick brown fox  rolls\t\tthe dice; 3.12 < 3.9?", "너가 얼마나 대단한지 설명해 봐. 🚀",
         "¡Mañana será otro día!", "[|user|]\nHi[|endofturn|]\n<think>\n\n</think>", "a" + " " * 40 + "\n\n\t\tb", ""]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "[|endofturn|] 너는 누구야?"},
        {"role": "assistant", "content": "EXAONE", "reasoning_content": "Well."}, {"role": "user", "content": "Why?"}]


def assert_same_tokenizer(one, two):
    for text in TEXTS:
        for parse in (True, False):
            assert one.encode(text, parse) == two.encode(text, parse)
    for options in ({}, {"enable_thinking": True}, {"parse_special": False}, {"tokenize": False}):
        assert one.apply_chat_template(CHAT, **options) == two.apply_chat_template(CHAT, **options)
    assert one.vocab_size == two.vocab_size and one.special_ids == two.special_ids
    for id in range(one.vocab_size):
        assert one.token_bytes(id) == two.token_bytes(id)
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(one, f"{name}_token_id") == getattr(two, f"{name}_token_id")


def test_tokenizer_is_that_of_the_folder(toy_folder, toy_tokenizer, tmp_path):
    padded = random_model(vocab_size=toy_tokenizer.vocab_size + 68, eos_token_id=toy_tokenizer.eos_token_id)
    file = write(tmp_path / "model.gguf", padded, toy_folder)
    assert_same_tokenizer(Tokenizer.from_pretrained(file), toy_tokenizer)
    loaded = Exaone4.from_pretrained(file)
    assert loaded.config.vocab_size == padded.config.vocab_size
    assert loaded.config.stop_ids == [toy_tokenizer.eos_token_id]


def test_the_published_tokenizer_from_a_file_is_the_published_one(published, tmp_path):
    published.save_pretrained(tmp_path)
    model = random_model(vocab_size=published.vocab_size, hidden_size=8, intermediate_size=8, head_dim=2)
    assert_same_tokenizer(Tokenizer.from_pretrained(write(tmp_path / "model.gguf", model, tmp_path)), published)


# ----------------------------------------------------------------------------------------------- what is refused


def setting(key, value):
    """Give a key of the metadata another value, or take it out (None)."""
    def change(writer, tensors):
        if value is None:
            del writer.kv_data[0][key]
        else:
            entry = writer.kv_data[0].get(key)
            kind = gguf.GGUFValueType.get_type(value) if entry is None else entry.type
            parts = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
            writer.kv_data[0][key] = gguf.gguf_writer.GGUFValue(value, kind, parts)

    return change


def tensor(name, convert):
    """Put another array and kind in a tensor's place, or take it out (None)."""
    def change(writer, tensors):
        if (new := convert(tensors.pop(name, None))) is not None:
            tensors[name] = new

    return change


REFUSED = {
    "architecture": (setting("general.architecture", "llama"), ["'llama'", "exaone4"]),
    "i-quant": (tensor("blk.1.ffn_up.weight", lambda _: (np.zeros((256, 136), np.uint8), "IQ4_XS")),
                ["blk.1.ffn_up.weight", "IQ4_XS", "Q4_K_M"]),
    "missing tensor": (tensor("blk.1.ffn_up.weight", lambda _: None), ["missing model.layers.1.mlp.up_proj.weight"]),
    "surplus tensor": (tensor("blk.1.ffn_up.bias", lambda _: (np.zeros(256, np.float32), "F32")),
                       ["not in the model: blk.1.ffn_up.bias"]),
    "surplus layer": (tensor("blk.3.ffn_up.weight", lambda _: (np.zeros((256, 256), np.float32), "F32")),
                      ["not in the model: model.layers.3.mlp.up_proj.weight"]),
    "shape": (tensor("blk.1.attn_k.weight", lambda old: (old[0][:64], old[1])),
              ["blk.1.attn_k.weight is [64, 256]", "[128, 256]"]),
    "quantized norm": (tensor("output_norm.weight", lambda _: (random_blocks("Q8_0", 1, 256)[0], "Q8_0")),
                       ["output_norm.weight", "Q8_0", "F32"]),
    "no layers": (setting("exaone4.block_count", None), ["exaone4.block_count is None", "int"]),
    "number of layers": (setting("exaone4.block_count", 0), ["sliding_window_pattern", "each of 0 layers"]),
    "heads": (setting("exaone4.attention.head_count", 0), ["num_attention_heads is 0"]),
    "window without pattern": (setting("exaone4.attention.sliding_window_pattern", None),
                               ["sliding_window_pattern is None", "each of 3 layers"]),
    "yarn": (setting("exaone4.rope.scaling.type", "yarn"), ["'yarn'", "llama3"]),
    "other factors": (tensor("rope_freqs.weight", lambda _: (np.linspace(1, 3, 32, dtype=np.float32), "F32")),
                      ["rope_freqs.weight", "llama3"]),
    "factors below 1": (tensor("rope_freqs.weight", lambda _: (np.full(32, 0.5, np.float32), "F32")), ["llama3"]),
    "too few factors": (tensor("rope_freqs.weight", lambda _: (np.ones(31, np.float32), "F32")), ["[31]", "[32]"]),
    "value size": (setting("exaone4.attention.value_length", 32), ["value_length is 32", "64"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_loaded_is_named_in_one_line(name, tmp_path):
    change, words = REFUSED[name]
    file = write(tmp_path / "model.gguf", random_model(), change=change)
    with pytest.raises(CheckpointError) as caught:
        Exaone4.from_pretrained(file)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_a_file_cut_anywhere_or_damaged_is_refused(tmp_path, toy_folder):
    whole = write(tmp_path / "model.gguf", random_model(), toy_folder, kind=mixed).read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [0, 3, 4, 20, 100, 1000, 9000, *range(12000, len(whole), len(whole) // 9), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cut.gguf (is cut short or damaged|does not begin).*download"):
            Exaone4.from_pretrained(cut)
        with pytest.raises(CheckpointError, match="cut.gguf (is cut short or damaged|does not begin).*download"):
            Tokenizer.from_pretrained(cut)
    for start in (0, 4):
        cut.write_bytes(whole[:start] + b"\xff\xff\xff\xff" + whole[start + 4:])
        with pytest.raises(CheckpointError, match="cut.gguf"):
            Exaone4.from_pretrained(cut)
    cut.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        Exaone4.from_pretrained(cut)


def test_parts_and_big_endian_files_are_refused(tmp_path):
    model = random_model()
    with pytest.raises(CheckpointError, match="one part of 2.*--merge"):
        Exaone4.from_pretrained(write(tmp_path / "model-00001-of-00002.gguf", model, change=setting("split.count", 2)))
    big = write(tmp_path / "big.gguf", model, endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(CheckpointError, match="big-endian"):
        Exaone4.from_pretrained(big)


@pytest.mark.parametrize("change, words", [
    (setting("tokenizer.ggml.model", "llama"), "'llama'.*'gpt2'"), (setting("tokenizer.ggml.pre", "qwen2"), "'qwen2'"),
    (setting("tokenizer.ggml.tokens", None), "tokenizer.ggml.tokens is None"),
    (setting("tokenizer.ggml.token_type", [1] * 5), "and 5 types"),
    (setting("tokenizer.ggml.merges", ["one"]), "two tokens a line"),
    (setting("tokenizer.ggml.merges", ["nothere neither"]), "two tokens a line"),
    (setting("tokenizer.ggml.bos_token_id", 700), "bos_token_id is 700"),
    (setting("tokenizer.chat_template", "{{ a b }}"), "usable chat template")])
def test_a_tokenizer_of_another_kind_is_refused(change, words, tmp_path, toy_folder):
    file = write(tmp_path / "model.gguf", random_model(), toy_folder, change=change)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(file))}.*{words}"):
        Tokenizer.from_pretrained(file).apply_chat_template(CHAT)


def test_how_a_file_is_named(tmp_path):
    file = write(tmp_path / "model.gguf", random_model())
    assert resolve(file) == file and resolve(str(file), weights=False) == file
    with pytest.raises(CheckpointError, match="is a file and has no revision"):
        resolve(file, "main")
    with pytest.raises(CheckpointError, match="there is no file .*other.gguf"):
        resolve(tmp_path / "other.gguf")
    for load in (Exaone4.from_pretrained, Tokenizer.from_pretrained):
        with pytest.raises(CheckpointError, match=f"GGUF file, which is named itself: {re.escape(str(file))}"):
            load(tmp_path)


def test_a_file_replaced_while_it_is_open_is_read_anew(tmp_path):
    file = write(tmp_path / "model.gguf", random_model(seed=1))
    before = logits(Exaone4.from_pretrained(file))
    Path(write(tmp_path / "new.gguf", random_model(seed=2))).replace(file)
    assert not logits(Exaone4.from_pretrained(file)).equal(before)
