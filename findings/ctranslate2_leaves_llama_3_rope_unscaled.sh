#!/usr/bin/env bash
# Guess: CTranslate2, which has read RoPE of type "llama3" since 2024 (issue 1745, pull request 1751), and refuses types
# that it does not know, converts Llama 3.1 and 3.2 with their RoPE scaling: the logits are those of transformers.
#
# CTranslate2 4.8.5 (transformers 5.24.0): the converted model is the model without any scaling, at every position. Of
# the four numbers of this type only low_freq_factor and high_freq_factor are written to the file. The specification
# writes rotary_scaling_factor for the type "linear" alone (specs/attention_spec.py), and the Llama converter passes no
# original_max_position_embeddings (that of Phi-3 does). The reader's defaults are 1 and 0: with 0 all wavelengths count
# as too long, and are divided by 1. Nothing is said. (Not reported upstream, as far as could be found.)
# Seen: 400 tokens, RoPE as in Llama 3.2 (factor 32, 8192 tokens, theta 500000): up to 1.6 from transformers' logits (of
# 5.3), and 1e-5 from those of the same weights with plain RoPE. Plain and linear RoPE agree to 1e-5. The error grows
# with the length: only slow frequencies are meant to be scaled.
# A way out: put both numbers into the specification before it is saved (checked below: 1e-5).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 ctranslate2==4.8.5
cat > "$folder/check.py" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

FACTOR, LENGTH = 32.0, 8192
ROPE = {"plain": {"rope_type": "default", "rope_theta": 5e5},
        "linear": {"rope_type": "linear", "rope_theta": 5e5, "factor": FACTOR},
        "llama3": {"rope_type": "llama3", "rope_theta": 5e5, "factor": FACTOR, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": LENGTH}}
SHAPE = dict(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=131072, bos_token_id=0, eos_token_id=1,
             pad_token_id=2)
words = Tokenizer(WordLevel({f"w{id}": id for id in range(96)}, unk_token="w0"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", pad_token="w2",
                                    unk_token="w0")
ids = [3 + 7 * n % 90 for n in range(400)]
root = Path(sys.argv[1])


def expected(rope):
    """The logits of transformers, with the same weights each time."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, rope_parameters=ROPE[rope])).float().eval()
    with torch.no_grad():
        for key, weights in model.named_parameters():
            if "norm" not in key:
                weights.normal_(0, 0.15)
        model.save_pretrained(root / rope)
        tokenizer.save_pretrained(root / rope)
        return model(torch.tensor([ids])).logits[0].numpy()


def converted(rope, mended=False):
    out = str(root / f"{rope}-{mended}")
    if mended:
        spec = TransformersConverter(str(root / rope))._load()
        for layer in spec.decoder.layer:
            vars(layer.self_attention)["rotary_scaling_factor"] = np.dtype("float32").type(FACTOR)
            vars(layer.self_attention)["original_max_position_embeddings"] = np.dtype("int32").type(LENGTH)
        spec.validate()
        spec.optimize()
        Path(out).mkdir()
        spec.save(out)
    else:
        TransformersConverter(str(root / rope)).convert(out)
    model = ctranslate2.Generator(out, device="cpu", intra_threads=1)
    return np.array(model.forward_batch([[f"w{id}" for id in ids]]))[0]


def off(a, b, tokens=len(ids)):
    return np.abs(a - b)[:tokens].max()


logits = {rope: expected(rope) for rope in ROPE}
got = {rope: converted(rope) for rope in ROPE}
print(f"CTranslate2 {version('ctranslate2')}, transformers {version('transformers')}, {len(ids)} tokens, logits up to "
      f"{np.abs(logits['llama3']).max():.1f}; from transformers: "
      f"{', '.join(f'{off(got[rope], logits[rope]):.2g} ({rope})' for rope in ROPE)}")
by_length = [f"{off(got['llama3'], logits['llama3'], tokens):.2g}" for tokens in (10, 100, 400)]
print(f"llama3 within the first 10, 100 and 400 tokens: {', '.join(by_length)}")
mended = converted("llama3", True)
print(f"converted with llama3, from the same weights with plain RoPE: {off(got['llama3'], logits['plain']):.2g}; "
      f"with both numbers in the file, from llama3 in transformers: {off(mended, logits['llama3']):.2g}")
assert max(off(got[rope], logits[rope]) for rope in ("plain", "linear")) < 1e-3  # the controls
assert off(logits["llama3"], logits["plain"]) > 0.1
assert off(got["llama3"], logits["llama3"]) > 0.1 and off(got["llama3"], logits["plain"]) < 1e-3, "scaled by now"
assert off(mended, logits["llama3"]) < 1e-3
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder" 2> "$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
