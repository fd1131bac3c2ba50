"""The glossary: whole rows, no term twice, and every term is one that the lessons use."""

import re
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
ROWS = [[cell.strip() for cell in line.strip("|").split("|")]
        for line in (NOTEBOOKS / "GLOSSARY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
TERMS = [row for row in ROWS if row[0] != "English"]


def names(term: str) -> list[str]:
    """The forms of a term: "query, key, value" are three, and so is what stands in parentheses."""
    return [part.strip() for part in re.split(r"[,()]", term) if part.strip()]


def test_rows_are_whole_and_no_term_comes_twice():
    assert len(TERMS) >= 145 and all(len(row) == 5 and all(row[:4]) for row in ROWS)
    english = [row[0] for row in TERMS]
    assert len(set(english)) == len(english)


def test_korean_is_korean_or_the_fields_own_abbreviation():
    for english, korean, *_ in TERMS:
        assert re.search("[가-힣]", korean) or korean == english, english


def test_the_course_uses_every_term():
    lessons = [cell.source for path in NOTEBOOKS.glob("[0-9]*.ipynb")
               for cell in nbformat.read(path, as_version=4).cells]
    pages = [path.read_text(encoding="utf-8") for path in (NOTEBOOKS.parent / "README.md", NOTEBOOKS / "TEACHING.md",
                                                           NOTEBOOKS / "QUESTIONS.md", NOTEBOOKS / "elsewhere.md")]
    text = " ".join([*lessons, *pages]).lower()
    unused = [row[0] for row in TERMS if not any(name.lower().rstrip("s") in text for name in names(row[0]))]
    assert not unused, unused
