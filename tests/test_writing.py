"""Quantized models written: each form read back bit for bit, tensors by their definition, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from minexaone.config_json import layer_types
from minexaone.files import read_json
from minexaone.linear.packed import Packed, PackedLinear
from minexaone.linear.rounding import quantize, quantize_rows, round_to_nearest
from minexaone.linear.writing import words
from minexaone.model import Config, Exaone4

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def small_model(dtype="bfloat16", tied=True):
    """Two layers of random weights; some rows have one sign, so that zeros reach both ends."""
    torch.manual_seed(0)
    model = Exaone4(Config(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                           num_attention_heads=4, num_key_value_heads=2, head_dim=32, layer_types=layer_types("LG", 2),
                           sliding_window=8, tie_word_embeddings=tied, eos_token_id=2, initializer_range=0.05))
    for name, parameter in model.named_parameters():
        if "_proj" in name:
            parameter.data[::5] = parameter.data[::5].abs()
            parameter.data[1::5] = -parameter.data[1::5].abs()
    return model.to(getattr(torch, dtype)).eval()


def pack_layers(model, pack):
    """Every matrix of the layers replaced by pack(name, weight), unless that is None."""
    for name, module in list(model.layers.named_modules()):
        if isinstance(module, nn.Linear) and (packed := pack(name, module.weight.detach())) is not None:
            model.layers.set_submodule(name, packed)
    return model


def float8_rows(weight):
    scale = weight.float().abs().amax(1, keepdim=True) / 448
    return PackedLinear((weight.float() / scale).to(torch.float8_e4m3fn), scale.to(weight.dtype), weight.shape[1])


def int8_rows(weight):
    integers, scale = quantize_rows(weight)
    return PackedLinear(integers, scale[:, None], weight.shape[1])


def nearest(bits, group, symmetric=True):
    return lambda name, weight: round_to_nearest(weight, bits, group, symmetric)


def with_order(name, weight):
    """Rounded with its inputs in another order than stored, as GPTQ with act-order leaves them."""
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(len(name)))
    order = torch.cat([part.sort().values for part in order.split(32)])  # as it is read: sorted inside a group
    packed = round_to_nearest(weight[:, order], 4, 32, False)
    packed.order = order
    return packed


def mixed(name, weight):
    if "down_proj" in name:
        return float8_rows(weight)
    if "o_proj" in name:
        return None
    return round_to_nearest(weight, 8, -1) if "v_proj" in name else round_to_nearest(weight, 4, 32, "1.mlp" not in name)


def same_bits(one, other):
    return one.shape == other.shape and one.flatten().view(torch.uint8).equal(other.flatten().view(torch.uint8))


FORMS = {
    "gptq 4 bits": ("gptq", nearest(4, 32)), "gptq 4 bits, zeros": ("gptq", nearest(4, 64, False)),
    "gptq 8 bits, zeros": ("gptq", nearest(8, 32, False)), "gptq by rows": ("gptq", nearest(4, -1)),
    "gptq with an order": ("gptq", with_order),
    "gptq_v2 with an order": ("gptq_v2", with_order), "gptq_v2 8 bits": ("gptq_v2", nearest(8, 32, False)),
    "pack 4 bits": ("compressed-tensors", nearest(4, 32)),
    "pack 4 bits, zeros": ("compressed-tensors", nearest(4, 64, False)),
    "pack 8 bits": ("compressed-tensors", nearest(8, 32)),
    "pack 8 bits, zeros": ("compressed-tensors", nearest(8, 32, False)),
    "pack by rows": ("compressed-tensors", nearest(8, -1)),
    "pack 4 bits by rows": ("compressed-tensors", nearest(4, -1)),
    "int-quantized": ("int-quantized", lambda name, weight: int8_rows(weight)),
    "float-quantized": ("compressed-tensors", lambda name, weight: float8_rows(weight)),
    "mixed": ("compressed-tensors", mixed),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("form, pack", FORMS.values(), ids=FORMS)
def test_what_is_written_is_read_bit_for_bit(form, pack, tied, tmp_path):
    model = pack_layers(small_model(tied=tied), pack)
    model.save_pretrained(tmp_path, form)
    again = Exaone4.from_pretrained(tmp_path, device="cpu")
    modules, found = dict(model.named_modules()), dict(again.named_modules())
    assert modules.keys() == found.keys()
    for name, module in modules.items():
        assert type(found[name]) is type(module), name
        if isinstance(module, Packed):
            assert found[name].group == module.group and found[name].scale.dtype == module.scale.dtype
            for part in ("weight", "scale", "zero", "order"):
                one, other = getattr(module, part), getattr(found[name], part)
                if part == "zero" and one is not None and other is None:
                    assert not one.any()
                else:
                    assert one is other is None or same_bits(one, other), (name, part)
    ids = torch.arange(24)[None] + 20
    with torch.inference_mode():
        assert torch.equal(model(ids), again(ids))
    again.save_pretrained(tmp_path / "again", form)
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    for name, tensor in first.items():
        if name in second or "zero_point" not in name:
            assert same_bits(tensor, second[name]), name


COMPRESSED = {name: kind for name, kind in FORMS.items() if not kind[0].startswith("gptq")}


@pytest.mark.parametrize("form, pack", COMPRESSED.values(), ids=COMPRESSED)
def test_compressed_tensors_unpacks_what_is_written(form, pack, tmp_path):
    """Where compressed-tensors is installed; `tests/engines.py` makes an environment that has it."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    model = pack_layers(small_model(), pack)
    model.save_pretrained(tmp_path, form)
    groups = read_json(tmp_path / "config.json")["quantization_config"]["config_groups"].values()
    stored = load_file(tmp_path / "model.safetensors")
    for name, module in model.named_modules():
        if isinstance(module, Packed):
            name = f"model.{name}"
            group = next(group for group in groups if name in group["targets"] or group["targets"] == ["Linear"])
            parts = {key.removeprefix(f"{name}."): tensor.float() if key.endswith("scale") else tensor
                     for key, tensor in stored.items() if key.startswith(f"{name}.")}
            library = BaseCompressor.get_value_from_registry(group["format"])
            unpacked = library.decompress(parts, QuantizationScheme.model_validate(group))["weight"]
            assert unpacked.equal(module.unpacked(torch.float32)), name


