"""Speculative decoding: the ids of the model alone, in fewer passes, whatever the draft guesses."""

import copy

import pytest
import torch

from minexaone.config_json import GLOBAL, SLIDING
from minexaone.fast import speed_up
from minexaone.model import Config, Exaone4
from minexaone.scoring.acceptance import acceptance
from minexaone.speculation import DraftModel, PromptLookup
from minexaone.tokenizer import Tokenizer

W, V, LONGEST = 6, 40, 200
PROMPTS = [[3, 4, 5], [9], list(range(3, 33)), [11, 12, 13, 14, 15, 16, 17]]  # the third is five windows long
OPTIONS = [dict(stop_ids=[]), dict(), dict(temperature=0.8, seed=5), dict(presence_penalty=1.5, stop_ids=[]),
           dict(temperature=1.2, top_k=12, top_p=0.9, presence_penalty=0.7, seed=99, stop_ids=[]),
           dict(temperature=1.0, seed=3, stop_ids=[], reasoning_budget=9, think_end_id=39, close_ids=[5, 39, 6])]


def make(layers, seed, longest=LONGEST, vocab_size=V):
    torch.manual_seed(seed)
    model = Exaone4(Config(vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=layers,
                           num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                           layer_types=([SLIDING] * 3 + [GLOBAL])[-layers:], sliding_window=W,
                           max_position_embeddings=longest, eos_token_id=[7, 8]))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make(4, 1)


@pytest.fixture(scope="module")
def small():
    return make(2, 2)


@pytest.fixture(scope="module")
def fast():
    return speed_up(make(4, 1))


class Knowing:
    """A draft that knows the replies and changes its guesses as `change(row, place, ids)` says."""

    def __init__(self, replies, num_tokens, change=lambda row, at, ids: ids):
        self.replies, self.num_tokens, self.change = replies, num_tokens, change

    def begin(self, model, texts, longest, choose):
        starts = [len(text) for text in texts]

        def propose():
            places = [len(text) - start for text, start in zip(texts, starts, strict=True)]
            return [self.change(row, at, self.replies[row][at:at + self.num_tokens]) for row, at in enumerate(places)]

        return propose


def wrong(row, at, ids):
    return [(id + 1) % V for id in ids]


def mixed(row, at, ids):
    """Right for a while, or wrong from some place on, or fewer, or nothing: another mixture in every row and pass."""
    n = (7 * row + 3 * at) % 5
    return ids[:n] + wrong(row, at, ids[n:]) if at % 3 else ids[:n]


def passes(model, prompt, **options):
    """(ids, how many times the model was called, the most columns of one call but the first)."""
    columns = []
    hook = model.register_forward_pre_hook(lambda _, args: columns.append(args[0].shape[1]))
    ids = model.generate(prompt, **options)
    hook.remove()
    return ids, len(columns), max(columns[1:], default=0)


@pytest.mark.parametrize("kind", ["clear", "fast"])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_ids_are_those_without_a_draft(model, fast, small, kind, options):
    model = {"clear": model, "fast": fast}[kind]
    options = {"max_new_tokens": 40} | options
    expected = model.generate(PROMPTS, **options)
    for draft in [Knowing(expected, 5, mixed), Knowing(expected, 1, wrong), PromptLookup(4), DraftModel(small, 3)]:
        steps = list(model.stream(PROMPTS, draft=draft, **options))
        assert [[id for id in row if id is not None] for row in zip(*steps, strict=True)] == expected
        assert all(None not in row[:len(reply)] for row, reply in zip(zip(*steps, strict=True), expected, strict=True))
    for row in (0, 2):
        alone = options | ({"seed": options["seed"] + row} if "seed" in options else {})
        for draft in [Knowing(expected[row:], 4, mixed), PromptLookup(9, 1), DraftModel(model, 3)]:
            assert model.generate(PROMPTS[row], draft=draft, **alone) == expected[row]


def test_right_guesses_save_passes_and_wrong_ones_cost_none(model):
    for prompt in PROMPTS:
        options = {"max_new_tokens": 61, "stop_ids": []}
        reply = model.generate(prompt, **options)
        # The prompt's pass gives the first of 61; the other 60 come five at a time, four guessed and one drawn behind.
        assert passes(model, prompt, draft=Knowing([reply], 4), **options) == (reply, 1 + 12, 5)
        assert passes(model, prompt, draft=Knowing([reply], 4, wrong), **options) == (reply, 1 + 60, 5)
        assert passes(model, prompt, draft=Knowing([reply], 4, lambda *_: []), **options) == (reply, 1 + 60, 1)
        same = copy.deepcopy(model)  # as a draft model it is always right
        assert passes(model, prompt, draft=DraftModel(same, 4), **options) == (reply, 1 + 12, 5)
        small = passes(same, prompt, draft=DraftModel(same, 4), **options)[1] - 13
        assert small == 1 + 3 + 11 * (2 + 3)  # its prompt; then in each pass the two ids it has not read, and three


