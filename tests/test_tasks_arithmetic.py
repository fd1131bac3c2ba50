"""Comparisons, sums and word problems: true thoughts, strict verifiers, levels that mean something."""

import operator
import re
from decimal import Decimal
from random import Random

import pytest

from minexaone.tasks.arithmetic import FAMOUS, TASKS, by_places, column, compare_key
from minexaone.tasks.base import LANGUAGES, Example, held_out, in_language

NUMBER = r"(-?\d+(?:[.,]\d+)?)"
OPERATORS = {"+": operator.add, "-": operator.sub, "×": operator.mul, "÷": operator.truediv}
COMPARE = {"<": operator.lt, ">": operator.gt, "=": operator.eq}


def draw(rng, name, language, level, test=False):
    """One example of a split."""
    while True:
        example = TASKS[name].make(rng, language, level, test)
        if held_out(example.key) == test:
            return example


@pytest.fixture(scope="module")
def examples():
    rng = Random(0)
    return {test: [draw(rng, name, language, level, test) for name in TASKS for language in LANGUAGES
                   for level in range(1, TASKS[name].levels + 1) for _ in range(40 if test else 100)]
            for test in (False, True)}


def statements(text):
    """[(statement, whether it is true), ...]"""
    def number(digits):
        return Decimal(digits.replace(",", "."))

    equation = re.compile(rf"{NUMBER} ([-+×÷]) {NUMBER} = {NUMBER}")
    found = [(f"{a} {op} {b} = {c}", OPERATORS[op](number(a), number(b)) == number(c))
             for a, op, b, c in equation.findall(text)]
    return found + [(f"{a} {sign} {b}", COMPARE[sign](number(a), number(b)))
                    for a, sign, b in re.findall(rf"{NUMBER} ([<>=]) {NUMBER}", equation.sub("", text))]


def tokens(text):
    """About as many tokens as the tokenizer makes: each digit is one."""
    return sum(c.isdigit() for c in text) + sum(not c.isdigit() for c in text) / 3


def judge(name, language, expected, reply):
    return TASKS[name].verify(Example(name, language, 1, [], {}, expected, {}), reply)


# ------------------------------------------------------------------------------------------------- all of them


def test_reference_replies_are_right_and_those_to_others_are_not(examples):
    rng = Random(1)
    for name in TASKS:
        for language in LANGUAGES:
            group = [e for e in examples[False] + examples[True] if (e.task, e.language) == (name, language)]
            assert all(TASKS[name].verify(e, e.reply["content"]) for e in group)
            assert not any(TASKS[name].verify(e, "") or TASKS[name].verify(
                e, e.reply["content"] + '\n<tool_call>{"name": "add", "arguments": {}}</tool_call>') for e in group)
            lucky = [TASKS[name].verify(e, rng.choice(group).reply["content"]) for e in group]
            assert sum(lucky) < 0.1 * len(lucky), (name, language)


def test_every_statement_of_a_thought_is_true(examples):
    assert [s for s, true in statements("So 3.12 > 3.9. 2 + 2 = 5, 3 - 1 = 2, 8 ÷ 2 = 3, 3,5 = 3,50") if not true] == [
        "2 + 2 = 5", "8 ÷ 2 = 3", "3.12 > 3.9"]
    for e in examples[False] + examples[True]:
        for style in ("brief", "steps", "check"):
            found = statements(e.thoughts[style])
            assert all(true for _, true in found), (e.key, found)
            assert found or (e.task, style) == ("story", "brief")
        assert len(statements(e.thoughts["check"])) > len(statements(e.thoughts["steps"]))


def test_a_retry_notices_its_wrong_start_and_all_styles_end_alike(examples):
    for e in examples[False]:
        assert list(e.thoughts) == ["brief", "steps", "check", "retry"]
        wait = {"en": "Wait", "ko": "잠깐", "es": "Espera"}[e.language]
        assert [wait in e.thoughts[style] for style in e.thoughts] == [False, False, False, True]
        assert len({thought.splitlines()[-1] for thought in e.thoughts.values()}) == 1
        before, after = e.thoughts["retry"].split(wait)
        last = e.thoughts["steps"].splitlines()[-1]
        assert all(true for _, true in statements(after)) and last in after and last not in before
        if e.task == "compare":
            assert not all(true for _, true in statements(before))


def test_splits_are_disjoint(examples):
    train, test = ({(e.task, e.key) for e in examples[split]} for split in (False, True))
    assert len(train) > 1500 and len(test) > 500 and not train & test and "" not in {key for _, key in train | test}


