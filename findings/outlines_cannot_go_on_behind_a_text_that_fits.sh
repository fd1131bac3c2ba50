#!/usr/bin/env bash
# Guess: a model that outlines guides may write every text that fits the type, token by token: "3.5" for `float`, and
# either word of a choice where one begins the other.
#
# outlines 1.3.3 (outlines_core 0.2.14, its default backend): behind a text that fits already, a token is forbidden
# unless the text fits with it again. Of "3.5" the "." is thus out of reach where it is a token of its own, as with all
# tokenizers that part digits from other characters first, as GPT-2's does: `float` gives whole numbers, and a choice of
# "서울" and "서울 특별시" never the second, without a word. (`Index::new` takes `is_match_state` for "fits here", but that
# automaton reports a match one byte late; mended in the repository on 2025-12-29, in no release up to 0.2.14.)
# Seen: a deterministic model that says "3.5": "3" for `float`, for `Regex` and for a JSON number, and "3.5" for the
# same numbers inside a JSON array, where "3" does not end the text; the longer word of two is cut as well. llguidance
# and xgrammar (`backend=`) give the whole text each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 outlines==1.3.3 outlines_core==0.2.14 \
    llguidance==1.9.1 xgrammar==0.2.9
cat > "$folder/check.py" <<'PYTHON'
from importlib.metadata import version
from typing import Literal

import outlines
import torch
from outlines.types import JsonSchema, Regex
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
bpe.train_from_iterator(["서울-특-별-시"], trainers.BpeTrainer(
    special_tokens=["[EOS]", "[PAD]"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="[EOS]", pad_token="[PAD]")
size = len(tokenizer)


def says(text):
    """A model that replies so to "?"; each token depends on the last one alone, and [EOS] is the next best."""
    width = size + size % 2
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=size, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, tie_word_embeddings=False)).eval()
    chain = [*tokenizer.encode("?" + text), tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.zero_()
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        model.lm_head.weight[tokenizer.eos_token_id] = 1
        for now, following in zip(chain, chain[1:]):
            model.lm_head.weight[following, now] = 2
    return outlines.from_transformers(model, tokenizer)


CASES = [  # name, type, text, and what the default makes of it
    ("no type", None, "3.5", "3.5"),
    ("float", float, "3.5", "3"),
    ("JSON number", JsonSchema({"type": "number"}), "3.5", "3"),
    ("JSON array of numbers", JsonSchema({"type": "array", "items": {"type": "number"}}), "[3.5]", "[3.5]"),
    ("regex", Regex(r"[0-9]+(\.[0-9]+)?"), "3.5", "3"),
    ("regex with a unit", Regex(r"[0-9]+(\.[0-9]+)?kg"), "3.5kg", "3.5kg"),
    ("choice", Literal["서울", "서울 특별시"], "서울 특별시", "서울"),
    ("choice, no common beginning", Literal["서울", "특별시"], "특별시", "특별시"),
]
print(f"outlines {version('outlines')}, outlines_core {version('outlines_core')}")
for name, kind, text, by_default in CASES:
    model = says(text)
    for backend in (None, "llguidance", "xgrammar") if kind else (None,):
        reply = outlines.Generator(model, kind, backend=backend)("?", max_new_tokens=12)
        print(f"{name}, {backend or 'default'}: {text!r} of {len(tokenizer.encode(text))} tokens gives {reply!r}")
        assert reply == (text if backend else by_default), (name, backend, reply)
PYTHON
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf"
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/err" || { tail -n 20 "$folder/err" >&2; exit 1; }
