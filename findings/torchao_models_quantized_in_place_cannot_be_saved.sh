#!/usr/bin/env bash
# Guess: `quantize_` of torchao, called on a loaded transformers model, does what `TorchAoConfig` does while loading: the
# same layers get 8 bits, `save_pretrained` writes them, and the folder loads to equal logits.
#
# torchao 0.18.0, transformers 5.24.0: not the same layers, and no folder. In place the output head is quantized too
# (as is a tied one, whose embedding then stays in bfloat16 beside it: the model has both); while loading the head is
# left alone. And a model quantized in place cannot be saved: `save_pretrained` looks for weights that share memory by
# their storages, which these tensors have not, and raises RuntimeError. Loaded with `TorchAoConfig` the same tensors
# are written in pieces, and load to equal logits.
# Seen: random Exaone4 of four layers in bfloat16, tied and untied.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchao==0.18.0 transformers==5.24.0 accelerate==1.15.0
cat > "$folder/check.py" <<'PYTHON'
import sys
import warnings
from pathlib import Path

import torch
import torchao
import transformers
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import AutoModelForCausalLM, Exaone4Config, Exaone4ForCausalLM, TorchAoConfig

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
folder, ids = Path(sys.argv[1]), torch.arange(2, 34)[None]


def load(name, **options):
    return AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.bfloat16, **options).eval()


def in_8_bits(module):
    return type(module.weight.data) is not torch.Tensor


assert (torchao.__version__.split("+")[0], transformers.__version__) == ("0.18.0", "5.24.0")
for tied in (True, False):
    torch.manual_seed(0)
    Exaone4ForCausalLM(Exaone4Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, sliding_window=16, bos_token_id=0,
        eos_token_id=1, pad_token_id=0, tie_word_embeddings=tied,
        layer_types=["sliding_attention"] * 3 + ["full_attention"])).bfloat16().save_pretrained(folder / f"{tied}")
    loaded = load(f"{tied}", quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    placed = load(f"{tied}")
    quantize_(placed, Int8WeightOnlyConfig())
    found = {name: {part: in_8_bits(module) for part, module in (
        ("queries", model.model.layers[0].self_attn.q_proj), ("embedding", model.model.embed_tokens),
        ("head", model.lm_head))} for name, model in (("while loading", loaded), ("in place", placed))}
    print(f"tied {tied}, in 8 bits: {found}")
    assert found == {"while loading": {"queries": True, "embedding": False, "head": False},
                     "in place": {"queries": True, "embedding": False, "head": True}}, "the same layers"
    loaded.save_pretrained(folder / f"{tied} loaded")
    with torch.no_grad():
        assert torch.equal(load(f"{tied} loaded")(ids).logits, loaded(ids).logits), "saved, it is another model"
    try:
        placed.save_pretrained(folder / f"{tied} placed")
    except RuntimeError as error:
        print(f"  saved in place: RuntimeError: {str(error).splitlines()[0][:100]}")
        assert "storage" in str(error)
    else:
        raise AssertionError("a model quantized in place can be saved")
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder"