@pytest.mark.parametrize("form, pack", COMPRESSED.values(), ids=COMPRESSED)
def test_transformers_opens_what_is_written(form, pack, tmp_path):
    """Logits, where compressed-tensors is installed."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import disable_quantization
    from transformers import AutoModelForCausalLM

    pack_layers(small_model(), pack).save_pretrained(tmp_path, form)
    if any("zero_point" in name for name in load_file(tmp_path / "model.safetensors")):
        pytest.skip("transformers 5.24 expects packed zeros unpacked: tests/engines.py lets it dequantize")
    ours = Exaone4.from_pretrained(tmp_path, "float32", "cpu")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    theirs.apply(disable_quantization)  # would round the inputs as well
    ids = torch.arange(24)[None] + 20
    with torch.inference_mode():
        assert torch.allclose(ours(ids), theirs(ids).logits, atol=1e-4)


def test_gptq_by_its_definition(tmp_path):
    """Every bit of one matrix, in Python's own numbers; a zero of 0 borrows from its neighbour."""
    model = pack_layers(small_model(), nearest(4, 32, False))
    model.save_pretrained(tmp_path, "gptq")
    stored, name = load_file(tmp_path / "model.safetensors"), "model.layers.0.mlp.gate_proj"
    packed = model.layers[0].mlp.gate_proj
    qweight, qzeros, scales, g_idx = (stored[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx"))
    assert qweight.dtype == qzeros.dtype == g_idx.dtype == torch.int32 and scales.dtype == torch.float16
    assert qweight.shape == (8, 128) and qzeros.shape == scales.shape[:1] + (16,) and scales.shape == (2, 128)
    assert g_idx.tolist() == [0] * 32 + [1] * 32
    zeros = [[0] * 128 for _ in range(2)]
    for g in range(2):
        for k, word in enumerate(qzeros[g].tolist()):
            word = (word + 0x11111111) % 2**32
            for j in range(8):
                zeros[g][8 * k + j] = word >> 4 * j & 15
    assert {0, 15} <= set(zeros[0])
    weight = packed.unpacked(torch.float32)
    for o, i in [(0, 0), (1, 31), (5, 32), (127, 63), (64, 7)]:
        q = (qweight[i // 8, o].item() % 2**32) >> 4 * (i % 8) & 15
        g = i // 32
        assert (q - zeros[g][o]) * scales[g, o].item() == weight[o, i].item()
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config == {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": 32, "sym": False,
                      "desc_act": False, "lm_head": False, "pack_dtype": "int32"}


def test_pack_quantized_by_its_definition(tmp_path):
    model = pack_layers(small_model(), nearest(4, 32, False))
    model.save_pretrained(tmp_path)
    stored, name = load_file(tmp_path / "model.safetensors"), "model.layers.1.self_attn.k_proj"
    packed, weight = model.layers[1].self_attn.k_proj, model.layers[1].self_attn.k_proj.unpacked(torch.float32)
    assert {key.removeprefix(name + ".") for key in stored if key.startswith(name)} == {
        "weight_packed", "weight_scale", "weight_shape", "weight_zero_point"}
    assert stored[f"{name}.weight_shape"].tolist() == [64, 64] and stored[f"{name}.weight_shape"].dtype == torch.int64
    assert stored[f"{name}.weight_scale"].equal(packed.scale) and stored[f"{name}.weight_zero_point"].shape == (8, 2)
    for o, i in [(0, 0), (1, 31), (5, 32), (63, 63)]:
        q = (stored[f"{name}.weight_packed"][o, i // 8].item() % 2**32) >> 4 * (i % 8) & 15
        z = (stored[f"{name}.weight_zero_point"][o // 8, i // 32].item() % 2**32) >> 4 * (o % 8) & 15
        assert (q - z) * packed.scale[o, i // 32].item() == weight[o, i].item()


def test_words_are_filled_from_the_lowest_bits():
    assert words(torch.tensor([1, 2, 15, 0, 0, 0, 0, 8, 3], dtype=torch.uint8), 4).tolist() == [
        0x80000F21 - 2**32, 3]
    assert words(torch.tensor([1, 2, 3, 128, 5], dtype=torch.uint8), 8).tolist() == [0x80030201 - 2**32, 5]


def test_config_groups_name_their_modules_where_they_differ(tmp_path):
    pack_layers(small_model(), mixed).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert config["ignore"] == ["lm_head", "model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"]
    targets = [target for group in config["config_groups"].values() for target in group["targets"]]
    assert sorted(targets + config["ignore"]) == sorted(
        ["lm_head"] + [f"model.layers.{n}.{'self_attn' if kind[0] in 'qkvo' else 'mlp'}.{kind}"
                       for n in range(2) for kind in KINDS])
    by_kind = {(group["format"], group["weights"]["num_bits"], group["weights"]["strategy"],
                group["weights"]["symmetric"]) for group in config["config_groups"].values()}
    assert by_kind == {("pack-quantized", 4, "group", True), ("pack-quantized", 4, "group", False),
                       ("pack-quantized", 8, "channel", True), ("float-quantized", 8, "channel", True)}


@pytest.mark.parametrize("form, pack, message", [
    ("gptq", mixed, "o_proj is dense, but gptq"),
    ("gptq", lambda name, weight: float8_rows(weight), "q_proj is in float8, which gptq"),
    ("gptq", lambda name, weight: int8_rows(weight), "q_proj has scales that float16 cannot hold"),
    ("gptq", lambda name, weight: round_to_nearest(weight, 8 if "down" in name else 4, 32), "one number of bits"),
    ("compressed-tensors", with_order, "q_proj has its inputs in groups of another order"),
    ("int-quantized", nearest(4, 32), "q_proj is in 4 bits, 2 scales a row"),
    ("int-quantized", nearest(8, 32), "q_proj is in 8 bits, 2 scales a row"),
    ("awq", nearest(4, 32),
     "the form of quantized weights is 'awq', expected gptq, gptq_v2, compressed-tensors, int-quantized"),
])
def test_what_a_form_cannot_hold_is_named_and_nothing_written(form, pack, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pack_layers(small_model(), pack).save_pretrained(tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_a_short_last_group(tmp_path):
    """gptq has room for it; compressed-tensors has not."""
    def pack(name, weight):
        packed = round_to_nearest(torch.nn.functional.pad(weight, (0, -weight.shape[1] % 48)), 4, 48)
        return PackedLinear(packed.weight[:, :weight.shape[1] // 2].contiguous(), packed.scale, 48)

    model = pack_layers(small_model(), pack)
    model.save_pretrained(tmp_path, "gptq")
    assert torch.equal(Exaone4.from_pretrained(tmp_path, device="cpu").layers[1].mlp.down_proj.unpacked(torch.float32),
                       model.layers[1].mlp.down_proj.unpacked(torch.float32))
    with pytest.raises(ValueError, match="q_proj has 64 inputs, not a multiple of its group 48"):
        model.save_pretrained(tmp_path / "out")


def test_a_packed_embedding_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="embedding is int8 cannot be saved"):
        quantize(small_model()).save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("parts", [{"offset": torch.zeros(64, 2)}, {"table": torch.zeros(16)}])
def test_what_no_form_can_hold(parts, tmp_path):
    model = pack_layers(small_model(), nearest(4, 32))
    for name, tensor in parts.items():
        setattr(model.layers[0].self_attn.k_proj, name, tensor)
    with pytest.raises(ValueError, match="k_proj has a.* which neither gptq nor compressed-tensors can store"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["gptq-w4-g32-actorder", "gptq-w4-g64-asym", "ct-w4a16-g32-asym"])
def test_what_was_loaded_is_saved_as_it_was(tmp_path, name):
    source = Path(__file__).parent / "golden" / "quantized" / name
    model = Exaone4.from_pretrained(source, device="cpu")
    model.save_pretrained(tmp_path)
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(after[key].equal(tensor) for key, tensor in before.items())
    method = [read_json(folder / "config.json")["quantization_config"]["quant_method"] for folder in (source, tmp_path)]
    assert method[0] == method[1]
