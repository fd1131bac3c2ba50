"""Links that open the lessons with nothing installed, for the address at which this repository is published.

    python notebooks/links.py https://github.com/OWNER/REPO                        # prints badges and a table of links
    python notebooks/links.py https://github.com/OWNER/REPO --colab build/colab    # and writes the lessons for Colab

Binder and a JupyterHub with nbgitpuller open the lessons as they are. Colab has one notebook and nothing beside it:
there a lesson begins with an installation, and its pictures and links have whole addresses. Colab reads these notebooks
in the branch `colab`, as which the folder written is to be published.
"""

import argparse
import re
from pathlib import Path
from urllib.parse import urlencode

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

HERE = Path(__file__).parent
HUB = "https://hub.example.org"  # to be replaced, by --hub: whoever teaches has one, or none
COLAB = "colab"  # the branch with the notebooks for Colab
RELATIVE = re.compile(r"(!?\[[^]]*\])\((?!\w+:|#)([^)\s]+)\)")  # links and pictures


def lessons() -> list[Path]:
    """The lessons, in their order."""
    return sorted(HERE.glob("[0-9]*.ipynb"))


def repository(address: str) -> str:
    """OWNER/REPO of an address. ValueError if it is none of GitHub, the only place that Colab and Binder both read."""
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", address)
    if not match:
        raise ValueError(f"{address} is no https://github.com/OWNER/REPO: name the address of the published repository")
    return match[1]


def colab(repo: str, name: str) -> str:
    """Opens a lesson of the branch `colab`."""
    return f"https://colab.research.google.com/github/{repo}/blob/{COLAB}/{name}"


def binder(repo: str, branch: str, name: str) -> str:
    """Builds a machine as .binder/ says, or finds it built, and opens a lesson."""
    return f"https://mybinder.org/v2/gh/{repo}/{branch}?{urlencode({'urlpath': f'lab/tree/notebooks/{name}'})}"


def puller(repo: str, branch: str, name: str, hub: str) -> str:
    """Brings onto a JupyterHub what is new in the repository, keeps what its user changed, and opens a lesson."""
    wanted = {"repo": f"https://github.com/{repo}", "branch": branch,
              "urlpath": f"lab/tree/{repo.split('/')[1]}/notebooks/{name}"}
    return f"{hub.rstrip('/')}/hub/user-redirect/git-pull?{urlencode(wanted)}"


def badges(repo: str, branch: str, name: str) -> str:
    """Two badges, as Markdown."""
    return (f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab(repo, name)})\n"
            f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder(repo, branch, name)})")


def table(repo: str, branch: str, hub: str) -> str:
    """The links of every lesson, as Markdown."""
    rows = [f"| {path.stem} | [Colab]({colab(repo, path.name)}) | [Binder]({binder(repo, branch, path.name)}) "
            f"| [JupyterHub]({puller(repo, branch, path.name, hub)}) |" for path in lessons()]
    return "\n".join(["| lesson | | | |", "|---|---|---|---|", *rows])


def for_colab(lesson: NotebookNode, repo: str, branch: str) -> NotebookNode:
    """A lesson without outputs, which nothing folds there, that installs the project, and whose links are whole."""
    names = {path.name for path in lessons()}

    def whole(match):
        text, target = match.groups()
        if target.partition("#")[0] in names:
            return f"{text}({colab(repo, target)})"
        path = (HERE / target).resolve().relative_to(HERE.parent.resolve()).as_posix()
        place = f"raw.githubusercontent.com/{repo}" if text.startswith("!") else f"github.com/{repo}/blob"
        return f"{text}(https://{place}/{branch}/{path})"

    notebook = nbformat.from_dict(lesson)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = RELATIVE.sub(whole, cell.source)
    setup = ('import sys\n\nif "google.colab" in sys.modules:  # first: nothing of the project is there\n'
             f'    %pip install -q "minexaone @ git+https://github.com/{repo}@{branch}"')
    notebook.cells.insert(1, new_code_cell(setup, id="colab"))
    return notebook


def main(argv=None):
    """Print the links, and write the notebooks for Colab where a folder is named."""
    parser = argparse.ArgumentParser(description="Links that open the lessons on Colab, Binder and a JupyterHub.")
    parser.add_argument("address", help="of this repository, https://github.com/OWNER/REPO")
    parser.add_argument("--branch", default="main", help="in which the lessons lie (%(default)s)")
    parser.add_argument("--hub", default=HUB, help="the address of your JupyterHub (%(default)s)")
    parser.add_argument("--colab", type=Path, metavar="FOLDER", help="write the lessons for Colab")
    args = parser.parse_args(argv)
    try:
        repo = repository(args.address)
    except ValueError as error:
        parser.error(str(error))
    print(f"{badges(repo, args.branch, lessons()[0].name)}\n\n{table(repo, args.branch, args.hub)}")
    if args.colab:
        args.colab.mkdir(parents=True, exist_ok=True)
        for path in lessons():
            nbformat.write(for_colab(nbformat.read(path, as_version=4), repo, args.branch), args.colab / path.name)


if __name__ == "__main__":
    main()
