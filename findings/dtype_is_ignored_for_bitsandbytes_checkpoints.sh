#!/usr/bin/env bash
# Guess: `dtype` of from_pretrained is the type of whatever a quantized checkpoint leaves unquantized (embedding, norms,
# head) and of what is computed between the quantized layers, as it is for every other checkpoint.
#
# transformers 5.24.0 with bitsandbytes 0.50.2: for a folder saved in bitsandbytes' 4 or 8 bits it is ignored without a
# word. The weights stay as stored, and model.dtype with them, while model.config.dtype says what was asked for: who
# loads in float32 to compare logits compares bfloat16. When an unquantized folder is quantized while it is loaded,
# dtype counts.
# Seen: asked for float32: unquantized folder float32, quantized while loading float32, saved quantized (nf4 and int8)
# bfloat16, with config.dtype float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.24.0 bitsandbytes==0.50.2 \
    accelerate==1.15.0
cat > "$folder/check.py" <<'PYTHON'
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

FORMS = {"nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
         "int8": BitsAndBytesConfig(load_in_8bit=True)}


def loaded(folder, dtype=torch.float32, **options):
    """The model of a folder, on the CPU; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cpu", **options)


def unquantized(model):
    """The types of embedding, norms and head, and what the model says."""
    kept = {model.model.embed_tokens.weight.dtype, model.model.norm.weight.dtype, model.lm_head.weight.dtype}
    return {str(dtype).removeprefix("torch.") for dtype in kept}, str(model.config.dtype).removeprefix("torch.")


root = Path(sys.argv[1])
LlamaForCausalLM(LlamaConfig(vocab_size=272, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
                             num_attention_heads=4, num_key_value_heads=2, head_dim=16)).to(
    torch.bfloat16).save_pretrained(root / "dense")
found = {"dense": unquantized(loaded(root / "dense"))}
for name, form in FORMS.items():
    found[f"{name} while loading"] = unquantized(loaded(root / "dense", quantization_config=form))
    loaded(root / "dense", torch.bfloat16, quantization_config=form).save_pretrained(root / name)
    found[f"{name} saved"] = unquantized(loaded(root / name))
for name, (kept, config) in found.items():
    print(f"asked for float32: {name}: {', '.join(kept)}; config.dtype {config}")
assert version("transformers") == "5.24.0" and version("bitsandbytes") == "0.50.2"
for name, (kept, config) in found.items():
    expected = {"bfloat16"} if name.endswith("saved") else {"float32"}
    assert kept == expected and config == "float32", f"{name}: the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/models" 2> "$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
