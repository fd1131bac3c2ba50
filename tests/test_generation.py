"""Generation: sampling against transformers' definitions, batches against single rows, the reasoning budget."""

import copy
import inspect

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import BatchEncoding, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from minexaone.config_json import GLOBAL, SLIDING
from minexaone.generation import sample
from minexaone.model import Config, Exaone4


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    model = Exaone4(Config(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
                           num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                           layer_types=[SLIDING] * 3 + [GLOBAL], sliding_window=6, max_position_embeddings=200,
                           eos_token_id=[7, 8]))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return model.eval()


PROMPTS = [[3, 4, 5], [9], list(range(3, 33)), [11, 12, 13, 14, 15, 16, 17]]


@settings(max_examples=60)
@given(logits=st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=30), temperature=st.floats(0.1, 3),
       top_k=st.integers(0, 35), top_p=st.floats(0.05, 1))
@example(logits=[0.1 * n for n in range(20)], temperature=1.0, top_k=7, top_p=1.0)
@example(logits=[0.1 * n for n in range(20)], temperature=0.7, top_k=12, top_p=0.83)
@example(logits=[0.1 * n for n in range(20)], temperature=2.0, top_k=0, top_p=0.4)
def test_sampler_has_the_distribution_of_transformers(logits, temperature, top_k, top_p):
    logits = torch.tensor([logits]) + torch.linspace(0, 1e-3, len(logits))  # no ties: their order is nobody's business
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(min(top_k, logits.shape[1])))
    expected = warpers(None, logits)
    kept = expected.softmax(-1).sort(descending=True).values.cumsum(-1)
    if top_p < 1:
        assume((kept - top_p).abs().min() > 1e-5)  # else rounding decides on which side of the cut an id falls
        expected = TopPLogitsWarper(top_p)(None, expected)
    n = 20_000  # a grid instead of random numbers: an id's share is its probability to within one grid step
    draws = (torch.arange(n) + 0.5) / n
    chosen = sample(logits.expand(n, -1), draws, temperature, top_k, top_p)
    shares = torch.bincount(chosen, minlength=logits.shape[1]) / n
    assert (shares - expected.softmax(-1)[0]).abs().max() < 2 / n


def test_generated_ids_follow_the_distribution(model):
    """20,000 draws of one next id; the seeds are fixed. A right sampler exceeds the bound in one of a million seeds."""
    n, prompt = 20_000, [3, 4, 5]
    with torch.inference_mode():
        expected = (model(torch.tensor([prompt]))[0, -1] / 1.3).softmax(-1)
    first = torch.cat([torch.tensor(model.generate([prompt] * 4000, max_new_tokens=1, temperature=1.3, seed=seed))
                       for seed in range(0, n, 4000)])
    counts = torch.bincount(first[:, 0], minlength=40)
    often = expected * n >= 5  # Pearson's statistic needs expected counts of 5 or more
    chi2 = ((counts - n * expected)[often] ** 2 / (n * expected)[often]).sum()
    k = int(often.sum()) - 1  # Wilson-Hilferty: chi-square of k degrees of freedom at odds of 1e-6 (4.75 sigma)
    assert k > 5 and chi2 < k * (1 - 2 / (9 * k) + 4.75 * (2 / (9 * k)) ** 0.5) ** 3


@pytest.mark.parametrize("options", [dict(), dict(temperature=0.8, seed=5), dict(presence_penalty=1.5),
                                     dict(temperature=1.2, top_k=12, top_p=0.9, presence_penalty=0.7, seed=99)])
def test_rows_of_a_batch_equal_single_runs(model, options):
    batch = model.generate(PROMPTS, max_new_tokens=50, **options)
    for row, prompt in enumerate(PROMPTS):
        alone = options | ({"seed": options["seed"] + row} if "seed" in options else {})
        assert batch[row] == model.generate(prompt, max_new_tokens=50, **alone)
        assert batch[row] == list(model.stream(prompt, max_new_tokens=50, **alone))
    assert model.generate(PROMPTS, max_new_tokens=50, **options) == batch
    ends = {len(row) for row in model.generate(PROMPTS, max_new_tokens=50, temperature=1.5, seed=1)}
    assert len(ends) > 1  # so some rows went on while others had stopped


