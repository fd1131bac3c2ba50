"""The slides of the lessons: their questions before their answers, every figure, no solution, nothing of their own."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))

import course  # noqa: E402
import slides  # noqa: E402

LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
FENCED = re.compile(r"^```(\w+)\n(.*?)\n```$", re.M | re.S)
LONGEST = 900  # characters of text on a slide


@pytest.fixture(scope="module", params=LESSONS, ids=lambda path: path.stem)
def deck(request, tmp_path_factory):
    """(the lesson, the slides as written, the folder)."""
    folder = tmp_path_factory.mktemp("slides")
    slides.main([str(folder), request.param.name.partition("_")[0]])
    (written,) = folder.glob("*.md")
    text = written.read_text(encoding="utf-8")
    assert text.startswith(slides.HEAD)
    return nbformat.read(request.param, as_version=4), re.split(r"^---$", text[len(slides.HEAD):], flags=re.M), folder


def spoken(slide):
    """What is seen of a slide: no note."""
    return re.sub(r"<!--.*?-->", "", slide, flags=re.S).strip()


def texts(lesson):
    """The paragraphs of a lesson as a slide writes them."""
    return {slides.unlinked(block).strip() for cell in lesson.cells if cell.cell_type == "markdown"
            for block in slides.blocks(cell.source)}


def test_every_prediction_is_asked_and_answered_after_it(deck):
    lesson, pages, _ = deck
    seen, position = [spoken(page) for page in pages], 0
    for n, cell in enumerate(lesson.cells):
        asked = [block for block in slides.blocks(cell.source) if "**Before you run" in block] if (
            cell.cell_type == "markdown") else []
        if not asked:
            continue
        position = next(k for k, page in enumerate(seen) if k >= position and page.endswith(slides.unlinked(asked[-1])))
        answer = lesson.cells[n + 1]
        answers = [f"{answer.id}-{k}.png" for k, _ in enumerate(slides.figures(answer))]
        if not answers and slides.printed(answer) and slides.fits(slides.printed(answer)):
            answers = [slides.printed(answer)]
        for what in answers:
            assert not any(what in page for page in seen[:position + 1]), "the answer stands before its question"
            assert any(what in page for page in seen[position + 1:]), f"{answer.id}: the answer is nowhere"


def test_every_figure_is_there_once_as_it_is_stored_with_its_description(deck):
    lesson, pages, folder = deck
    shown = [found for page in pages for found in slides.PICTURE.findall(page)]
    wanted = {}
    for cell in lesson.cells:
        if cell.cell_type == "code":
            wanted |= {data: cell.metadata.mystnb.image.alt for data in slides.figures(cell)}
        else:
            drawn = slides.PICTURE.findall(cell.source.partition("## Exercises")[0])
            wanted |= {(ROOT / "notebooks" / name).read_bytes(): alt for alt, name in drawn}
    assert {(folder / name).read_bytes(): alt for alt, name in shown} == wanted
    assert len(shown) == len(set(shown)) == len(wanted)
    assert all(len(slides.PICTURE.findall(page)) <= 1 for page in pages)


def test_a_slide_holds_nothing_that_the_lesson_does_not(deck):
    lesson, pages, _ = deck
    text, code = texts(lesson), "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "code")
    outputs = [slides.printed(cell) for cell in lesson.cells if cell.cell_type == "code"]
    for page in pages:
        page = slides.PICTURE.sub("", page.replace("<!--", "").replace("-->", ""))
        for language, fenced in FENCED.findall(page):
            if language == "text":
                assert fenced in outputs
            else:
                assert all(line in code for line in fenced.splitlines() if line != "    ...")
        for block in slides.blocks(FENCED.sub("", page)):
            assert block.strip() in text, block


def test_no_solution_is_shown(deck):
    lesson, pages, _ = deck
    shown = "\n".join(spoken(page) for page in pages)
    for cell in lesson.cells:
        for region in re.findall(rf"{course.BEGIN}\n(.*?)\n *{course.END}", cell.source, re.S):
            assert region not in shown
    assert "### " + "BEGIN" not in shown


def test_a_slide_has_a_title_and_fits(deck):
    _, pages, _ = deck
    for page in map(spoken, pages):
        assert re.match(r"#{1,3} ", page) and page.count("\n\n") >= 1, page
        assert len(FENCED.sub("", slides.PICTURE.sub("", page))) <= LONGEST, page
        assert all(slides.fits(fenced) for _, fenced in FENCED.findall(page)), page


def test_what_to_remember_comes_last_and_exercises_do_not(deck):
    _, pages, _ = deck
    assert spoken(pages[-1]).startswith("## What to remember\n\n- ")
    assert not any("## Exercises" in page for page in pages)


def test_an_unknown_lesson_is_told(capsys, tmp_path):
    with pytest.raises(SystemExit):
        slides.main([str(tmp_path), "77"])
    assert "there is no lesson 77" in capsys.readouterr().err.splitlines()[-1]
