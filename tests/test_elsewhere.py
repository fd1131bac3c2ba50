"""The table of notebooks/elsewhere.md says what the classes of transformers do."""

import re
from itertools import groupby
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

TEXT = (Path(__file__).parent.parent / "notebooks" / "elsewhere.md").read_text(encoding="utf-8")
ROWS = {cells[0]: cells[1:] for line in TEXT.splitlines() if line.startswith("| ") and line.count("|") == 7
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]] if cells[0] != "model"}
KINDS = {"EXAONE 4.0 32B": "exaone4", "EXAONE 4.0 1.2B": "exaone4", "EXAONE 4.5, the language model": "exaone4_5",
         "K-EXAONE": "exaone_moe", "OLMo 2": "olmo2", "Olmo 3": "olmo3", "Qwen3": "qwen3", "Gemma 3": "gemma3_text",
         "Llama 4 Scout": "llama4_text", "gpt-oss": "gpt_oss"}
FROM_REPORTS = {"gemma3_text", "exaone_moe"}  # the page says that their windows are not those of the classes
SIZES = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 12, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "pad_token_id": 0, "num_experts": 4,
         "num_local_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "intermediate_size_mlp": 16}


@pytest.fixture(scope="module", params=KINDS)
def row(request):
    """(cells of a row, a small model of its kind with everything else as the class has it)."""
    known = AutoConfig.for_model(KINDS[request.param])
    config = getattr(known, "text_config", None) or known
    sizes = {key: value for key, value in SIZES.items() if hasattr(config, key)}
    if request.param == "EXAONE 4.0 1.2B":
        sizes["sliding_window"] = None  # as published
        sizes["layer_types"] = ["full_attention"] * 12
    torch.manual_seed(0)
    return ROWS[request.param], AutoModel.from_config(AutoConfig.for_model(config.model_type, **sizes)).eval()


def test_every_model_of_the_table_is_compared():
    assert set(ROWS) == set(KINDS)


def test_where_the_norms_stand(row):
    (norms, *_), model = row
    names = {name for name, _ in model.layers[0].named_children() if "norm" in name}
    assert norms == {(True, False): "before", (False, True): "behind", (True, True): "before and behind"}[
        "input_layernorm" in names, "post_feedforward_layernorm" in names]
    assert len(names) == (4 if norms == "before and behind" else 2)


def test_what_norms_queries_and_keys(row):
    (_, said, *_), model = row
    attention = model.layers[0].self_attn
    if hasattr(attention, "q_norm"):
        assert {8: "each head", 32: "all heads together"}[attention.q_norm.weight.numel()] == said
    elif hasattr(attention, "qk_norm"):
        assert said == "the length alone, no gain" and not list(attention.qk_norm.parameters())
        assert [hasattr(layer.self_attn, "qk_norm") for layer in model.layers] == [True, True, True, False] * 3
    else:
        assert said == "none; a learned sink for each head" and attention.sinks.shape == (4,)


def test_which_layers_are_local_and_what_they_see(row):
    (_, _, ratio, seen, _), model = row
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"] * 12
    runs = [(kind == "full_attention", len(list(group))) for kind, group in groupby(kinds)]
    if ratio == "all global":
        assert runs == [(True, 12)] and seen == "–"
        return
    local, together = map(int, ratio.split(" : "))
    assert runs == [(False, local), (True, together)] * (12 // (local + together))
    if model.config.model_type not in FROM_REPORTS:
        window = model.config.attention_chunk_size if "chunk" in seen else model.config.sliding_window
        assert int(re.search(r"[\d,]+", seen)[0].replace(",", "")) == window


@torch.inference_mode()
def test_which_layers_know_the_order(row):
    """Only what attention gives in layers with RoPE changes with the angles."""
    (*_, said), model = row
    known = []
    for layer in model.layers:
        seen = []
        handle = layer.self_attn.register_forward_pre_hook(lambda m, a, k, seen=seen: seen.append(k), with_kwargs=True)
        model(torch.tensor([[1, 2, 3, 4, 5]]))
        handle.remove()
        caches = {"past_key_values", "cache"} & set(seen[0])  # the older name, and the newer one
        given = seen[0] | dict.fromkeys(caches)
        first = layer.self_attn(**given)[0]
        angles = given["position_embeddings"]  # complex numbers, or cosines and sines
        turned = angles.conj() if isinstance(angles, torch.Tensor) else (angles[0], -angles[1])
        known.append(not torch.equal(first, layer.self_attn(**given | {"position_embeddings": turned})[0]))
    local = [kind != "full_attention" for kind in getattr(model.config, "layer_types", None) or ["full_attention"] * 12]
    assert known == (local if said == "in local layers" else [True] * 12)
