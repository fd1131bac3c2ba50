#!/usr/bin/env bash
# Guess: what llm-compressor writes, transformers loads with the same release of compressed-tensors, the asymmetric form
# of pack-quantized as well as the symmetric one; and a newer transformers loads what an older one did.
#
# compressed-tensors 0.19.0 (0.20.1 too): a module whose weights are yet to come, on the meta device, gets zero points
# of the unpacked shape, [outputs, groups], though files hold them packed, [outputs / 8, groups]. transformers 5.23 and
# 5.24 load by way of such modules, and refuse every asymmetric file for a "size mismatch" of weight_zero_point; 5.20
# opens it. Nothing is wrong with the file.
# Seen: transformers 5.20.0 opens both forms, 5.24.0 the symmetric one only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat > "$folder/check.py" <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


def write(folder, symmetric):
    """A small model, its linear layers as llm-compressor writes them: 4 bits, groups of 32."""
    LlamaForCausalLM(LlamaConfig(vocab_size=272, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
                                 num_attention_heads=4, num_key_value_heads=2, head_dim=16)).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        outs, ins = tensors.pop(name).shape
        tensors |= {f"{name}_packed": pack_to_int32(torch.randint(-8, 8, (outs, ins), dtype=torch.int8), 4),
                    f"{name}_scale": torch.full((outs, ins // 32), 0.01), f"{name}_shape": torch.tensor([outs, ins])}
        if not symmetric:
            zeros = torch.randint(-8, 8, (outs, ins // 32), dtype=torch.int8)
            tensors[f"{name}_zero_point"] = pack_to_int32(zeros, 4, packed_dim=0).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": symmetric}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    (folder / "config.json").write_text(json.dumps(config))


def opens(folder):
    """Whether transformers loads the folder."""
    try:
        AutoModelForCausalLM.from_pretrained(folder)(torch.arange(20)[None])
    except RuntimeError as error:
        assert "ignore_mismatched_sizes" in str(error), error
        return False
    return True


found = {}
for name, symmetric in (("symmetric", True), ("asymmetric", False)):
    write(Path(sys.argv[1]) / name, symmetric)
    found[name] = opens(Path(sys.argv[1]) / name)
print(f"transformers {version('transformers')}, compressed-tensors {version('compressed-tensors')}: {found}")
assert version("compressed-tensors") == "0.19.0"
assert found == {"symmetric": True, "asymmetric": version("transformers") == "5.20.0"}, "the behaviour has changed"
PYTHON
for version in 5.20.0 5.24.0; do
    "$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 "transformers==$version" compressed-tensors==0.19.0
    "$folder/venv/bin/python" "$folder/check.py" "$folder/models" 2> "$folder/log" ||
        { tail -n 5 "$folder/log"; exit 1; }
done
