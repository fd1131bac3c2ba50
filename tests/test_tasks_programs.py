"""Programs and puzzles: an interpreter that is right and bounded, and verifiers that accept what is true."""

import operator
import re
from random import Random
from statistics import mean

import pytest

from minexaone.tasks.base import LANGUAGES, STYLES, Example, held_out
from minexaone.tasks.interpreter import ProgramError, run
from minexaone.tasks.programs import TASKS, final_code, worked

LEVELS = [(name, level) for name, task in TASKS.items() for level in range(1, task.levels + 1)]
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@pytest.fixture(scope="module")
def examples():
    rng = Random(0)
    return [TASKS[name].make(rng, language, level, False)
            for name, level in LEVELS for language in LANGUAGES for _ in range(60)]


def false_statements(thought: str) -> list[str]:
    """Calculations and comparisons of numbers that are not true."""
    wrong = [f"{a} {sign} {b} = {c}" for a, sign, b, c in re.findall(r"(-?\d+) ([+*-]) (-?\d+) = (-?\d+)", thought)
             if SIGNS[sign](int(a), int(b)) != int(c)]
    order = {"<": operator.lt, ">": operator.gt, "=": operator.eq}
    compared = re.findall(r"(?<![+*-] )(?<![\d-])(-?\d+) ([<>=]) (-?\d+)", thought)
    return wrong + [f"{a} {sign} {b}" for a, sign, b in compared if not order[sign](int(a), int(b))]


# ------------------------------------------------------------------------------------------------ the language


@pytest.mark.parametrize("program, inputs, output", [
    ("print(1)", {}, [1]), ("x = 3\nx += 2\nx *= 4\nx -= 1\nprint(x)", {}, [19]), ("print(2 + 3 * 4 - 1)", {}, [13]),
    ("print((2 + 3) * -2)", {}, [-10]), ("print(10 - 3 - 2)", {}, [5]),
    ("print(x)\nprint(y)", {"x": 1, "y": 2}, [1, 2]),
    ("for i in range(3):\n  print(i)\nprint(9)", {}, [0, 1, 2, 9]), ("for _ in range(0):\n  print(1)", {}, []),
    ("if x >= 2:\n    print(1)\nelse:\n    print(2)", {"x": 2}, [1]),
    ("if x != 2:\n    print(1)\nelse:\n    print(2)", {"x": 2}, [2]),
    ("for _ in range(2):\n  if x > 1:\n    x = 0\n  else:\n    x = 5\n  print(x)", {"x": 0}, [5, 0]),
    ("# a comment\n\nprint(1)  # and another", {}, [1])])
def test_programs_run(program, inputs, output):
    before = dict(inputs)
    assert run(program, inputs) == output and inputs == before


@pytest.mark.parametrize("program, message", [
    ("x = ", "line 1: expected something more"), ("x = 1\nprint(y)", "line 2: expected a variable"),
    ("print(1", r"line 1: expected \)"), ("x 3", "line 1: expected = or"),
    ("print(1) 2", "expected the end of the line"),
    ("if 1 > 0:\nprint(1)", "line 1: expected an indented line"), ("x = 1\n  x = 2", "line 2: expected another"),
    ("if = 2", "line 1"), ("for = 3", "line 1: expected a name"), ("x = 'a'", "line 1: expected a name"),
    ("import os", "line 1: expected ="), ("print(open(3))", "line 1"), ("x = 3x", "line 1"),
    ("else:\n  x = 1", "line 1"),
    ("x = ٣", "line 1: expected a name"), ("__import__('os')", "line 1")])
def test_errors_name_the_line_and_what_was_expected(program, message):
    with pytest.raises(ProgramError, match=message):
        run(program)


