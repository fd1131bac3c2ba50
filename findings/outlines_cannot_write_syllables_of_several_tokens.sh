#!/usr/bin/env bash
# Guess: outlines lets a transformers model write any text that fits the type, with a byte-level BPE too, where a rare
# Hangul syllable is several tokens, each a part of its UTF-8: this was mended in 2024 (outlines, pull request 738).
#
# outlines 1.3.3, by default (backend `outlines_core`): for `Regex`, `Literal` and enumerations these tokens are all
# forbidden, and the model writes something else that fits, without a word; only where nothing else could follow is the
# type refused. In JSON strings they are allowed, but each counts as a character: `maxLength` cuts a syllable in two.
# (`create_outlines_core_vocabulary` asks `convert_tokens_to_string` for the text of each token alone, which is U+FFFD
# for every part of a syllable; outlines_core itself takes bytes.)
# Seen: a deterministic model that says "뷁쀍", six tokens, and "서울" where it must not: for the regex [가-힣]{2} and for the
# choice of both words the default gives "서울", and for a JSON string of at most 2 characters "�"; llguidance and
# xgrammar (`backend=`) give "뷁쀍" each time, and outlines_core does as well if it gets the bytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 outlines==1.3.3 outlines_core==0.2.14 \
    llguidance==1.9.1 xgrammar==0.2.9
cat > "$folder/check.py" <<'PYTHON'
import json
from contextlib import nullcontext
from importlib.metadata import version
from typing import Literal
from unittest.mock import patch

import outlines
import torch
from outlines.backends.outlines_core import OutlinesCoreBackend
from outlines.types import JsonSchema, Regex
from outlines_core import Vocabulary
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

RARE, COMMON = "뷁쀍", "서울"
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
bpe.train_from_iterator([f"{COMMON} {COMMON}"], trainers.BpeTrainer(
    special_tokens=["[PAD]", "[EOS]"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="[EOS]", pad_token="[PAD]")
size = len(tokenizer)
print(f"outlines {version('outlines')}: {RARE} is {len(tokenizer.encode(RARE))} tokens, "
      f"{COMMON} {len(tokenizer.encode(COMMON))}")
assert tokenizer.decode(tokenizer.encode(RARE)) == RARE and len(tokenizer.encode(COMMON)) == 1


def says(first, second):
    """A model that replies `first` to "?", or `second` if it must not begin so; the next token depends on the last."""
    width = size + size % 2
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=size, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, tie_word_embeddings=False)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.zero_()
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        for text, weight in ((second, 1), (first, 2)):
            chain = [*tokenizer.encode("?" + text), tokenizer.eos_token_id]
            for now, following in zip(chain, chain[1:]):
                model.lm_head.weight[following, now] = weight
    return outlines.from_transformers(model, tokenizer)


def of_bytes(vocabulary, eos_token_id, eos_token, token_to_str):
    """What outlines_core takes as well: the bytes of each token."""
    letters, words = {letter: byte for byte, letter in bytes_to_unicode().items()}, {}
    for token, number in vocabulary.items():
        if token not in tokenizer.all_special_tokens:
            words.setdefault(bytes(letters[letter] for letter in token), []).append(number)
    return Vocabulary(eos_token_id, words)


CASES = {"no type": (None, ""), "regex": (Regex("[가-힣]{2}"), ""), "choice": (Literal[RARE, COMMON], ""),
         "JSON string, at most 2": (JsonSchema({"type": "string", "maxLength": 2}), '"'),
         "JSON enumeration": (JsonSchema({"enum": [RARE, COMMON]}), '"')}
found = {}
for name, (kind, quote) in CASES.items():
    model = says(quote + RARE + quote, quote + COMMON + quote)
    for backend in (None, "llguidance", "xgrammar", "outlines_core, bytes") if kind else (None,):
        with (patch.object(OutlinesCoreBackend, "create_outlines_core_vocabulary", staticmethod(of_bytes))
              if backend == "outlines_core, bytes" else nullcontext()):
            generator = outlines.Generator(model, kind, backend=backend and backend.split(",")[0])
            reply = generator("?", max_new_tokens=12)
        found[name, backend] = json.loads(reply) if quote else reply
        print(f"{name}, {backend or 'default'}: {reply}")
for (name, backend), reply in found.items():
    if backend or name == "no type":
        assert reply == RARE, (name, backend, reply)
assert found["regex", None] == found["choice", None] == COMMON
assert found["JSON enumeration", None] == COMMON
assert found["JSON string, at most 2", None] == "\ufffd"
try:
    outlines.Generator(model, Literal[RARE])
    raise AssertionError("a choice of the rare word alone is taken")
except ValueError as error:
    print(f"choice of {RARE} alone, default: {type(error).__name__}: {error}")
PYTHON
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf"
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/err" || { tail -n 20 "$folder/err" >&2; exit 1; }
