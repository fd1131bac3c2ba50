"""What several tests share: a throw-away tokenizer, and the published one where it is at hand."""

import json
import os
from pathlib import Path

import hypothesis
import pytest
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from minexaone.threads import use_one_thread
from minexaone.tokenizer import Tokenizer

use_one_thread()  # nearly all tests have small models: on a busy machine a second thread makes them many times slower
if not torch.cuda.is_available():  # before anything imports Triton: its kernels then run, slowly, without a GPU
    os.environ["TRITON_INTERPRET"] = "1"
# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

ROOT = Path(__file__).parent.parent
SPECIAL = ["[PAD]", "[BOS]", "[EOS]", "[UNK]"]
SPACES = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
MARKUP = ["</tool_call>", "<tool_call>", "</tool_result>", "<tool_result>", "</think>", "<think>"]
ROLES = ["[|system|]", "[|tool|]", "[|assistant|]", "[|user|]", "[|endofturn|]"]
CORPUS = ["The quick brown fox rolls the dice; how wonderful you are, and what is the result?",
          "너가 얼마나 대단한지 설명해 봐. 오늘 서울 날씨는 맑음, 도시 이름을 알려 줘.",
          "Explica lo increíble que eres. ¿Cuánto cuesta el café? ¡Mañana será otro día!",
          '{"name": "roll_dice", "arguments": {"max_num": 6}} {"result": 3} {"error": "unknown tool"}']


@pytest.fixture(scope="session")
def shared():
    """The folder with the published tokenizer files, which are licensed and so no part of this repository."""
    folder = ROOT.parent / "shared"
    if not (folder / "exaone-4.0-1.2b" / "vocab.json").is_file():
        pytest.skip("the published tokenizer files are not at ../shared/exaone-4.0-1.2b")
    return folder


@pytest.fixture(scope="session")
def published(shared):
    """The published tokenizer, from vocab.json, merges.txt and tokenizer_config.json."""
    return Tokenizer.from_pretrained(shared / "exaone-4.0-1.2b")


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """A tokenizer.json and tokenizer_config.json with a few hundred merges and EXAONE 4.0's control tokens."""
    folder = tmp_path_factory.mktemp("toy")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    added = [AddedToken(text, normalized=False, special=text in SPECIAL + ROLES)
             for text in SPECIAL + SPACES + MARKUP + ROLES]
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=700, special_tokens=added, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    # The trainer makes all of its "special tokens" special: write the flags that the published file has.
    tokenizer = json.loads(backend.to_str())
    for token in tokenizer["added_tokens"]:
        token["special"] = token["content"] in SPECIAL + ROLES
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "[BOS]", "eos_token": "[|endofturn|]", "pad_token": "[PAD]", "unk_token": "[UNK]"}))
    return folder


@pytest.fixture(scope="session")
def toy_tokenizer(toy_folder):
    """A `Tokenizer` with EXAONE 4.0's control tokens and chat format and a few hundred merges."""
    return Tokenizer.from_pretrained(toy_folder)
