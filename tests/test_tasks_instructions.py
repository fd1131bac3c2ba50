"""Requests with constraints: each constraint is checked exactly, alone and together."""

from collections import Counter
from random import Random
from statistics import mean

import pytest

from minexaone.tasks.base import LANGUAGES, STYLES, Example, held_out
from minexaone.tasks.instructions import TASKS, violations

TASK = TASKS["constraint"]


@pytest.fixture(scope="module")
def examples():
    rng = Random(0)
    return [TASK.make(rng, language, level, False) for level in (1, 2, 3) for language in LANGUAGES for _ in range(200)]


def test_references_are_right_and_other_replies_are_wrong(examples):
    rng, others = Random(0), []
    for e in examples:
        assert violations(e, e.reply["content"]) == [], e
        assert violations(e, "") and violations(e, e.reply["content"] + '\n<tool_call>{"name": "f"}</tool_call>')
        others.append(TASK.verify(e, rng.choice([o for o in examples if o.language == e.language]).reply["content"]))
    assert sum(others) < 0.1 * len(others)


def test_the_level_is_the_number_of_constraints(examples):
    assert all(len(e.expected["constraints"]) == e.level for e in examples)
    assert {name for e in examples for name in e.expected["constraints"]} == {
        "language", "count", "dash", "comma", "json", "start", "end", "upper", "lower", "no_commas"}
    assert Counter(e.expected["kind"] for e in examples).keys() == {"list", "repeat", "spell", "greet"}


def test_every_constraint_is_asked_for_and_thought_of(examples):
    for e in examples:
        wanted, question = e.expected["constraints"], e.messages[-1]["content"].lower()
        for name in ("start", "end"):
            assert name not in wanted or (wanted[name] in question and wanted[name] in e.thoughts["steps"])
        assert len(e.thoughts["steps"].splitlines()) == e.level + 2  # the goal, each constraint, the answer
        assert set(e.thoughts) == set(STYLES)


def test_thoughts_are_in_the_language_of_the_question(examples):
    for e in examples:
        assert any("가" <= c <= "힣" for c in e.thoughts["steps"].splitlines()[0]) == (e.language == "ko")
        target = e.expected["language"]
        if e.expected["kind"] in ("list", "greet"):
            assert any("가" <= c <= "힣" for c in e.reply["content"]) == (target == "ko")
        assert (target != e.language) == ("language" in e.expected["constraints"])


def test_keys_split_the_problems(examples):
    assert all(e.key for e in examples) and 0.05 < mean(held_out(e.key) for e in examples) < 0.15
    rng = Random(5)
    first, second = (TASK.make(Random(5), "en", 3, False) for _ in range(2))
    assert first == second != TASK.make(rng, "en", 2, False)


def broken(reply, kind="list", topic="animal", language="en", **constraints):
    """What is wrong with a reply to a request."""
    expected = {"kind": kind, "topic": topic, "language": language, "constraints": constraints}
    return violations(Example("constraint", "en", 1, [], {}, expected, {}), reply)


@pytest.mark.parametrize("reply, constraints, names", [
    ("dog, cat, bird", {"count": 3}, []), ("dog cat and bird", {"count": 3}, []), ("dog, cat", {"count": 3}, ["count"]),
    ("dog, dog, cat", {"count": 3}, ["content"]), ("dog, tren, cat", {"count": 3}, ["content"]),
    ("perro, gato", {"count": 2}, ["language"]),
    ("- dog\n- cat", {"dash": True}, []), ("dog\ncat", {"dash": True}, ["dash"]),
    ("* dog\n* cat", {"dash": True}, ["dash"]),
    ("dog, cat", {"comma": True}, []), ("dog cat", {"comma": True}, ["comma"]),
    ("dog,\ncat", {"comma": True}, ["comma"]),
    ('["dog", "cat"]', {"json": True}, []), ("dog, cat", {"json": True}, ["json"]),
    ('["dog" "cat"]', {"json": True}, ["json"]),
    ('{"a": "dog"}', {"json": True}, ["json", "content"]), ("[" * 5000, {"json": True}, ["json", "content"]),
    ("DOG, CAT", {"upper": True}, []), ("Dog, CAT", {"upper": True}, ["upper"]),
    ("dog, Cat", {"lower": True}, ["lower"]),
    ("dog cat", {"no_commas": True}, []), ("dog, cat", {"no_commas": True}, ["no_commas"]),
    ("Sure: dog, cat", {"start": "sure"}, []), ("Surely: dog, cat", {"start": "sure"}, ["start", "content"]),
    ("dog, cat, done!", {"end": "done"}, []), ("dog, cat", {"end": "done"}, ["end"]),
    ("SURE:\n- DOG\n- CAT\nDONE", {"start": "sure", "end": "done", "upper": True, "dash": True}, []),
    ("Sure: dog, cat", {"end": "done", "upper": True, "count": 3}, ["upper", "end", "content"]),
    ("Here are two animals: dog, cat", {}, ["content"]), ("dog", {}, ["content"]),
    ("", {"count": 2}, ["count", "content"])])
def test_each_constraint_is_checked(reply, constraints, names):
    assert broken(reply, **constraints) == names


def test_the_target_language_is_judged_not_the_one_of_the_question():
    assert broken("개, 고양이", language="ko") == [] and broken("dog, cat", language="ko") == ["language"]
    assert broken("Hola!", "greet", "hello", "es") == [] and broken("Hello!", "greet", "hello", "es") == ["language"]
    assert broken("Goodbye!", "greet", "hello") == ["content"]


def test_repeated_and_spelled_words():
    assert broken("tren tren tren", "repeat", "tren", count=3) == []
    assert broken("tren, tren", "repeat", "tren", count=3) == ["count"]
    assert broken("tren tran tren", "repeat", "tren", count=3) == ["content"]
    assert broken("c, a, s, a", "spell", "casa") == [] == broken("C-A-S-A", "spell", "casa", upper=True)
    assert broken("y o y o", "spell", "yoyo") == [] and broken("c a s", "spell", "casa") == ["content"]
    assert broken("나, 무", "spell", "나무", "ko") == [] and broken("casa", "spell", "casa") == ["content"]
