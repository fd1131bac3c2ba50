"""The CUDA fast path against the clear path: on a GPU the kernels themselves, elsewhere in Triton's interpreter."""

import copy
from dataclasses import replace
from random import Random

import pytest
import torch

from minexaone.config_json import GLOBAL, SLIDING
from minexaone.generation import PromptCache, prefill
from minexaone.linear.rounding import round_to_nearest
from minexaone.model import Config, Exaone4, KVCache
from minexaone.speculation import PromptLookup
from minexaone.tasks import sample
from minexaone.tokenizer import Tokenizer
from minexaone.training.data import turn_ids

pytest.importorskip("triton", reason="the CUDA fast path needs Triton, which PyTorch brings along on Linux")
from minexaone.fast import gpu as fast_gpu  # noqa: E402
from minexaone.fast import speed_up  # noqa: E402

CUDA = torch.cuda.is_available()
WINDOW = 20
# Sizes that are no powers of two, five query heads for each key head; more than two windows, more than one split.
HYBRID = Config(vocab_size=24, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=10,
                num_key_value_heads=2, head_dim=16, layer_types=[SLIDING, GLOBAL], sliding_window=WINDOW,
                max_position_embeddings=500, eos_token_id=3, initializer_range=0.1)
ALL_GLOBAL = Config(vocab_size=24, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=1, head_dim=16, layer_types=[GLOBAL] * 2, tie_word_embeddings=True,
                    max_position_embeddings=500, eos_token_id=3, initializer_range=0.1)
PADDED = torch.ones(3, 72, dtype=torch.long)
PADDED[1, :45], PADDED[2, :60] = 0, 0


def reference_attention(q, k, v, starts, lengths, window):
    """`fast_gpu.causal_attention` row by row from a mask; flash attention runs on GPUs only."""
    rows, key_start = [], 0
    for row in range(len(lengths)):
        ours = q if len(lengths) == 1 else q[starts[row]:starts[row + 1]]
        n = len(k) if len(lengths) == 1 else len(ours)
        keys, values = (t[key_start:key_start + n].repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        key_start += n
        i, j = torch.arange(n - len(ours), n)[:, None], torch.arange(n)[None, :]
        scores = torch.einsum("qhd,khd->hqk", ours, keys) / q.shape[2] ** 0.5
        scores = scores.masked_fill((j > i) | (window is not None and j <= i - (window or 0)), -torch.inf)
        rows.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values))
    return torch.cat(rows)


@pytest.fixture
def make(monkeypatch):
    """config -> (clear model, fast path, float32 model)."""
    if not CUDA:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(fast_gpu, "causal_attention", reference_attention)
        monkeypatch.setattr(fast_gpu, "SPLITS", 4)
        monkeypatch.setattr(fast_gpu, "DTYPES", (torch.float32,))  # the interpreter has no bfloat16

    def make(config):
        torch.manual_seed(0)
        exact = Exaone4(config).to("cuda" if CUDA else "cpu").eval().requires_grad_(False)
        for parameter in exact.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
        clear = Exaone4(config).to(exact.device, torch.bfloat16 if CUDA else torch.float32).eval()
        clear.load_state_dict(exact.state_dict())
        fast = fast_gpu.FastGPU(clear.requires_grad_(False))
        exact.load_state_dict(clear.state_dict())
        return clear, fast, exact

    return make


@pytest.mark.parametrize(("config", "B"), [(HYBRID, 1), (HYBRID, 3), (ALL_GLOBAL, 1)],
                         ids=["hybrid", "hybrid-rows", "global"])
def test_prompts_chunks_and_steps_have_the_logits_of_the_clear_path(make, config, B):
    clear, fast, exact = make(config)
    ids = torch.randint(0, 24, (B, 72)).to(clear.device)
    mask = (PADDED if B > 1 else torch.ones(1, 72, dtype=torch.long)).to(clear.device)
    models = [(model, KVCache(config, max_length=130 if B == 1 else 5000)) for model in (exact, clear, fast)]
    errors = []  # of the clear and of the fast path against float32

    def compare(tokens, mask=None):
        with torch.inference_mode():
            true, plain, ours = (model(tokens, cache, mask, 1).float() for model, cache in models)
        errors.append([(logits - true).norm() / true.norm() for logits in (plain, ours)])

    compare(ids[:, :67], mask[:, :67])
    compare(ids[:, 67:], mask[:, 67:])  # a chunk that continues a full ring
    for step in range(40 if CUDA else 4):
        if step == 2:  # the caches are interchangeable
            (model, cache), (_, other) = models[1:]
            models[1:] = [(model, other), (fast, cache)]
        compare(torch.randint(0, 24, (B, 2)).to(clear.device)[:, 1:])  # not contiguous
    plain, ours = torch.tensor(errors).T
    if CUDA:  # bfloat16: as near to float32 as the clear path is
        assert ours.square().mean() < 1.2**2 * plain.square().mean() and ours.max() < 0.05
    else:  # float32: only the order of sums differs
        assert ours.max() < 1e-5


