"""The course in other languages: paragraphs found, fallen back and checked, and nothing changed but paragraphs."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("babel")  # which JupyterLab brings
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))

import slides  # noqa: E402
import translate  # noqa: E402

from minexaone.tasks import in_language  # noqa: E402

LANGUAGES = translate.languages()
CATALOGUES = sorted((language, source) for language in LANGUAGES for source in translate.sources()
                    if translate.catalogue(source, language).is_file())
NOTEBOOKS = [source for source in translate.sources() if source.suffix == ".ipynb"]
CELL = """# A title

A paragraph of `code`, 1,536 weights
and [a link](01_next.ipynb#the-end) to 3 of
60. Of course.

1. **First.** An item
   of two lines
2. Second

| key | meaning |
|---|---|
| `a` | a letter |
| `b` | 2 |

$$ a = b $$

```python
code = "words"
```
<details><summary>The answer</summary>

Folded.

</details>
"""
PARAGRAPHS = [
    "A title", "A paragraph of `code`, 1,536 weights and [a link](01_next.ipynb#the-end) to 3 of 60. Of course.",
    "**First.** An item of two lines", "Second", "| key | meaning |", "| `a` | a letter |", "The answer", "Folded."]
ALT = "What the figure shows."


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A lesson and a page in a folder of their own, and a catalogue of the lesson with every paragraph in capitals."""
    folder = tmp_path / "notebooks"
    for part in ("site", "solutions"):
        (folder / part).mkdir(parents=True)
    lesson = {"cells": [
        {"cell_type": "markdown", "id": "00-000", "metadata": {}, "source": CELL.splitlines(keepends=True)},
        {"cell_type": "code", "id": "00-001", "metadata": {"mystnb": {"image": {"alt": ALT}}, "tags": ["hide-output"]},
         "execution_count": 1, "outputs": [{"name": "stdout", "output_type": "stream", "text": ["A title\n"]}],
         "source": ["# A title\n", "print('A title')"]}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "00_lesson.ipynb").write_text(json.dumps(lesson), encoding="utf-8")
    (folder / "page.md").write_text("# Page\n\n[there](#the-end), [lesson](00_lesson.ipynb)\n\n## The end\n", "utf-8")
    (folder / "course.py").write_text('ANSWER = "Answer {}"\n', encoding="utf-8")
    (folder / "site" / "conf.py").write_text('project = "Title"\nlanguage = "en"\n', encoding="utf-8")
    (tmp_path / "README.md").write_text("[a page](notebooks/page.md#the-end) and [none](LICENSE)\n", encoding="utf-8")
    (tmp_path / "LICENSE").touch()
    monkeypatch.setattr(translate, "HERE", folder)
    monkeypatch.setattr(translate, "LOCALE", folder / "locale")
    translate.main(["update", "ko", "00_lesson"])
    edit(folder / "00_lesson.ipynb", lambda message: message.id.replace("A ", "하나 "))
    return folder


def edit(source, change):
    """Give every message of a catalogue its translation."""
    catalog = translate.stored(source, "ko")
    for message in catalog:
        if message.id:
            message.string = change(message)
    translate.write(catalog, translate.catalogue(source, "ko"))


def built(course):
    """The cells of the lesson that is built."""
    translate.main(["build", "ko", str(course.parent / "out" / "ko")])
    return cells(course.parent / "out" / "ko" / "00_lesson.ipynb")


def test_paragraphs_are_found_without_their_marks_and_only_where_there_are_words(course):
    found = [message.id for message in translate.messages(course / "00_lesson.ipynb") if message.id]
    assert found == [*PARAGRAPHS, ALT]
    assert "".join(translate.pieces(CELL)) == CELL


def test_paragraphs_are_translated_and_nothing_else(course):
    text, code = built(course)
    english, original = cells(course / "00_lesson.ipynb")
    assert "".join(text["source"]).startswith("# 하나 title\n\n하나 paragraph of `code`, 1,536 weights and [a link]")
    assert "| `b` | 2 |\n\n$$ a = b $$\n\n```python\ncode = " in "".join(text["source"])
    assert {**code, "metadata": 0} == {**original, "metadata": 0} and text["id"] == english["id"]
    assert code["metadata"]["tags"] == ["hide-output"]


def test_wrapped_anew_a_paragraph_is_the_same_and_changed_it_is_english_and_outdated(course, capsys):
    path = course / "00_lesson.ipynb"
    text = path.read_text("utf-8")
    assert text.count(r'weights\n", "and [') == 1
    path.write_text(text.replace(r'weights\n", "and [', r'weights and\n", "['), encoding="utf-8")
    assert "하나 paragraph" in "".join(built(course)[0]["source"])
    path.write_text(path.read_text("utf-8").replace("1,536", "1,537"), encoding="utf-8")
    assert "A paragraph of `code`, 1,537" in "".join(built(course)[0]["source"])
    before = len(translate.messages(path)) - 1
    for command in (["status", "ko"], ["update", "ko"], ["status", "ko"]):  # with and without the update
        if command[0] == "update":
            translate.main(command)
            continue
        with pytest.raises(SystemExit) as ended:
            translate.main(command)
        assert not ended.value.code
        out = capsys.readouterr().out
        assert re.search(rf"^ko/00_lesson +{before} +1 +0$", out, re.M)
        assert "outdated: ko/00_lesson: 'A paragraph of `code`, 1,537 weights" in out
    po = translate.catalogue(path, "ko").read_text("utf-8")
    assert po.count("#, fuzzy") == po.count("# was: A paragraph of `code`, 1,536 weights") == 1
    translate.main(["update", "ko"])
    assert translate.catalogue(path, "ko").read_text("utf-8") == po
    assert "A paragraph of `code`, 1,537" in "".join(built(course)[0]["source"])
    translate.catalogue(path, "ko").write_text(po.replace("#, fuzzy\n", ""), encoding="utf-8")  # as a translator does
    translate.main(["update", "ko"])
    assert "was: " not in translate.catalogue(path, "ko").read_text("utf-8")


def test_what_another_file_says_in_the_same_words_is_remembered(course):
    (course / "page.md").write_text("# A title\n\n## New words\n", encoding="utf-8")
    translate.main(["update", "ko", "page"])
    assert translate.words("ko", [course / "page.md"]) == {"A title": "하나 title"}


def test_links_lead_to_the_translated_headings_and_to_what_lies_elsewhere(course):
    translate.main(["update", "ko", "page"])
    edit(course / "page.md", lambda message: "끝, 마침" if message.id == "The end" else "")
    built(course)
    out = course.parent / "out" / "ko"
    assert "[there](#끝-마침), [lesson](00_lesson.ipynb)" in (out / "page.md").read_text("utf-8")
    assert (out / "README.md").read_text("utf-8") == "[a page](page.md#끝-마침) and [none](../../LICENSE)\n"


def test_the_site_gets_its_language_and_programs_their_words(course):
    translate.main(["update", "ko", "site/conf", "course"])
    edit(course / "site" / "conf.py", lambda message: "제목")
    edit(course / "course.py", lambda message: '"답" {}')
    built(course)
    assert (course.parent / "out/ko/course.py").read_text("utf-8") == 'ANSWER = "\\"답\\" {}"\n'
    assert translate.faults(translate.Message("Answer {}", "답"))
    assert (course.parent / "out/ko/site/conf.py").read_text("utf-8") == 'project = "제목"\nlanguage = "ko"\n'


@pytest.mark.parametrize("wrong", [
    "값은 `x`이고 10⁻⁵보다 1,536이 [큼](a.ipynb) **굵게** <b>",  # the tag twice
    "값은 `y`이고 10⁻⁵보다 1,536이 [큼](a.ipynb) **굵게**",
    "값은 `x`이고 10⁻⁶보다 1,536이 [큼](a.ipynb) **굵게**",
    "값은 `x`이고 10⁻⁵보다 1.536이 [큼](a.ipynb) **굵게**",
    "값은 `x`이고 10⁻⁵보다 1,536이 [큼](b.ipynb) **굵게**",
    "값은 `x`이고 10⁻⁵보다 1,536이 [큼](a.ipynb) 굵게",
    "값은 `x`이고 10⁻⁵보다 1,536이 [큼](a.ipynb) **굵게(굵게)**는",
    "값은 `x`이고 10⁻⁵보다 1,536이 [큼](a.ipynb)\n\n**굵게**",
    " 값은 `x`이고 10⁻⁵보다 1,536이 [큼](a.ipynb) **굵게**"])
def test_a_planted_fault_is_found(wrong):
    english = "For `x` and 10⁻⁵ the 1,536 are [larger](a.ipynb) than **bold**"
    right = "값은 `x`이고 10⁻⁵보다 1,536이 [큼](a.ipynb) **굵게**는"
    assert translate.faults(translate.Message(english, right)) == []
    assert translate.faults(translate.Message(english, wrong))


def test_a_formula_is_kept_and_the_status_names_what_is_not(course, capsys):
    message = translate.Message("with $a + 1$, or $$b$$", "$$b$$이나 $a + 1$이면")
    assert translate.faults(message) == []
    message.string = "$$b$$이나 $a + 2$이면"
    assert translate.faults(message) == ["without $a + 1$", "with $a + 2$"]
    edit(course / "00_lesson.ipynb", lambda message: message.id.replace("1,536", "1,563"))
    with pytest.raises(SystemExit) as ended:
        translate.main(["status", "ko"])
    assert "ko/00_lesson" in ended.value.code and "with 1,563" in ended.value.code


def test_unknown_names_are_refused_in_a_line(course, capsys):
    for command in (["update", "ko", "99_none"], ["build", "fr", "out"]):
        with pytest.raises(SystemExit):
            translate.main(command)
        assert "there is no" in capsys.readouterr().err.splitlines()[-1]


# ------------------------------------------------------------------------------------------------- the catalogues


@pytest.mark.parametrize(("language", "source"), CATALOGUES,
                         ids=[f"{language}-{translate.place(source).stem}" for language, source in CATALOGUES])
def test_every_translation_keeps_what_it_must(language, source):
    found = list(translate.translated(translate.stored(source, language)))
    assert found, "a catalogue without a translation"
    assert {message.id[:60]: faults for message in found if (faults := translate.faults(message))} == {}


@pytest.mark.parametrize("source", translate.sources(), ids=lambda source: f"{source.parent.name}/{source.name}")
def test_no_character_is_lost_between_paragraphs(source):
    assert translate.changed(source, lambda text, cell: text) == source.read_text("utf-8"), (
        "not written as the others: json.dumps(notebook, indent=1, ensure_ascii=False)")


@pytest.fixture(scope="module", params=LANGUAGES)
def edition(request, tmp_path_factory):
    """(a language, the folder of the course in it)."""
    out = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINEXAONE_MODEL", "no such model")  # neither another model nor figures that are not stored
        patch.setenv("MPLBACKEND", "agg")
        translate.build(request.param, out)
    return request.param, out


def test_an_edition_has_the_same_code_and_its_links_lead_somewhere(edition):
    language, out = edition
    spoken = [f'LANGUAGE = "{name}"' for name in ("en", language)]
    for source in NOTEBOOKS:
        theirs, run = cells(source), translate.SPOKEN.format("en") in source.read_text("utf-8")
        for mine, cell in zip(cells(out / translate.place(source)), theirs, strict=True):
            image = mine["metadata"].get("mystnb", {}).get("image", {})
            image |= {"alt": cell["metadata"]["mystnb"]["image"]["alt"]} if image else {}
            if cell["cell_type"] == "markdown":
                cell["source"] = mine["source"]
            elif run:
                cell["source"] = "".join(cell["source"]).replace(*spoken).splitlines(keepends=True)
                cell["outputs"] = mine["outputs"]
            assert mine == cell, mine["id"]
    for source in translate.sources():
        page, texts = out / translate.place(source), []
        translate.changed(page, lambda text, cell, texts=texts: texts.append(text) or text)
        for target in re.findall(r"]\((?!\w+:|#)([^)#\s]+)", "\n".join(texts)):
            assert (page.parent / target).exists() or "`" in target, f"{source.name}: {target}"


def test_the_model_speaks_the_language_of_an_edition(edition):
    language, out = edition
    said = {cell["id"]: "".join(text for output in cell["outputs"] for text in output.get("text", ()))
            for cell in cells(out / "00_quick_start.ipynb") if cell["cell_type"] == "code"}
    for id in "00-006", "00-008":
        question, *_, reply = filter(None, said[id].splitlines())
        assert in_language(question, language) and in_language(reply, language), said[id]
    figures = [output for cell in cells(out / "00_quick_start.ipynb") for output in cell.get("outputs", ())
               if "image/png" in output.get("data", {})]
    assert figures


def test_a_language_that_the_model_does_not_speak_gets_the_english_replies(tmp_path):
    translate.build("de", tmp_path)
    for folder in "", "solutions":
        page = Path(folder, "00_quick_start.ipynb")
        assert cells(tmp_path / page) == cells(translate.HERE / page)


@pytest.mark.parametrize("name", ["03_rope", "10_chat_and_tools", "19_heads"])
def test_slides_ask_what_the_english_ones_ask(edition, name):
    english, mine = (slides.Deck(nbformat.read(folder / f"{name}.ipynb", as_version=4))
                     for folder in (translate.HERE, edition[1]))
    asked = [[bool(slides.QUESTION.search(block)) for page in deck.found for block in slides.blocks(page)].count(True)
             for deck in (english, mine)]
    assert asked[0] == asked[1] > 5 and english.pictures == mine.pictures
    assert mine.title == mine.remember
