"""Make the student's edition and the teacher's key of the lessons, with a grader that needs nothing but pytest.

    python notebooks/course.py COURSE   # writes COURSE/student, COURSE/key, COURSE/source and the grader
    pytest COURSE/submitted             # grades the students' notebooks that were put there

The lessons and their solutions are the one source. In them nbgrader's marks say what is left to the student: the lines
between `### BEGIN SOLUTION` and `### END SOLUTION`, and in the metadata of a cell whether it holds such lines
("solution"), whether it gives points ("grade"), and how many. Both together: the points are given by hand.
COURSE/source is for nbgrader itself, if somebody wants it: an assignment for each lesson.
"""

import argparse
import ast
import re
import shutil
from itertools import takewhile
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

HERE = Path(__file__).parent
ANSWER = "Your answer to {}"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
REGION = re.compile(rf"^( *){BEGIN}\n.*?^ *{END}$", re.M | re.S)
SOLUTIONS = re.compile(r"(?:Solutions: )?\[[^]]*\]\(solutions/[^)]*\)\.?\s*(?:· )?")
ABOVE = re.compile(r"""(?<=[("])\.\./""")  # the solutions lie one folder below the lessons
BESIDE = re.compile(r"""[("](\.\./[\w./-]+|[\w./-]+\.(?:svg|png|md))[)"]""")  # files that a lesson opens or shows


def marks(cell: NotebookNode) -> dict:
    """What nbgrader knows of a cell: grade, solution, points, grade_id and others; empty for most cells."""
    return cell.metadata.get("nbgrader", {})


def wanted(source: str, line: int) -> str:
    """What the lines behind this one (from 1) should do: the docstring of their function, or else the comment above."""
    inside = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
              and node.lineno < line <= node.end_lineno]
    if inside:
        function = max(inside, key=lambda node: node.lineno)
        return f"{function.name}: {' '.join((ast.get_docstring(function) or 'to be written').split())}"
    above = source.splitlines()[:line - 1]
    comments = takewhile(lambda text: text.startswith("# "), reversed(above))
    return " ".join(text[2:] for text in reversed([*comments])) or "to be written"


def starter(source: str) -> str:
    """A cell without its solutions: each raises NotImplementedError with what is wanted."""
    def raising(match):
        text = wanted(source, source[:match.start()].count("\n") + 1)
        return f"{match[1]}raise NotImplementedError({text!r})"

    return REGION.sub(raising, source)


def following(solutions: NotebookNode) -> list[NotebookNode]:
    """Copies of the cells behind the title, with ids that no lesson has, and paths from the lessons' folder."""
    return [nbformat.from_dict(cell | {"id": f"solution-{cell.id}", "source": ABOVE.sub("", cell.source)})
            for cell in solutions.cells[1:]]


def source(lesson: NotebookNode, solutions: NotebookNode) -> NotebookNode:
    """The lesson without outputs; at its end each exercise and its check, with the answers between their marks."""
    notebook = nbformat.from_dict(lesson)
    for cell in filter(marks, following(solutions)):
        if marks(cell)["solution"]:
            title = ANSWER.format(marks(cell)["grade_id"].replace("-", " "))
            notebook.cells.append(new_markdown_cell(f"**{title}**", id=f"{cell.id}-title"))
        notebook.cells.append(cell)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def student(lesson: NotebookNode, solutions: NotebookNode) -> NotebookNode:
    """The same with a starter in place of each answer."""
    notebook = source(lesson, solutions)
    for cell in notebook.cells:
        if marks(cell).get("solution"):
            cell.source = starter(cell.source)
        if marks(cell).get("locked"):
            cell.metadata |= {"editable": False, "deletable": False}
    return notebook


def key(lesson: NotebookNode, solutions: NotebookNode) -> NotebookNode:
    """The lesson as it is, and the whole of its solutions behind it."""
    notebook = nbformat.from_dict(lesson)
    notebook.cells += following(solutions)
    return notebook


def copy_beside(notebook: NotebookNode, folder: Path, above: bool):
    """Copy what a notebook opens or shows to where it looks for it from a folder: in it and, if so wanted, above it."""
    for name in {name for cell in notebook.cells for name in BESIDE.findall(cell.source)}:
        if name.startswith("..") and not above:
            continue
        source, target = HERE / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copy(source, target)


def write(out: Path):
    """Write every lesson's editions, the files that they open, and the grader."""
    for path in sorted(HERE.glob("[0-9]*.ipynb")):
        lesson, solutions = (nbformat.read(folder / path.name, as_version=4) for folder in (HERE, HERE / "solutions"))
        for cell in lesson.cells:
            if cell.cell_type == "markdown":
                cell.source = SOLUTIONS.sub("", cell.source)
        for edition, folder in (student, "student"), (key, "key"), (source, f"source/{path.stem}"):
            notebook = edition(lesson, solutions)
            (out / folder).mkdir(parents=True, exist_ok=True)
            copy_beside(notebook, out / folder, above=edition is not source)  # above are other assignments
            nbformat.write(notebook, out / folder / path.name)
    (out / "submitted").mkdir(exist_ok=True)
    shutil.copy(HERE / "grader.py", out / "conftest.py")
    (out / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # this folder's own, whatever lies above it


def main(argv=None):
    """Write the course into a folder."""
    parser = argparse.ArgumentParser(description="Make the student's edition, the teacher's key and the grader.")
    parser.add_argument("out", type=Path, help="folder, new or one that this command wrote before")
    args = parser.parse_args(argv)
    write(args.out)
    print(f"{args.out}/student for the students, {args.out}/key for you; put what comes back into {args.out}/submitted")


if __name__ == "__main__":
    main()
