#!/usr/bin/env bash
# Guess: a folder of quantized weights as AutoGPTQ wrote them, which says how only in quantize_config.json, is either
# read by transformers or refused: every tensor of its linear layers has another name and shape than the model's.
#
# transformers 5.24.0: it never opens quantize_config.json. from_pretrained returns a model whose linear layers are
# random, other ones at each call. Nothing is raised and nothing goes through `warnings`; a report is logged, which says
# of the packed weights "can be ignored when loading from different task/architecture; not ok if you expect identical
# arch". Only output_loading_info=True tells a program.
# Seen: 7 matrices newly initialized, 28 tensors unexpected; the logits of two loads differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.24.0
cat > "$folder/check.py" <<'PYTHON'
import json
import sys
import warnings
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1])
LlamaForCausalLM(LlamaConfig(vocab_size=272, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
                             num_attention_heads=4, num_key_value_heads=2, head_dim=16)).save_pretrained(folder)
tensors = load_file(folder / "model.safetensors")
for name in [name for name in tensors if name.endswith("proj.weight")]:  # as AutoGPTQ packs: 4 bits, groups of 32
    (outs, ins), name = tensors.pop(name).shape, name.removesuffix(".weight")
    tensors |= {f"{name}.qweight": torch.randint(-2**31, 2**31, (ins // 8, outs), dtype=torch.int32),
                f"{name}.qzeros": torch.full((ins // 32, outs // 8), 0x77777777, dtype=torch.int32),
                f"{name}.scales": torch.full((ins // 32, outs), 0.01, dtype=torch.float16),
                f"{name}.g_idx": (torch.arange(ins) // 32).int()}
save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
(folder / "quantize_config.json").write_text(json.dumps(
    {"bits": 4, "group_size": 32, "desc_act": False, "sym": True, "true_sequential": True}))

ids, loads = torch.arange(20)[None], []
with warnings.catch_warnings(), torch.inference_mode():
    warnings.simplefilter("error")
    for _ in range(2):
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        loads.append(model(ids).logits)
same = loads[0].equal(loads[1])
print(f"transformers {transformers.__version__}: {len(info['missing_keys'])} matrices newly initialized, "
      f"{len(info['unexpected_keys'])} tensors unexpected, two loads {'equal' if same else 'differ'}")
assert transformers.__version__ == "5.24.0"
assert len(info["missing_keys"]) == 7 and len(info["unexpected_keys"]) == 28 and not same, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/model" 2> "$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
