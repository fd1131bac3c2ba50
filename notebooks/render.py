"""Render the series as linked HTML pages, for those who only read: python notebooks/render.py build/html

Pages show the stored outputs; nothing is executed. Formulas need MathJax, which a browser loads from the network.
"""

import argparse
import re
from html import escape
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from tqdm import tqdm

HERE = Path(__file__).parent
INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>minexaone</title>
<style>body {{ font: 16px/1.6 sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em }}</style>
<h1>EXAONE 4.0, built piece by piece</h1>
<ul>
{items}
</ul>
</html>
"""


def title(notebook) -> str:
    """The first heading."""
    return re.search(r"^# (.+)$", notebook.cells[0].source, re.M)[1]


def page(path: Path) -> tuple[str, str]:
    """(title, HTML) of a notebook, its links to other notebooks turned into links to their pages."""
    notebook = nbformat.read(path, as_version=4)
    exporter = HTMLExporter(embed_images=True)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(path.parent), "name": title(notebook)}})
    return title(notebook), re.sub(r'(href="(?!https?:)[^"#]+)\.ipynb', r"\1.html", body)


def render(out: Path):
    """Write a page for every notebook, its solutions beside it in solutions/, and index.html."""
    items = []
    for path in tqdm(sorted(HERE.rglob("[0-9]*.ipynb")), unit="page"):
        if ".ipynb_checkpoints" in path.parts:
            continue
        target = (out / path.relative_to(HERE)).with_suffix(".html")
        target.parent.mkdir(parents=True, exist_ok=True)
        name, body = page(path)
        target.write_text(body, encoding="utf-8")
        if path.parent == HERE:
            items.append(f'<li><a href="{target.name}">{escape(name)}</a> '
                         f'(<a href="solutions/{target.name}">solutions</a>)</li>')
    (out / "index.html").write_text(INDEX.format(items="\n".join(items)), encoding="utf-8")


def main(argv=None):
    """Render all notebooks."""
    parser = argparse.ArgumentParser(description="Render the notebooks as linked HTML pages.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("build/html"), help="folder (build/html)")
    args = parser.parse_args(argv)
    render(args.out)
    print(args.out / "index.html")


if __name__ == "__main__":
    main()
