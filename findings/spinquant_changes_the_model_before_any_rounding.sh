#!/usr/bin/env bash
# Guess: rotations as a step before quantization (SpinQuant, QuaRot) are exact: folded into the weights of a model with
# RMSNorm they leave its logits as they were, up to the rounding of sums; only the quantization after them costs any.
#
# llm-compressor 0.14.0.1: SpinQuantModifier also subtracts from every embedding its mean, a step made for LayerNorm,
# which takes the mean out anyway. RMSNorm does not: the model is another one, the more, the further the means are from
# zero. With embeddings of mean zero the same rotations are exact.
# Seen (float32, random normal embeddings of width 64, R1 and R2): logits off by 0.44 of their spread, with centred
# embeddings by 1e-6.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.17.0 llmcompressor==0.14.0.1
cat > "$folder/check.py" <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.transform import SpinQuantModifier
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
ids = torch.randint(272, (8, 32), generator=torch.Generator().manual_seed(0))


def model_in(folder):
    """A small random model of an architecture that SpinQuantModifier names; it wants to find it in a folder."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=272, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                                         num_attention_heads=4, num_key_value_heads=2, head_dim=16))
    for name, parameter in model.named_parameters():
        parameter.data.uniform_(0.5, 1.5) if "norm" in name else parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder).eval()


@torch.inference_mode()
def change(centred):
    """Of the logits by the rotations, as a share of their spread."""
    model = model_in(sys.argv[1])
    if centred:
        embedding = model.model.embed_tokens.weight.data
        embedding -= embedding.mean(dim=-1, keepdim=True)
    before = model(ids).logits
    oneshot(model=model, processor=tokenizer, pipeline="datafree",
            recipe=SpinQuantModifier(rotations=["R1", "R2"], transform_type="hadamard"))
    return ((model(ids).logits - before).std() / before.std()).item()


plain, centred = change(False), change(True)
print(f"llm-compressor {version('llmcompressor')}: logits off by {plain:.2g} of their spread, "
      f"with centred embeddings by {centred:.2g}")
assert version("llmcompressor") == "0.14.0.1"
assert centred < 1e-4, "not exact with centred embeddings either: the behaviour has changed"
assert plain > 0.1, "the rotations leave the model as it was: the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder/model" 2> "$folder/log" | grep "^llm-compressor" ||
    { tail -n 5 "$folder/log"; exit 1; }
