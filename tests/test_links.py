"""What opens a lesson with nothing installed: the links, the notebooks for Colab, and what Binder is to install."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))

import links  # noqa: E402

LESSONS = links.lessons()
REPO, ADDRESS = "some-owner/some.repo", "https://github.com/some-owner/some.repo"


def query(address):
    return {key: value for key, (value,) in parse_qs(urlsplit(address).query, strict_parsing=True).items()}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_link_names_a_file_of_the_repository(path):
    colab, binder = links.colab(REPO, path.name), links.binder(REPO, "main", path.name)
    assert colab == f"https://colab.research.google.com/github/{REPO}/blob/{links.COLAB}/{path.name}"
    assert binder.startswith(f"https://mybinder.org/v2/gh/{REPO}/main?")
    lab = query(binder)["urlpath"].removeprefix("lab/tree/")
    assert (ROOT / lab).samefile(path)
    pulled = links.puller(REPO, "main", path.name, "https://hub.example.org/")
    assert pulled.startswith("https://hub.example.org/hub/user-redirect/git-pull?")
    wanted = query(pulled)
    assert wanted == {"repo": ADDRESS, "branch": "main", "urlpath": f"lab/tree/some.repo/notebooks/{path.name}"}


def test_the_command_prints_badges_and_a_row_for_every_lesson(capsys):
    links.main([f"{ADDRESS}.git", "--branch", "v1"])
    printed = capsys.readouterr().out
    assert printed.count("[![") == 2 and "OWNER" not in printed
    rows = re.findall(r"^\| (\d\d[a-z]?_\w+) \| \[Colab\].*\[Binder\].*/v1\?.*\[JupyterHub\]", printed, re.M)
    assert rows == [path.stem for path in LESSONS]


@pytest.mark.parametrize("address", ["owner/repo", "https://gitlab.com/a/b", "https://github.com/a", f"{ADDRESS}/x"])
def test_an_address_of_another_kind_is_refused_in_a_line(address, capsys):
    with pytest.raises(SystemExit):
        links.main([address])
    assert "name the address of the published repository" in capsys.readouterr().err.splitlines()[-1]


# ---------------------------------------------------------------------------------------------------- on Colab


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colab")
    links.main([ADDRESS, "--colab", str(folder / "new")])
    return {path.name: nbformat.read(path, as_version=4) for path in (folder / "new").iterdir()}


def test_every_lesson_is_written_without_outputs_and_otherwise_as_it_is(written):
    assert set(written) == {path.name for path in LESSONS}
    for path in LESSONS:
        nbformat.validate(notebook := written[path.name])
        lesson = nbformat.read(path, as_version=4)
        cells = [cell for cell in notebook.cells if cell.id != "colab"]
        assert [cell.id for cell in cells] == [cell.id for cell in lesson.cells]
        assert len(notebook.cells) == len(cells) + 1
        for mine, theirs in zip(cells, lesson.cells, strict=True):
            assert mine.cell_type == "markdown" or (mine.source, mine.outputs) == (theirs.source, [])


def test_what_the_text_links_to_has_a_whole_address_and_is_there(written):
    pictures = 0
    for name, notebook in written.items():
        for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
            for target in re.findall(r"\[[^]]*\]\(([^)#\s]+)", cell.source):
                assert target.startswith("https://"), f"{name}: {target}"
                kinds = {f"https://raw.githubusercontent.com/{REPO}/main/": ROOT, f"{ADDRESS}/blob/main/": ROOT,
                         links.colab(REPO, ""): ROOT / "notebooks"}
                for start, folder in kinds.items():
                    assert not target.startswith(start) or (folder / target.removeprefix(start)).is_file(), target
                pictures += target.startswith("https://raw.")
    assert pictures >= 14


@pytest.mark.parametrize("there", [True, False], ids=["on Colab", "elsewhere"])
def test_the_first_cell_of_code_installs_on_colab_and_does_nothing_elsewhere(written, there, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace()) if there else None
    wanted = [("pip", f'install -q "minexaone @ git+{ADDRESS}@main"')] if there else []
    for notebook in written.values():
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        ran = []
        shell = SimpleNamespace(run_line_magic=lambda *line, ran=ran: ran.append(line))
        exec(TransformerManager().transform_cell(first.source), {"get_ipython": lambda shell=shell: shell})
        assert ran == wanted


# --------------------------------------------------------------------------------------------------- on Binder


def test_what_binder_installs_is_what_the_project_needs():
    folder = ROOT / ".binder"
    lines = (folder / "environment.yml").read_text("utf-8").splitlines()
    wanted = re.search(r'"torch(>=[\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))[1]
    assert f"  - pytorch-cpu{wanted}" in lines and "  - conda-forge" in lines and "  - python=3.11" in lines
    assert (folder / "postBuild").read_text("utf-8").endswith("pip install --no-cache-dir -e .\n")


# ----------------------------------------------------------------------------------------------- without the clone


def test_no_lesson_opens_a_file_by_its_place_beside_the_notebook():
    """So that a copy works anywhere: what it reads is the package's, `SHIPPED.parent / ...`, or a temporary file."""
    for path in [*LESSONS, *LESSONS[0].parent.glob("solutions/*.ipynb")]:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                beside = re.search(r"""["']\.\.?/|Path\(["']|Path\.cwd|open\(["']""", cell.source)
                assert not beside, f"{path.name}, {cell.id}: {beside}"


def test_what_runs_in_a_copy_of_the_notebooks_leaves_git_clean(tmp_path):
    """The README's way to keep a clone clean: build/ is ignored."""
    if subprocess.run(["git", "-C", ROOT, "rev-parse"], capture_output=True).returncode:
        pytest.skip("no git, or no clone")
    asked = subprocess.run(["git", "-C", ROOT, "check-ignore", "build/mine/00_quick_start.ipynb"], capture_output=True)
    assert asked.returncode == 0