@pytest.mark.parametrize("config", [HYBRID, ALL_GLOBAL], ids=["hybrid", "global"])
def test_a_kept_cache_goes_on_with_other_prompts(make, config):
    clear, fast, exact = make(config)
    text, kept, errors = torch.randint(0, 24, (70,)).tolist(), PromptCache(WINDOW), []
    for turn, (back, new) in enumerate([(0, 0), (0, 5), (9, 4), (12, 1), (3, 7)]):  # one step, and some at once
        text = text[:len(text) - back] + torch.randint(0, 24, (new,)).tolist()
        cache, unread, read = kept.fit(clear, text, len(text) + 10)
        assert turn == 0 or len(unread[0]) == max(new, 1)
        whole = torch.tensor([text], device=clear.device)
        with torch.inference_mode():
            ours = prefill(fast, unread, cache, clear.device).float()
            read += unread[0]
            true, plain = (model(whole, logits_to_keep=1).float() for model in (exact, clear))
        errors.append([(logits - true).norm() / true.norm() for logits in (plain, ours)])
    plain, ours = torch.tensor(errors).T
    if CUDA:
        assert ours.square().mean() < 1.5**2 * plain.square().mean() and ours.max() < 0.05
    else:
        assert ours.max() < 1e-5


@pytest.mark.parametrize("config", [HYBRID, replace(HYBRID, num_attention_heads=2)], ids=["groups of 5", "of 1"])
def test_a_few_tokens_at_once_in_rows_of_different_lengths(make, monkeypatch, config):
    clear, fast, exact = make(config)
    ids = torch.randint(0, 24, (3, 72)).to(clear.device)
    models = [(model, KVCache(config, 130, spare=9)) for model in (exact, clear, fast)]
    errors = []

    def compare(T, back=(0, 0, 0), mask=None):
        tokens = ids if mask is not None else torch.randint(0, 24, (3, T)).to(clear.device)
        with torch.inference_mode():
            for _, cache in models:
                if any(back):
                    cache.rewind(cache.length - torch.tensor(back, device=clear.device)[:, None])
            true, plain, ours = (model(tokens, cache, mask, 0).float() for model, cache in models)
        if mask is None:
            errors.append([(logits - true).norm() / true.norm() for logits in (plain, ours)])

    compare(72, mask=PADDED.to(clear.device))
    monkeypatch.setattr(fast_gpu, "causal_attention", None)  # all that follows looks at the cache where it is
    for T, back in ((5, (0, 0, 0)), (5, (4, 0, 2)), (1, (1, 2, 3)), (10, (1, 0, 0)), (10, (9, 9, 9)), (3, (0, 10, 4))):
        compare(T, back)
    plain, ours = torch.tensor(errors).T
    if CUDA:
        assert ours.square().mean() < 1.2**2 * plain.square().mean() and ours.max() < 0.05
    else:
        assert ours.max() < 1e-5


def prompts_of_tasks(count):
    """Prompts that the shipped model answers with confidence, so that rounding seldom decides."""
    tokenizer, rng = Tokenizer.from_pretrained(), Random(0)
    tasks = ["sums", "needle", "call", "chat"] * count
    return [turn_ids(sample(rng, "test", task, "en", True), tokenizer)[0] for task in tasks[:count]]


def equal_up_to_rounding(model, prompt, found, expected):
    """Whether two greedy replies are equal, or differ first where both ids have nearly the same logit in float32."""
    n = next((n for n, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b), None)
    if n is None:
        return True
    logits = model(torch.tensor([[*prompt, *expected[:n]]], device=model.device), logits_to_keep=1)[0, -1]
    return logits.max() - logits[[found[n], expected[n]]].min() < 0.2