def test_languages_are_kept(examples):
    for e in examples[False]:
        texts = [e.messages[-1]["content"], e.reply["content"], *e.thoughts.values()]
        for text in texts:
            letters = re.search(r"[^\W\d_]", text.replace(" x ", ""))
            assert (re.search("[가-힣]", text) is not None) == (e.language == "ko" and letters is not None), text
            assert "{" not in text and not re.search("[가-힣]/[가-힣]", text), text
        assert all(in_language(text, e.language) and text == text.strip() for text in texts[1:]), texts


def test_the_seed_decides():
    def make(seed):
        rng = Random(seed)
        return [TASKS[name].make(rng, language, 2, False) for name in TASKS for language in LANGUAGES for _ in range(9)]

    assert make(1) == make(1) != make(2)


def test_lengths(examples):
    for name in TASKS:
        steps = {level: [e.thoughts["steps"] for e in examples[False] if (e.task, e.level) == (name, level)]
                 for level in range(1, TASKS[name].levels + 1)}
        means = [sum(map(tokens, texts)) / len(texts) for texts in steps.values()]
        assert means == sorted(means) and means[-1] > 1.5 * means[0], name
    for e in examples[False]:
        total = max(map(tokens, e.thoughts.values())) + tokens(e.messages[-1]["content"] + e.reply["content"])
        assert total < (600 if e.level == TASKS[e.task].levels else 350), e


# ---------------------------------------------------------------------------------------------------- compare


def test_famous_pairs_are_for_tests_only():
    assert all(held_out(compare_key(a, b)) for a, b in FAMOUS)
    assert compare_key("3.9", "3,12") == compare_key("3.120", "3.90") != compare_key("-3.9", "-3.12")
    keys = {test: [draw(Random(n), "compare", "en", 2, test).key for n in range(500)] for test in (False, True)}
    famous = [compare_key(a, b) for a, b in FAMOUS]
    assert not any(key in famous for key in keys[False])
    assert 0 < sum(key in famous for key in keys[True]) < 100


def test_levels_of_compare_are_decimal_places(examples):
    for level in range(1, 5):
        pairs = [e.expected["numbers"] for e in examples[False] if (e.task, e.level) == ("compare", level)]
        fractions = [re.split("[.,]", x)[-1] for pair in pairs for x in pair if re.search("[.,]", x)]
        places = [len(fraction.rstrip("0")) for fraction in fractions]
        assert max(places) == (level if level < 4 else 6)
        assert any("-" in x for pair in pairs for x in pair) == (level > 2)


def test_comparisons_keep_the_writing_of_the_question(examples):
    commas = {language: 0 for language in LANGUAGES}
    for e in examples[False]:
        if e.task == "compare":
            comma = any("," in number for number in e.expected["numbers"])
            commas[e.language] += comma
            for text in (e.messages[-1]["content"], e.reply["content"], e.thoughts["steps"]):
                assert not re.search(r"\d\.\d" if comma else r"\d,\d", text), text
    assert commas["es"] > 100 and 0 < commas["en"] < 40 and 0 < commas["ko"] < 40


@pytest.mark.parametrize("reply, good", [
    ("3.9 is bigger than 3.12.", True), ("3.90 is larger", True), ("3,9 is greater than 3,12", True), ("3.9", True),
    ("3.9 > 3.12", True), ("3.12 is bigger than 3.9.", False), ("3.9 is smaller than 3.12.", False), ("", False),
    ("3.12 is smaller than 3.9.", False), ("3.9 is not bigger than 3.12.", False), ("It is bigger.", False),
    ("They are equal.", False), ("3.9 and 3.12 are equal.", False), ("3.9가 3.12보다 더 커요.", False),
    ("3.9 es mayor que 3.12.", False), ("3.9 is bigger than 3.1.", False), ("3.9 3.12", False), ("3.9 < 3.12", False),
    ("12 > 9, so 3.12 is bigger", False), ('3.9 <tool_call>{"name": "compare", "arguments": {}}</tool_call>', False)])
def test_which_is_bigger(reply, good):
    for numbers in (["3.12", "3.9"], ["3,9", "3,12"]):
        assert judge("compare", "en", {"numbers": numbers, "goal": "bigger"}, reply) is good


