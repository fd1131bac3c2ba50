"""Quantized checkpoints: those that the libraries wrote, and each format against a slow packing, number by number."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minexaone.__main__ import main
from minexaone.files import CheckpointError, weight_files
from minexaone.linear.formats import packed_layers
from minexaone.linear.packed import Packed, PackedEmbedding, PackedLinear, pack4, unpack4
from minexaone.model import Exaone4

GOLDEN = Path(__file__).parent / "golden" / "quantized"
SHARED = Path(__file__).parent.parent.parent / "shared" / "quantized"
FOLDERS = {path.parent.name: path.parent for root in (SHARED, GOLDEN) for path in root.glob("*/expected.safetensors")}
NAME = "model.layers.0.mlp.up_proj"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 8}


def weights_of(details, **more):
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": details}}} | more


def open_matrix(folder, tensors, details, shape, keys=("quantization_config",)):
    """One matrix, as a whole checkpoint would be opened."""
    save_file({f"{NAME}.{part}": tensor.contiguous() for part, tensor in tensors.items()}, folder / "model.safetensors")
    shapes = {f"{NAME}.weight": torch.Size(shape)}
    stored = weight_files(folder, shapes)
    layers = packed_layers(dict.fromkeys(keys, details), stored, shapes)
    assert not stored and list(layers) == [f"{NAME}.weight"]
    return layers[f"{NAME}.weight"]()


def dense(linear):
    """The matrix in the order of the inputs, as the layer applies it."""
    return linear(torch.eye(linear.shape[1])).T


def words(rows, bits):
    """Rows of values from 0 as rows of int32 words, by arithmetic on Python's integers."""
    p, out = 32 // bits, []
    for row in rows:
        row = row + [0] * (-len(row) % p)
        numbers = [sum(value << bits * k for k, value in enumerate(row[n:n + p])) for n in range(0, len(row), p)]
        out.append([number - 2**32 if number >= 2**31 else number for number in numbers])
    return torch.tensor(out, dtype=torch.int32)


def draw(outs, ins, groups, bits, seed=0):
    """Random values, zero points (0 and the largest among them) and scales, as lists; scales are exact in 16 bits."""
    draw = random.Random(seed)
    values = [[draw.randrange(2**bits) for _ in range(ins)] for _ in range(outs)]
    zeros = [[draw.choice([0, 1, 2**bits - 1, draw.randrange(2**bits)]) for _ in range(groups)] for _ in range(outs)]
    scales = [[draw.randrange(1, 128) / 256 for _ in range(groups)] for _ in range(outs)]
    return values, zeros, scales


def product(values, zeros, scales, group_of):
    return torch.tensor([[(q - z[group_of[i]]) * s[group_of[i]] for i, q in enumerate(row)]
                         for row, z, s in zip(values, zeros, scales, strict=True)])


def across(rows):
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FOLDERS)
def test_what_the_libraries_wrote_gives_their_logits(name, dtype):
    expected = load_file(FOLDERS[name] / "expected.safetensors")
    model = Exaone4.from_pretrained(FOLDERS[name], dtype=dtype, device="cpu")
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == 7 * model.config.num_hidden_layers
    with torch.inference_mode():
        logits = model(expected.pop("input_ids"))
        step = model(torch.zeros(1, 1, dtype=torch.long), model.new_cache())
    error = logits - expected.pop("logits")
    assert error.abs().max() < (1e-4 if dtype == "float32" else 0.5) and error.std() < 0.1 and step.isfinite().all()
    for key, rows in expected.items():  # the first rows of some matrices
        assert dense(model.get_submodule(key.removeprefix("model.").removesuffix(".weight")))[:len(rows)].equal(rows)


