"""The Korean letters of the figures: in the font, found by the style, and licensed."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "minexaone"
PHRASES = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.glob("tasks/phrases/*.txt"))
SYLLABLES = sorted({letter for letter in PHRASES if "가" <= letter <= "힣"})
DRAW = """
import io, sys
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
import minexaone
plt.style.use("minexaone.lesson")
plt.rcParams.update({name: value for name, value in [arg.split("=") for arg in sys.argv[2:]]})
fig = plt.figure()
for style in {}, {"weight": "bold"}, {"family": ["monospace", "minexaone Hangul"]}:
    fig.text(0, 0.5, sys.argv[1], **style)
fig.savefig(io.BytesIO())
"""


def draw(*args):
    """Draws all syllables as a lesson does, in a fresh interpreter whose warnings are errors; what went wrong."""
    command = [sys.executable, "-W", "error", "-c", DRAW, "".join(SYLLABLES), *args]
    return subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, encoding="utf-8").stderr


def test_the_font_has_every_syllable_of_the_phrases_and_a_name_of_its_own():
    ft2font = pytest.importorskip("matplotlib.ft2font")
    font = ft2font.FT2Font(PACKAGE / "hangul.otf")
    assert len(SYLLABLES) > 500 and {*map(ord, SYLLABLES)} <= font.get_charmap().keys()
    assert font.family_name == "minexaone Hangul"  # "Source" is reserved
    notice = (PACKAGE / "hangul-OFL.txt").read_text(encoding="utf-8")
    assert "Copyright 2014-2021 Adobe" in notice and "SIL OPEN FONT LICENSE Version 1.1" in notice


def test_a_lesson_draws_korean_without_a_warning():
    pytest.importorskip("matplotlib")
    assert draw() == ""
    assert "missing from font" in draw("font.family=DejaVu Sans"), "this test could not fail"


def test_the_package_does_not_load_matplotlib():
    code = "import sys, minexaone; assert not [name for name in sys.modules if name.startswith('matplotlib')]"
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True)
