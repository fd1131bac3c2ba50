"""The site of the lessons: every page in its place, a text for every figure, and, where Sphinx is, the site itself."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from minexaone.touch import MIME, for_site

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
LESSONS, SOLUTIONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb")), sorted(NOTEBOOKS.glob("solutions/[0-9]*.ipynb"))
NEEDED = ["sphinx", "myst_nb", "sphinx_book_theme", "sphinx-mathjax-offline"]


def name(path):
    return f"{path.parent.name}/{path.stem}"


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def draws(cell):
    """Whether a picture is stored with the cell."""
    return any(kind.startswith("image/") for output in cell.get("outputs", ()) for kind in output.get("data", ()))


def listed(path):
    """The pages in the tables of contents of a page, in order."""
    tables = re.findall(r"^```\{toctree\}\n(.+?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    return [line for table in tables for line in table.splitlines() if line and not line.startswith(":")]


def test_all_pages_are_listed_and_the_lessons_stand_as_they_are_read():
    as_read = re.findall(r"^\| \[\d\d[a-z]?]\(notebooks/(\w+)\.ipynb\)", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert sorted(as_read) == [path.stem for path in LESSONS]
    contents, solutions = listed(NOTEBOOKS / "index.md"), listed(NOTEBOOKS / "solutions" / "index.md")
    assert [page for page in contents if page[0].isdigit()] == as_read == solutions
    pages = {path.relative_to(NOTEBOOKS).with_suffix("").as_posix() for pattern in ("*.md", "*.ipynb")
             for path in NOTEBOOKS.rglob(pattern) if ".ipynb_checkpoints" not in path.parts}
    assert pages - {"index"} == {*contents, *(f"solutions/{page}" for page in solutions)}


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=name)
def test_what_a_figure_shows_is_said_in_words(path):
    for cell in cells(path):
        said = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        assert not said or draws(cell), f"no figure is stored with {said!r}"
        assert not draws(cell) or len(said) >= 40, (
            f"{cell['id']} draws: say what the figure shows, in its metadata "
            '{"mystnb": {"image": {"alt": "..."}}} (in JupyterLab: the gear at the right, Advanced Tools)')
        if cell["cell_type"] == "markdown":
            assert "![](" not in "".join(cell["source"]), "a picture without a text"


def test_no_two_figures_are_described_alike():
    said = [cell["metadata"]["mystnb"]["image"]["alt"] for path in LESSONS + SOLUTIONS for cell in cells(path)
            if draws(cell)]
    assert len(set(said)) == len(said) > 150


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=name)
def test_what_the_site_folds_jupyterlab_folds(path):
    for cell in cells(path):
        tags, folded = cell["metadata"].get("tags", ()), cell["metadata"].get("jupyter", {})
        assert ("hide-output" in tags) == folded.get("outputs_hidden", False), f"{cell['id']}: hide-output in one alone"
        assert ("hide-input" in tags) == folded.get("source_hidden", False), f"{cell['id']}: hide-input in one alone"


# --------------------------------------------------------------------------------------------- the site, with Sphinx


class Page(HTMLParser):
    """What a page loads, where it leads, its ids and its pictures."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids, self.pictures, self.folded = [], [], set(), [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if "id" in found else set()
        self.folded += tag == "details" and "hide" in found.get("class", "").split()
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loads.append(found["href"])
        if tag == "img":
            self.pictures.append(found.get("alt") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, made of a copy of the notebooks in which one output more is to be folded."""
    if not all(find_spec(package) for package in NEEDED):
        pytest.skip("needs pip install -e .[site]")
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "minexaone", folder / "minexaone", ignore=shutil.ignore_patterns("__pycache__"))  # linked
    path = source / "03_rope.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    metadata, tags = next((cell["metadata"], tags) for cell in notebook["cells"] if draws(cell)
                          and "hide-output" not in (tags := cell["metadata"].get("tags", [])))
    metadata["tags"] = [*tags, "hide-output"]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", source / "site", source]
    done = subprocess.run([*command, folder / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "out"


def test_the_site_loads_nothing_from_elsewhere_and_every_link_and_picture_is_there(site):
    pages = {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}
    assert len(pages) >= len(LESSONS) + len(SOLUTIONS) + 4
    checked = 0
    for path, page in pages.items():
        for address in page.loads:
            assert not re.match(r"(\w+:)?//", address), f"{path.name} loads {address}"
            assert (path.parent / address.split("?")[0]).exists() or address.startswith("data:"), address
        for address in page.links:
            target, _, anchor = address.partition("#")
            if re.match(r"\w+:", address):
                continue
            to = (path.parent / target).resolve() if target else path
            assert to.exists(), f"{path.name} leads to {address}"
            assert not anchor or to not in pages or anchor in pages[to].ids, f"{path.name} leads to {address}"
            checked += 1
        assert all(page.pictures), f"{path.name}: a picture without a text"
    assert checked > 1000
    shown = sum(len(page.pictures) for page in pages.values())
    assert shown >= sum(draws(cell) for path in LESSONS + SOLUTIONS for cell in cells(path))


def test_the_tags_fold_a_cell_or_what_came_of_it(site):
    tagged = sum(tag in ("hide-input", "hide-output") for cell in cells(NOTEBOOKS / "03_rope.ipynb")
                 for tag in cell["metadata"].get("tags", ()))
    assert Page(site / "03_rope.html").folded == tagged + 1


def test_figures_to_touch_are_where_the_lessons_have_them_and_what_draws_them_is_loaded_there_alone(site):
    placed = 0
    for path in LESSONS:
        stored = [for_site(output["data"][MIME]) for cell in cells(path) for output in cell.get("outputs", ())
                  if MIME in output.get("data", {})]
        text = (site / f"{path.stem}.html").read_text(encoding="utf-8")
        places = re.findall(r'<div class="touch">.*?<script type="application/json">(.+?)</script></div>', text, re.S)
        assert [json.loads(place) for place in places] == stored
        scripts = [address for address in Page(site / f"{path.stem}.html").loads if "_static/" in address and
                   re.search(r"/(vega|typing|touch)", address)]
        assert len(scripts) == (5 if stored else 0), path.name
        placed += len(stored)
    assert placed >= 7


def test_the_site_has_its_own_mathjax(site):
    page = Page(site / "03_rope.html")
    assert any("mathjax/tex-chtml.js" in address for address in page.loads)
    assert list((site / "_static" / "mathjax").rglob("*.woff"))


@pytest.mark.parametrize(("language", "title"), [("ko", "한 조각씩 만들기"), ("es", "construido pieza a pieza")])
def test_the_site_is_built_in_other_languages(language, title, tmp_path):
    if not all(find_spec(package) for package in NEEDED):
        pytest.skip("needs pip install -e .[site]")
    commands = [[NOTEBOOKS / "translate.py", "build", language, tmp_path / language],
                ["-m", "sphinx", "-q", "-W", "--keep-going", "-c", tmp_path / language / "site",
                 "-A", "languages=en,ko,es", tmp_path / language, tmp_path / "site" / language]]
    for command in commands:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "site" / language
    first = (folder / "index.html").read_text(encoding="utf-8")
    assert f'<html lang="{language}"' in first and re.search(f"<title>.*{title}.*</title>", first)
    for page in "02_rmsnorm_swiglu.html", "solutions/index.html":
        leads = {((folder / page).parent / address).resolve() for address in Page(folder / page).links}
        assert folder.parent.resolve() / page in leads, "no way to the English page"
