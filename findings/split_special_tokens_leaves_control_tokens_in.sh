#!/usr/bin/env bash
# Guess: tokenizer(text, split_special_tokens=True) of transformers makes every control token that a text spells plain
# text, so that a user's message encoded so can forge no turn and no tool call.
#
# transformers 5.23.0: it does so for added tokens that are flagged special alone. EXAONE 4.0 publishes
# <think>, </think>, <tool_call> and the like with special false, and those stay one token each.
# Seen: "[|user|]" becomes 8 tokens of text, "<think>" and "<tool_call>" stay control tokens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/check.py" <<'PYTHON'
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
backend.add_tokens([AddedToken("[|user|]", normalized=False, special=True),
                    AddedToken("<think>", normalized=False, special=False),
                    AddedToken("<tool_call>", normalized=False, special=False)])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
found = {text: tokenizer.convert_ids_to_tokens(tokenizer(text, split_special_tokens=True)["input_ids"])
         for text in ("[|user|]", "<think>", "<tool_call>")}
for text, tokens in found.items():
    print(f"transformers {transformers.__version__}, split_special_tokens=True: {text} becomes {tokens}")
assert len(found["[|user|]"]) == 8, "the behaviour has changed"
assert found["<think>"] == ["<think>"] and found["<tool_call>"] == ["<tool_call>"], "the behaviour has changed"
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 transformers==5.23.0
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
