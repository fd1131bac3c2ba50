"""Hold the notebooks' marked cells equal to the package, which is the truth.

    python notebooks/mirror.py            # write the package's definitions into every marked cell
    python notebooks/mirror.py --check    # only say which cells differ

A marked cell begins with a line such as `# from minexaone/model.py: RMSNorm, MLP`. A class may be shown in parts, as
`Exaone4.__init__, Exaone4.forward`: the part with `__init__` opens the class, a later part adds to it.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
MARK = re.compile(r"# from (minexaone/[\w/]+\.py): ([\w., ]+)(?:\n|$)")
UPDATE = "run `python notebooks/mirror.py`"


def notebooks() -> list[Path]:
    """The lessons, in their order."""
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def definitions(file: str) -> dict[str, ast.stmt]:
    """The nodes of a module's classes, functions and constants by name, and of methods as Class.method."""
    found = {}
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{m.name}": m for m in node.body if isinstance(m, ast.FunctionDef)}
    return found


def text(file: str, names: list[str]) -> str:
    """The source of these definitions as a notebook shows it. KeyError names one that the module does not have."""
    lines, nodes = (ROOT / file).read_text(encoding="utf-8").splitlines(), definitions(file)
    parts, opened, previous = [], None, None
    for name in names:
        node = nodes[name]
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        source = "\n".join(lines[first - 1:node.end_lineno])
        owner = name.rpartition(".")[0]
        if owner and owner != opened:
            cls = nodes[owner]
            header = f"class {owner}({owner}):  # goes on"
            if name.endswith(".__init__"):
                header = "\n".join(lines[cls.lineno - 1:cls.body[0].end_lineno])  # with its docstring
            source = f"{header}\n\n{source}"
        constants = isinstance(node, ast.Assign) and isinstance(previous, ast.Assign)
        gap = "" if not parts else "\n" if constants else "\n\n" if owner and owner == opened else "\n\n\n"
        parts.append(gap + source)
        opened, previous = owner or None, node
    return "".join(parts)


def marked(notebook) -> list[tuple]:
    """(cell, file, names) of every marked cell."""
    found = ((cell, MARK.match(cell.source)) for cell in notebook.cells if cell.cell_type == "code")
    return [(cell, match[1], [name.strip() for name in match[2].split(",")]) for cell, match in found if match]


def differences(path: Path, update=False) -> list[str]:
    """What differs in a notebook, one message for each marked cell; update: write the package's text into them."""
    notebook, found = nbformat.read(path, as_version=4), []
    for cell, file, names in marked(notebook):
        try:
            expected = f"{cell.source.splitlines()[0]}\n{text(file, names)}"
        except (KeyError, FileNotFoundError) as error:
            found.append(f"{path.name}: {file} has no {error}: correct the first line of the cell {cell.source[:60]!r}")
            continue
        try:
            same = ast.dump(ast.parse(cell.source)) == ast.dump(ast.parse(expected))
        except SyntaxError:
            same = False
        if not same:
            found.append(f"{path.name}: the cell with {', '.join(names)} differs from {file}: {UPDATE}")
        if update:
            cell.source = expected
    if update and found:
        nbformat.write(notebook, path)
    return found


def untaught(file: str) -> list[str]:
    """The public definitions of a module that are not shown in exactly one lesson, with how often they are."""
    nodes, shown = definitions(file), [name for path in notebooks() for _, where, names in marked(
        nbformat.read(path, as_version=4)) for name in names if where == file]
    for name in [name for name in shown if isinstance(nodes.get(name), ast.ClassDef)]:  # whole: with all its methods
        shown += [other for other in nodes if other.startswith(f"{name}.")]
    in_parts = {name for name in nodes if any(part.startswith(f"{name}.") for part in nodes)}
    return [f"{name}: shown {shown.count(name)} times" for name in nodes if shown.count(name) != 1
            and name not in in_parts and not name.startswith("_")]


def main(argv=None):
    """Update or check; the exit status tells whether something differed in a check."""
    parser = argparse.ArgumentParser(description="Hold the notebooks' marked cells equal to the package.")
    parser.add_argument("--check", action="store_true", help="only say which cells differ")
    args = parser.parse_args(argv)
    found = [message for path in notebooks() for message in differences(path, update=not args.check)]
    print("\n".join(found) or "all marked cells are the package's")
    sys.exit(bool(found) and args.check)


if __name__ == "__main__":
    main()