@pytest.mark.parametrize("penalty", [0.0, 1.5, -0.5])
def test_presence_penalty_counts_generated_ids_once_and_the_prompt_never(model, penalty):
    ids, new = list(range(3, 20)), []
    for _ in range(40):  # the OpenAI formula, without a cache
        with torch.inference_mode():
            logits = model(torch.tensor([ids + new]))[0, -1]
        logits = logits.clone()
        for token in set(new):
            logits[token] -= penalty
        new.append(int(logits.argmax()))
    assert model.generate(ids, max_new_tokens=40, presence_penalty=penalty, stop_ids=[]) == new


def test_stops_at_the_checkpoints_ids_or_the_callers(model):
    endless = model.generate(PROMPTS[0], max_new_tokens=60, temperature=2.0, seed=0, stop_ids=[])
    assert len(endless) == 60 and {7, 8} & set(endless)
    end = next(n for n, token in enumerate(endless) if token in (7, 8))
    assert model.generate(PROMPTS[0], max_new_tokens=60, temperature=2.0, seed=0) == endless[:end + 1]
    assert model.generate(PROMPTS[0], max_new_tokens=60, temperature=2.0, seed=0, stop_ids=endless[3:4]) == \
        endless[:endless.index(endless[3]) + 1]


def test_the_context_is_the_limit_and_each_row_has_its_own(model):
    prompts = [[3] * 190, [3] * 197]
    rows = model.generate(prompts, max_new_tokens=100, stop_ids=[])
    assert [len(row) for row in rows] == [10, 3]
    assert rows == [model.generate(prompt, max_new_tokens=100, stop_ids=[]) for prompt in prompts]


@pytest.mark.parametrize("budget", [0, 1, 9])
def test_reasoning_budget_closes_the_thinking_and_lets_the_answer_follow(model, budget):
    free = model.generate(PROMPTS[0], max_new_tokens=30, temperature=1.0, seed=3, stop_ids=[])
    end = 39
    assert end not in free
    options = dict(temperature=1.0, seed=3, stop_ids=[], think_end_id=end, close_ids=[5, end, 6])
    cut = model.generate(PROMPTS[0], max_new_tokens=30, reasoning_budget=budget, **options)
    assert cut[:budget + 3] == free[:budget] + [5, end, 6] and len(cut) == 30
    assert end not in cut[budget + 3:]  # closed once
    early = free[4]  # thinking that ends by itself is left alone
    options |= {"think_end_id": early}
    assert model.generate(PROMPTS[0], max_new_tokens=30, reasoning_budget=9, **options) == free
    options |= {"think_end_id": end}
    rows = model.generate(PROMPTS, max_new_tokens=30, reasoning_budget=budget, **options)
    assert rows[0] == cut
    assert all(end in row[:budget] or row[budget:budget + 3] == [5, end, 6] for row in rows)  # else it ended by itself


@pytest.mark.parametrize("options, words", [
    (dict(temperature=-1), "temperature is -1"), (dict(temperature=float("nan")), "temperature is nan"),
    (dict(top_p=0), "top_p is 0"), (dict(top_p=1.1), "top_p is 1.1"), (dict(top_k=-3), "top_k is -3"),
    (dict(presence_penalty=2.5), "presence_penalty is 2.5"), (dict(max_new_tokens=0), "max_new_tokens is 0"),
    (dict(max_new_tokens=1.5), "max_new_tokens is 1.5"), (dict(reasoning_budget=-1), "reasoning_budget is -1"),
    (dict(seed=-1), "seed is -1"), (dict(seed=10**30), "seed is 1"), (dict(reasoning_budget=3), "needs think_end_id")])
def test_unusable_options_are_named(model, options, words):
    with pytest.raises(ValueError, match=words):
        model.generate([3, 4], **options)