@pytest.mark.parametrize("program", [
    "for _ in range(1000000000):\n  x = 1", "for _ in range(99):\n  for _ in range(99):\n    print(1)",
    "x = 9\nfor _ in range(99):\n  x = x * x", "x = " + "(" * 99_999, "x = " + "9" * 90, "x = 1\n" * 51,
    "print(" + "(" * 93, "\n".join(" " * i + "if 1 > 0:" for i in range(50))])
def test_steps_sizes_and_nesting_are_bounded(program):
    with pytest.raises(ProgramError):
        run(program)


def test_the_step_limit_is_exact():
    program = "for _ in range(3):\n  x = 1"
    assert run(program, limit=6) == []
    with pytest.raises(ProgramError, match="at most 5 steps"):
        run(program, limit=5)


def test_worked_calculations_end_in_the_result():
    assert worked(34, "+", 28) == "34 + 20 = 54, 54 + 8 = 62"
    assert worked(14, "*", 3) == "10 * 3 = 30, 4 * 3 = 12, 30 + 12 = 42"
    for sign in "+-*":
        for a in range(0, 60, 7):
            for b in range(0, 40, 3) if sign != "*" else range(10):
                steps = worked(a, sign, b)
                assert steps.endswith(f"= {SIGNS[sign](a, b)}") and not false_statements(steps)


# ------------------------------------------------------------------------------------------------ the examples


def test_references_are_right_and_other_replies_are_wrong(examples):
    rng = Random(0)
    for name, task in TASKS.items():
        mine = [e for e in examples if e.task == name]
        others = []
        for e in mine:
            assert task.verify(e, e.reply["content"]), e
            assert not task.verify(e, "") and not task.verify(e, e.reply["content"] + "<tool_call>{}</tool_call>")
            others.append(task.verify(e, rng.choice([o for o in mine if o.language == e.language]).reply["content"]))
        assert sum(others) < 0.1 * len(others), name


def test_a_foreign_language_is_wrong(examples):
    prose = {"en": "This is the program and it prints", "ko": "이 프로그램은 출력해요",
             "es": "Este es el programa que imprime"}
    for e in examples:
        for language in LANGUAGES:
            reply = f"{prose[language]} {e.reply['content']}"
            if e.task == "trace" and e.reply["content"].isdigit():
                assert TASKS["trace"].verify(e, reply) == (language == e.language)
            if e.task == "write" and e.reply["content"].startswith("```"):
                assert TASKS["write"].verify(e, reply) == (language == e.language)


def test_thoughts_are_true_and_end_with_the_result(examples):
    for e in examples:
        assert set(e.thoughts) == set(STYLES)
        for style in ("steps", "check"):
            assert not false_statements(e.thoughts[style]), e.thoughts[style]
        if e.task == "trace":
            last = str(run(e.expected["program"])[-1])
            assert all(re.findall(r"\d+", thought)[-1] == last for thought in e.thoughts.values())
            assert false_statements(e.thoughts["retry"]), "the wrong start is missing"
        if e.task == "write":
            assert e.thoughts["steps"].endswith("print(x)") and e.thoughts["retry"].endswith("print(x)")
    assert false_statements("3 + 4 = 8, 5 > 9") == ["3 + 4 = 8", "5 > 9"] and not false_statements("2 * 3 = 6, 4 < 5")


def test_thoughts_and_replies_keep_the_language(examples):
    for e in examples:
        for thought in e.thoughts.values():
            assert any("가" <= c <= "힣" for c in thought) == (e.language == "ko"), thought


def test_levels_are_harder():
    rng = Random(1)
    for name, task in TASKS.items():
        lengths = [mean(len(task.make(rng, "en", level, False).thoughts["steps"]) for _ in range(200))
                   for level in range(1, task.levels + 1)]
        assert lengths == sorted(lengths) and lengths[-1] > 1.2 * lengths[0], (name, lengths)
    programs = {level: TASKS["trace"].make(rng, "en", level, False).expected["program"] for level in (1, 2, 3, 4)}
    assert "if" not in programs[2] and "else" in programs[3] and "for" not in programs[3] and "for" in programs[4]


