"""Talk: honest about itself and about what it does not know, and what was told is remembered word for word."""

from collections import Counter, defaultdict
from random import Random

import pytest

from minexaone.tasks.base import LANGUAGES, Example, held_out, phrases
from minexaone.tasks.conversation import INTENTS, TASKS, has_word, small_talk


@pytest.fixture(scope="module")
def examples():
    rng, drawn = Random(0), defaultdict(list)
    for name, task in TASKS.items():
        for i in range(2100):
            drawn[name].append(task.make(rng, LANGUAGES[i % 3], 1 + i // 3 % task.levels, False))
    return drawn


def test_every_reference_reply_is_right_and_most_others_are_wrong(examples):
    rng, everything = Random(1), [e for drawn in examples.values() for e in drawn]
    for name, drawn in examples.items():
        for example in drawn:
            assert TASKS[name].verify(example, example.reply["content"]), example
            assert not TASKS[name].verify(example, "")
            assert not TASKS[name].verify(example, example.reply["content"] + ' <tool_call>{"name": "f"}</tool_call>')
        others = [e for e in everything if name in ("recall", "chat") or e.task != name]
        passed = sum(TASKS[name].verify(example, rng.choice(others).reply["content"]) for example in drawn)
        assert passed < 0.1 * len(drawn), name


def test_another_language_is_wrong(examples):
    for name, drawn in examples.items():
        english, korean, spanish = ([e for e in drawn if e.language == language] for language in LANGUAGES)
        for group, other in ((english, korean), (korean, spanish), (spanish, english), (english, spanish)):
            wrong = [TASKS[name].verify(a, b.reply["content"]) for a, b in zip(group, other, strict=True)]
            assert wrong and not any(wrong)


def test_never_claims_to_be_another_model():
    for language in LANGUAGES:
        for intent in INTENTS:
            for reply in phrases()[f"{intent}.reply"][language]:
                assert "LG" not in reply and "EXAONE" not in reply and "엑사원" not in reply
        million = {"en": "six million", "ko": "육백만", "es": "seis millones"}[language]
        assert all(million in reply for reply in phrases()["size.reply"][language])
        for intent in ("who", "not_exaone", "abilities", "wonderful"):
            assert all("minexaone" in reply for reply in phrases()[f"{intent}.reply"][language])
        assert len(phrases()["wonderful.reply"][language]) == 2


@pytest.mark.parametrize("intent, reply, good", [
    ("who", "I am minexaone, a small language model trained from scratch for teaching.", True),
    ("who", "I am minexaone", False), ("who", "I am EXAONE, made by LG.", False),
    ("not_exaone", "No, I am minexaone, a small language model trained from scratch for teaching.", True),
    ("not_exaone", "Yes, I am minexaone, a small language model trained from scratch for teaching.", False),
    ("maker", "I am minexaone.", False), ("maker", "I was trained from scratch for teach.", False),
    ("hello", "Hello! I am well, thank you. How can I help you? What can I do for you?", True),
    ("thanks", "You are welcome!", True), ("thanks", "Goodbye!", False)])
def test_what_it_says_of_itself_is_fixed(intent, reply, good):
    assert TASKS["chat"].verify(Example("chat", "en", 1, [], {}, {"intent": intent}, {}), reply) is good


@pytest.mark.parametrize("x, others, reply, good", [
    ("Mina", ["red"], "Your name is Mina.", True), ("Mina", ["red"], "Your name is Minato.", False),
    ("Mina", ["Bob"], "Your name is Bob or Mina.", False), ("34", [], "You are 34 years old.", True),
    ("34", [], "You are 340 years old.", False), ("34", [], "You are 34 or 35.", False),
    ("Mina", [], "Tu nombre es Mina.", False), ("Mina", [], "You have not told me that, Mina.", False),
    (None, ["Bob"], "You have not told me that yet.", True), (None, ["Bob"], "You are Bob.", False)])
def test_memory_is_judged_by_the_value(x, others, reply, good):
    expected = {"x": x, "others": others, "mark": None if x else "recall.none.mark"}
    assert TASKS["recall"].verify(Example("recall", "en", 1, [], {}, expected, {}), reply) is good


def test_what_is_asked_for_was_told_or_was_not(examples):
    kinds = Counter()
    for example in examples["recall"]:
        *before, last = (message["content"] for message in example.messages)
        x, others, thought = example.expected["x"], example.expected["others"], example.thoughts["steps"]
        here, above = x is not None and has_word(last, x), x is not None and any(has_word(t, x) for t in before[::2])
        kinds["told" if here else "asked" if above else "missing" if before else "nothing told"] += 1
        assert (x is None) != (here != above) and (x is None or x in thought)
        assert here or all(other in thought for other in others)  # what was told is gathered before the answer
    shares = {kind: count / len(examples["recall"]) for kind, count in kinds.items()}
    assert shares == pytest.approx({"told": 1 / 6, "asked": 7 / 12, "missing": 1 / 6, "nothing told": 1 / 12}, abs=0.04)


def test_a_higher_level_is_longer(examples):
    turns = [[len(e.messages) for e in examples["recall"] if e.level == level and e.key] for level in (1, 2, 3)]
    assert max(turns[0]) <= 5 and min(turns[1]) >= 5 and min(turns[2]) >= 9
    assert any(len(e.messages) == 3 for e in examples["chat"])


def test_names_vary_and_some_are_held_out(examples):
    keys = {e.key for e in examples["recall"]}
    assert len(keys) > 700 and 0.05 < sum(map(held_out, keys)) / len(keys) < 0.15
    assert all(e.key for name in ("recall", "unknown") for e in examples[name] if len(e.messages) > 1)
    assert not any(e.key for e in examples["chat"])


def test_small_talk_is_one_exchange_and_the_seed_decides():
    first, second, other = ([small_talk(rng, "ko") for _ in range(20)] for rng in (Random(7), Random(7), Random(8)))
    assert first == second != other
    assert all([message["role"] for message in talk] == ["user", "assistant"] for talk in first)
