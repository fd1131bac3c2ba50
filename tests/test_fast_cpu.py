"""The compiled steps on a CPU against the clear path, on one cache in turn and past two windows."""

import copy
from dataclasses import replace

import pytest
import torch

from minexaone import threads
from minexaone.config_json import GLOBAL, SLIDING
from minexaone.fast import speed_up
from minexaone.fast.cpu import FastCPU, Float32Products, matvec, matvec_weight
from minexaone.linear import fuse, word_form
from minexaone.linear.ggml import packed_blocks
from minexaone.linear.packed import PackedEmbedding, PackedLinear, pack4, tied_head
from minexaone.model import Config, Exaone4, KVCache

W = 8
HYBRID = Config(vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=6,
                num_key_value_heads=2, head_dim=16, layer_types=[SLIDING, SLIDING, SLIDING, GLOBAL], sliding_window=W,
                eos_token_id=2)
TIED = replace(HYBRID, num_hidden_layers=2, layer_types=[GLOBAL] * 2, sliding_window=None, tie_word_embeddings=True)


def random_model(config):
    torch.manual_seed(0)
    model = Exaone4(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return model


def tokens(length, vocab_size=300):
    return torch.randint(3, vocab_size, (1, length), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def steps(ids, prefill, *forwards, max_length=0):
    """The logits [T, vocab_size] of ids [1, T], one token at a time after the prefill; the forwards take turns."""
    cache = KVCache(forwards[0].config if isinstance(forwards[0], Exaone4) else forwards[0].model.config, max_length)
    parts = [forwards[0](ids[:, :prefill], cache)]
    for t in range(prefill, ids.shape[1]):
        parts.append(forwards[t % len(forwards)](ids[:, t:t + 1], cache))
    return torch.cat(parts, 1)[0]


@pytest.fixture(scope="module", params=[HYBRID, TIED], ids=["hybrid", "tied"])
def fast(request):
    return FastCPU(random_model(request.param))


@pytest.mark.parametrize("prefill", [1, W - 1, 3 * W])
@pytest.mark.parametrize("max_length", [0, 7 * W])  # a cache that grows, and one that is large enough at once
def test_steps_equal_the_clear_path(fast, prefill, max_length):
    model, ids = fast.model, tokens(7 * W)
    clear = steps(ids, prefill, model)
    for forwards in ((fast,), (fast, model), (model, model, fast)):
        difference = (steps(ids, prefill, *forwards, max_length=max_length) - clear).abs().max()
        assert difference <= 2e-5 * clear.std(), difference
    with torch.inference_mode():  # without a prefill
        cache = KVCache(model.config)
        assert torch.allclose(fast(ids[:, :1], cache), clear[:1], atol=1e-4) and cache.columns == cache.length == 1


def test_anything_else_is_the_clear_path(fast, monkeypatch):
    model, ids, calls = fast.model, tokens(12), []
    monkeypatch.setattr(fast, "head", lambda *args: calls.append(1))
    two, mask = ids.view(2, 6), torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    with torch.inference_mode():
        assert torch.equal(fast(ids), model(ids)) and torch.equal(fast(ids[:, :1]), model(ids[:, :1]))
        assert torch.equal(fast(ids, logits_to_keep=2), model(ids, logits_to_keep=2))
        for given in (None, mask):  # two rows, without and with padding
            results = []
            for forward in (fast, model):
                cache = KVCache(model.config)
                forward(two, cache, given)
                results.append(forward(two[:, :1], cache))
            assert torch.equal(*results)
        results = []
        for forward in (fast, model):  # one padded row
            cache = KVCache(model.config)
            forward(two[:1], cache, mask[:1])
            results.append(forward(two[:1, :1], cache))
        assert torch.equal(*results)
    assert fast(ids[:, :1], KVCache(model.config)).requires_grad  # training
    assert not calls


@pytest.fixture(scope="module")
def shipped():
    """The shipped model in bfloat16, fast, and its text: a greedy continuation past two windows."""
    model = Exaone4.from_pretrained(device="cpu", dtype="bfloat16")
    fast = FastCPU(model)
    ids = tokens(20, model.config.vocab_size)[0].tolist()
    return fast, torch.tensor([ids + model.generate(ids, max_new_tokens=300, stop_ids=[])])


def test_bfloat16_is_as_near_to_float32_as_the_clear_path(shipped):
    fast, ids = shipped
    assert ids.shape[1] > 2 * fast.model.config.sliding_window
    with torch.inference_mode():
        exact = copy.deepcopy(fast.model).float()(ids)[0]
    clear, ours = steps(ids, 20, fast.model), steps(ids, 20, fast)
    assert ours.dtype == torch.bfloat16
    error, limit = (ours[20:] - exact[20:]).std(), (clear[20:] - exact[20:]).std()
    print(f"error of the logits, of their spread: fast {error / exact.std():.4f}, clear {limit / exact.std():.4f}")
    assert error <= 1.2 * limit


@torch.inference_mode()
def steps_with_rewinds(forward, ids, every, spare=6):
    """The logits of ids [B, T], of which row n begins with n padding tokens: 5 columns, then one at a time, and after
    `every` of them some others, which are taken back."""
    cache = KVCache(forward.config if isinstance(forward, Exaone4) else forward.model.config, spare=spare)
    mask = (torch.arange(5) >= torch.arange(len(ids))[:, None]).long()
    parts = [forward(ids[:, :5], cache, mask)]
    for t in range(5, ids.shape[1]):
        parts.append(forward(ids[:, t:t + 1], cache))
        if t % every == 0:
            for step in (1, spare - 1):  # a token alone, and some together
                forward(ids[:, :step].flip(1), cache)
            cache.rewind(cache.length - spare)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("rows", [1, 3])
def test_after_rewinds_and_in_unequal_rows_steps_equal_the_clear_path(fast, rows):
    ids = tokens(rows * 5 * W).view(rows, -1)
    found = steps_with_rewinds(fast, ids, 7)
    for n, row in enumerate(ids):
        expected = steps(row[None, n:], 5 - n, fast.model)  # without padding, and nothing is taken back
        assert (found[n, n:] - expected).abs().max() <= 2e-5 * expected.std(), n


def test_after_rewinds_bfloat16_is_as_near_to_float32_as_the_clear_path(shipped):
    fast, ids = shipped
    ids = ids[:, :2 * fast.model.config.sliding_window + 20]
    with torch.inference_mode():
        exact = copy.deepcopy(fast.model).float()(ids)
    error, limit = ((steps_with_rewinds(forward, ids, 50) - exact)[0, 5:].std() for forward in (fast, fast.model))
    assert error <= 1.2 * limit


@pytest.mark.parametrize("options", [{}, dict(temperature=0.8, top_p=0.9, seed=3)])
def test_generation(fast, monkeypatch, options):
    model, prompt = fast.model, tokens(5)[0].tolist()
    expected = model.generate(prompt, max_new_tokens=3 * W, stop_ids=[], **options)
    fed = []
    monkeypatch.setattr(model, "fast", fast)
    monkeypatch.setattr(fast, "head", lambda *args, head=fast.head: fed.append(1) or head(*args))
    assert model.generate(prompt, max_new_tokens=3 * W, stop_ids=[], **options) == expected
    assert len(fed) == 3 * W - 1  # the first token comes from the prefill


def test_a_missing_compiler_is_named(monkeypatch):
    from torch._inductor import config
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: compiled.append(1))
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(RuntimeError, match="install g"):
        FastCPU(random_model(TIED))
    assert not compiled


def test_devices_without_a_fast_path_are_named():
    with torch.device("meta"):
        model = Exaone4(TIED)
    with pytest.raises(ValueError, match="there is no fast path for meta, only for cuda and cpu"):
        speed_up(model)
    assert model.fast is None


def test_a_second_model_compiles_nothing_twice(fast):
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    steps(tokens(3 * W), 5, fast)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before  # no recompilation by layer or length
    assert FastCPU(random_model(fast.model.config)).compile_seconds > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


# -------------------------------------------------------------------------------------- a model that changes afterwards


@pytest.fixture
def sped_up():
    """A model that generates fast, and a function that gives what its clear path generates now."""
    model = speed_up(random_model(TIED))
    fast_now = model.generate([3, 4, 5], max_new_tokens=20, stop_ids=[])

    def clear(changed=model):
        fast, changed.fast = changed.fast, None
        ids = changed.generate([3, 4, 5], max_new_tokens=20, stop_ids=[])
        changed.fast = fast
        return ids

    assert fast_now == clear()
    return model, clear


def other_weights(model):
    generator = torch.Generator().manual_seed(7)
    return {key: torch.randn(tensor.shape, generator=generator) * 0.2 + (tensor.dim() == 1)
            for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("assign", [False, True])
def test_weights_loaded_later_are_the_ones_that_generate(sped_up, assign):
    model, clear = sped_up
    before = clear()
    model.load_state_dict(other_weights(model), assign=assign)
    assert model.generate([3, 4, 5], max_new_tokens=20, stop_ids=[]) == clear() != before


def test_a_converted_model_generates_in_its_new_precision(sped_up):
    model, clear = sped_up
    model.to(torch.float64).to(torch.bfloat16)
    found = model.generate([3, 4, 5], max_new_tokens=20, stop_ids=[])
    assert model.fast.head_weight[0].dtype == torch.bfloat16
    assert found[:5] == clear()[:5]  # later, rounding may decide between near ties


def test_a_copy_is_slow_and_its_own(sped_up):
    model, clear = sped_up
    twin = copy.deepcopy(model)
    assert twin.fast is None and model.fast is not None
    with torch.no_grad():
        twin.embed_tokens.weight.mul_(-1)
    assert twin.generate([3, 4, 5], max_new_tokens=20, stop_ids=[]) == clear(twin) != clear()


class Adapter(torch.nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.weight = base, base.weight

    def forward(self, x):
        return -self.base(x)


def wrap(model):
    model.layers[1].mlp.up_proj = Adapter(model.layers[1].mlp.up_proj)


def hook(model):
    model.layers[1].mlp.up_proj.register_forward_hook(lambda module, args, out: -out)


def hook_a_layer(model):
    model.layers[1].register_forward_pre_hook(lambda module, args: None)


def parametrize(model):
    torch.nn.utils.parametrizations.weight_norm(model.layers[1].mlp.up_proj)


def replace_forward(model):
    model.layers[1].mlp.forward = torch.zeros_like


@pytest.mark.parametrize("change, name", [
    (wrap, "layers.1.mlp.up_proj: a Adapter"), (hook, "layers.1.mlp.up_proj: a Linear with hooks"),
    (hook_a_layer, "layers.1: "), (parametrize, "layers.1.mlp.up_proj"), (replace_forward, "layers.1.mlp: ")])
def test_what_the_fast_path_cannot_see_is_refused_by_name(sped_up, change, name):
    model, _ = sped_up
    change(model)
    with pytest.raises(ValueError, match=f"the fast path cannot run {name}.*model.fast = None"):
        model.generate([3, 4, 5])
    with pytest.raises(ValueError, match=name):
        speed_up(model)
    model.fast = None
    assert model.generate([3, 4, 5], max_new_tokens=3)


def test_training_goes_on_under_the_fast_path(sped_up):
    model, clear = sped_up
    before, optimizer = clear(), torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.tensor([[3, 4, 5]])).square().mean().backward()
    optimizer.step()
    assert model.generate([3, 4, 5], max_new_tokens=20, stop_ids=[]) == clear() != before


def test_fused_projections_stay_the_parameters_of_an_optimizer():
    attn = random_model(TIED).layers[0].self_attn
    projections = attn.q_proj, attn.k_proj, attn.v_proj
    parameters, values = [p.weight for p in projections], torch.cat([p.weight.detach().clone() for p in projections])
    joined = fuse(*projections)
    assert all(p.weight is parameter for p, parameter in zip(projections, parameters, strict=True))
    assert torch.equal(joined, values)
    with torch.no_grad():
        parameters[1].fill_(3.0)
    assert (joined[len(parameters[0]):][:len(parameters[1])] == 3).all()


def test_nothing_is_compiled_again_at_the_first_reply(monkeypatch):
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "AT_START", 2)
    torch.set_num_threads(2)  # of which a step of so small a model takes one
    try:
        model = speed_up(random_model(replace(TIED, hidden_size=40)))
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        model.generate([3, 4, 5], max_new_tokens=5, stop_ids=[])
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    finally:
        torch.set_num_threads(before)


def test_threads_may_change_as_often_as_one_likes(sped_up, monkeypatch):
    model, clear = sped_up
    before, expected = torch.get_num_threads(), clear()
    try:
        for threads in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11):
            torch.set_num_threads(threads)
            assert model.generate([3, 4, 5], max_new_tokens=20, stop_ids=[]) == expected
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------ packed weights

