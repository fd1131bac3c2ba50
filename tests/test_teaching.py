"""What teachers get: syllabi and a graph that say what the lessons say, and questions with one right choice each."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LESSONS = {path.name.partition("_")[0]: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
SYLLABI = (NOTEBOOKS / "SYLLABI.md").read_text(encoding="utf-8")
QUESTIONS = (NOTEBOOKS / "QUESTIONS.md").read_text(encoding="utf-8")
LOOSELY = {("01", "02")}  # an arrow of its own kind
NUMBER = r"\d\d[a-z]?"
LINKED = rf"\[({NUMBER})]\(\w+\.ipynb\)"


def text_of(lesson):
    """All that a lesson says between its cells of code."""
    cells = json.loads(LESSONS[lesson].read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def said_to_build_on(lesson):
    """The lessons in the line "Builds on" of a lesson; "02 to 06" means all of them."""
    line = re.search(r"\*\*Builds on:?\*\*(.*?)(?:\n\n|\Z)", text_of(lesson), re.S)[1]
    found, through, order = [], None, [*LESSONS]
    for name, to in re.findall(rf"\(({NUMBER})_\w+\.ipynb\)(\s+to\b)?", line):
        found += order[order.index(through) + 1:order.index(name)] if through else []
        found.append(name)
        through = name if to else None
    return found


def minutes_in_class(lesson):
    """The minutes that TEACHING.md gives a lesson."""
    notes = (NOTEBOOKS / "TEACHING.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {lesson} ·.*?(?=^## |\Z)", notes, re.M | re.S)[0]
    return int(re.search(r"Timing.*?\((\d+) minutes", section)[1])


def exercises(lesson):
    """Points and minutes of a lesson's exercises by their numbers, (None, 0) where the lesson gives none."""
    text = text_of(lesson)
    found = {}
    for exercise in re.split(r"^(?=\d\. )", text[text.index("## Exercises"):], flags=re.M)[1:]:
        given = re.search(r"\*\((\d+) points?(?: by hand)?, (\d+) min", exercise)
        found[exercise[0]] = (given[1], int(given[2])) if given else (None, 0)
    return found


EDGES = {lesson: re.findall(NUMBER, before) for lesson, before in
         re.findall(rf"^\| {LINKED} \| ([^|]*) \|$", SYLLABI, re.M)}
TITLES = "One day|One week|Twelve weeks"
COURSES = {title: re.findall(rf"^\| \w+ \| {LINKED} \| (.*?) \| (\d+) \| (.*?) \| (.*?) \|$", text, re.M)
           for title, text in re.findall(rf"^## ({TITLES})\n(.*?)(?=^## |\Z)", SYLLABI, re.M | re.S)}


# --------------------------------------------------------------------------------------------------------- the graph


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_table_of_prerequisites_says_what_the_lesson_says(lesson):
    assert EDGES[lesson] == said_to_build_on(lesson)


def test_the_drawing_has_the_arrows_of_the_table_and_none_that_a_longer_way_says():
    firm = {lesson: [one for one in before if (one, lesson) not in LOOSELY] for lesson, before in EDGES.items()}

    def below(lesson):
        return {*firm[lesson]}.union(*map(below, firm[lesson]))

    wanted = {(one, lesson) for lesson, before in firm.items() for one in before
              if not any(one in below(other) for other in before)}
    drawing = (NOTEBOOKS / "figures" / "map.svg").read_text(encoding="utf-8")
    assert {*re.findall(rf'id="from-({NUMBER})-to-({NUMBER})"', drawing)} == wanted
    assert sorted(re.findall(rf"<text[^>]*>({NUMBER})</text>", drawing)) == [*LESSONS]
    assert drawing.count('stroke-dasharray="4 3" marker-end') == len(LOOSELY)


# -------------------------------------------------------------------------------------------------------- the syllabi


def test_there_are_three_syllabi_and_the_longest_leaves_nothing_out():
    assert [*COURSES] == ["One day", "One week", "Twelve weeks"]
    whole = COURSES["Twelve weeks"]
    assert sorted(lesson for lesson, *_ in whole) == [*LESSONS]
    assert {taught for _, taught, *_ in whole} == {"all"}


@pytest.mark.parametrize("title", COURSES)
def test_a_syllabus_has_the_minutes_and_points_of_the_lessons(title):
    for lesson, taught, minutes, chosen, stated in COURSES[title]:
        whole = minutes_in_class(lesson)
        assert int(minutes) == whole if taught == "all" else int(minutes) < whole, f"{title}: {lesson}"
        found, numbers = exercises(lesson), re.findall(r"(\d)(?: \((\d+)\))?", chosen)
        for number, points in numbers:
            assert (points or None) == found[number][0], f"{title}: {lesson}, exercise {number} as in the lesson"
        assert stated == str(sum(found[number][1] for number, _ in numbers) or "–"), f"{title}: {lesson}"
    section = SYLLABI[SYLLABI.index(f"## {title}\n"):]
    taught, practised = re.search(r"^\| \| \| all \| \*\*(\d+)\*\* \| \| \*\*(\d+)\*\* \|$", section, re.M).groups()
    assert int(taught) == sum(int(row[2]) for row in COURSES[title])
    assert int(practised) == sum(int(row[4]) for row in COURSES[title] if row[4] != "–")


@pytest.mark.parametrize("title", COURSES)
def test_nothing_is_taught_before_what_it_builds_on(title):
    order = [lesson for lesson, *_ in COURSES[title]]
    for n, lesson in enumerate(order):
        assert not {*EDGES[lesson]} & {*order[n:]}, f"{title}: {lesson} comes too early"


# ------------------------------------------------------------------------------------------------------ the questions


def questions():
    """(section, question, choices by letter, the right letter, reasons by letter) for each question."""
    found = []
    for section, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", QUESTIONS, re.M | re.S):
        for block in re.split(r"^(?=\d+\. )", text, flags=re.M)[1:]:
            found.append((section, block.split("\n")[0], re.findall(r"^    - \((\w)\) (.+)$", block, re.M),
                          re.findall(r"^    \*\*Right: (\w)\*\*$", block, re.M),
                          re.findall(r"^    - not (\w): (.+)$", block, re.M)))
    return found


def test_each_lesson_has_five_questions_and_the_entry_test_ten():
    counted = Counter(section for section, *_ in questions())
    titles = [re.match(rf"# ({NUMBER} · .+)", text_of(lesson))[1] for lesson in EDGES]  # in the order of reading
    assert [*counted] == ["Entry test", *titles]
    assert counted.pop("Entry test") == 10 and {*counted.values()} == {5}


@pytest.mark.parametrize("section, question, choices, right, reasons", questions())
def test_one_of_four_choices_is_right_and_every_other_has_its_reason(section, question, choices, right, reasons):
    assert [letter for letter, _ in choices] == ["a", "b", "c", "d"] and len({text for _, text in choices}) == 4
    assert len(right) == 1 and right[0] in "abcd"
    assert [letter for letter, _ in reasons] == [letter for letter in "abcd" if letter != right[0]]
    assert all(len(reason) > 10 for _, reason in reasons)


def test_neither_a_letter_nor_a_length_gives_the_answer_away():
    letters, ranks = Counter(), Counter()
    for _, _, choices, (right,), _ in questions():
        letters[right] += 1
        ranks[sorted(len(text) for _, text in choices).index(len(dict(choices)[right]))] += 1
    count = letters.total()
    assert all(0.2 * count < letters[letter] < 0.3 * count for letter in "abcd"), letters
    assert max(ranks[0], ranks[3]) < count / 3, "the shortest or the longest choice is right too often"
