"""Figures to touch: plots with controls, drawn by JupyterLab and by the site of the lessons, without a kernel.

Each is a Vega-Lite specification in JSON beside this file, with its numbers, if it shows any that were measured, in
NAME.data.json (written by `python -m minexaone.touch`); style.json is how all of them look. The formulas in them are
the course's own: tests/test_touch.py moves the controls in a browser, and compares.
"""

from pathlib import Path

from minexaone.files import SHIPPED, read_json

HERE = Path(__file__).parent
NAMES = sorted(path.name.split(".")[0] for path in HERE.glob("*.vl.json"))
MIME = "application/vnd.vegalite.v5+json"  # what JupyterLab and VS Code draw by themselves


class Figure:
    """A figure that a notebook shows: its whole specification, and in words where nothing can draw it."""

    def __init__(self, spec: dict):
        self.spec = spec

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {MIME: self.spec, "text/plain": f"A figure to touch, in JupyterLab and on the site: "
                                               f"{self.spec['description']}"}


def touch(name: str) -> Figure:
    """The figure of a name in `NAMES`; `ValueError` for any other."""
    if name not in NAMES:
        raise ValueError(f"there is no figure {name!r}: expected {', '.join(NAMES)}")
    spec, data = read_json(HERE / f"{name}.vl.json"), HERE / f"{name}.data.json"
    return Figure(read_json(HERE / "style.json") | spec | ({"datasets": read_json(data)} if data.exists() else {}))


def for_site(spec: dict) -> dict:
    """A specification with what the site's scripts need besides: `tokens` has the merges, so that readers can type."""
    if "tokens" not in spec.get("datasets", {}):
        return spec
    model = read_json(SHIPPED / "tokenizer.json")
    tokenizer = {"control": [token["content"] for token in model["added_tokens"]], "merges": model["model"]["merges"]}
    return spec | {"usermeta": spec["usermeta"] | {"tokenizer": tokenizer}}