@pytest.mark.skipif(not CUDA, reason="CUDA graphs need a GPU")
def test_recorded_steps_go_on_with_a_kept_cache():
    model, kept = speed_up(Exaone4.from_pretrained(dtype="bfloat16", device="cuda")), PromptCache(64)
    exact = Exaone4.from_pretrained(dtype="float32", device="cuda")
    text = prompts_of_tasks(1)[0]
    for turn in range(6):
        reply = model.generate(text, max_new_tokens=40, stop_ids=[], prompt_cache=kept)
        assert (kept.reused == 0) == (turn == 0) and kept.cache.length == len(kept.ids) == len(text) + 39
        with torch.inference_mode():
            assert equal_up_to_rounding(exact, text, reply, exact.generate(text, max_new_tokens=40, stop_ids=[]))
        text += reply[:40 - 5 * turn] + [7 + turn] * 9


@pytest.mark.skipif(not CUDA, reason="CUDA graphs need a GPU")
def test_recorded_checks_of_guesses_give_the_reply_without_a_draft():
    model = speed_up(Exaone4.from_pretrained(dtype="bfloat16", device="cuda"))
    exact, prompts, same = Exaone4.from_pretrained(dtype="float32", device="cuda"), prompts_of_tasks(4), 0
    for part in (prompts[:1], prompts):
        plain = exact.generate(part, max_new_tokens=80, stop_ids=[])
        found = model.generate(part, max_new_tokens=80, stop_ids=[], draft=PromptLookup(4))
        with torch.inference_mode():
            assert all(equal_up_to_rounding(exact, *both) for both in zip(part, found, plain, strict=True))
        drawn = [model.generate(part, max_new_tokens=80, temperature=0.6, seed=3, draft=draft)
                 for draft in (None, PromptLookup(4))]
        same += sum(a == b for a, b in zip(*drawn, strict=True))
    assert same >= 3  # of 5: rounding may have moved a draw


def test_a_whole_prompt_gives_the_logits_of_every_token(make):
    clear, fast, exact = make(ALL_GLOBAL)
    ids = torch.randint(0, 24, (1, 20)).to(clear.device)
    true, plain, ours = (model(ids).float() for model in (exact, clear, fast))
    assert ours.shape == true.shape
    assert (ours - true).norm() < (1.3 * (plain - true).norm() + 1e-3 * true.norm() if CUDA else 1e-5 * true.norm())


def test_the_models_parameters_are_views_of_the_joined_ones(make):
    clear, fast, _ = make(HYBRID)
    attn = clear.layers[0].self_attn
    assert attn.q_proj.weight.data_ptr() == fast.qkv[0].data_ptr()
    assert torch.equal(torch.cat((attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight)), fast.qkv[0])
    assert list(clear.state_dict()) == list(Exaone4(HYBRID).state_dict())


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="bfloat16 or float16, these are torch.float32: load the model with dtype"):
        fast_gpu.FastGPU(Exaone4(ALL_GLOBAL))


def pack(model, bits, group, symmetric, ordered=False):
    """Round every matrix of the layers to 4 or 8 bits."""
    for layer in model.layers:
        order = torch.randperm(model.config.hidden_size, device=model.device)
        for block in (layer.self_attn, layer.mlp):
            for name, linear in list(block.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    same = ordered and linear.in_features == model.config.hidden_size
                    weight = linear.weight[:, order] if same else linear.weight
                    found = round_to_nearest(weight, bits, group, symmetric)
                    found.order = order if same else None
                    setattr(block, name, found)
    return model


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("bits", "group", "symmetric", "ordered"), [
    (4, 128, True, False), (4, 32, False, False), (8, 128, False, False), (4, 64, False, True)])
def test_packed_layers_have_the_logits_of_the_clear_path(monkeypatch, rows, bits, group, symmetric, ordered):
    if not CUDA:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(fast_gpu, "causal_attention", reference_attention)
        monkeypatch.setattr(fast_gpu, "SPLITS", 4)
    monkeypatch.setattr(fast_gpu, "FEW", 4)
    config = replace(HYBRID, num_hidden_layers=1, layer_types=[SLIDING], hidden_size=128, intermediate_size=128,
                     num_attention_heads=8, num_key_value_heads=1)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if CUDA else torch.float16
    clear = Exaone4(config).to("cuda" if CUDA else "cpu", dtype).eval().requires_grad_(False)
    exact = copy.deepcopy(pack(clear, bits, group, symmetric, ordered)).float()
    fast = fast_gpu.FastGPU(clear)
    q_proj = clear.layers[0].self_attn.q_proj
    assert q_proj.weight.data_ptr() == fast.qkv[0].weight.data_ptr() and len(fast.fingerprint) > 0
    models = [(model, KVCache(config, max_length=80)) for model in (exact, clear, fast)]
    errors = []
    for length in (5, 3, 1) if rows == 1 else (2, 1):  # unpacked beforehand, and while it is multiplied
        ids = torch.randint(0, 24, (rows, length)).to(clear.device)
        with torch.inference_mode():
            true, plain, ours = (model(ids, cache, None, length).float() for model, cache in models)
        errors.append([(logits - true).norm() / true.norm() for logits in (plain, ours)])
    plain, ours = torch.tensor(errors).T
    # How much the clear path itself rounds depends on the CPU (with AMX less), float16's steps of 2**-11 do not.
    assert ours.square().mean() < 1.4**2 * plain.square().mean() and ours.max() < (0.05 if CUDA else 0.003)


