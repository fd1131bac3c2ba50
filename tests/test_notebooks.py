"""The notebooks hold what the package holds, and can be compared by nbval: executed, with outputs, without noise."""

import ast
import re
import symtable
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))

import mirror  # noqa: E402

LESSONS = mirror.notebooks()
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
PAGES = sorted(path for path in (ROOT / "notebooks").rglob("*.md") if ".ipynb_checkpoints" not in path.parts)
IGNORE = "nbval-ignore-output"
ANSWER = "<details><summary>The answer</summary>"  # folded in JupyterLab and on the site, as the outputs are


def name(path):
    return f"{path.parent.name}/{path.stem}"


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


# --------------------------------------------------------------------------------------------------- the mirror


@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_marked_cells_are_the_packages_definitions(path):
    assert mirror.differences(path) == []


@pytest.mark.parametrize("file", ["minexaone/model.py", "minexaone/generation.py"])
def test_every_public_definition_of_the_model_is_taught_in_exactly_one_notebook(file):
    assert mirror.untaught(file) == []


@pytest.fixture
def lesson(tmp_path):
    """A lesson with two marked cells, one of a class in parts."""
    cells = ["# from minexaone/model.py: RMSNorm", "# from minexaone/model.py: Exaone4.device, Exaone4.head",
             "1 + 1"]
    path = tmp_path / "00_lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells]), path)
    return path


def test_the_command_fills_marked_cells_and_only_these(lesson):
    assert len(mirror.differences(lesson, update=True)) == 2
    first, second, third = code_cells(lesson)
    assert "torch.rsqrt" in first.source and third.source == "1 + 1"
    assert second.source.count("class Exaone4(Exaone4):") == 1 and "@property\n    def device" in second.source
    assert mirror.differences(lesson) == []


def test_a_change_of_one_character_is_found_and_the_message_says_what_to_run(lesson):
    mirror.differences(lesson, update=True)
    text = lesson.read_text()
    assert text.count("self.eps)") == 1
    lesson.write_text(text.replace("self.eps)", "self.eps )"))  # a space is no change
    assert mirror.differences(lesson) == []
    lesson.write_text(text.replace(".mean(-1,", ".mean(-2,"))
    (message,) = mirror.differences(lesson)
    assert "RMSNorm" in message and "python notebooks/mirror.py" in message


def test_an_unknown_name_is_told(lesson):
    lesson.write_text(lesson.read_text().replace("py: RMSNorm", "py: RMSNorms"))
    assert any("RMSNorms" in message and "first line" in message for message in mirror.differences(lesson))


# ------------------------------------------------------------------------------------------------------ outputs


def test_every_lesson_has_solutions():
    assert [path.name for path in LESSONS] == [path.name for path in SOLUTIONS]


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=name)
def test_outputs_are_stored_and_free_of_noise(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "execute all cells in order"
    assert any(cell.outputs for cell in cells)
    for cell in cells:
        assert "execution" not in cell.metadata, "the times of an execution: see the README's command"
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.source[:80]
            assert "image/svg+xml" not in output.get("data", {}), "SVG is compared byte by byte: use PNG"
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r" at 0x[0-9a-f]{6,}", text), "an object's address changes with every run"
            assert not re.search(r"/(home|root|work|tmp|Users)/", text), "a path of this machine"


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=name)
def test_an_ignored_output_is_followed_by_asserts(path):
    cells = code_cells(path)
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        assert "NBVAL" not in cell.source and "nbval-skip" not in cell.metadata.get("tags", ())
        if IGNORE in cell.metadata.get("tags", ()):
            assert following is not None and "assert" in following.source, cell.source[:80]


def test_few_outputs_are_ignored():
    ignored = [cell for path in LESSONS + SOLUTIONS for cell in code_cells(path)
               if IGNORE in cell.metadata.get("tags", ())]
    assert len(ignored) <= 8


@pytest.mark.parametrize("path", [*LESSONS, *SOLUTIONS, *PAGES], ids=name)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells
                         if cell.cell_type == "markdown")
    for picture, target in re.findall(r"(!?)\[[^]]*\]\(([^)#\s]+)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
            # JupyterLab serves nothing from above the folder in which it was started.
            assert not picture or ".." not in target, f"{target}: put the picture beside the notebooks"


@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_a_folded_answer_is_markdown_and_ends(path):
    texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    for text in texts:
        folded = re.findall(rf"^{ANSWER}\n\n(.+?)\n\n</details>(?=\n\n|\Z)", text, re.M | re.S)
        assert text.count("<details>") == text.count("</details>") == len(folded), "without blank lines around it"
        assert not any(re.search(r"^#+ |<details>|^\*\*Before", answer, re.M) for answer in folded), "too much in it"


@pytest.mark.parametrize("path", [path for path in LESSONS if path.name[:2] not in ("12", "13")], ids=name)  # not yet
def test_the_answer_to_a_prediction_is_folded_and_comes_first(path):
    texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
             and not cell.id.endswith("-move")]  # what to do with a figure to touch
    for text, following in zip(texts, [*texts[1:], ""], strict=True):
        for question in re.findall(r"\*\*Before you .+?(?=\n\n|\Z)", text, re.S):
            code = re.search(r"write the (line|loop)", question)  # the next cell of code is the answer
            assert code or following.startswith(ANSWER), f"open below: {question}"


def reads_and_sets(source):
    """The names of the notebook that a cell's code reads, in functions too, and those that it sets."""
    table = symtable.symtable(source, "cell", "exec")
    tables = [table]
    for one in tables:
        tables += one.get_children()
    read = {symbol.get_name() for one in tables for symbol in one.get_symbols()
            if symbol.is_referenced() and (one is table or symbol.is_global())}
    return read, {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}


