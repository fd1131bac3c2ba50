#!/usr/bin/env bash
# Guess: a folder's `tokenizer.json` says how a text becomes ids: with transformers 5 `AutoTokenizer` gives the ids of
# `tokenizers.Tokenizer.from_file`, as transformers 4 does, whichever byte-level class `tokenizer_config.json` names.
#
# transformers 5.24.0: with `GPT2Tokenizer` or `Qwen2Tokenizer` there (the `...Fast` names too), only vocabulary, merges
# and post-processor are taken from `tokenizer.json`; the normalizer and the splitting before the merges are those of
# the class, without a word (`TokenizersBackend.convert_to_native_format`: a class with an `__init__` of its own builds
# them). A list of model types is exempt, `MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`; no EXAONE model is in it, and the
# published EXAONE-4.0-1.2B names `GPT2Tokenizer` (its splitting is GPT-2's, so its own ids stay as they are).
# Seen: three files in folders of an Exaone4 model, plain, with NFC, and with tokens that may span words: transformers
# 4.57.6 gives the ids of the file in every case. 5.24.0 with `GPT2Tokenizer` leaves NFC out (한 in Unicode's decomposed
# form is nine tokens for one) and cuts spanning tokens (five for two); `Qwen2Tokenizer` adds NFC to files without it
# and cuts 2024 into digits. With `PreTrainedTokenizerFast` there, or opened by that class, the ids are those of the
# file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/4.57.6"
python3 -m venv "$folder/5.24.0"
"$folder/4.57.6/bin/pip" install -q transformers==4.57.6
"$folder/5.24.0/bin/pip" install -q transformers==5.24.0
cat > "$folder/check.py" <<'PYTHON'
import json
import sys
import warnings
from pathlib import Path

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

warnings.filterwarnings("ignore")
HAN = "\u1112\u1161\u11ab"  # 한 in three letters, as file names of macOS have it
LINES = ["한 한 한", "a b a b a b", "2024 2024 2024"]
words = pre_tokenizers.ByteLevel(add_prefix_space=False)
FILES = {"plain": (None, words), "NFC": (normalizers.NFC(), words),
         "spanning words": (None, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))}
TEXTS = ["한 a b", HAN, "2024"]


def write(folder, normalizer, splitting, class_name):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = splitting, decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    backend.train_from_iterator(LINES, trainers.BpeTrainer(
        special_tokens=["[EOS]"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[EOS]", bos_token="[EOS]", unk_token="[EOS]"
                            ).save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": class_name}))
    (folder / "config.json").write_text(json.dumps({"model_type": "exaone4"}))


different = {}
for name, (normalizer, splitting) in FILES.items():
    for class_name in ("GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast"):
        folder = Path(sys.argv[1]) / f"{transformers.__version__} {name} {class_name}"
        write(folder, normalizer, splitting, class_name)
        of_file = Tokenizer.from_file(str(folder / "tokenizer.json"))
        for way, opened in (("", AutoTokenizer), (", by PreTrainedTokenizerFast", PreTrainedTokenizerFast)):
            tokenizer = opened.from_pretrained(folder)
            for text in TEXTS:
                right, found = of_file.encode(text).ids, tokenizer(text)["input_ids"]
                if found != right:
                    different[name, class_name + way, text] = len(right), len(found)
print(f"transformers {transformers.__version__}: (file, class, text): tokens by the file, tokens by the class")
for case, lengths in different.items():
    print(" ", tuple(map(ascii, case)), lengths)
if transformers.__version__ == "4.57.6":
    assert not different
else:
    gpt2 = {("NFC", HAN): (1, 9), ("spanning words", TEXTS[0]): (2, 5)}
    for class_name in ("GPT2Tokenizer", "GPT2TokenizerFast"):
        assert {(f, t): n for (f, c, t), n in different.items() if c == class_name} == gpt2, class_name
    assert {(f, t) for f, c, t in different if c == "Qwen2Tokenizer"} >= {("plain", "2024"), ("plain", HAN)}
    assert {c for _, c, _ in different} == {"GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer"}
PYTHON
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf"
for number in 4.57.6 5.24.0; do
    "$folder/$number/bin/python" "$folder/check.py" "$folder" 2> "$folder/err" || {
        tail -n 20 "$folder/err" >&2
        exit 1
    }
done