def test_what_the_kernels_cannot_read_is_refused():
    model = pack(Exaone4(replace(ALL_GLOBAL, dtype="bfloat16")).bfloat16(), 4, 8, True)
    with pytest.raises(ValueError, match="in groups of 32.*this is torch.uint8 in groups of 8"):
        fast_gpu.FastGPU(model)


@pytest.mark.skipif(not CUDA, reason="CUDA graphs need a GPU")
def test_recorded_steps_continue_as_unrecorded_ones_would():
    model = Exaone4.from_pretrained(dtype="bfloat16", device="cuda")
    prompts = [[5 + i % 2000 for i in range(n)] for n in (3, 300, 40)]
    fast = fast_gpu.FastGPU(model)
    unrecorded = type("Unrecorded", (), {"prefill_chunk": fast.prefill_chunk, "count": None, "config": fast.config,
                                         "renewed": lambda self: self,
                                         "__call__": lambda self, *args, **options: fast(*args, **options)})()
    for options in ({}, {"temperature": 0.8, "top_p": 0.9, "seed": 1, "presence_penalty": 0.5}):
        results = []
        for model.fast in (unrecorded, fast):
            results.append(model.generate(prompts, max_new_tokens=150, stop_ids=[], **options))
        assert results[0] == results[1]
    # two generations in turn share the buffers of a step
    model.fast = fast
    alone = [list(model.stream(prompt, max_new_tokens=40, stop_ids=[])) for prompt in prompts[:2]]
    assert list(zip(*(model.stream(prompt, max_new_tokens=40, stop_ids=[]) for prompt in prompts[:2]),
                    strict=True)) == list(zip(*alone, strict=True))


@pytest.mark.skipif(not CUDA, reason="the fast path needs a GPU")
def test_the_fast_path_follows_its_model():
    model, prompts = Exaone4.from_pretrained(dtype="bfloat16", device="cuda"), [[7 + i] * (30 + i) for i in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    speed_up(model)

    def agree(least=30):  # of 36: rounding may decide between near ties
        fast, model.fast = model.fast, None
        clear = model.generate(prompts, max_new_tokens=12, stop_ids=[])
        model.fast = fast
        found = model.generate(prompts, max_new_tokens=12, stop_ids=[])
        assert sum(a == b for x, y in zip(clear, found, strict=True) for a, b in zip(x, y, strict=True)) >= least

    agree()
    before = model.layers[0].self_attn.q_proj.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    assert torch.equal(before * 0.5, model.layers[0].self_attn.q_proj.weight)  # though fused since
    agree()
    model.load_state_dict({key: tensor * 1.01 for key, tensor in model.state_dict().items()}, assign=True)
    agree()
    memory = torch.cuda.memory_allocated()
    twin = copy.deepcopy(model)
    assert twin.fast is None
    assert torch.cuda.memory_allocated() - memory < 1.1 * sum(p.nbytes for p in model.parameters())
    model.to(torch.float16)
    agree()
    with pytest.raises(ValueError, match="needs weights in bfloat16 or float16, these are torch.float32"):
        model.to(torch.float32).generate(prompts)
    model.to(torch.bfloat16)
    hook = model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="layers.0.mlp.up_proj: a Linear with hooks"):
        model.generate(prompts)
    hook.remove()
    agree()
    model.to("cpu")  # of what ran on CUDA, nothing may stay there
    agree()
    model.to("cuda")
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    for options in ({}, {"temperature": 0.8, "top_p": 0.9}):
        with pytest.raises(RuntimeError, match="not finite"):
            model.generate(prompts, **options)
