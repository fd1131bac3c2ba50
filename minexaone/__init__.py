"""minexaone: EXAONE 4.0 from the inside, in readable PyTorch."""

import sys

from minexaone.chat import Chat
from minexaone.fast import speed_up
from minexaone.files import CheckpointError
from minexaone.model import Config, Exaone4, KVCache
from minexaone.tokenizer import Tokenizer

__all__ = ["Chat", "CheckpointError", "Config", "Exaone4", "KVCache", "Tokenizer", "speed_up"]

if "matplotlib.font_manager" in sys.modules:  # a lesson, which imports it first; nothing else should have to load it
    from minexaone.hangul import add_to

    add_to(sys.modules["matplotlib.font_manager"])
