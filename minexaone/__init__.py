"""minexaone: EXAONE 4.0 from the inside, in readable PyTorch."""

from minexaone.chat import Chat
from minexaone.fast import speed_up
from minexaone.files import CheckpointError
from minexaone.model import Config, Exaone4, KVCache
from minexaone.tokenizer import Tokenizer

__all__ = ["Chat", "CheckpointError", "Config", "Exaone4", "KVCache", "Tokenizer", "speed_up"]