def test_parts_of_one_matrix_may_lie_in_different_files(tmp_path):
    source = FOLDERS["gptq-w4-g32-actorder"]
    shutil.copy(source / "config.json", tmp_path)
    tensors, index = load_file(source / "model.safetensors"), {}
    for n, name in enumerate(tensors):
        index[name] = f"model-{n % 7}.safetensors"
    for shard in set(index.values()):
        save_file({name: tensors[name] for name in tensors if index[name] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    expected = load_file(source / "expected.safetensors")
    with torch.inference_mode():
        logits = Exaone4.from_pretrained(tmp_path, dtype="float32", device="cpu")(expected["input_ids"])
    assert torch.allclose(logits, expected["logits"], atol=1e-4)


def test_older_gptq_folders_say_it_in_quantize_config_json_alone(tmp_path, capsys):
    source = FOLDERS["gptq-w4-g64-asym"]
    shutil.copy(source / "model.safetensors", tmp_path)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    old = {"bits": 4, "group_size": 64, "damp_percent": 0.01, "desc_act": False, "sym": False, "true_sequential": True}
    (tmp_path / "quantize_config.json").write_text(json.dumps(old), encoding="utf-8")
    expected = load_file(source / "expected.safetensors")
    with torch.inference_mode():
        logits = Exaone4.from_pretrained(tmp_path, dtype="float32", device="cpu")(expected["input_ids"])
    assert torch.allclose(logits, expected["logits"], atol=1e-4)
    assert main(["info", str(tmp_path)]) == 0 and "gptq, 4 bits, groups of 64" in capsys.readouterr().out


@pytest.mark.parametrize("order", ["as they come", "act-order"])
@pytest.mark.parametrize("kind", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size, ins", [(8, 32), (16, 40), (-1, 24)])  # the last group of the second is short
def test_gptq(tmp_path, kind, bits, size, ins, order):
    outs, group = 16, ins if size == -1 else size
    groups = -(-ins // group)
    values, zeros, scales = draw(outs, ins, groups, bits)
    group_of = [i // group for i in range(ins)]
    if order == "act-order":
        random.Random(1).shuffle(group_of)
    stored = words(across(zeros), bits)  # [groups, O / p]
    if kind == "gptq":  # one is taken from every field at once: a field of 0 borrows from the next
        ones = sum(1 << bits * k for k in range(32 // bits))
        less = [[(word - ones) % 2**32 for word in row] for row in stored.tolist()]
        stored = torch.tensor([[word - 2**32 if word >= 2**31 else word for word in row] for row in less],
                              dtype=torch.int32)
    tensors = {"qweight": words(values, bits).T, "qzeros": stored, "scales": torch.tensor(across(scales)).half(),
               "g_idx": torch.tensor(group_of, dtype=torch.int32)}
    details = {"quant_method": "gptq", "bits": bits, "group_size": size, "checkpoint_format": kind}
    linear = open_matrix(tmp_path, tensors, details | {"desc_act": order != "as they come"}, (outs, ins))
    assert dense(linear).equal(product(values, zeros, scales, group_of))
    assert (linear.order is None) == (group_of == sorted(group_of)) and linear.bits == bits
    x = torch.randn(3, 5, ins)
    assert torch.allclose(linear(x), x @ product(values, zeros, scales, group_of).T, atol=1e-3)
    if order == "as they come":  # old files may lack it
        del tensors["g_idx"]
        assert dense(open_matrix(tmp_path, tensors, details, (outs, ins))).equal(dense(linear))


def test_awq(tmp_path):
    outs, ins = 24, 32
    values, zeros, scales = draw(outs, ins, 4, 4)
    place = [0, 4, 1, 5, 2, 6, 3, 7]  # of output k of eight

    def packed(columns):
        spread = [[column[n + place.index(k)] for n in range(0, outs, 8) for k in range(8)] for column in columns]
        return words(spread, 4)

    tensors = {"qweight": packed(across(values)), "qzeros": packed(across(zeros)),
               "scales": torch.tensor(across(scales)).half()}
    details = {"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm", "zero_point": True}
    expected = product(values, zeros, scales, [i // 8 for i in range(ins)])
    assert dense(open_matrix(tmp_path, tensors, details, (outs, ins))).equal(expected)
    with pytest.raises(CheckpointError, match="gemv"):
        open_matrix(tmp_path, tensors, details | {"version": "gemv"}, (outs, ins))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size, ins", [(8, 32), (None, 24), (16, 44)])
def test_pack_quantized(tmp_path, bits, size, ins, symmetric):
    outs, group = 10, size or ins
    groups = -(-ins // group)
    values, zeros, scales = draw(outs, ins, groups, bits)
    tensors = {"weight_packed": words(values, bits), "weight_scale": torch.tensor(scales).bfloat16(),
               "weight_shape": torch.tensor([outs, ins])}
    if symmetric:
        zeros = [[2**(bits - 1)] * groups for _ in range(outs)]
    else:
        tensors["weight_zero_point"] = words(across(zeros), bits).T
    details = weights_of({"num_bits": bits, "group_size": size})
    # A second group of layers with other bits: a layer shows by its width which one is its own.
    details["config_groups"]["other"] = {"weights": {"num_bits": 12 - bits, "group_size": group}}
    linear = open_matrix(tmp_path, tensors, details, (outs, ins))
    assert dense(linear).equal(product(values, zeros, scales, [i // group for i in range(ins)]))
    assert (linear.zero is None) == symmetric


def test_older_pack_quantized_files_have_an_order(tmp_path):
    values, _, scales = draw(8, 32, 4, 4)
    group_of = [i // 8 for i in range(32)]
    random.Random(1).shuffle(group_of)
    tensors = {"weight_packed": words(values, 4), "weight_scale": torch.tensor(scales),
               "weight_shape": torch.tensor([8, 32]), "weight_g_idx": torch.tensor(group_of, dtype=torch.int32)}
    details = weights_of({"num_bits": 4, "group_size": 8, "actorder": "group"})
    expected = product(values, [[8] * 4] * 8, scales, group_of)
    assert dense(open_matrix(tmp_path, tensors, details, (8, 32))).equal(expected)
    tensors["weight_g_idx"].fill_(-1)  # "not set"
    in_order = product(values, [[8] * 4] * 8, scales, [i // 8 for i in range(32)])
    assert dense(open_matrix(tmp_path, tensors, details, (8, 32))).equal(in_order)
    del tensors["weight_g_idx"]
    with pytest.raises(CheckpointError, match="weight_g_idx is missing"):
        open_matrix(tmp_path, tensors, details, (8, 32))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("kind", ["row", "row, no column", "tensor", "groups", "blocks", "zero"])
def test_values_that_are_stored_as_they_are(tmp_path, dtype, kind):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, (12, 32), generator=generator).to(dtype)
    shape = {"tensor": [1], "groups": [12, 4], "blocks": [3, 4], "row, no column": [12]}.get(kind, [12, 1])
    scale = torch.randint(1, 99, shape, generator=generator) / 256
    whole = {"tensor": lambda: scale, "groups": lambda: scale.repeat_interleave(8, 1),
             "blocks": lambda: scale.repeat_interleave(5, 0)[:12].repeat_interleave(8, 1),
             "row, no column": lambda: scale[:, None]}.get(kind, lambda: scale)()
    details = weights_of({"num_bits": 8, "group_size": 8 if kind == "groups" else None,
                          "block_structure": [5, 8] if kind == "blocks" else None})
    tensors = {"weight": weight, "weight_scale": scale.bfloat16(), "input_scale": torch.ones(1)}
    expected = weight.float() * whole
    if kind == "zero":
        tensors["weight_zero_point"] = torch.randint(-128, 128, shape, generator=generator).to(torch.int8)
        expected = (weight.float() - tensors["weight_zero_point"]) * scale
    assert dense(open_matrix(tmp_path, tensors, details, (12, 32))).equal(expected)


@pytest.mark.parametrize("keys", [["quantization"], ["quantization", "quantization_config"]])
@pytest.mark.parametrize("bits", [4, 8])
def test_mlx(tmp_path, bits, keys):
    values, _, scales = draw(6, 64, 2, bits)
    biases = [[-s * 3 for s in row] for row in scales]
    tensors = {"weight": words(values, bits).view(torch.uint32), "scales": torch.tensor(scales).bfloat16(),
               "biases": torch.tensor(biases).bfloat16()}
    linear = open_matrix(tmp_path, tensors, {"bits": bits, "group_size": 32}, (6, 64), keys)
    biases = tensors["biases"].float().repeat_interleave(32, 1)
    assert torch.allclose(dense(linear), product(values, [[0] * 2] * 6, scales, [i // 32 for i in range(64)]) + biases,
                          atol=1e-5)


def test_mlx_in_floats_of_4_bits_is_called_unreadable(tmp_path):
    tensors = {"weight": torch.zeros(6, 8, dtype=torch.uint32), "scales": torch.zeros(6, 2, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="cannot be loaded .*scales is U8"):
        open_matrix(tmp_path, tensors, {"bits": 4, "group_size": 32, "mode": "mxfp4"}, (6, 64), ["quantization"])


@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_in_4_bits(tmp_path, nested):
    draw = random.Random(0)
    values = [draw.randrange(16) for _ in range(8 * 128)]
    table = torch.tensor(sorted(draw.uniform(-1, 1) for _ in range(16)))
    absmax = torch.tensor([draw.uniform(0.1, 2) for _ in range(16)])
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 128]}
    tensors = {"weight": torch.tensor([[16 * a + b] for a, b in zip(values[::2], values[1::2], strict=True)],
                                      dtype=torch.uint8), "weight.quant_map": table, "weight.absmax": absmax}
    if nested:
        inner, code = torch.rand(256), torch.tensor([draw.randrange(256) for _ in range(16)], dtype=torch.uint8)
        tensors |= {"weight.absmax": code, "weight.nested_quant_map": inner,
                    "weight.nested_absmax": torch.ones(2) * 0.7}
        state |= {"nested_blocksize": 8, "nested_offset": 0.25, "nested_dtype": "float32"}
        absmax = inner[code.long()] * 0.7 + 0.25
    tensors["weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    expected = torch.tensor([table[value] * absmax[n // 64] for n, value in enumerate(values)]).view(8, 128)
    details = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    assert torch.allclose(dense(open_matrix(tmp_path, tensors, details, (8, 128))), expected, rtol=1e-6)


def test_bitsandbytes_in_8_bits(tmp_path):
    weight, largest = torch.randint(-127, 128, (8, 16)).to(torch.int8), torch.rand(8)
    details = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    tensors = {"weight": weight, "SCB": largest, "weight_format": torch.zeros((), dtype=torch.uint8)}
    linear = open_matrix(tmp_path, tensors, details, (8, 16))
    assert torch.allclose(dense(linear), weight * largest[:, None] / 127, rtol=1e-6)


# ---------------------------------------------------------------------------------------------- damaged, unknown


def change(part, function):
    def spoil(tensors):
        tensors[part] = function(tensors[part])

    return spoil


DAMAGED = {  # what is wrong: (format, how to spoil it, what the message must say)
    "no scales": ("gptq", lambda tensors: tensors.pop("scales"), f"{NAME}.scales is missing"),
    "no zero points": ("gptq", lambda tensors: tensors.pop("qzeros"), f"{NAME}.qzeros is missing"),
    "other width": ("gptq", change("qweight", lambda t: t[:3]), "3 words for 32 values"),
    "other outputs": ("gptq", change("qweight", lambda t: t[:, :5]), r"qweight is \[4, 5\] I32, expected \[4, 16\]"),
    "other groups": ("gptq", change("scales", lambda t: t[:2]), "2 groups for 32 inputs, and config.json groups of 8"),
    "other zeros": ("gptq", change("qzeros", lambda t: t[:2]), r"qzeros is \[2, 2\] I32, expected \[4, 2\]"),
    "group out of range": ("gptq", change("g_idx", lambda t: t + 1), "are 1 to 4, expected 0 to 3"),
    "negative group": ("gptq", change("g_idx", lambda t: t - 2), "are -2 to 1, expected 0 to 3"),
    "uneven groups": ("gptq", change("g_idx", lambda t: t * 0), "are 0 to 0, expected 0 to 3, each 8 times"),
    "scales of another type": ("gptq", change("scales", torch.Tensor.int), "scales is .* I32, expected .* BF16"),
    "a scale for nothing": ("gptq", change("scales", lambda t: t[0]), r"scales has the shape \[16\]"),
    "no scale": ("ct", lambda tensors: tensors.pop("weight_scale"), f"{NAME}.weight_scale is missing"),
    "no shape": ("ct", lambda tensors: tensors.pop("weight_shape"), f"{NAME}.weight_shape is missing"),
    "another shape": ("ct", change("weight_shape", lambda t: t + 1), r"weight_shape is not \[16, 32\]"),
    "3 bits": ("ct", change("weight_packed", lambda t: t[:, :3]), "3 words for 32 values"),
    "4 bits as floats": ("ct", change("weight_packed", lambda t: t.view(torch.uint8)), "weight_packed is U8"),
    "4 bits as floats, other parts": ("ct", lambda tensors: tensors.update(
        weight_packed=tensors["weight_packed"].view(torch.uint8), weight_global_scale=tensors.pop("weight_shape")),
        "weight_packed is U8"),
    "values without scale": ("int8", lambda tensors: tensors.pop("weight_scale"), f"{NAME}.weight_scale is missing"),
    "scales of other rows": ("int8", change("weight_scale", lambda t: t[:5]), r"\[5, 1\] F32, expected \[16, 1\]"),
}
WHOLE = {
    "gptq": (GPTQ, lambda: {"qweight": torch.zeros(4, 16, dtype=torch.int32), "scales": torch.ones(4, 16).half(),
                            "qzeros": torch.zeros(4, 2, dtype=torch.int32),
                            "g_idx": torch.arange(32, dtype=torch.int32) // 8}),
    "ct": (weights_of({"num_bits": 4, "group_size": 8}), lambda: {
        "weight_packed": torch.zeros(16, 4, dtype=torch.int32), "weight_scale": torch.ones(16, 4),
        "weight_shape": torch.tensor([16, 32])}),
    "int8": (weights_of({"num_bits": 8}), lambda: {"weight": torch.zeros(16, 32, dtype=torch.int8),
                                                   "weight_scale": torch.ones(16, 1)}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_weights_are_named_in_one_line(tmp_path, name):
    kind, spoil, words = DAMAGED[name]
    details, make = WHOLE[kind]
    tensors = make()
    assert open_matrix(tmp_path, tensors, details, (16, 32)).shape == (16, 32)
    spoil(tensors)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_matrix(tmp_path, tensors, details, (16, 32))
    message = str(caught.value)
    assert "model.safetensors" in message and "\n" not in message and ("download" in message or "choose" in message)


@pytest.mark.parametrize("details, words", [
    ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, "(hqq, 4 bits"),
    ({"quant_method": "gptq", "bits": 3, "group_size": 8}, "(gptq, 3 bits; 4 words for 32 values"),
    (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
    ([1], "(an unknown method"), ("gptq", "(an unknown method"), ({"bits": 4}, "(an unknown method, 4 bits"),
    ({"quant_method": ["gptq"]}, "(['gptq']"),
])
def test_what_cannot_be_read_is_named_with_what_to_do(tmp_path, details, words):
    with pytest.raises(CheckpointError) as caught:
        open_matrix(tmp_path, WHOLE["gptq"][1](), details, (16, 32))
    message = str(caught.value)
    assert words in message and "choose GPTQ, AWQ" in message and "the unquantized checkpoint" in message
    assert "\n" not in message and len(message) < 600


@pytest.mark.parametrize("details", [{"bits": None, "group_size": "8"}, {"bits": True}, {"bits": 4, "group_size": 0},
                                     {"bits": 4, "group_size": -8}, {"bits": [4], "group_size": {}},
                                     {"bits": 4, "group_size": 8, "dynamic": [1]}])
def test_settings_that_are_none_end_in_one_line(tmp_path, details):
    try:
        assert open_matrix(tmp_path, WHOLE["gptq"][1](), {"quant_method": "gptq"} | details, (16, 32)).group == 8
    except CheckpointError as error:
        assert "\n" not in str(error) and len(str(error)) < 600


# --------------------------------------------------------------------------------------------- whole checkpoints


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FOLDERS["ct-w4a16-g32-asym"], tmp_path / "model")
    return tmp_path / "model"


def edit(folder, tensors=lambda tensors: None, **details):
    stored = load_file(folder / "model.safetensors")
    tensors(stored)
    save_file({name: tensor.contiguous().clone() for name, tensor in stored.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] |= details
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def logits(folder):
    expected = load_file(folder / "expected.safetensors")
    with torch.inference_mode():
        return Exaone4.from_pretrained(folder, "float32", "cpu")(expected["input_ids"]), expected["logits"]


@pytest.mark.parametrize("layers", [["model.layers.0.mlp.up_proj"], "all"])
def test_matrices_that_are_not_quantized_may_stand_beside_those_that_are(folder, layers):
    model = Exaone4.from_pretrained(folder, "float32", "cpu")
    names = [f"model.{name}" for name, module in model.named_modules() if isinstance(module, Packed)]

    def unpack(stored):  # as transformers saves what it has unpacked: scale and shape stay
        for name in names if layers == "all" else layers:
            del stored[f"{name}.weight_packed"]
            stored[f"{name}.weight"] = dense(model.get_submodule(name.removeprefix("model.")))

    edit(folder, unpack, **{"quantization_status": "decompressed"} if layers == "all" else {"ignore": layers})
    found, expected = logits(folder)
    assert torch.allclose(found, expected, atol=1e-4)


def test_scales_of_activations_and_of_the_cache_change_nothing(folder):
    edit(folder, lambda stored: stored.update({"model.layers.0.self_attn.k_scale": torch.ones(1) * 3,
                                               "model.layers.0.self_attn.v_scale": torch.ones(1) * 3,
                                               f"{NAME}.input_scale": torch.ones(1) * 3}),
         kv_cache_scheme={"num_bits": 8})
    found, expected = logits(folder)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("spoil, words", [
    (lambda stored: stored.update({f"{NAME}.bias": torch.ones(128)}), f"not in the model: {NAME}.bias"),
    (lambda stored: stored.update({f"{NAME}.weight": torch.ones(128, 128)}), f"not in the model: {NAME}.weight_packed"),
    (lambda stored: [stored.pop(name) for name in [*stored] if name.startswith(NAME)], f"missing {NAME}.weight;"),
    (lambda stored: [stored.pop(name) for name in [*stored] if "proj" in name and not name.endswith("scale")],
     "weight_packed is missing"),
])
def test_every_tensor_is_used_and_every_matrix_filled(folder, spoil, words):
    edit(folder, spoil)
    with pytest.raises(CheckpointError) as caught:
        logits(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_quantized_embedding_is_also_the_head(tmp_path):
    source = FOLDERS["gptq_v2-w4"] if "gptq_v2-w4" in FOLDERS else FOLDERS["gptq-w4-g64-asym"]
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    stored = Exaone4.from_pretrained(source, "float32", "cpu").state_dict()
    values, _, scales = draw(272, 128, 4, 4)
    new = {f"model.{name}": torch.randn(128, 128) if "proj" in name else tensor for name, tensor in stored.items()
           if "norm" in name}
    reference = Exaone4.from_pretrained(source, "float32", "cpu")
    for name, module in reference.named_modules():
        if isinstance(module, Packed):
            new[f"model.{name}.weight"] = dense(module).contiguous()
    new |= {"model.embed_tokens.weight": words(values, 4).view(torch.uint32),
            "model.embed_tokens.scales": torch.tensor(scales), "model.embed_tokens.biases": torch.ones(272, 4) * -0.5}
    save_file(new, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization": {"bits": 4, "group_size": 32}}),
                                          encoding="utf-8")
    model = Exaone4.from_pretrained(tmp_path, "float32", "cpu")
    table = product(values, [[0] * 4] * 272, scales, [i // 32 for i in range(128)]) - 0.5
    assert type(model.embed_tokens) is PackedEmbedding
    assert model.lm_head.weight.data_ptr() == model.embed_tokens.weight.data_ptr()
    ids = torch.arange(40)[None]
    assert torch.allclose(model.embed_tokens(ids), table[ids], atol=1e-5)
    assert torch.allclose(model.head(torch.eye(128)), table.T, atol=1e-5)


def test_packed_weights_stay_packed_and_as_precise_as_they_are(folder):
    model = Exaone4.from_pretrained(folder, device="cpu")
    assert model.embed_tokens.weight.dtype == torch.bfloat16
    held = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert held <= 1.1 * (folder / "model.safetensors").stat().st_size
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "proj" in name}
    model.float().half()
    after = model.state_dict()
    assert before and all(after[name].dtype == tensor.dtype and after[name].equal(tensor)
                          for name, tensor in before.items())
    assert model.norm.weight.dtype == torch.float16
    values = torch.arange(-8, 8, dtype=torch.int8).repeat(3, 4)
    assert unpack4(pack4(values)).equal(values)