def test_a_stop_id_among_accepted_guesses_ends_the_reply(model):
    endless = model.generate(PROMPTS[2], max_new_tokens=30, stop_ids=[])
    for at in range(30):
        expected = endless[:endless.index(endless[at]) + 1]
        draft = Knowing([endless], 8)
        assert model.generate(PROMPTS[2], max_new_tokens=30, stop_ids=[endless[at]], draft=draft) == expected


def test_guesses_end_with_the_room(model):
    prompts = [[3] * (LONGEST - 10), [3] * (LONGEST - 3)]
    expected = model.generate(prompts, max_new_tokens=100, stop_ids=[])
    longest = []
    hook = model.register_forward_pre_hook(lambda _, args: longest.append(args[1]), prepend=True)
    draft = Knowing([row + [3] * 9 for row in expected], 8)
    found = model.generate(prompts, max_new_tokens=100, stop_ids=[], draft=draft)
    hook.remove()
    assert found == expected and [len(row) for row in found] == [10, 3]
    assert int(torch.as_tensor(longest[-1].longest).max()) < LONGEST  # no token stood behind the end of the context


def test_logits_that_are_not_finite_are_an_error_where_they_count_and_a_wrong_guess_in_a_draft(model):
    reply, broken = model.generate(PROMPTS[0], max_new_tokens=20, stop_ids=[]), copy.deepcopy(model)
    with torch.no_grad():
        broken.embed_tokens.weight[reply[3]] = float("nan")
    with pytest.raises(RuntimeError, match="not finite"):
        broken.generate(PROMPTS[0], max_new_tokens=20, stop_ids=[], draft=Knowing([reply], 4))
    assert model.generate(PROMPTS[0], max_new_tokens=20, stop_ids=[], draft=DraftModel(broken, 4)) == reply


