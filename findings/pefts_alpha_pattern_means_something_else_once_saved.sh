#!/usr/bin/env bash
# Guess: an adapter that is saved and loaded is the same adapter.
#
# peft 0.21.2: of the keys of rank_pattern and alpha_pattern that fit a module, the first in the dictionary counts, but
# save_pretrained sorts the keys of adapter_config.json. With alpha_pattern {"q_proj": 16, "layers.1.self_attn.q_proj":
# 2} every q_proj has 16 while it is trained; once saved and loaded, that of layer 1 has 2, without a word. With
# rank_pattern the file cannot be loaded at all. Write patterns in sorted order, or keys of which one fits a module.
# Seen: scalings 4, 4, 4 as trained and 4, 0.5, 4 as loaded; logits differ by up to 0.03; the rank_pattern fails with a
# size mismatch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.23.0 peft==0.21.2
cat > "$folder/check.py" <<'PYTHON'
import sys
import warnings

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


def scalings(model):
    """alpha / rank of each q_proj."""
    return [module.scaling["default"] for name, module in model.named_modules() if name.endswith("q_proj")]


ids, patterns = torch.arange(20)[None], {"q_proj": 16, "layers.1.self_attn.q_proj": 2}
trained = get_peft_model(base(), LoraConfig(r=4, target_modules=["q_proj"], alpha_pattern=patterns)).eval()
torch.manual_seed(1)
for name, parameter in trained.named_parameters():
    if "lora_" in name:
        parameter.data = 0.1 * torch.randn_like(parameter)
trained.save_pretrained(sys.argv[1])
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    loaded = PeftModel.from_pretrained(base(), sys.argv[1]).eval()
told = [str(warning.message) for warning in told if "alpha" in str(warning.message)]
with torch.no_grad():
    off = float((trained(ids).logits - loaded(ids).logits).abs().max())
print(f"peft {peft.__version__}: scalings {scalings(trained)} as trained, {scalings(loaded)} as loaded; logits off by "
      f"{off:.2g}; warnings about it: {len(told)}")
get_peft_model(base(), LoraConfig(r=4, target_modules=["q_proj"], rank_pattern=patterns)).save_pretrained(sys.argv[1])
try:
    PeftModel.from_pretrained(base(), sys.argv[1])
    failed = False
except RuntimeError as error:
    failed = "size mismatch" in str(error)
print(f"with rank_pattern loading fails: {failed}")
assert peft.__version__ == "0.21.2"
assert scalings(trained) == [4, 4, 4] and scalings(loaded) == [4, 0.5, 4] and off > 1e-2 and not told and failed, \
    "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/adapter" 2> "$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