def test_keys_split_the_problems(examples):
    for name in TASKS:
        keys = [e.key for e in examples if e.task == name]
        assert all(keys) and 0.02 < mean(map(held_out, keys)) < 0.25


def test_the_seed_decides():
    def draw(seed):
        return [TASKS[name].make(Random(seed), "ko", level, False) for name, level in LEVELS]

    assert draw(3) == draw(3) != draw(4)


# ---------------------------------------------------------------------------------------- replies written by hand


def judge(task, language, expected, reply):
    """The verdict on a reply."""
    return TASKS[task].verify(Example(task, language, 1, [], {}, expected, {}), reply)


@pytest.mark.parametrize("reply, good", [
    ("7", True), ("It prints 7.", True), ("The output of this program is 7", True), ("It prints 8.", False),
    ("It prints 7 or 8.", False), ("It prints 7.5.", False), ("-7", False), ("Imprime 7.", False), ("seven", False)])
def test_traces_are_judged_by_their_numbers(reply, good):
    assert judge("trace", "en", {"program": "x = 3\nx += 4\nprint(x)"}, reply) is good


@pytest.mark.parametrize("code, good", [
    ("x = x * 2\nx = x + 3\nprint(x)", True), ("print(x * 2 + 3)", True), ("print(3 + x + x)", True),
    ("y = 3\nfor _ in range(2):\n  y += x\nprint(y)", True), ("print((x + 3) * 2)", False), ("print(7)", False),
    ("print(x * 2 + 3)\nprint(x)", False), ("print(x * 2 + 4)", False), ("return x * 2 + 3", False), ("", False)])
def test_any_right_program_is_accepted(code, good):
    expected = {"cases": [[{"x": 0}, 3], [{"x": 30}, 63], [{"x": 7}, 17]]}
    assert judge("write", "en", expected, f"```\n{code}\n```") is good
    assert judge("write", "en", expected, f"Here is the program with x and y:\n```python\n{code}\n```\nDone.") is good
    assert not judge("write", "en", expected, code) and not judge("write", "en", expected, f"```\n{code}")


def test_only_the_final_block_counts():
    assert final_code("a ```\nx = 1\n``` b ```\nx = 2\n```") == ("x = 2\n", "a   b  ")
    expected = {"cases": [[{"x": 2}, 2]]}
    assert judge("write", "en", expected, "```\nprint(1)\n```\n```\nprint(x)\n```")
    assert not judge("write", "en", expected, "```\nprint(x)\n```\n```\nprint(1)\n```")


WHO = {"answer": "Ana", "names": ["Ana", "Luis", "Rosa"], "never": ["menos"]}
WHETHER = {"answer": "no", "names": ["Tom", "Mia"], "statements": ["Mia is taller than Tom", "Tom is shorter than Mia"]}


@pytest.mark.parametrize("language, expected, reply, good", [
    ("es", WHO, "Ana es quien más mide.", True), ("es", WHO, "Ana", True),
    ("es", WHO, "Luis es quien más mide.", False),
    ("es", WHO, "Ana es quien menos mide.", False), ("es", WHO, "Ana y Luis", False), ("es", WHO, "Banana", False),
    ("en", WHETHER, "No.", True), ("en", WHETHER, "No, Mia is taller than Tom.", True), ("en", WHETHER, "Yes.", False),
    ("en", WHETHER, "No, Tom is shorter than Mia.", True), ("en", WHETHER, "No, Tom is taller than Mia.", False),
    ("en", WHETHER, "No, Ben is shorter than Sam.", False),
    ("en", WHETHER, "Yes, Mia is taller than Tom.", False), ("en", WHETHER, "Mia is taller than Tom.", False)])
def test_puzzles_are_judged_exactly(language, expected, reply, good):
    assert judge("logic", language, expected, reply) is good
