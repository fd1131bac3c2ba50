"""The model against transformers' Exaone4ForCausalLM, with random weights, well past the easy sizes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Exaone4Config, Exaone4ForCausalLM

from minexaone.config_json import GLOBAL, SLIDING
from minexaone.model import Config, Exaone4, KVCache, cache_bytes

W = 8  # the sliding window of these small models; lengths go well beyond two of them
LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # small, so that all three bands of frequencies are used
SMALL = dict(vocab_size=300, hidden_size=48, intermediate_size=96, num_attention_heads=6, num_key_value_heads=2,
             head_dim=16, max_position_embeddings=4096, rms_norm_eps=1e-5, eos_token_id=2)
LOCAL3 = [SLIDING, SLIDING, SLIDING, GLOBAL]
SHAPES = {
    "1.2B-like": dict(SMALL, num_hidden_layers=3, layer_types=[GLOBAL] * 3, sliding_window=None,
                      tie_word_embeddings=True, rope_scaling=LLAMA3),
    "32B-like": dict(SMALL, num_hidden_layers=8, layer_types=LOCAL3 * 2, sliding_window=W, rope_scaling=LLAMA3),
    "all sliding": dict(SMALL, num_hidden_layers=2, layer_types=[SLIDING] * 2, sliding_window=W),
    "global first, MQA": dict(SMALL, num_hidden_layers=3, layer_types=[GLOBAL, SLIDING, SLIDING], sliding_window=W,
                              num_key_value_heads=1, rope_theta=10_000.0),
    "window but none slides": dict(SMALL, num_hidden_layers=2, layer_types=[GLOBAL] * 2, sliding_window=W,
                                   num_key_value_heads=6),
    "window of one": dict(SMALL, num_hidden_layers=2, layer_types=[SLIDING, GLOBAL], sliding_window=1),
}


def pair(name, dtype=torch.float32):
    """Our model and transformers', with the same random weights (norm weights too)."""
    values = dict(SHAPES[name])
    torch.manual_seed(0)
    model = Exaone4(Config(**values))
    for parameter in model.parameters():  # larger than the usual initialisation, so that attention is far from uniform
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    rope = values.pop("rope_scaling", None) or {"rope_type": "default"}
    rope = {"rope_theta": values.pop("rope_theta", 1e6)} | rope
    reference = Exaone4ForCausalLM(Exaone4Config(**values, rope_parameters=rope)).eval()
    weights = {key if key.startswith("lm_head") else f"model.{key}": value for key, value in model.state_dict().items()}
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    reference.tie_weights()
    return model.to(dtype).eval(), reference.to(dtype)


def tokens(*shape, seed=0):
    return torch.randint(3, SMALL["vocab_size"], shape, generator=torch.Generator().manual_seed(seed))


def assert_close(ours, theirs, limit=1e-4):
    """max |difference| <= limit, absolute and as a share of the logits' standard deviation."""
    difference = (ours.float() - theirs.float()).abs().max().item()
    assert difference <= limit and difference <= limit * theirs.float().std().item(), difference


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("length", [1, W - 1, W, W + 1, 3 * W + 5, 700])
@torch.inference_mode()
def test_logits_equal_transformers(name, length):
    model, reference = pair(name)
    ids = tokens(2, length)
    assert_close(model(ids), reference(ids).logits)


@pytest.mark.parametrize("name", ["1.2B-like", "32B-like"])
@torch.inference_mode()
def test_bfloat16_logits_are_as_near_to_float32_as_those_of_transformers(name):
    ids = tokens(2, 5 * W)
    exact = pair(name)[0](ids)
    model, reference = pair(name, torch.bfloat16)
    ours, theirs = (model(ids).float() - exact).std(), (reference(ids).logits.float() - exact).std()
    assert ours < 1.1 * theirs + 1e-3 and ours < 0.05 * exact.std()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("prefill", [[1], [W - 1], [W], [W + 1], [3 * W], [600], [5, 1, W, 2 * W + 3, 1, 1, W + 1]])
@torch.inference_mode()
def test_cached_equals_uncached(name, prefill):
    model, _ = pair(name)
    ids = tokens(2, sum(prefill) + 3 * W, seed=1)
    whole = model(ids)
    cache, parts, start = KVCache(model.config), [], 0
    for length in prefill + [1] * 3 * W:  # chunks, then one token at a time
        parts.append(model(ids[:, start:start + length], cache))
        start += length
    assert_close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("lengths", [[3 * W + 3, 2, W + 1, 1, 600], [W + 5]])  # several rows, and one that is padded
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_unequal_rows_equal_each_alone(name, side, lengths):
    model, _ = pair(name)
    new, width = 2 * W, max(max(lengths), 3 * W)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width)
    place = [slice(width - n, width) if side == "left" else slice(0, n) for n in lengths]
    texts = [tokens(n + new, seed=n) for n in lengths]
    for row, n in enumerate(lengths):
        ids[row, place[row]], mask[row, place[row]] = texts[row][:n], 1
    cache, chunked = KVCache(model.config), KVCache(model.config)
    logits = model(ids, cache, mask)
    pieces = [model(i, chunked, m) for i, m in zip(ids.split(W + 3, 1), mask.split(W + 3, 1), strict=True)]
    steps = [model(torch.stack([text[n + t:n + t + 1] for text, n in zip(texts, lengths, strict=True)]), cache)
             for t in range(new)]
    for row, n in enumerate(lengths):
        alone = model(texts[row][None])[0]
        assert_close(logits[row, place[row]], alone[:n])
        assert_close(torch.cat(pieces, 1)[row, place[row]], alone[:n])
        assert_close(torch.cat(steps, 1)[row], alone[n:])


