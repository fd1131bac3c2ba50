"""Needles are where they should be, prompts as long as they should be, and documents refer far back."""

import re
from random import Random
from types import SimpleNamespace

import pytest

from minexaone.files import SHIPPED
from minexaone.scoring import evaluate
from minexaone.tasks import retrieval, verify
from minexaone.tasks.base import LANGUAGES, Example, held_out, phrases
from minexaone.tasks.retrieval import FRAMES, document, draw_needles, haystack, needle, niah
from minexaone.tokenizer import Tokenizer

SECRETS = re.compile("secret number|code word|비밀 숫자|암호|número secreto|palabra secreta")


def count(text):
    """Tokens of a crude tokenizer: words, and marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


@pytest.fixture(scope="module")
def examples():
    rng = Random(0)
    return [needle(rng, LANGUAGES[i % 3], 1 + i // 3 % 3, i % 10 == 0) for i in range(1800)]


def test_every_reference_reply_is_right_and_most_others_are_wrong(examples):
    rng, passed = Random(1), 0
    for example in examples:
        reply = example.reply["content"]
        assert verify(example, reply), (example.expected, reply)
        assert not verify(example, "") and not verify(example, reply + ' <tool_call>{"name": "f"}</tool_call>')
        passed += verify(example, rng.choice(examples).reply["content"])
    assert passed < 0.01 * len(examples)


@pytest.mark.parametrize("reply, good", [
    ("The secret number of Mina is 4821. The code word of Tom is river.", True), ("4821, river", True),
    ("The secret number of Mina is 4821.", False), ("River and 4821.", False),
    ("The secret number of Tom is 4821. The code word of Mina is river.", False),
    ("The secret number of Mina is 4821 or 1234. The code word of Tom is river.", False),
    ("The secret number of Mina is 4821. The code word of Tom is river or tiger.", False),
    ("El número secreto de Mina es 4821. La palabra secreta de Tom es river.", False)])
def test_values_names_and_language_are_judged(reply, good):
    expected = {"names": ["Mina", "Tom"], "values": ["4821", "river"], "others": ["tiger"]}
    assert verify(Example("needle", "en", 2, [], {}, expected, {}), reply) is good


def test_each_needle_is_in_the_text_once_and_quoted(examples):
    for example in examples:
        text = example.messages[-1]["content"].split("\n\n")[1]
        for name, value in zip(example.expected["names"], example.expected["values"], strict=True):
            assert name in text and value in text
            assert re.search(re.escape(value), example.thoughts["steps"].rpartition("\n")[2])
        assert len(SECRETS.findall(text)) == len(example.expected["names"] + example.expected["others"])


def test_training_says_the_value_before_its_owner_more_often_than_tests_do(examples):
    first = {True: [], False: []}
    for n, example in enumerate(examples):
        text = example.messages[-1]["content"]
        for name, value in zip(example.expected["names"], example.expected["values"], strict=True):
            said = next(s for s in re.split(r"(?<=[.다])\s+", text) if name in s and value in s and SECRETS.search(s))
            first[n % 10 == 0].append(said.index(value) < said.index(name))
    assert sum(first[True]) / len(first[True]) == pytest.approx(1 / 6, abs=0.06)
    assert sum(first[False]) / len(first[False]) == pytest.approx(1 / 2 + 1 / 12, abs=0.04)


def test_a_higher_level_is_longer_and_has_more_needles(examples):
    def mean(level, size):
        sizes = [size(e) for e in examples if e.level == level]
        return sum(sizes) / len(sizes)

    lengths = [mean(level, lambda e: len(e.messages[-1]["content"])) for level in (1, 2, 3)]
    assert lengths[0] * 1.2 < lengths[1] and lengths[1] * 1.3 < lengths[2]
    assert [mean(level, lambda e: len(e.expected["values"])) == 1 for level in (1, 2, 3)] == [True, False, False]
    assert all((len(e.expected["others"]) >= 2 and "retry" in e.thoughts) == (e.level == 3) for e in examples)


def test_needles_are_of_the_split_asked_for(examples):
    for i, example in enumerate(examples):
        assert held_out(example.key) == (i % 10 == 0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_haystack_has_no_needle_and_thousands_of_sentences(language):
    sentences = haystack(Random(0), language, 200_000)
    text = " ".join(sentences)
    assert not SECRETS.search(text) and 199_800 < len(text) <= 200_000
    assert len(set(sentences)) > 0.8 * len(sentences) > 1000
    assert haystack(Random(0), language, 10) == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reasoning", [False, True])
def test_a_prompt_is_as_long_as_asked_for_and_the_needle_as_deep(language, reasoning):
    rng = Random(0)
    for length in (128, 1000, 4096):
        for depth in (0, 0.25, 0.5, 1):
            example = niah(rng, language, length, depth, count, reasoning, test=True)
            content = example.messages[-1]["content"]
            assert length - 8 <= count(FRAMES[reasoning].format(content)) <= length
            _, text, _ = content.split("\n\n")
            assert abs(SECRETS.search(text).start() / len(text) - depth) < 40 / length + 0.02
            assert verify(example, example.reply["content"]) and held_out(example.key)
            assert len(SECRETS.findall(text)) == 1 and example.reasoning == reasoning
    three = niah(rng, language, 1000, 0.5, count, needles=3)
    assert len(three.expected["values"]) == 3 and verify(three, three.reply["content"])
    with pytest.raises(ValueError, match="too few"):
        niah(rng, language, 10, 0.5, count)


@pytest.mark.parametrize("language", LANGUAGES)
def test_needles_can_be_asked_for_one_after_the_other(language, monkeypatch):
    drawn = []
    monkeypatch.setattr(retrieval, "draw_needles",
                        lambda *args, **names: drawn.append(draw_needles(*args, **names)) or drawn[-1])
    for seed in range(20):
        example = niah(Random(seed), language, 1500, 0.5, count, needles=3, turns=True)
        assert [message["role"] for message in example.messages] == ["user", "assistant"] * 2 + ["user"]
        text, *questions = (message["content"] for message in example.messages[::2])
        told = [message["content"] for message in example.messages[1::2]]
        whole = "".join(FRAMES[0].format(part) for part in (text, *questions)) + "".join(told)
        assert 1450 < count(whole) <= 1500 and len(SECRETS.findall(text.rpartition("\n\n")[0])) == 3
        assert example.expected["names"][0] in questions[-1] and verify(example, example.reply["content"])
        assert all(other in text for other in example.expected["others"])
        assert not any(verify(example, reply) for reply in told)
    assert len(drawn) == 60 and not any(held_out(retrieval.key_of(one)) for one in drawn)  # none is a test's problem


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_document_refers_back_to_needles_said_before(language):
    text = document(Random(0), language, 30_000)
    assert 29_000 < len(text) <= 30_000 and text == document(Random(0), language, 30_000)
    sentences = re.split(r"(?<=\.) |\n", text)
    secrets = [i for i, sentence in enumerate(sentences) if SECRETS.search(sentence)]
    numbers, distances, known = 0, [], {}
    for i, sentence in enumerate(sentences):
        found = re.search(r"\b\d{4}", sentence) if i in set(secrets) else None
        if found:
            numbers += 1
            if found[0] in known:
                distances.append(i - known[found[0]])
            known.setdefault(found[0], i)
    assert 0.35 < len(secrets) / len(sentences) < 0.75  # the needles, and a third that repeats them
    assert len(distances) > 20 and max(distances) > len(sentences) / 2
    assert 15 < len(known) < 200  # about one needle per 150 to 300 characters, half of them numbers


def test_names_and_values_of_one_text_are_distinct():
    rng = Random(0)
    for language in LANGUAGES:
        for _ in range(300):
            words = [word.lower() for _, *pair in draw_needles(rng, language, 4, False) for word in pair]
            assert not any(a in b for i, a in enumerate(words) for j, b in enumerate(words) if i != j)
    assert all(len(phrases()["needle.number.ask"][language]) >= 8 for language in LANGUAGES)


def test_needle_prompts_are_as_long_as_the_grid_says(monkeypatch):
    """Tokens are counted as the prompt has them: a role's mark is one."""
    seen = []

    def roll_out(model, tokenizer, examples, seed, most, temperature, progress, prompts, **options):
        seen.extend(map(len, prompts))
        return [SimpleNamespace(reward=0) for _ in prompts]

    monkeypatch.setattr(evaluate, "roll_out", roll_out)
    model = SimpleNamespace(config=SimpleNamespace(stop_ids=[361]))
    evaluate.needle_grid(model, Tokenizer.from_pretrained(), SHIPPED, [512], 2)
    assert len(seen) == 2 * len(evaluate.DEPTHS) and all(512 - 64 - 15 < length <= 512 - 64 for length in seen), seen
