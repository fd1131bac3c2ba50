#!/usr/bin/env bash
# Guess: gptqmodel, which carries AutoGPTQ on, opens what AutoGPTQ's layout has always held: checkpoint_format "gptq"
# (or none), symmetric or not.
#
# gptqmodel 7.6.0: with "sym": false it raises ValueError, unless `meta` in the quantization_config names gptqmodel as
# what wrote the file; the same tensors with that line open, and so does "gptq_v2", which stores the zero points as they
# are. Symmetric files of anybody open.
# Seen: symmetric opens, asymmetric is refused, asymmetric with meta.quantizer opens, asymmetric gptq_v2 opens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6 transformers==5.24.0 gptqmodel==7.6.0
cat > "$folder/check.py" <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from gptqmodel import GPTQModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def write(folder, symmetric, form="gptq", meta=None):
    """A small model in 4 bits, groups of 32; "gptq" stores zero points minus one, "gptq_v2" as they are."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=272, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
                                 num_attention_heads=4, num_key_value_heads=2, head_dim=16)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        (outs, ins), name = tensors.pop(name).shape, name.removesuffix(".weight")
        zero = 8 if symmetric else 5
        word = (zero - (form == "gptq")) * 0x11111111
        tensors |= {f"{name}.qweight": torch.randint(-2**31, 2**31, (ins // 8, outs), dtype=torch.int32),
                    f"{name}.qzeros": torch.full((ins // 32, outs // 8), word, dtype=torch.int32),
                    f"{name}.scales": torch.full((ins // 32, outs), 0.01, dtype=torch.float16),
                    f"{name}.g_idx": (torch.arange(ins) // 32).int()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": symmetric,
                "checkpoint_format": form} | ({"meta": meta} if meta else {})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))


def opens(folder):
    """Whether gptqmodel loads the folder, and if not, what it says."""
    try:
        GPTQModel.load(str(folder), device="cpu")
    except ValueError as error:
        return str(error).splitlines()[0]
    return True


cases = {"symmetric": {"symmetric": True}, "asymmetric": {"symmetric": False},
         "asymmetric, signed": {"symmetric": False, "meta": {"quantizer": ["gptqmodel:7.6.0"]}},
         "asymmetric, gptq_v2": {"symmetric": False, "form": "gptq_v2"}}
found = {}
for name, case in cases.items():
    write(Path(sys.argv[1]) / name, **case)
    found[name] = opens(Path(sys.argv[1]) / name)
print(f"gptqmodel {version('gptqmodel')}: {found}")
assert version("gptqmodel") == "7.6.0"
refused = found.pop("asymmetric")
assert refused is not True and "only supported if produced by gptqmodel" in refused, "the behaviour has changed"
assert all(result is True for result in found.values()), "the behaviour has changed"
PYTHON
GPTQMODEL_CPU_WORKERS=2 "$folder/venv/bin/python" "$folder/check.py" "$folder/models" > "$folder/log" 2>&1 \
    || { tail -n 5 "$folder/log"; exit 1; }
grep "^gptqmodel " "$folder/log"
