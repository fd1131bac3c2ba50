"""LoRA: logits and gradients of real PEFT adapters, merging, packed bases, what is refused, and the fast paths."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from minexaone import Exaone4, Tokenizer, speed_up
from minexaone.__main__ import main
from minexaone.files import SHIPPED, CheckpointError
from minexaone.linear.lora import TARGETS, LoRALinear, add_lora, load_adapter, lora_layers, merge_lora, save_adapter
from minexaone.linear.packed import PackedLinear
from minexaone.linear.rounding import quantize, round_to_nearest

GOLDEN = Path(__file__).parent / "golden" / "lora"  # made by make.py there
ADAPTERS = ("plain", "rslora", "patterns", "layers")
EXPECTED = load_file(GOLDEN / "expected.safetensors")
IDS = EXPECTED["ids"]


def base(dtype="float32"):
    return Exaone4.from_pretrained(GOLDEN / "base", dtype, "cpu")


def adapted(name, dtype="float32"):
    return load_adapter(base(dtype), GOLDEN / name)


def loss_of(model, ids=IDS):
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.fixture
def folder(tmp_path):
    """A copy of a real adapter, to be changed."""
    shutil.copytree(GOLDEN / "plain", tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder, tensors=None, **config):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    if tensors:
        path = folder / "adapter_model.safetensors"
        save_file({k: t.contiguous() for k, t in tensors(load_file(path)).items()}, path)


# ------------------------------------------------------------------------------------------------ beside PEFT


@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_are_pefts(name):
    model = adapted(name)
    torch.testing.assert_close(model(IDS), EXPECTED[name], atol=1e-5, rtol=1e-5)
    assert (EXPECTED[name] - EXPECTED["base"]).abs().max() > 1e-2  # each adapter does something


def test_gradients_are_pefts():
    model = adapted("plain")
    loss_of(model).backward()
    golden = {key.removeprefix("gradient.base_model.model.model.").removesuffix(".weight"): tensor
              for key, tensor in EXPECTED.items() if key.startswith("gradient.")}
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == golden.keys() and len(found) == 16
    for name, gradient in golden.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_equals_unmerged_and_is_an_ordinary_checkpoint(name, tmp_path):
    model = merge_lora(adapted(name))
    assert not lora_layers(model)
    torch.testing.assert_close(model(IDS), EXPECTED[name], atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path)
    again = Exaone4.from_pretrained(tmp_path, device="cpu")
    assert again.state_dict().keys() == base().state_dict().keys()
    torch.testing.assert_close(again(IDS), model(IDS), atol=0, rtol=0)


def test_merging_in_bfloat16_rounds_once():
    plain, model = base("bfloat16"), adapted("rslora", "bfloat16")
    layers = lora_layers(model)
    assert len(layers) == 28 and all(layer.lora_A.dtype == torch.float32 for layer in layers.values())
    sums = {name: plain.get_submodule(name).weight.double() + layer.scaling * layer.lora_B.double()
            @ layer.lora_A.double() for name, layer in layers.items()}
    merged = merge_lora(model)
    assert merged.norm.weight.dtype == torch.bfloat16
    for name, weight in sums.items():
        got = merged.get_submodule(name).weight
        assert got.dtype == torch.bfloat16 and (got != weight.float().bfloat16()).float().mean() < 1e-3
    assert torch.equal(plain.layers[0].self_attn.q_proj.weight, base("bfloat16").layers[0].self_attn.q_proj.weight)


def test_bfloat16_is_as_near_to_float32_as_the_base_itself():
    def error(model, exact):
        return (model(IDS).float() - exact).std() / exact.std()

    own = error(base("bfloat16"), EXPECTED["base"])
    for name in ADAPTERS:
        model = adapted(name, "bfloat16")
        assert model(IDS).dtype == torch.bfloat16 and error(model, EXPECTED[name]) < 2 * own


def test_both_ways_with_the_installed_peft(tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = add_lora(adapted_less := base(), 3, 7, ["q_proj", "mlp.up_proj"])
    assert adapted_less is model
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.2)
    model.layers[1].self_attn.q_proj.alpha = 2.5
    save_adapter(model, tmp_path, "base")
    theirs = transformers.Exaone4ForCausalLM.from_pretrained(GOLDEN / "base", dtype=torch.float32).eval()
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path)
    torch.testing.assert_close(theirs(IDS).logits, model(IDS), atol=1e-5, rtol=1e-5)
    for name in ADAPTERS:
        theirs = transformers.Exaone4ForCausalLM.from_pretrained(GOLDEN / "base", dtype=torch.float32).eval()
        save_adapter(adapted(name), tmp_path / name)
        theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / name)
        torch.testing.assert_close(theirs(IDS).logits, EXPECTED[name], atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------- training


def test_a_new_adapter_changes_nothing_and_only_a_and_b_learn():
    torch.manual_seed(0)
    model = base()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_lora(model, 4, 8)
    torch.testing.assert_close(model(IDS), EXPECTED["base"], atol=1e-5, rtol=1e-5)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    assert len(trained) == 2 * len(TARGETS) * 4
    optimizer, first = torch.optim.AdamW(model.parameters(), lr=0.02), loss_of(model).item()
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model) < first - 0.5
    for name, tensor in before.items():
        now = model.get_parameter(name if name.count("proj") == 0 else name.replace("proj.weight", "proj.base.weight"))
        assert torch.equal(now, tensor), name


def test_a_layer_by_float64():
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(40, 24, bias=False), 5, 12).double()
    nn.init.normal_(layer.lora_B)
    x = torch.randn(3, 7, 40, dtype=torch.double, requires_grad=True)
    y = torch.randn(3, 7, 24, dtype=torch.double)
    a, b = (p.detach().clone().requires_grad_() for p in (layer.lora_A, layer.lora_B))
    x2 = x.detach().clone().requires_grad_()
    (layer(x) * y).sum().backward()
    (x2 @ (layer.base.weight + 12 / 5 * (b @ a)).T * y).sum().backward()
    for got, expected in ((layer.lora_A.grad, a.grad), (layer.lora_B.grad, b.grad), (x.grad, x2.grad)):
        torch.testing.assert_close(got, expected)
    assert layer.base.weight.grad is None


def pack_by_order(linear):
    """4 bits in groups of 16, of inputs in another order."""
    order = torch.randperm(linear.in_features, generator=torch.Generator().manual_seed(1))
    packed = round_to_nearest(linear.weight[:, order], 4, 16)
    return PackedLinear(**dict(packed.named_buffers()) | {"order": order}, group=16)


PACKINGS = {"4 bits": lambda linear: round_to_nearest(linear.weight, 4, 16),
            "4 bits with zeros": lambda linear: round_to_nearest(linear.weight, 4, 8, symmetric=False),
            "8 bits": lambda linear: round_to_nearest(linear.weight, 8, -1), "another order": pack_by_order}


@pytest.mark.parametrize("pack", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("targets", [TARGETS, ["v_proj"]], ids=["all", "one"])
def test_a_packed_base_trains_as_the_same_weights_unpacked(pack, targets):
    packed, dense = base(), base()
    for name, module in list(packed.named_modules()):
        if isinstance(module, nn.Linear):
            packed.set_submodule(name, pack(module))
            matrix = packed.get_submodule(name)
            weight = matrix.unpacked(torch.float32)
            weight = weight if matrix.order is None else weight[:, matrix.order.argsort()]
            dense.get_submodule(name).weight.data = weight
    for model in (packed, dense):
        torch.manual_seed(0)
        for layer in lora_layers(add_lora(model, 4, 8, targets)).values():
            nn.init.normal_(layer.lora_B, std=0.1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        loss = loss_of(packed, IDS[:, :23])
    assert not {(32, 32), (48, 32), (32, 48), (16, 32)} & set(kept), "unpacked weights are kept for the gradient"
    loss.backward()
    loss_of(dense, IDS[:, :23]).backward()
    other = dict(dense.named_parameters())
    for name, parameter in packed.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, other[name].grad, atol=1e-6, rtol=1e-4)


def test_a_packed_base_refuses_to_be_merged_and_stays_as_it_was():
    model = quantize(base(), 8)
    load_adapter(model, GOLDEN / "layers")
    with pytest.raises(ValueError, match="o_proj is packed in 8 bits, into which.*unquantized model and quantize that"):
        merge_lora(model)
    assert len(lora_layers(model)) == 4
    off, exact = model(IDS) - EXPECTED["layers"], EXPECTED["layers"]
    assert off.std() < 0.05 * exact.std()


def test_a_model_with_an_adapter_can_be_rounded():
    for name in ADAPTERS:
        model = quantize(adapted(name), 8)
        assert all(isinstance(layer.base, PackedLinear) for layer in lora_layers(model).values())
        assert (model(IDS) - EXPECTED[name]).std() < 0.05 * EXPECTED[name].std()


def test_a_head_of_its_own_takes_an_adapter(tmp_path):
    torch.manual_seed(0)
    model = Exaone4(replace(base().config, tie_word_embeddings=False)).eval()
    add_lora(model, 4, 8, ["q_proj", "lm_head"])
    assert list(lora_layers(model))[-1] == "lm_head"
    nn.init.normal_(model.lm_head.lora_B)
    expected = model(IDS)
    save_adapter(model, tmp_path)
    assert "base_model.model.lm_head.lora_A.weight" in load_file(tmp_path / "adapter_model.safetensors")
    torch.testing.assert_close(merge_lora(model)(IDS), expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ the folder


def test_round_trip(tmp_path):
    for name in ADAPTERS:
        model = adapted(name)
        save_adapter(model, tmp_path / name, "owner/name")
        again = load_adapter(base(), tmp_path / name)
        torch.testing.assert_close(again(IDS), EXPECTED[name], atol=1e-5, rtol=1e-5)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        theirs, ours = (load_file(folder / name / "adapter_model.safetensors") for folder in (GOLDEN, tmp_path))
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
        assert config["base_model_name_or_path"] == "owner/name" and config["peft_type"] == "LORA"
    assert config["target_modules"] == sorted(f"model.layers.{n}.{m}" for n in (1, 3)
                                              for m in ("self_attn.o_proj", "mlp.gate_proj"))
    config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"] and config["lora_alpha"] == 6 and config["r"] == 4


def test_a_regular_expression_of_a_file_is_not_run(folder):
    edit(folder, target_modules="(((((a*)*)*)*)*)*!")  # the names of the tensors say which modules are meant
    torch.testing.assert_close(load_adapter(base(), folder)(IDS), EXPECTED["plain"], atol=1e-5, rtol=1e-5)
    edit(folder, alpha_pattern={".*q_proj": 2})
    with pytest.raises(CheckpointError, match="alpha_pattern has '.*q_proj', a regular expression, which is not run"):
        load_adapter(base(), folder)


KEY = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize("tensors, config, words", [
    (None, {"peft_type": "LOHA"}, "peft_type is 'LOHA', but only LORA"),
    (None, {"use_dora": True}, "use_dora is True, which is more than plain LoRA: merge it"),
    (None, {"modules_to_save": ["norm"]}, r"modules_to_save is \['norm'\]"),
    (None, {"lora_bias": True}, "lora_bias"), (None, {"layer_replication": [[0, 2]]}, "layer_replication"),
    (None, {"trainable_token_indices": [1]}, "trainable_token_indices"),
    (None, {"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    (None, {"a_key_of_next_year": {"x": 1}}, "a_key_of_next_year is {'x': 1}"),
    (None, {"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4', which changes the base"),
    (None, {"lora_alpha": "8"}, "the alpha of model.layers.0.* is '8', expected a number"),
    (None, {"alpha_pattern": [1]}, "alpha_pattern is"),
    (lambda t: t | {"base_model.model.model.norm.weight": torch.ones(32)}, {}, "model.norm.weight, expected only lora"),
    (lambda t: t | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 97)}, {}, "lora_embedding_A"),
    (lambda t: t | {f"{KEY}.lora_magnitude_vector": torch.ones(32)}, {}, "lora_magnitude_vector"),
    (lambda t: {f"{key.removeprefix('base_model.model.')}": v for key, v in t.items()}, {}, "expected only lora_A"),
    (lambda t: {key.replace("layers.3", "layers.7"): v for key, v in t.items()}, {},
     r"adapts model.layers.7.self_attn.q_proj, model.layers.7.self_attn.v_proj, which.*made for base\)"),
    (lambda t: t | {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32),
                    "base_model.model.lm_head.lora_B.weight": torch.ones(97, 4)}, {}, "adapts lm_head, which this"),
    (lambda t: {key: v for key, v in t.items() if key != f"{KEY}.lora_B.weight"}, {},
     "has only lora_A of model.layers.1.self_attn.q_proj"),
    (lambda t: t | {f"{KEY}.lora_A.weight": torch.ones(4, 31)}, {}, r"q_proj is \[4, 31\] and \[32, 4\], expected"),
    (lambda t: t | {f"{KEY}.lora_A.weight": torch.ones(3, 32)}, {}, r"q_proj is \[3, 32\] and \[32, 4\], expected"),
    (lambda t: t | {f"{KEY}.lora_A.weight": torch.ones(())}, {}, r"q_proj is \[\] and"),
    (lambda t: t | {f"{KEY}.lora_A.weight": torch.ones(4, 32).int()}, {}, "lora_A.weight is .* I32, expected"),
    (lambda t: {}, {}, "holds no tensor"),
])
def test_more_than_lora_or_another_model_is_refused_in_one_line(folder, tensors, config, words):
    edit(folder, tensors, **config)
    model = base()
    with pytest.raises(CheckpointError, match=words) as error:
        load_adapter(model, folder)
    assert "\n" not in str(error.value)
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())


def test_broken_folders_are_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="base holds no LoRA adapter: adapter_config.json is missing"):
        load_adapter(base(), GOLDEN / "base")
    with pytest.raises(CheckpointError, match="nowhere is neither a folder nor a hub id"):
        load_adapter(base(), tmp_path / "nowhere")
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="adapter_config.json holds no JSON object"):
        load_adapter(base(), folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(CheckpointError, match="adapter_model.safetensors is missing, cut short or no safetensors"):
        load_adapter(base(), folder)


def test_what_cannot_be_added_or_saved(tmp_path):
    model = base()
    for options, words in (({"rank": 0}, "rank is 0"), ({"rank": 2.5}, "rank is 2.5"), ({"alpha": 0}, "alpha 0"),
                           ({"targets": ["q_proj", "query"]}, "targets name query, expected some of down_proj, gate_"),
                           ({"targets": ["lm_head"]}, "targets name lm_head"), ({"targets": []}, "targets name none"),
                           ({"targets": ["proj"]}, "targets name proj")):
        with pytest.raises(ValueError, match=words):
            add_lora(model, **options)
    with pytest.raises(ValueError, match="no adapter to save"):
        save_adapter(model, tmp_path)
    assert merge_lora(model) is model and not any(tmp_path.iterdir())
    add_lora(model)
    for again in (add_lora, lambda m: load_adapter(m, GOLDEN / "plain")):
        with pytest.raises(ValueError, match=r"an adapter already \(layers.0.self_attn.q_proj\): merge_lora"):
            again(model)
    with pytest.raises(ValueError, match="q_proj has a LoRA adapter, which has no place among a model's weights"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


# ----------------------------------------------------------------------------------------------- the fast paths


def test_the_fast_path_refuses_an_adapter_and_runs_a_merged_one():
    model = Exaone4.from_pretrained(device="cpu")
    torch.manual_seed(0)
    for layer in lora_layers(add_lora(model, 2, 4)).values():
        nn.init.normal_(layer.lora_B, std=0.02)
    said = r"cannot run layers.0.self_attn.q_proj: a LoRALinear has no kernel form; merge or remove it"
    with pytest.raises(ValueError, match=said):
        speed_up(model)
    assert model.fast is None
    prompt = list(range(20, 60))
    expected = model.generate(prompt, max_new_tokens=12)
    assert speed_up(merge_lora(model)).generate(prompt, max_new_tokens=12) == expected
    add_lora(model)
    with pytest.raises(ValueError, match=said):
        model.generate(prompt, max_new_tokens=2)


@pytest.mark.parametrize("packed", [False, True])
def test_the_fast_path_on_cuda_refuses_before_it_moves_a_weight(packed):
    FastGPU = pytest.importorskip("minexaone.fast.gpu").FastGPU
    model = base("bfloat16")
    before = [p.data_ptr() for p in model.parameters()]
    add_lora(quantize(model, 8) if packed else model, targets=["v_proj"])
    with pytest.raises(ValueError, match="cannot run layers.0.self_attn.v_proj: a LoRALinear has no kernel form"):
        FastGPU(model)
    if not packed:
        assert before == [p.data_ptr() for name, p in model.named_parameters() if "lora_" not in name]


# -------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def shouting(tmp_path_factory):
    """An adapter of the shipped model with which it says something else."""
    folder = tmp_path_factory.mktemp("shouting")
    torch.manual_seed(3)
    model = add_lora(Exaone4.from_pretrained(device="cpu"), 4, 8)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    save_adapter(model, folder)
    return folder


def test_every_command_takes_an_adapter(shouting, capsys, tmp_path, monkeypatch):
    def run(*argv):
        status = main([*map(str, argv)])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    prompt = ["--device", "cpu", "--max-new-tokens", "12", "Explain how wonderful you are"]
    _, plain, _ = run(*prompt)
    status, other, _ = run("--adapter", shouting, *prompt)
    assert status == 0 and other != plain
    merged = tmp_path / "merged"  # what 8 bits must be made of: they may choose another token than the weights before
    merge_lora(load_adapter(Exaone4.from_pretrained(device="cpu"), shouting)).save_pretrained(merged)
    Tokenizer.from_pretrained().save_pretrained(merged)
    _, packed, _ = run("--model", merged, "--int8", *prompt)
    for option, expected in (("--fast", other), ("--int8", packed)):
        status, text, _ = run("--adapter", shouting, option, *prompt)
        assert status == 0 and text == expected, option
    status, _, error = run("--adapter", SHIPPED, *prompt)
    assert status == 1 and error.count("\n") == 1 and "holds no LoRA adapter" in error
    status, _, error = run("--model", shouting, *prompt)
    assert status == 1 and error.count("\n") == 1 and "--adapter" in error

    model = load_adapter(Exaone4.from_pretrained(device="cpu"), shouting)
    assert run("quantize", "--adapter", shouting, SHIPPED, "--out", tmp_path / "w8", "--bits", 8, "--group", 64,
               "--method", "nearest", "--samples", 1, "--device", "cpu")[0] == 0
    ids = torch.arange(40)[None] + 50
    off = Exaone4.from_pretrained(tmp_path / "w8", "float32", "cpu")(ids) - model.float()(ids)
    assert off.std() < 0.05 * model(ids).std()
    status, text, error = run("--model", tmp_path / "w8", "--adapter", shouting, "--fast", *prompt)
    assert status == 1 and text == "" and error.count("\n") == 1 and "is packed in 8 bits, into which" in error
    assert run("--model", tmp_path / "w8", "--adapter", shouting, *prompt)[0] == 0

    from minexaone.scoring import evaluate
    seen = []
    monkeypatch.setattr(evaluate, "by_task", lambda model, *args, **options: seen.append(len(lora_layers(model))) or [])
    monkeypatch.setattr(evaluate, "needle_grid", lambda *args, **options: [])
    monkeypatch.setattr(evaluate, "chats", lambda *args, **options: [])
    monkeypatch.setattr(evaluate, "episodes", lambda *args, **options: [])
    monkeypatch.setattr(evaluate, "budget_curve", lambda *args, **options: [])
    assert run("evaluate", "--adapter", shouting, "--device", "cpu", "--json", tmp_path / "scores.json")[0] == 0
    assert seen[0] == 56 and json.loads((tmp_path / "scores.json").read_text())["adapter"] == str(shouting)