def goes_on_with(cells):
    """(id, names) of cells in view that read what a folded cell was the last to set, functions that draw apart."""
    folded_last = {}
    for cell in cells:
        (read, sets), folded = reads_and_sets(cell.source), "hide-input" in cell.metadata.get("tags", ())
        if not folded and (taken := {name for name in read - sets if folded_last.get(name)}):
            yield cell.id, taken
        drawing = {node.name for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)}
        folded_last |= {name: folded and name not in drawing for name in sets}


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=name)
def test_folded_code_only_draws(path):
    cells = code_cells(path)
    for cell in cells:
        if "hide-input" not in cell.metadata.get("tags", ()):
            continue
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), f"{cell.id} shows no figure"
        assert "nbgrader" not in cell.metadata and not mirror.MARK.match(cell.source), f"{cell.id} is taught"
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not any(isinstance(node, ast.Assert | ast.ClassDef | ast.Import | ast.ImportFrom) or
                       isinstance(node, ast.Name) and node.id == "print" for node in nodes), f"{cell.id} does more"
        for function in (node for node in nodes if isinstance(node, ast.FunctionDef)):
            assert any(isinstance(node, ast.Name | ast.arg) and getattr(node, "id", getattr(node, "arg", "")) in
                       ("ax", "plt") for node in ast.walk(function)), f"{cell.id}: {function.name} draws nothing"
    assert not [*goes_on_with(cells)]


@pytest.mark.parametrize("path", [path for path in SOLUTIONS if path.name[:2] not in ("11", "12", "13")],  # not yet
                         ids=name)
def test_solutions_fold_the_code_that_draws(path):
    for cell in code_cells(path):
        shows = any(ast.unparse(node) == "plt.show()" for node in ast.parse(cell.source).body)
        assert not shows or "hide-input" in cell.metadata.get("tags", ()), f"{cell.id}: draw in a cell of its own"


def test_what_is_computed_in_folded_code_and_used_in_view_is_found():
    cells = [nbformat.v4.new_code_cell(source, id=id, metadata={"tags": ["hide-input"] * (id == "drawn")})
             for id, source in (("seen", "x = 1"), ("drawn", "y = [n for n in range(x)]"), ("used", "print(x, y)"))]
    assert [*goes_on_with(cells)] == [("used", {"y"})]
    cells.insert(2, nbformat.v4.new_code_cell("y = 2"))
    assert [*goes_on_with(cells)] == []


# ------------------------------------------------------------------------------------------- the form of a lesson


HEAD = ["You build", "You learn", "Time", "Hardware", "Builds on"]


def text_of(path):
    """All that a lesson says between its cells of code."""
    return "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_a_lesson_has_the_form_of_all_lessons(path):
    text, number = text_of(path), path.name.partition("_")[0]
    assert re.match(rf"# {number} · \S.*\n\n", text)
    head, rest = text.split("\n## ", 1)
    assert re.findall(rf"\*\*({'|'.join(HEAD)})\*\* ", head.replace("\n", " ")) == HEAD[number == "00":]
    sections = re.findall(r"^## (?:(\d+) · )?(.+)", f"## {rest}", re.M)
    assert [title for _, title in sections[-2:]] == ["What to remember", "Exercises"] or number == "00"
    assert [int(n) for n, _ in sections if n] == [*range(1, 1 + sum(bool(n) for n, _ in sections))]
    exercises = re.findall(r"^(\d)\. (.*)", text.split("## Exercises")[1], re.M)
    assert [int(n) for n, _ in exercises] == [*range(1, len(exercises) + 1)]
    for n, exercise in exercises:
        assert re.match(r"\*\*[^*]+[.?!]\*\* \S", exercise), f"exercise {n} has no title in bold: {exercise}"


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_solutions_name_their_lesson_and_its_exercises(path):
    text = text_of(path)
    number, title = re.match(r"# (\d\d[a-z]?) · (.+): solutions\n", text).groups()
    assert path.name.startswith(f"{number}_") and f"\n\nThe lesson: [{number} · {title}](../{path.name})" in text
    lesson = re.findall(r"^(\d)\. ", text_of(path.parent.parent / path.name).split("## Exercises")[1], re.M)
    heads = "\n".join(re.findall(r"^## (.+)", text, re.M))
    assert re.findall(r"(?:^|, and )(\d) · ", heads, re.M) == lesson  # one heading may stand for two exercises


def test_the_last_line_of_each_lesson_leads_on_and_back():
    after, before = {}, {}
    for path in LESSONS:
        last, link = text_of(path).splitlines()[-1], r"\[\d\d[a-z]? · [^]]+\]\((\w+\.ipynb)\)"
        match = re.fullmatch(rf"\[Solutions\]\(solutions/{path.name}\)(?: · Previous: {link})?(?: · Next: {link}"
                             rf"(?:, then {link})?| · \[Quick start and map\]\(00_quick_start\.ipynb\))", last)
        assert match, f"{path.name}: {last}"
        before[path.name], after[path.name], _ = match.groups()
    assert {(name, there) for name, there in after.items() if there} == {
        (back, name) for name, back in before.items() if back}
    walk = [LESSONS[0].name]
    while after[walk[-1]]:
        walk.append(after[walk[-1]])
    assert len(walk) == len(LESSONS), "the way through the lessons ends too early"


def test_the_style_file_is_used_by_every_lesson():
    for path in LESSONS + SOLUTIONS:
        source = "\n".join(cell.source for cell in code_cells(path))
        assert "plt.show()" not in source or "minexaone.lesson" in source, path.name
