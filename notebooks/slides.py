"""Make slides of lessons: their questions, then what came of them, their figures, key code and summary, as Markdown.

    python notebooks/slides.py build/slides 05           # lesson 05; without a number, all
    npx @marp-team/marp-cli build/slides/05_sliding_window.md    # one way to show them

`---` parts the slides, as Marp reads it; comments are notes for the speaker. Nothing is written by hand: slides hold
paragraphs, definitions and stored outputs of the lesson as it is, so make them again after a change.
"""

import argparse
import ast
import base64
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).parent
HEAD = """---
marp: true
paginate: true
math: mathjax
style: |
  section { font-size: 26px; place-content: start; padding: 50px 70px }
  h1, h2 { font-size: 36px; margin: 0 0 20px }
  pre { font-size: 20px }
  img { width: 100%; height: 510px; object-fit: contain }
  p:has(+ pre) img { height: 370px }
---
"""
QUESTION = re.compile(r"\*\*[^*]*:\*\*|1\. \*\*")  # "**Before you run the cell:** ...", and how a lesson is used
PICTURE = re.compile(r"!\[([^]]*)\]\(([^)]*)\)")
LINK = re.compile(r"(?<!!)\[([^]]*)\]\([^)]*\)")
MIRRORED = "# from minexaone/"  # notebooks/mirror.py
LINES, WIDTH = 20, 120  # of code or of what was printed, on one slide
TEXT = 700  # characters of a paragraph that is read aloud from a slide


def blocks(source: str) -> list[str]:
    """Paragraphs, headings and lists of a cell of text."""
    return [block for block in re.split(r"\n\s*\n", source.strip()) if block]


def plain(block: str) -> bool:
    """Whether it is a paragraph short enough for a slide: no heading, picture, table, list or formula block."""
    return not re.match(r"#|!|\||- |\d+\. |```|\$\$", block) and len(block) <= TEXT


def unlinked(text: str) -> str:
    """Without the addresses of links, which lead nowhere from a slide, and with the lines of a paragraph as one."""
    return re.sub(r"\n(?! *(?:- |\d+\. |\|)) *", " ", LINK.sub(r"\1", text))


def note(cell: NotebookNode | None) -> str:
    """What the lesson says next, for the speaker, if the cell begins with a paragraph."""
    first = blocks(cell.source)[0] if cell and cell.cell_type == "markdown" else "#"
    return f"<!--\n{unlinked(first)}\n-->" if plain(first) and "--" not in first else ""


def fits(text: str) -> bool:
    """Whether lines as they are fit on a slide."""
    lines = text.splitlines()
    return len(lines) <= LINES and all(len(line) <= WIDTH for line in lines)


def span(lines: list[str], node: ast.stmt) -> list[str]:
    """The lines of a definition, its decorators included."""
    return lines[min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1:node.end_lineno]


def head(lines: list[str], node: ast.stmt) -> list[str]:
    """A definition's beginning, with the first paragraph of its docstring: what is to be written, not how."""
    first, before = node.body[0], node.end_lineno - node.body[0].lineno + 1
    said = lines[first.lineno - 1:first.end_lineno] if ast.get_docstring(node) else []
    if "" in said:
        said = [*said[:said.index("")], f'{" " * first.col_offset}"""']
    return [*span(lines, node)[:-before], *said]


def definitions(cell: NotebookNode) -> list[str]:
    """The functions and classes that the student writes, of which the head is shown, or that the package has.

    Of what is too long for a slide the head is shown as well, and of a class the methods that are not.
    """
    left_out = cell.metadata.get("nbgrader", {}).get("solution", False)
    if not left_out and not cell.source.startswith(MIRRORED):
        return []
    lines, found = cell.source.splitlines(), []
    for node in ast.parse(cell.source).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        whole = "\n".join(span(lines, node))
        secret = "### BEGIN SOLUTION" in whole
        if not left_out and fits(whole):
            found.append(whole)
        elif secret or not left_out:
            found.append("\n".join([*head(lines, node), f'{" " * node.body[0].col_offset}...']))
            methods = [] if secret or isinstance(node, ast.FunctionDef) else node.body
            parts = ["\n".join(span(lines, part)) for part in methods if isinstance(part, ast.FunctionDef)]
            found += filter(fits, parts)
    return found


def printed(cell: NotebookNode) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream").rstrip()


def figures(cell: NotebookNode) -> list[bytes]:
    """The pictures that are stored with a cell."""
    return [base64.b64decode(output.data["image/png"]) for output in cell.outputs
            if "image/png" in output.get("data", {})]


