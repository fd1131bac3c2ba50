"""Grade students' notebooks with pytest: one test for each check cell, and a table of points at the end.

`notebooks/course.py` copies this file into a course as its conftest.py. It executes each notebook from above to below
in a kernel of its own; a cell that fails does not keep those behind it from running. The check cells are the key's,
whatever a student has written into theirs. A notebook runs with the rights of whoever grades it.
"""

import os
from functools import cached_property
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

KEY = Path(__file__).parent / "key"
TIMEOUT = "CellTimeout"
TABLES = {}  # (check, outcome, points, error) of each notebook


def pytest_addoption(parser):
    parser.addoption("--cell-seconds", type=int, default=300, help="time limit of a cell (300)")


def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".ipynb" and (KEY / file_path.name).exists():
        return Notebook.from_parent(parent, path=file_path)


def executed(notebook, seconds: int) -> dict[str, str]:
    """What happened to each check cell, by grade_id: "" if it passed, else the error.

    A cell that takes longer is interrupted, and the next ones run. Where that does not help, or the kernel has died,
    what is behind it is not run.
    """
    found, errors = {}, {}
    client = NotebookClient(
        notebook, timeout=seconds, interrupt_on_timeout=True, allow_errors=True, shutdown_kernel="immediate",
        error_on_timeout={"ename": TIMEOUT, "evalue": f"it took more than {seconds} s", "traceback": []},
        resources={"metadata": {"path": str(KEY)}},
        on_cell_error=lambda cell, cell_index, execute_reply: errors.update({cell_index: execute_reply["content"]}))
    with client.setup_kernel(env=os.environ | {"MPLBACKEND": "agg"}):  # nobody looks at the figures: draw none
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index)
            except DeadKernelError:
                break
            error = errors.get(index)
            if id := cell.metadata.get("nbgrader", {}).get("grade_id"):
                found[id] = f"{error['ename']}: {error['evalue']}" if error else found.get(id, "")
            if error and error["ename"] == TIMEOUT and not any(o.output_type == "error" for o in cell.outputs):
                break  # the interrupt did not reach it
    return found


class Notebook(pytest.File):
    """A notebook that was handed in."""

    def collect(self):
        for cell in self.key.values():
            yield Check.from_parent(self, name=cell["grade_id"], points=cell["points"], by_hand=cell["solution"])

    @cached_property
    def key(self) -> dict[str, dict]:
        """The key's cells that give points, by grade_id."""
        cells = nbformat.read(KEY / self.path.name, as_version=4).cells
        return {cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader | {"source": cell.source} for cell in cells
                if cell.metadata.get("nbgrader", {}).get("grade")}

    @cached_property
    def found(self) -> dict[str, str]:
        """See `executed`."""
        notebook = nbformat.read(self.path, as_version=4)
        for cell in notebook.cells:
            id = cell.metadata.get("nbgrader", {}).get("grade_id")
            if id in self.key and not self.key[id]["solution"]:
                cell.source = self.key[id]["source"]
        return executed(notebook, self.config.getoption("cell_seconds"))


class Check(pytest.Item):
    """A check cell, with its points."""

    def __init__(self, *, points, by_hand, **kwargs):
        super().__init__(**kwargs)
        self.by_hand = by_hand
        self.user_properties.append(("points", points))

    def runtest(self):
        if self.by_hand:
            pytest.skip("by hand")
        error = self.parent.found.get(self.name, "was not run: it is missing, or a cell before it ended the kernel")
        if error:
            raise AssertionError(error)

    def repr_failure(self, excinfo):
        return str(excinfo.value)

    def reportinfo(self):
        return self.path, None, self.name


def pytest_runtest_logreport(report):
    if report.when == "call" and (points := dict(report.user_properties).get("points")):
        path, _, name = report.nodeid.partition("::")
        TABLES.setdefault(path, []).append((name, report.outcome, points, report.longreprtext))


def pytest_terminal_summary(terminalreporter):
    for path, rows in sorted(TABLES.items()):
        terminalreporter.section(path)
        got = sum(points for _, outcome, points, _ in rows if outcome == "passed")
        by_hand = sum(points for _, outcome, points, _ in rows if outcome == "skipped")
        for name, outcome, points, error in rows:
            note = error.strip().partition("\n")[0] if outcome == "failed" else ""
            line = f"{points * (outcome == 'passed'):2} of {points:2}  {note}"
            terminalreporter.line(f"{name:32} {f'by hand, up to {points}' if outcome == 'skipped' else line}".rstrip())
        full = sum(points for _, _, points, _ in rows) - by_hand
        terminalreporter.line(f"{'points':32} {got:2} of {full:2}, and up to {by_hand} by hand")
