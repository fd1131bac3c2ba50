#!/usr/bin/env bash
# Guess: the format in which one quantization is exported is a way to pack it, so that the same settings give the same
# weights in AWQ's layout and in GPTQ's.
#
# auto-round 0.16.1: asymmetric 4 bits exported as "auto_gptq" have the same values and scales as those exported as
# "auto_awq", but every zero point of 0 is written as 1 (the layout stores the zero point minus one, and that is kept
# from becoming negative; gptqmodel writes such a 0, by borrowing from the neighbour in the word). The values are not
# rounded anew for it, so that all weights of such a group, those that have no negative one, move down by a whole step.
# Seen: 240 of 960 groups moved by one step, errors up to 1.5 steps instead of 0.5. No word of it is printed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.24.0 auto-round==0.16.1
cat > "$folder/check.py" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from auto_round import AutoRound
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

GROUP = 32
AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # output k of eight is at bits 4 · AWQ_ORDER[k]


def small_model():
    """Every fourth row of its matrices has no negative weight."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=272, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
                                         num_attention_heads=4, num_key_value_heads=2, head_dim=16))
    for name, weight in model.named_parameters():
        if "proj" in name:
            weight.data.normal_(std=0.05)
            weight.data[::4] = weight.data[::4].abs()
    return model


def halves(words):
    """int32 [..., n] to values [..., n, 8], the lowest bits first."""
    return torch.stack([(words >> 4 * i) & 15 for i in range(8)], dim=-1)


def exported(form):
    """Of every matrix: values [I, O], zero points and scales [I / GROUP, O], as the files hold them."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    folder = Path(sys.argv[1]) / form
    AutoRound(small_model(), tokenizer, bits=4, group_size=GROUP, sym=False, iters=0, disable_opt_rtn=True,
              device_map="cpu").quantize_and_save(str(folder), format=form)
    file, = folder.rglob("*.safetensors")
    tensors, found = load_file(file), {}
    for name in (name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")):
        words, zeros = tensors[f"{name}.qweight"], tensors[f"{name}.qzeros"]
        if form == "auto_awq":
            values, zeros = (halves(t)[..., AWQ_ORDER].flatten(1) for t in (words, zeros))
        else:  # zero points are stored minus one, subtracted from the whole word
            values, zeros = halves(words).permute(0, 2, 1).flatten(0, 1), halves(zeros + 0x11111111).flatten(1)
        found[name] = values, zeros, tensors[f"{name}.scales"].float()
    return found


awq, gptq, weights = exported("auto_awq"), exported("auto_gptq"), small_model().state_dict()
moved = groups = 0
errors = {"auto_awq": 0, "auto_gptq": 0}
for name, (values, zeros, scale) in awq.items():
    other_values, other_zeros, other_scale = gptq[name]
    assert values.equal(other_values) and scale.equal(other_scale)
    assert other_zeros.equal(zeros.clamp(min=1)), "the zero points have changed"
    moved, groups = moved + int((zeros == 0).sum()), groups + zeros.numel()
    group = torch.arange(len(values)) // GROUP
    for form, zero in (("auto_awq", zeros), ("auto_gptq", other_zeros)):
        error = (values - zero[group] - weights[f"{name}.weight"].T / scale[group]).abs().max().item()
        errors[form] = max(errors[form], error)
print(f"auto-round {version('auto-round')}: {moved} of {groups} groups moved by one step; "
      f"largest errors in steps: {errors}")
assert version("auto-round") == "0.16.1"
assert 0 < moved < groups, "no zero point of 0: the behaviour has changed"
assert errors["auto_awq"] < 0.51 and errors["auto_gptq"] > 1.4, "the errors have changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder" 2> "$folder/log" | grep "^auto-round" ||
    { tail -n 5 "$folder/log"; exit 1; }