def test_two_ids_in_succession_follow_the_models_distribution(model):
    """20,000 replies with a draft that samples; the seeds are fixed. A right one exceeds the bound in one of a million
    seeds. Counted are the second and third id, which are drawn where guesses are checked."""
    n, prompt, other = 20_000, [3, 4, 5], DraftModel(make(2, 2), 2)
    with torch.inference_mode():
        def after(texts):
            return (model(torch.tensor(texts))[:, -1].double() / 1.3).softmax(-1)

        first = after([prompt])[0]
        second = after([[*prompt, a] for a in range(V)])
        third = after([[*prompt, a, b] for a in range(V) for b in range(V)]).view(V, V, V)
        expected = (first[:, None, None] * second[:, :, None] * third).sum(0).flatten()
    found = torch.cat([torch.tensor(model.generate([prompt] * 4000, max_new_tokens=4, temperature=1.3, seed=seed,
                                                   stop_ids=[], draft=other)) for seed in range(0, n, 4000)])
    counts = torch.bincount(found[:, 1] * V + found[:, 2], minlength=V * V)
    often = expected * n >= 5  # Pearson's statistic needs expected counts of 5 or more
    observed, wanted = torch.cat((counts[often], counts[~often].sum()[None])), torch.cat(
        (expected[often], expected[~often].sum()[None])) * n
    chi2, k = ((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1
    # Wilson-Hilferty: chi-square of k degrees of freedom at odds of 1e-6 (4.75 sigma)
    assert k > 100 and chi2 < k * (1 - 2 / (9 * k) + 4.75 * (2 / (9 * k)) ** 0.5) ** 3


def test_in_bfloat16_only_near_ties_fall_another_way(model):
    """A pass of several tokens may round otherwise than one of a single token: every id is the likeliest of single
    steps or within their rounding of it, 2 % of the logits' spread."""
    low, options = copy.deepcopy(model).bfloat16(), {"max_new_tokens": 60, "stop_ids": []}
    for prompt in PROMPTS:
        reply = low.generate(prompt, draft=Knowing([model.generate(prompt, **options)], 4, mixed), **options)
        with torch.inference_mode():
            cache, steps = low.new_cache(), []
            for part in [prompt, *[[id] for id in reply[:-1]]]:
                steps.append(low(torch.tensor([part]), cache, logits_to_keep=1)[0, -1].float())
        logits = torch.stack(steps)
        missed = logits.amax(-1) - logits[range(60), reply]
        assert (missed <= 0.02 * logits.std()).all()
        assert (missed == 0).float().mean() > 0.9


def test_prompt_lookup_guesses_what_followed_the_latest_and_longest_match():
    texts = [[1, 2, 3, 9, 1, 2, 4, 8, 7, 1, 2], [1, 2, 3], [5, 5], [1, 2, 3, 8, 2, 3, 9, 1, 2, 3]]
    propose = PromptLookup(3, 3).begin(None, texts, 100, None)
    assert propose() == [[4, 8, 7], [], [5, 5, 5], [8, 2, 3]]  # a text that repeats itself goes on repeating
    texts[1] += [1, 2]
    texts[2] += [6]
    assert propose()[1:3] == [[3, 1, 2], []]
    for seed in range(20):  # and by plain search
        generator = torch.Generator().manual_seed(seed)
        text = torch.randint(0, 4, (60,), generator=generator).tolist()
        texts, found = [text[:1]], []
        propose = PromptLookup(5, 3).begin(None, texts, 100, None)
        for id in text[1:]:
            texts[0].append(id)
            so_far, expected = texts[0], []
            for n in (3, 2, 1):
                places = [at for at in range(n, len(so_far)) if so_far[at - n:at] == so_far[-n:]]
                if places:
                    expected = list(so_far)
                    for at in range(places[-1], places[-1] + 5):
                        expected.append(expected[at])
                    expected = expected[len(so_far):]
                    break
            found.append(propose() == [expected])
        assert all(found)


def test_a_draft_models_own_context_ends_its_guesses(model):
    expected = model.generate(PROMPTS, max_new_tokens=60, stop_ids=[])
    assert model.generate(PROMPTS, max_new_tokens=60, stop_ids=[], draft=DraftModel(make(2, 2, 50), 4)) == expected


@pytest.mark.parametrize("guesses", [[[40], []], [[-1], []], [[1, 2, 3, 4, 5], []], [[1]], [[1.0], []], [[True], []]])
def test_guesses_that_cannot_be_are_named(model, guesses):
    draft = Knowing([[], []], 4)
    draft.begin = lambda *_: lambda: guesses
    with pytest.raises(ValueError, match="the draft gave .* for each of 2 rows at most 4 token ids of this model"):
        model.generate(PROMPTS[:2], stop_ids=[], draft=draft)


def test_what_is_no_draft_is_named(model):
    with pytest.raises(ValueError, match="vocabulary of 41 on cpu, the model one of 40 on cpu: both must be the same"):
        model.generate([3], draft=DraftModel(make(2, 1, vocab_size=41)))
    for number in (0, -1, 2.0, True, "3", None):
        with pytest.raises(ValueError, match="num_tokens is .*, expected a whole number from 1"):
            PromptLookup(number)
        with pytest.raises(ValueError, match="num_tokens is .*, expected a whole number from 1"):
            DraftModel(model, number)
    with pytest.raises(ValueError, match="max_ngram is 0"):
        PromptLookup(4, 0)
    with pytest.raises(ValueError, match="draft is 4, expected a PromptLookup or a DraftModel"):
        model.generate([3], draft=4)


def test_a_needle_is_copied_in_fewer_passes():
    model, tokenizer = Exaone4.from_pretrained(dtype="float32", device="cpu"), Tokenizer.from_pretrained()
    question = "Repeat: the blue lamp in the old harbour is 4,711 steps from the red lamp in the old harbour."
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}])
    reply, alone, _ = passes(model, prompt, max_new_tokens=60)
    assert passes(model, prompt, max_new_tokens=60, draft=PromptLookup(4))[0] == reply
    assert passes(model, prompt, max_new_tokens=60, draft=PromptLookup(4))[1] < alone == len(reply)


def test_acceptance_counts_tokens_and_passes():
    model, tokenizer = Exaone4.from_pretrained(dtype="float32", device="cpu"), Tokenizer.from_pretrained()
    drafts = {"none": None, "lookup": PromptLookup(4)}
    rows = acceptance(model, tokenizer, drafts, 1, ["call"], most=30)
    assert [row["draft"] for row in rows] == ["none", "lookup"] * 2
    for none, lookup in zip(rows[::2], rows[1::2], strict=True):
        assert none["tokens"] == none["passes"] == lookup["tokens"] > lookup["passes"]