@pytest.mark.parametrize("language, goal, numbers, reply, good", [
    ("en", "is_bigger", "9.11 9.9", "No, 9.9 is bigger than 9.11.", True),
    ("en", "is_bigger", "9.11 9.9", "No.", True),
    ("en", "is_bigger", "9.11 9.9", "no, 9.11 is smaller than 9.9", True),
    ("en", "is_bigger", "9.11 9.9", "No, 9.11 is not bigger than 9.9.", True),
    ("en", "is_bigger", "9.11 9.9", "No, 9.11 is bigger than 9.9.", False),
    ("en", "is_bigger", "9.11 9.9", "Yes, 9.9 is bigger than 9.11.", False),
    ("en", "is_bigger", "9.11 9.9", "9.9 is bigger than 9.11.", False),
    ("en", "is_bigger", "9.11 9.9", "No, they are equal.", False),
    ("en", "is_bigger", "9.5 9.50", "No, they are equal.", True),
    ("en", "is_equal", "9.5 9.50", "Yes, 9.5 and 9.50 are equal.", True),
    ("en", "is_equal", "9.5 9.50", "No, 9.5 and 9.50 are not equal.", False),
    ("en", "is_equal", "9.5 9.05", "No, 9.5 and 9.05 are not equal.", True),
    ("en", "bigger", "9.5 9.50", "9.5 and 9.50 are equal.", True),
    ("en", "bigger", "9.5 9.50", "9.5 is bigger than 9.50.", False),
    ("en", "bigger", "-2.5 -2.45", "-2.45 is bigger than -2.5.", True),
    ("en", "bigger", "-2.5 -2.45", "2.45 is bigger than 2.5.", False),
    ("ko", "is_smaller", "9.11 9.9", "네, 9.11이 9.9보다 더 작아요.", True),
    ("ko", "is_smaller", "9.11 9.9", "네, 9.9보다 9.11이 더 작아요.", True),
    ("ko", "is_smaller", "9.11 9.9", "네, 9.11보다 9.9가 더 작아요.", False),
    ("ko", "is_smaller", "9.11 9.9", "아니요, 9.11이 9.9보다 더 작아요.", False),
    ("ko", "is_smaller", "9.11 9.9", "Yes, 9.11 is smaller than 9.9.", False),
    ("ko", "bigger", "9.11 9.9", "9.11보다 9.9가 더 커요.", True),
    ("ko", "bigger", "9.11 9.9", "9.11이 9.9보다 더 커요.", False),
    ("es", "smaller", "9,11 9,9", "9,11 es menor que 9,9.", True),
    ("es", "smaller", "9,11 9,9", "9.11 es más pequeño que 9.9.", True),
    ("es", "smaller", "9,11 9,9", "9,9 es menor que 9,11.", False),
    ("es", "is_bigger", "9,11 9,9", "No, 9,11 no es mayor que 9,9.", True),
    ("es", "is_bigger", "9,11 9,9", "No, 9,11 es mayor que 9,9.", False),
    ("es", "is_bigger", "9,11 9,9", "Sí, 9,11 es mayor que 9,9.", False)])
def test_other_comparisons(language, goal, numbers, reply, good):
    assert judge("compare", language, {"numbers": numbers.split(), "goal": goal}, reply) is good


# ------------------------------------------------------------------------------------------------------- sums


def test_sums_are_of_the_numbers_asked_for_and_as_long_as_their_level(examples):
    for level in range(1, 6):
        lengths, operators, signs = set(), set(), set()
        for e in examples[False] + examples[True]:
            if (e.task, e.level) == ("sums", level):
                a, op, b, c = re.fullmatch(r"(\d+) ([-+×]) (\d+) = (-?\d+)", e.reply["content"]).groups()
                assert OPERATORS[op](int(a), int(b)) == int(c) == e.expected["c"]
                assert sorted(re.findall(r"\d+", e.messages[-1]["content"])) == sorted([a, b])
                lengths |= {(op, max(len(a), len(b)))}
                operators |= {op}
                signs |= {c[0] == "-"}
        assert operators == set("+-" if level == 1 else "+-×") and signs == {False, True}
        assert {length for op, length in lengths if op != "×"} == {level}
        assert max(length for _, length in lengths) == level


@pytest.mark.parametrize("op, apply", [("+", operator.add), ("-", operator.sub), ("×", operator.mul)])
def test_columns_give_the_digit_and_the_carry(op, apply):
    for x in range(10):
        for y in range(10):
            for carry in range(9 if op == "×" else 2):
                facts, digit, out = column(op, x, y, carry)
                assert apply(x, y) + (-carry if op == "-" else carry) == digit + 10 * (-out if op == "-" else out)
                assert all(true for _, true in statements(", ".join(facts))) and 0 <= digit <= 9


