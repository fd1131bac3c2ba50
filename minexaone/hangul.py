"""Hangul in the figures of the lessons: the fonts that come with matplotlib have none."""

from dataclasses import replace
from pathlib import Path

FONT = Path(__file__).parent / "hangul.otf"  # its licence is hangul-OFL.txt


def add_to(font_manager):
    """Let matplotlib's font manager know the family "minexaone Hangul", which the style `minexaone.lesson` names."""
    fonts = font_manager.fontManager
    fonts.addfont(FONT)
    # There is one weight. Matplotlib warns of each text that asks for another.
    fonts.ttflist.append(replace(fonts.ttflist[-1], weight=700))
