#!/usr/bin/env bash
# Guess: CTranslate2, which has a converter for Gemma 3, a hybrid of sliding and global layers as EXAONE 4, that writes
# the window or its absence for every layer, gives the greedy replies of transformers whatever the length of a prompt.
#
# CTranslate2 4.8.5 (CPU; transformers 5.24.0): up to one window of prompt it does, also where the reply goes on past
# the window. A longer prompt is cut into chunks of a window for all layers at once (layers/transformer.cc), and later
# chunks are masked as if every layer kept just the window before its chunk. So a sliding layer lets a token see up to
# two windows; and a global layer, whose cache holds everything, is masked to its first keys: from the third chunk on a
# token sees neither itself nor what is right before it. (With the attention of one kind set to zero, global layers are
# right up to two windows and sliding ones up to one.) No error, no warning. Gemma 3 1B has a
# window of 512 tokens, the larger ones of 1,024.
# Seen, window 16, 20 random prompts of each length, greedy replies of 20 tokens: up to 16 tokens of prompt all replies
# are those of transformers, with 24 half, with 32 to 96 tokens 3 to 5 of 20. With a window of 400 all are, at any
# length.
# Upstream: not found as an issue; the chunks came with Mistral (pull request 1524, 2023), whose layers all slide.
# A way out: none on a CPU but prompts within the window, or other software.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 ctranslate2==4.8.5
cat > "$folder/check.py" <<'PYTHON'
import sys
from importlib.metadata import version

import ctranslate2
import torch
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

WINDOW, PROMPTS, REPLY, NEVER = 16, 20, 20, 95
SHAPE = dict(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16, max_position_embeddings=512,
             bos_token_id=0, eos_token_id=1, pad_token_id=2)
words = Tokenizer(WordLevel({f"w{id}": id for id in range(96)}, unk_token="w0"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", pad_token="w2",
                                    unk_token="w0")


def equal_replies(window, lengths):
    """For each length, how many greedy replies to random prompts are those of transformers."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Gemma3TextConfig(**SHAPE, sliding_window=window)).float().eval()
    with torch.no_grad():
        for key, weights in model.named_parameters():
            if "norm" not in key:
                weights.normal_(0, 0.15)
    model.save_pretrained(f"{sys.argv[1]}/{window}")
    tokenizer.save_pretrained(f"{sys.argv[1]}/{window}")
    TransformersConverter(f"{sys.argv[1]}/{window}").convert(f"{sys.argv[1]}/{window}-converted")
    other = ctranslate2.Generator(f"{sys.argv[1]}/{window}-converted", device="cpu", intra_threads=1)
    equal = {}
    for length in lengths:
        ids = torch.randint(3, NEVER, (PROMPTS, length))
        wanted = model.generate(ids, max_new_tokens=REPLY, min_new_tokens=REPLY, do_sample=False, eos_token_id=NEVER)
        got = [other.generate_batch([[f"w{id}" for id in row]], max_length=REPLY, min_length=REPLY, sampling_topk=1,
                                    include_prompt_in_result=False, end_token=[NEVER])[0].sequences_ids[0]
               for row in ids.tolist()]
        equal[length] = sum(a == b for a, b in zip(wanted[:, length:].tolist(), got, strict=True))
    return equal


print(f"CTranslate2 {version('ctranslate2')}, transformers {version('transformers')}, Gemma 3 at random, equal replies "
      f"of {PROMPTS} by the length of the prompt:")
LENGTHS = (4, 12, 16, 24, 32, 48, 64, 96)
equal = {window: equal_replies(window, LENGTHS) for window in (WINDOW, 400)}
for window in equal:
    print(f"window {window}: {', '.join(f'{equal[window][length]} ({length})' for length in LENGTHS)}")
assert min(equal[400].values()) == PROMPTS  # the control: a window that is never reached
assert min(equal[WINDOW][length] for length in LENGTHS if length <= WINDOW) == PROMPTS
assert max(equal[WINDOW][length] for length in LENGTHS if length > 2 * WINDOW) < PROMPTS / 2, "long prompts are right"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder" 2> "$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