def fenced(text: str, language: str = "text") -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


class Deck:
    """The slides of one lesson, in any language: `found` in order, and `pictures` by file name."""

    def __init__(self, lesson: NotebookNode):
        self.found, self.pictures, self.title = [], {}, ""
        titles = [block for cell in lesson.cells if cell.cell_type == "markdown" for block in blocks(cell.source)
                  if block.startswith("## ")]
        self.remember, self.exercises = titles[-2:]  # how every lesson ends
        for n, cell in enumerate(lesson.cells):
            if cell.id.endswith("-move"):  # asks about a figure to touch
                continue
            if cell.cell_type == "code":
                self.read_code(cell, note(next((c for c in lesson.cells[n:] if c.cell_type == "markdown"), None)))
            elif not self.read_text(cell.source):
                break

    def add(self, *parts: str):
        """A slide under the title of its section."""
        self.found.append("\n\n".join([self.title, *filter(None, parts)]))

    def read_text(self, source: str) -> bool:
        """Questions, each with the paragraph above it, drawings, and what opens and ends a lesson. False: exercises."""
        last, shown, opening = "", True, True
        for block in blocks(source):
            if block == self.exercises:
                return False
            if block.startswith("#"):
                self.title, last, shown = block, "", block.startswith("###")
            elif picture := PICTURE.search(block):
                self.pictures[picture[2]] = (HERE / picture[2]).read_bytes()
                self.add(picture[0])
                shown = True
            elif QUESTION.search(block):
                self.add(last, unlinked(block))
                last, shown = "", True
            elif self.title == self.remember and block.startswith("- "):
                self.add(unlinked(block))
            elif self.title.startswith("# ") and block.startswith("**"):
                opening &= block.count("**") == 2  # what one builds and learns; then time, hardware and more in one
                if opening:
                    self.add(unlinked(block))
            elif plain(block):
                last = unlinked(block)
            elif last.endswith(":") and len(last) + len(block) <= TEXT:  # the list or the formula that it speaks of
                last = f"{last}\n\n{unlinked(block)}"
        if not shown and last:  # a section that begins without a question
            self.add(last)
        return True

    def read_code(self, cell: NotebookNode, said: str):
        """Key code; pictures; and what was printed where a prediction was asked for."""
        page = ""
        for text in [*definitions(cell), None]:
            if page and (text is None or not fits(f"{page}\n\n\n{text}")):
                self.add(fenced(page, "python"))
                page = ""
            page = f"{page}\n\n\n{text}" if page else text
        output = printed(cell) if "hide-output" in cell.metadata.get("tags", ()) else ""
        output = fenced(output) if output and fits(output) else ""
        for number, data in enumerate(figures(cell)):
            name = f"{cell.id}-{number}.png"
            self.pictures[name] = data
            beside = output if number == 0 and output.count("\n") < 6 else ""
            self.add(f"![{cell.metadata.mystnb.image.alt}]({name})", beside, said)
            output = "" if beside else output
        if output:
            self.add(output, said)


def write(path: Path, out: Path) -> Path:
    """Write a lesson's slides into a folder, and their pictures into one beside them."""
    deck = Deck(nbformat.read(path, as_version=4))
    for name, data in deck.pictures.items():
        (out / path.stem / name).parent.mkdir(parents=True, exist_ok=True)
        (out / path.stem / name).write_bytes(data)
    text = "\n\n---\n\n".join(deck.found)
    text = PICTURE.sub(lambda match: f"![{match[1]}]({path.stem}/{match[2]})", text)
    target = out / f"{path.stem}.md"
    target.write_text(f"{HEAD}\n{text}\n", encoding="utf-8")
    return target


def main(argv=None):
    """Write the slides of some lessons, or of all."""
    parser = argparse.ArgumentParser(description="Make slides of lessons.")
    parser.add_argument("out", type=Path, help="folder, made if it is not there")
    parser.add_argument("lesson", nargs="*", help="numbers of lessons, as 05 (all)")
    args = parser.parse_args(argv)
    lessons = {path.name.partition("_")[0]: path for path in sorted(HERE.glob("[0-9]*.ipynb"))}
    if unknown := set(args.lesson) - lessons.keys():
        parser.error(f"there is no lesson {', '.join(sorted(unknown))}: take of {', '.join(lessons)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for number in args.lesson or lessons:
        print(write(lessons[number], args.out))


if __name__ == "__main__":
    main()