def test_masks_with_holes_are_refused():
    model, _ = pair("32B-like")
    for row in ([1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0]):
        with pytest.raises(ValueError, match="one run of ones"):
            model(tokens(2, 4), attention_mask=torch.tensor([[1] * len(row), row]))
    for row in ([0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]):
        assert model(tokens(2, 4), attention_mask=torch.tensor([[1] * 4, row])).isfinite().all()


@torch.inference_mode()
def test_no_token_is_computed_twice():
    model, _ = pair("32B-like")
    fed = []
    model.embed_tokens.register_forward_hook(lambda module, args, out: fed.append(args[0].shape[1]))
    model.generate(tokens(30).tolist(), max_new_tokens=12, stop_ids=[])
    assert fed == [30] + [1] * 11


@torch.inference_mode()
def test_cache_holds_windows_and_not_more():
    model, _ = pair("32B-like")
    for max_length, prefill in ((0, 1), (5 * W, 1), (5 * W, 5 * W)):
        cache, ids = KVCache(model.config, max_length), tokens(1, 5 * W)
        for chunk in ids.split(prefill, 1):
            model(chunk, cache)
        sliding, global_ = cache.keys[0].shape[2], cache.keys[3].shape[2]
        assert sliding == W and 5 * W <= global_ <= (5 * W if max_length else 10 * W)
        if max_length:
            assert cache.nbytes == cache_bytes(model.config, 5 * W, itemsize=4)


def test_cache_arithmetic_of_the_published_shapes():
    shape = dict(vocab_size=102_400, num_key_value_heads=8)
    large = Config(**shape, hidden_size=5120, intermediate_size=27_392, num_hidden_layers=64, num_attention_heads=40,
                   head_dim=128, layer_types=LOCAL3 * 16, sliding_window=4096)
    small = Config(**shape, hidden_size=2048, intermediate_size=4096, num_hidden_layers=30, num_attention_heads=32,
                   head_dim=64, layer_types=[GLOBAL] * 30)
    assert cache_bytes(small, 1) == 61_440 and cache_bytes(large, 1) == 262_144
    assert round(cache_bytes(small, 65_536) / 1e9, 2) == 4.03
    assert round(cache_bytes(large, 131_072) / 1e9, 1) == 9.4
    assert round(64 * 131_072 * 2 * 8 * 128 * 2 / 1e9, 1) == 34.4
    with torch.device("meta"):
        assert sum(p.numel() for p in Exaone4(large).parameters()) == 32_003_216_384


@pytest.mark.parametrize("name", ["1.2B-like", "32B-like"])
def test_saved_checkpoint_loads_in_transformers(name, tmp_path):
    model, _ = pair(name)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    ours = Exaone4.from_pretrained(tmp_path, device="cpu")
    ids = tokens(2, 3 * W)
    with torch.inference_mode():
        assert torch.equal(ours(ids), model(ids))
        assert_close(ours(ids), theirs(ids).logits)
    greedy = theirs.generate(ids[:1], max_new_tokens=60, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert ours.generate(ids[0].tolist(), max_new_tokens=60, stop_ids=[]) == greedy[0, 3 * W:].tolist()


@torch.inference_mode()
def test_float64_reference_of_one_layer():
    """The formula written out once more, in float64 and with a full mask, by nobody's library."""
    model, _ = pair("32B-like")
    ids = tokens(1, 3 * W)
    model = model.double()
    T, config = ids.shape[1], model.config

    def norm(x, weight):
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weight

    i = torch.arange(T)
    angles = i[:, None].double() * model.frequencies.double()
    rotation = torch.polar(torch.ones_like(angles), angles)  # RoPE as a product of complex numbers
    x = model.embed_tokens.weight[ids[0]]
    for n, layer in enumerate(model.layers):
        a, heads = layer.self_attn, []
        for h in range(config.num_attention_heads):
            g = h // (config.num_attention_heads // config.num_key_value_heads)
            part = [slice(s * config.head_dim, (s + 1) * config.head_dim) for s in (h, g, g)]
            q, k, v = (x @ p.weight[s].T for p, s in zip((a.q_proj, a.k_proj, a.v_proj), part, strict=True))
            q, k = norm(q, a.q_norm.weight), norm(k, a.k_norm.weight)
            if config.layer_types[n] == SLIDING:
                q, k = (torch.view_as_real(torch.complex(*t.chunk(2, -1)) * rotation).transpose(-1, -2).flatten(-2)
                        for t in (q, k))
            scores = q @ k.T / config.head_dim**0.5
            hidden = i[None] > i[:, None]
            if config.layer_types[n] == SLIDING:
                hidden |= i[None] <= i[:, None] - W
            heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v)
        x = x + norm(torch.cat(heads, -1) @ a.o_proj.weight.T, layer.post_attention_layernorm.weight)
        m = layer.mlp
        gate = x @ m.gate_proj.weight.T
        x = x + norm((gate * gate.sigmoid() * (x @ m.up_proj.weight.T)) @ m.down_proj.weight.T,
                     layer.post_feedforward_layernorm.weight)
    logits = norm(x, model.norm.weight) @ model.lm_head.weight.T
    assert_close(model.float()(ids)[0], logits)