ROUND = replace(HYBRID, vocab_size=304, hidden_size=64, intermediate_size=128, num_attention_heads=4, head_dim=32,
                num_hidden_layers=1, layer_types=[SLIDING])  # multiples of 32


def packed(model, bits=4, group=32, zero=False, offset=False, order=False, dtype=torch.float16):
    """The model with random packed layers."""
    generator = torch.Generator().manual_seed(0)
    for name, linear in list(model.layers.named_modules()):
        if isinstance(linear, torch.nn.Linear):
            outs, ins = linear.weight.shape
            values = torch.randint(-8, 8, (outs, ins), generator=generator, dtype=torch.int8) * (1 if bits == 4 else 15)
            size = ins if group == -1 else group
            groups = (outs, ins // size)
            scale = ((torch.rand(groups, generator=generator) + 0.5) / (24 if bits == 4 else 300)).to(dtype)
            model.layers.set_submodule(name, PackedLinear(
                pack4(values) if bits == 4 else values, scale, size,
                torch.randint(-8, 8, groups, generator=generator, dtype=torch.int8) if zero else None,
                torch.randn(groups, generator=generator) / 20 if offset else None,
                torch.randperm(ins, generator=generator) if order else None))
    return model


@pytest.mark.parametrize("options", [{"group": 64, "zero": True, "order": True}, {"group": -1, "offset": True},
                                     {"group": 16, "zero": True}, {"bits": 8, "order": True},
                                     {"bits": 8, "group": 16, "offset": True},
    {"bits": 8, "group": 64, "zero": True, "order": True}, {"group": 128, "offset": True, "order": True},
    {"bits": 8, "group": -1}], ids=str)
def test_steps_with_packed_weights_equal_the_clear_path(options):
    model = packed(random_model(replace(ROUND, hidden_size=128)), **options)
    fast, ids = FastCPU(model), tokens(3 * W)
    clear = steps(ids, 5, model)
    assert (steps(ids, 5, model, fast) - clear).abs().max() <= 2e-5 * clear.std()  # nothing is rounded but the sums
    weight = model.layers[0].self_attn.q_proj.weight
    assert fast.layers[0][0][0][0].data_ptr() == weight.data_ptr()  # nor copied


@pytest.mark.parametrize("outs", [1, 3, 5, 8])  # fewer rows than streams, streams of unequal length
def test_matrices_of_any_number_of_rows_are_read_in_streams(outs):
    x, values = torch.randn(64), torch.randint(-127, 128, (outs, 64), dtype=torch.int8)
    module = PackedLinear(values, torch.rand(outs, 2), 32, offset=torch.randn(outs, 2))
    expected = module.unpacked(torch.float32) @ x
    torch.testing.assert_close(matvec(matvec_weight(module), x), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(matvec((values.bfloat16(),), x), values.float() @ x, rtol=1e-5, atol=1e-3)


@pytest.mark.filterwarnings("error:bf16 and fp16 are mixed")
@pytest.mark.parametrize("options", [{"zero": True}, {"bits": 8, "group": -1}], ids=str)
def test_steps_with_packed_weights_in_bfloat16(options):
    exact = packed(random_model(ROUND), **options)
    model = copy.deepcopy(exact).bfloat16()
    ids = tokens(3 * W)
    expected, clear, ours = steps(ids, 5, exact), steps(ids, 5, model), steps(ids, 5, FastCPU(model))
    limit, error = (clear - expected)[5:].std(), (ours - expected)[5:].std()
    print(f"error of the logits: fast {error / expected.std():.4f}, clear {limit / expected.std():.4f} of their spread")
    assert error <= 1.2 * limit


@pytest.mark.parametrize("change, words", [
    (lambda m: setattr(m, "table", torch.randn(16)), "values from a table"),
    (lambda m: setattr(m, "group", 48), "groups of 48 in 128 inputs"),
    (lambda m: (setattr(m, "group", 4), setattr(m, "scale", torch.ones(64, 16))), "groups of 4 in"),  # share a word
    (lambda m: setattr(m, "weight", torch.zeros(64, 64, dtype=torch.float8_e4m3fn)), "values in float8"),
])
def test_packed_weights_without_a_kernel_are_named(change, words):
    model = packed(random_model(ROUND))
    change(model.layers[0].self_attn.o_proj)
    with pytest.raises(ValueError, match=words):
        FastCPU(model)


def test_the_fast_path_follows_packed_weights():
    model = packed(random_model(ROUND))
    speed_up(model)
    before = model.generate([3, 4, 5], max_new_tokens=12, stop_ids=[])
    model.layers[0].mlp.down_proj.scale = -model.layers[0].mlp.down_proj.scale
    after = model.generate([3, 4, 5], max_new_tokens=12, stop_ids=[])
    model.fast = None
    assert after == model.generate([3, 4, 5], max_new_tokens=12, stop_ids=[]) != before


def parts_of(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def equal(these, those):
    return these.keys() == those.keys() and all(torch.equal(these[key], those[key]) for key in these)


@pytest.mark.parametrize("options", [{"zero": True}, {"bits": 8, "group": 16}], ids=str)
def test_weights_put_into_another_order_in_memory_are_the_same_model(tmp_path, options):
    model, ids = packed(random_model(ROUND), **options), tokens(12)
    expected, before = model(ids), parts_of(model)
    model.save_pretrained(tmp_path / "before")
    for module in model.modules():
        if isinstance(module, PackedLinear):
            word_form(module)
    weight = model.layers[0].mlp.down_proj.weight
    assert weight.dim() == 4 and not weight.is_contiguous()  # else this tests nothing
    twin = copy.deepcopy(model)
    for changed in (model, twin, copy.deepcopy(model).double().float()):
        assert torch.equal(changed(ids), expected) and equal(changed.state_dict(), before)
        assert changed.layers[0].mlp.down_proj.shape == (ROUND.hidden_size, ROUND.intermediate_size)
    model.save_pretrained(tmp_path / "after")
    assert (tmp_path / "after/model.safetensors").read_bytes() == (tmp_path / "before/model.safetensors").read_bytes()
    assert (steps(ids, 5, FastCPU(twin)) - expected[0]).abs().max() <= 2e-5 * expected.std()  # a second time
    assert twin.to("meta").layers[0].mlp.down_proj.weight.dim() == 2  # on other devices as it is stored


def test_gguf_blocks_do_not_depend_on_the_order_in_memory():
    for bits in (4, 8):
        matrix = packed(random_model(ROUND), bits).layers[0].mlp.down_proj
        before = packed_blocks(matrix)
        word_form(matrix)
        assert torch.equal(packed_blocks(matrix), before)


@pytest.mark.parametrize("assign", [False, True])
def test_packed_weights_loaded_later_are_the_ones_that_generate(assign):
    model, other = speed_up(packed(random_model(ROUND))), packed(random_model(ROUND))
    for module in other.layers.modules():
        if isinstance(module, PackedLinear):
            module.weight = module.weight.flip(0).contiguous()
    before = model.generate([3, 4, 5], max_new_tokens=12, stop_ids=[])
    expected = other.generate([3, 4, 5], max_new_tokens=12, stop_ids=[])
    model.load_state_dict(other.state_dict(), assign=assign)
    assert model.generate([3, 4, 5], max_new_tokens=12, stop_ids=[]) == expected != before


def test_a_tied_packed_head_stays_one_matrix():
    model, ids = random_model(TIED), tokens(12)
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-128, 128, (300, 48), generator=generator, dtype=torch.int8)
    model.embed_tokens = PackedEmbedding(values, torch.rand(300, 3, generator=generator) / 300, 16, dtype=torch.float32)
    model.lm_head = tied_head(model.embed_tokens)
    with torch.inference_mode():
        expected = model(ids)[0]
    fast = FastCPU(model)
    assert model.embed_tokens.weight.data_ptr() == model.lm_head.weight.data_ptr() == fast.head_weight[0].data_ptr()
    assert (steps(ids, 3, fast) - expected).abs().max() <= 2e-5 * expected.std()


def test_products_of_a_prompt_are_rounded_only_once():
    torch.manual_seed(0)
    linear = torch.nn.Linear(2048, 600, bias=False).half()  # in float32 on every CPU; three blocks, the last one short
    x = torch.randn(2, 20, 2048).half()
    with torch.no_grad(), Float32Products():
        y = linear(x)
    exact = x.double() @ linear.weight.double().T
    assert y.dtype == torch.float16 and ((y - exact).abs() <= 2**-11 * exact.abs() + 1e-5).all()
