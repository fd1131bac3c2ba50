#!/usr/bin/env bash
# Guess: where `position_ids` begin again at 0 within a row, transformers 5.24.0 keeps the texts of that row apart (it
# finds packed rows by them), so that an Exaone4 model gives the logits of each text alone: with its defaults, in every
# attention implementation.
#
# Packed rows are looked for only if there is no cache, and a forward pass makes one by default, also in training mode:
# `use_cache` is true in the configuration. So each text sees those before it, without a word. (The library's trainer
# turns the cache off; a loop of one's own does not.) RoPE is right in both cases: positions count from 0.
# Seen: two texts of 20 and 25 tokens in a row, sliding and global layers, random weights in float32: largest difference
# to the logits of each alone below 1e-4 with `use_cache=False`, above 1 by default; eager, SDPA and flex alike, and in
# training mode too. The first text is right in any case.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
cat > "$folder/check.py" <<'PYTHON'
import warnings

import torch
import transformers
from transformers import Exaone4Config, Exaone4ForCausalLM

warnings.filterwarnings("ignore")
torch.manual_seed(0)
model = Exaone4ForCausalLM(Exaone4Config(
    vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    sliding_window=8, layer_types=["sliding_attention"] * 3 + ["full_attention"])).eval()
for weights in model.parameters():
    if weights.ndim == 2:
        torch.nn.init.normal_(weights, 0, 0.25)
texts = [torch.randint(3, 128, (1, length)) for length in (20, 25)]
row = torch.cat(texts, 1)
positions = torch.cat([torch.arange(text.shape[1]) for text in texts])[None]


@torch.no_grad()
def differences(**options):
    """The largest difference between the logits in the row and alone, of each text."""
    logits, start, found = model(row, position_ids=positions, **options).logits, 0, []
    for text in texts:
        found.append((logits[:, start:start + text.shape[1]] - model(text).logits).abs().max().item())
        start += text.shape[1]
    return found


print(f"transformers {transformers.__version__}: difference of each text's logits, packed and alone")
assert transformers.__version__ == "5.24.0"
for kind, training in (("eager", False), ("sdpa", False), ("flex_attention", False), ("sdpa", True)):
    model.set_attn_implementation(kind)
    model.train(training)  # the model has no dropout
    default, off = differences(), differences(use_cache=False)
    print(f"{kind}{', training mode' * training}: default {default}, use_cache=False {off}")
    assert max(off) < 1e-4 and default[0] < 1e-4, "packed rows are not found without a cache, either"
    assert default[1] > 1, "packed rows are found with a cache, too"
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
