"""Generation: sampling against transformers' definitions, batches against single rows, the reasoning budget."""

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

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


@settings(max_examples=60, deadline=None)
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


def test_long_prompts_are_taken_in_chunks(model, monkeypatch):
    whole = model.generate(PROMPTS, max_new_tokens=20)
    monkeypatch.setattr("minexaone.generation.PREFILL_CHUNK", 4)
    assert model.generate(PROMPTS, max_new_tokens=20) == whole