@pytest.mark.parametrize("prompt, words", [([], "is empty"), ([3] * 200, "200 tokens"), ([3, 40], "another model"),
                                           ([-1], "another model"), ("text", "encode text"), (["a"], "encode text")])
def test_unusable_prompts_are_named(model, prompt, words):
    with pytest.raises(ValueError, match=words):
        model.generate([[3], prompt])
    with pytest.raises(ValueError, match=words):
        list(model.stream(prompt))


def test_no_prompt_at_all_is_named(model):
    with pytest.raises(ValueError, match="is empty"):
        model.generate([])


def test_prompts_may_be_tensors_and_sampling_leaves_torchs_generator_alone(model):
    torch.manual_seed(0)
    ids = model.generate(torch.tensor(PROMPTS[0]), max_new_tokens=5)
    assert ids == model.generate(PROMPTS[0], max_new_tokens=5)
    assert model.generate(torch.tensor([PROMPTS[0]]).numpy(), max_new_tokens=5) == [ids]
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert drawn == torch.rand(1)


@pytest.mark.parametrize("temperature", [5e-324, 1e-46, 1e-38, 1e-30, 1e-3, 1e3, 1e38, 1e300])
@pytest.mark.parametrize("top_p", [1e-300, 1e-46, 1e-7, 0.5, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 3, 10**30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_allowed_option_works_over_its_whole_range(temperature, top_p, top_k, dtype):
    logits = torch.tensor([[1.0, 30.0, -60000.0, 29.5, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0], [-5.0, -6.0, -4.0, -4.5, -9.0]])
    for draw in (0.0, 0.3, 1 - 2**-24):
        chosen = sample(logits.to(dtype), torch.full([3], draw), temperature, top_k, top_p)
        assert ((0 <= chosen) & (chosen < 5)).all()
        if temperature <= 1e-3 or temperature <= 1e3 and (top_k == 1 or top_p <= 1e-7):  # as good as greedy
            assert chosen[[0, 2]].tolist() == [1, 2]
    if temperature >= 1e3 and top_p == 1 and not top_k:  # as good as even
        many = sample(logits.to(dtype)[2:].expand(1000, -1), (torch.arange(1000) + 0.5) / 1000, temperature)
        assert many.bincount(minlength=5).tolist() == pytest.approx([200] * 5, abs=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, dict(temperature=0.7, seed=1), dict(presence_penalty=1.0), dict(top_p=0.9)])
def test_logits_that_are_no_numbers_are_an_error_that_says_what_to_try(model, value, options):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.lm_head.weight[11] = value
    with pytest.raises(RuntimeError, match='not finite: load it with dtype="bfloat16"'):
        broken.generate(PROMPTS, **options)
    late = copy.deepcopy(model)  # only after some steps
    first = late.generate(PROMPTS[0], max_new_tokens=3, stop_ids=[])
    with torch.no_grad():
        late.embed_tokens.weight[first[1]] = float("nan")
    found, stream = [], late.stream(PROMPTS[0], stop_ids=[])
    with pytest.raises(RuntimeError, match="not finite"):
        for id in stream:
            found.append(id)
    assert found == first[:first.index(first[1]) + 1]


def test_a_row_that_has_ended_may_hold_what_it_likes(model):
    broken, rows = copy.deepcopy(model), model.generate(PROMPTS[:2], max_new_tokens=5, stop_ids=[])
    stop, other = rows[0][0], rows[1]
    assert stop not in other
    with torch.no_grad():
        broken.embed_tokens.weight[stop] = float("nan")
    assert broken.generate(PROMPTS[:2], max_new_tokens=5, stop_ids=[stop]) == [[stop], other]


def test_options_stand_in_the_signatures():
    expected = {"max_new_tokens", "temperature", "top_k", "top_p", "presence_penalty", "seed", "stop_ids",
                "reasoning_budget", "think_end_id", "close_ids", "prompt_cache", "draft"}
    for function in (Exaone4.generate, Exaone4.stream):
        parameters = inspect.signature(function).parameters
        assert {name for name, p in parameters.items() if p.kind == p.KEYWORD_ONLY} == expected
    defaults = [{n: p.default for n, p in inspect.signature(f).parameters.items() if n in expected}
                for f in (Exaone4.generate, Exaone4.stream)]
    assert defaults[0] == defaults[1]


BAD = ["many", None, [1], {}, object(), True, float("nan"), -1, 10**400, b"x"]
FINE = {"top_k": (10**400,), "seed": (None,), "stop_ids": (None, [1], {}), "reasoning_budget": (None, 10**400),
        "think_end_id": (None,), "close_ids": ([1], {}), "max_new_tokens": (10**400,), "presence_penalty": (-1,),
        "prompt_cache": (None,), "draft": (None,)}


@pytest.mark.parametrize("option", list(inspect.signature(Exaone4.stream).parameters)[2:])
def test_an_option_of_a_wrong_kind_is_named(model, option):
    for value in BAD:
        if not any(value is fine or value == fine for fine in FINE.get(option, ())):
            with pytest.raises(ValueError, match=f"^{option} is "):
                next(model.stream([3, 4], **{option: value}))
    with pytest.raises(TypeError, match="stream.. got an unexpected keyword argument 'top_n'"):
        next(model.stream([3, 4], top_n=3))


@pytest.mark.parametrize("option", ["stop_ids", "close_ids"])
def test_ids_of_another_vocabulary_are_refused(model, option):
    with pytest.raises(ValueError, match=f"{option} is .40.*token ids of this model"):
        model.generate([3, 4], **{option: [40]})


def test_prompts_in_every_usual_form(model):
    ids = PROMPTS[3]
    alone = model.generate(ids, max_new_tokens=5)
    batch = model.generate(PROMPTS, max_new_tokens=5)
    tensor, array = torch.tensor(ids), np.array(ids)
    for prompt in (ids, tuple(ids), tensor, array, [np.int64(id) for id in ids], list(tensor), range(11, 18)):
        assert model.generate(prompt, max_new_tokens=5) == alone
        assert list(model.stream(prompt, max_new_tokens=5)) == alone
    for prompts in (tuple(map(tuple, PROMPTS)), [torch.tensor(p) for p in PROMPTS], [np.array(p) for p in PROMPTS]):
        assert model.generate(prompts, max_new_tokens=5) == batch
        assert [id for id, *_ in model.stream(prompts, max_new_tokens=5)] == batch[0]
    for prompts in (tensor[None], array[None], [ids]):
        assert model.generate(prompts, max_new_tokens=5) == [alone]
        assert [row[0] for row in model.stream(prompts, max_new_tokens=5)] == alone
    width = max(map(len, PROMPTS))
    for side in (1, -1):  # what transformers returns, padded on either side
        padded = {"input_ids": torch.tensor([([0] * (width - len(p)) + p)[::side] if side == 1 else
                                             p + [0] * (width - len(p)) for p in PROMPTS]),
                  "attention_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) if side == 1 else
                                                  [1] * len(p) + [0] * (width - len(p)) for p in PROMPTS])}
        assert model.generate(padded, max_new_tokens=5) == batch
    assert model.generate({"input_ids": ids, "attention_mask": [1] * len(ids)}, max_new_tokens=5) == alone
    assert model.generate(BatchEncoding({"input_ids": [ids]}), max_new_tokens=5) == [alone]


@pytest.mark.parametrize("prompt", ["text", b"bytes", 5, None, 3.5, ["a", "b"], [1.5], [True], torch.tensor(3),
                                    torch.ones(2, 2), [[[3]]], {"ids": [3]}, [[3], "text"], [None], [3, [4]]])
def test_what_is_no_prompt_is_one_clear_error(model, prompt):
    for function in (model.generate, lambda prompt: list(model.stream(prompt))):
        with pytest.raises(ValueError, match="prompt"):
            function(prompt)


def test_long_prompts_are_taken_in_chunks(model, monkeypatch):
    whole = model.generate(PROMPTS, max_new_tokens=20)
    monkeypatch.setattr("minexaone.generation.PREFILL_CHUNK", 4)
    assert model.generate(PROMPTS, max_new_tokens=20) == whole
