#!/usr/bin/env bash
# Guess: PEFT says so when a tensor of an adapter's file belongs to no module of the model.
#
# peft 0.21.2: tensors that the file lacks are named in a warning, but what is too much in it is dropped without a word,
# and the model runs. So half of an adapter of a deeper model, or one of which target_modules was edited, loads in
# silence.
# Seen: of an adapter with 6 tensors and target_modules cut down to one layer, 4 tensors are dropped; no warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.23.0 peft==0.21.2
cat > "$folder/check.py" <<'PYTHON'
import json
import sys
import warnings
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Exaone4Config, Exaone4ForCausalLM


def base(dtype=torch.float32):
    """The same small random model each time."""
    torch.manual_seed(0)
    return Exaone4ForCausalLM(Exaone4Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=None, layer_types=["full_attention"] * 3)).to(dtype).eval()


folder = Path(sys.argv[1])
get_peft_model(base(), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(folder)
config = json.loads((folder / "adapter_config.json").read_text())
(folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["layers.1.self_attn.q_proj"]}))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    loaded = PeftModel.from_pretrained(base(), folder)
told = [str(warning.message) for warning in told if "key" in str(warning.message)]
used = sum("lora_" in name for name, _ in loaded.named_parameters())
print(f"peft {peft.__version__}: {used} of 6 tensors are used; warnings about it: {len(told)}")
assert peft.__version__ == "0.21.2" and used == 2 and not told, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/adapter" 2> "$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
