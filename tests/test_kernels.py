"""The command that measures a classroom's kernels, with one of them."""

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil")
pytest.importorskip("ipykernel")
sys.path.insert(0, str(Path(__file__).parent.parent / "notebooks"))

import kernels  # noqa: E402


def test_a_kernel_opens_the_first_lesson_and_answers():
    line = kernels.measure(1)
    megabytes, threads, alone = re.fullmatch(
        r" 1 kernels: (\d+) MB each, [\d,]+ MB in all, (\d+) threads each, opened in [\d.]+ s; "
        r"a reply ([\d.]+) s alone, [\d.]+ s if all ask at once", line).groups()
    assert int(megabytes) > 100 and int(threads) > 1 and float(alone) > 0, line


def test_a_cell_that_fails_is_no_measurement(monkeypatch):
    monkeypatch.setattr(kernels, "ASK", "1 / 0")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        kernels.measure(1)
