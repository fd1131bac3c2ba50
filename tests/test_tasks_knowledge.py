"""Facts: every reference reply is right, others are wrong; combinations are held out, thoughts are true."""

import re
from random import Random

import pytest

from minexaone.tasks import verify
from minexaone.tasks.base import LANGUAGES, Example, held_out, phrases
from minexaone.tasks.knowledge import HOP_MAKERS, RELATIONS, expect, facts, meaning, pairs, words


@pytest.fixture(scope="module")
def examples():
    rng = Random(0)
    return [facts(rng, LANGUAGES[i % 3], 1 + i // 3 % 2, False) for i in range(6000)]


def test_every_reference_reply_is_right_and_most_others_are_wrong(examples):
    rng, passed = Random(1), 0
    for example in examples:
        assert verify(example, example.reply["content"]), example
        assert not verify(example, "")
        call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
        assert not verify(example, example.reply["content"] + call)
        passed += verify(example, rng.choice(examples).reply["content"])
    assert passed < 0.05 * len(examples)


def test_a_reply_in_another_language_is_wrong(examples):
    korean, rest = ([e for e in examples if (e.language == "ko") == ko] for ko in (True, False))
    assert not any(verify(example, korean[i % len(korean)].reply["content"]) for i, example in enumerate(rest))


@pytest.mark.parametrize("language, expected, reply, good", [
    ("en", expect("capital", ["Paris"], ["France"]), "It is Paris.", True),
    ("en", expect("capital", ["Paris"], ["France"]), "The capital of France is Paris or Rome.", False),
    ("en", expect("capital", ["Paris"], ["France"]), "The capital of France is Rome.", False),
    ("en", expect("capital", ["Paris"], ["France"]), "La capital de Francia es Paris.", False),
    ("ko", expect("next", ["이월"], ["일월"]), "일월 다음은 이월이에요.", True),
    ("ko", expect("next", ["이월"], ["일월"]), "일월 다음은 십이월이에요.", False),
    ("es", expect("next", ["el martes"], ["el lunes"]), "Después del lunes viene el martes.", True),
    ("es", expect("next", ["el martes"], ["el lunes"]), "Después del lunes viene el jueves.", False),
    ("en", expect("count", ["6"], []), "An ant has 6 legs.", True),
    ("en", expect("count", ["6"], []), "An ant has 16 legs.", False),
    ("en", expect("capital", ["Rome"], ["Italy"], 0) | {"first": "No"}, "No, it is Rome.", True),
    ("en", expect("capital", ["Rome"], ["Italy"], 0) | {"first": "No"}, "Yes, it is Rome.", False),
    ("en", expect("legs.x", ["a crab", "an ant"], [], 1) | {"mark": "more"}, "A crab has more legs.", True),
    ("en", expect("legs.x", ["a crab", "an ant"], [], 1) | {"mark": "more"}, "An ant has more than a crab.", False),
    ("es", expect("word.en", ["hot"], ["frío"]), 'Lo contrario de "frío" en inglés es "hot".', True),
    ("es", expect("word.en", ["hot"], ["frío"]), 'Lo contrario de "frío" en inglés es "cold".', False),
])
def test_replies_are_judged_by_what_they_name(language, expected, reply, good):
    assert verify(Example("facts", language, 1, [], {}, expected, {}), reply) is good


def test_sums_and_comparisons_in_thoughts_are_true(examples):
    sums = [tuple(map(int, found)) for e in examples for found in
            re.findall(r"(\d+) \+ (\d+) = (\d+)", e.thoughts["steps"])]
    greater = [tuple(map(int, found)) for e in examples for found in re.findall(r"(\d+) > (\d+)", e.thoughts["steps"])]
    assert len(sums) > 100 and all(a + b == c for a, b, c in sums)
    assert len(greater) > 100 and all(a > b for a, b in greater)


def test_two_facts_take_more_thinking_and_are_never_rushed(examples):
    lines = {level: [e.thoughts["steps"].count("\n") for e in examples if e.level == level] for level in (1, 2)}
    assert max(lines[1]) == 0 and min(lines[2]) >= 2
    assert all(list(e.thoughts) == ["steps"] for e in examples)


def test_combinations_are_held_out_but_no_facts(examples):
    hops = {e.key for e in examples if e.level == 2}
    train, test = ({key for key in hops if held_out(key) is split} for split in (False, True))
    assert len(train) > 300 and len(test) > 30
    assert all(e.key == e.messages[-1]["content"] for e in examples if e.level == 1)


def test_the_world_is_consistent():
    for language in LANGUAGES:
        assert len(set(words(language))) == len(words("en"))
        for relation in RELATIONS[:-1]:
            assert len(meaning(relation, language)) == len(pairs(relation, language)), relation
        back = meaning("opposite", language)
        assert all(back.get(y, x) == x for x, y in pairs("opposite", language))
    for key in ("capital.pairs", "colour.pairs", "legs.pairs", "next.pairs", "translate.word", "translate.language"):
        assert len({len(phrases()[key][language]) for language in LANGUAGES}) == 1, key
    assert pairs("legs", "en")[2] == ("a spider", "8")
    assert meaning("before", "en")["Tuesday"] == "Monday"


def test_spanish_contracts_and_the_seed_decides(examples):
    spanish = " ".join(e.messages[-1]["content"] + e.reply["content"] for e in examples if e.language == "es")
    assert " de el " not in spanish and " del lunes" in spanish
    draw = [[HOP_MAKERS[kind](Random(seed), "en") for kind in HOP_MAKERS] for seed in (3, 3, 4)]
    assert draw[0] == draw[1] != draw[2]