def test_by_places_ends_where_it_should():
    assert by_places("+", 478, 365, 843) == "478 + 300 = 778, 778 + 60 = 838, 838 + 5 = 843"
    assert by_places("-", 365, 478, -113) == "365 + 100 = 465, 465 + 10 = 475, 475 + 3 = 478"
    assert by_places("×", 47, 6, 282) == "40 × 6 = 240, 7 × 6 = 42, 240 + 42 = 282"
    assert by_places("+", 7, 0, 7) == "7 + 0 = 7"


@pytest.mark.parametrize("a, op, b, c, reply, good", [
    (1200, "+", 45, 1245, "1200 + 45 = 1245", True), (1200, "+", 45, 1245, "45+1200=1245.", True),
    (1200, "+", 45, 1245, "1245", True), (1200, "+", 45, 1245, "1200 plus 45 is 1245.", True),
    (1200, "+", 45, 1245, "The answer is 1245.", True), (1200, "+", 45, 1245, "1,245", False),
    (1200, "+", 45, 1245, "1200 + 45 = 1244", False), (1200, "+", 45, 1245, "1200 + 44 = 1245", False),
    (1200, "+", 45, 1245, "1200 - 45 = 1245", False), (1200, "+", 45, 1245, "-1245", False),
    (1200, "+", 45, 1245, "1245, since 1200 + 45 = 1245.", True),
    (1200, "+", 45, 1245, "1244: 1200 + 45 = 1245", False), (1200, "+", 45, 1245, "1200 + 45 = 1244, so 1245", False),
    (1200, "+", 45, 1245, "1244, 1245", False), (1200, "+", 45, 1245, "La respuesta es 1245.", False),
    (1200, "+", 45, 1245, "답은 1245예요.", False), (1200, "+", 45, 1245, "", False),
    (5, "-", 8, -3, "5 - 8 = -3", True), (5, "-", 8, -3, "8 - 5 = -3", False), (5, "-", 8, -3, "5 - 8 = 3", False),
    (12, "×", 3, 36, "12 x 3 = 36", True), (12, "×", 3, 36, "3*12 = 36", True), (12, "×", 3, 36, "12 + 3 = 36", False),
    (12, "×", 3, 36, '<tool_call>{"name": "multiply", "arguments": {"a": 12, "b": 3}}</tool_call> 36', False)])
def test_sums_are_judged(a, op, b, c, reply, good):
    assert judge("sums", "en", {"a": a, "op": op, "b": b, "c": c}, reply) is good


# ------------------------------------------------------------------------------------------------------ story


def test_stories_tell_all_their_numbers_and_have_as_many_operations_as_their_level(examples):
    results = set()
    for e in (e for e in examples[False] + examples[True] if e.task == "story"):
        total, told = 0, []
        for event in e.key.removeprefix("story: ").split(", "):
            kind, *numbers = event.split()
            told += numbers
            x, y = map(int, [*numbers, 1][:2])
            total = {"start": x, "packs.start": x * y, "gain": total + x, "lose": total - x, "packs": total + x * y,
                     "times": total * x}[kind]
            assert 0 <= total <= 200 and total != 1
        assert total == e.expected["last"]
        assert sorted(re.findall(r"\d+", e.messages[-1]["content"])) == sorted(told), e
        operations = [s for s, _ in statements(e.thoughts["steps"])]
        assert len(operations) == e.level and operations[-1].endswith(f"= {total}")
        results.add(total)
    assert len(results) > 50


@pytest.mark.parametrize("language, reply, good", [
    ("en", "Mia has 12 apples.", True), ("en", "12", True), ("en", "5 + 7 = 12, so Mia has 12.", True),
    ("en", "Mia has 13 apples.", False), ("en", "Mia tiene 12 manzanas.", False), ("en", "Mia has apples.", False),
    ("en", "민수는 사과 12개를 가지고 있어요.", False), ("en", "", False), ("en", "Mia has -12 apples.", False),
    ("ko", "민수는 사과 12개를 가지고 있어요.", True), ("ko", "답은 12개예요.", True),
    ("ko", "Mia has 12 apples.", False), ("es", "Lucía tiene 12 manzanas.", True), ("es", "Mia has 12 apples.", False),
    ("es", 'Tiene 12. <tool_call>{"name": "add", "arguments": {"a": 5, "b": 12}}</tool_call>', False)])
def test_stories_are_judged(language, reply, good):
    assert judge("story", language, {"last": 12}, reply) is good
