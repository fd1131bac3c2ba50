#!/usr/bin/env bash
# Guess: modules_to_save=["norm"] trains and saves the model's last norm, as target_modules=["q_proj"] adapts what is
# called q_proj: a name counts from a dot on.
#
# peft 0.21.2: target_modules does count from a dot on; modules_to_save takes every module whose name ends in these
# letters. In EXAONE 4.0 "norm" is also q_norm, k_norm, post_attention_layernorm and post_feedforward_layernorm: all
# norms of all layers are trained and stand in the file.
# Seen: 13 norms saved of a model of 3 layers, the last one among them, instead of 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.23.0 peft==0.21.2
cat > "$folder/check.py" <<'PYTHON'
import sys

import peft
import torch
from peft import LoraConfig, get_peft_model
from transformers import Exaone4Config, Exaone4ForCausalLM
from safetensors import safe_open


def base(dtype=torch.float32):
    """The same small random model each time."""
    torch.manual_seed(0)
    return Exaone4ForCausalLM(Exaone4Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=None, layer_types=["full_attention"] * 3)).to(dtype).eval()


model = get_peft_model(base(), LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["norm"]))
model.save_pretrained(sys.argv[1])
with safe_open(f"{sys.argv[1]}/adapter_model.safetensors", framework="pt") as file:
    norms = [name.removeprefix("base_model.model.") for name in file.keys() if "lora_" not in name]
kinds = sorted({name.split(".")[-2] for name in norms})
print(f"peft {peft.__version__}: {len(norms)} norms saved: {', '.join(kinds)}")
assert peft.__version__ == "0.21.2" and len(norms) == 13 and "model.norm.weight" in norms, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/adapter" 2> "$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
