#!/usr/bin/env bash
# Guess: mergekit, which works out by itself how a model is built that it has no description of (EXAONE 4 and others),
# stacks layers of such models as those of Llama: a passthrough merge has as many layers as its slices, the embedding of
# the first slice's model, and the last norm and the head of the last slice's.
#
# mergekit 0.1.5 with transformers 5.24.0: models merged whole (linear, slerp) are right; from `slices` only the layers
# are. What it infers names no key for the number of layers, so config.json keeps those of the first model, with its
# layer_types; and all that is outside of the layers is "pre_weights", taken from the first slice. mergekit warns about
# the number in a line of its log. transformers then builds 8 layers whatever the file holds: of 12, the last 4 are
# dropped; of 5, three are random, with a report while loading. A merge with the right number of layers loads without
# a word, with the norm and the head of the wrong model.
# Upstream: "merges that change the total number of layers will probably misbehave" (issue 614, 2025); nothing is said
# there about norm and head. (Of models with layer_types that mergekit does describe, Qwen3 and Gemma 3, another number
# of layers fails at the end: their config is validated, and layer_types kept the old length.)
# Seen: 8 layers each, 4 of A and 4 of B: norm and head are A's (Llama: B's), and logits are up to 8.6 from those of
# the stack meant. Layers 0-6 of A and 2-8 of B are read as 8 layers, 0-3 of A and 6-8 of B as 5 layers and 3 random ones.
# A way out: write num_hidden_layers and layer_types of the slices into config.json, and copy model.norm.weight and
# lm_head.weight from the last model: the logits are then those of the stack, bit for bit (checked below).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 mergekit==0.1.5
cat > "$folder/check.py" <<'PYTHON'
import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Exaone4Config, LlamaConfig

logging.disable()
LAYERS = 8
KINDS = (["sliding_attention"] * 3 + ["full_attention"]) * 2
SHAPE = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
             pad_token_id=2, tie_word_embeddings=False)
CONFIGS = {"Llama": LlamaConfig(**SHAPE), "EXAONE 4": Exaone4Config(**SHAPE, sliding_window=8, layer_types=KINDS)}
# Slices are [model, first layer, behind the last one].
STACKS = {"as many layers": [("A", 0, 4), ("B", 4, 8)], "more layers": [("A", 0, 6), ("B", 2, 8)],
          "fewer layers": [("A", 0, 3), ("B", 6, 8)]}
root = Path(sys.argv[1])
ids = torch.arange(3, 43)[None]


def logits(model):
    with torch.no_grad():
        return model.eval()(ids).logits


def stacked(kind, models, slices):
    """What the slices mean: those layers, with the embedding of the first model and the end of the last one."""
    config = CONFIGS[kind].to_dict() | {"num_hidden_layers": sum(end - start for _, start, end in slices)}
    if config.get("layer_types"):
        config["layer_types"] = [KINDS[layer] for _, start, end in slices for layer in range(start, end)]
    model = AutoModelForCausalLM.from_config(type(CONFIGS[kind])(**config), dtype=torch.bfloat16)
    sources = [models[name].model.layers[layer] for name, start, end in slices for layer in range(start, end)]
    for layer, source in zip(model.model.layers, sources, strict=True):
        layer.load_state_dict(source.state_dict())
    model.model.embed_tokens.load_state_dict(models[slices[0][0]].model.embed_tokens.state_dict())
    model.model.norm.load_state_dict(models[slices[-1][0]].model.norm.state_dict())
    model.lm_head.load_state_dict(models[slices[-1][0]].lm_head.state_dict())
    return model


print(f"mergekit {version('mergekit')}, transformers {version('transformers')}, two models of {LAYERS} layers")
for kind in CONFIGS:
    models = {}
    for seed, name in enumerate("AB"):
        torch.manual_seed(seed)
        models[name] = AutoModelForCausalLM.from_config(CONFIGS[kind], dtype=torch.bfloat16)
        with torch.no_grad():
            for key, weights in models[name].named_parameters():
                weights.uniform_(0.5, 1.5) if "norm" in key else weights.normal_(0, 0.3)
        models[name].save_pretrained(root / kind / name)
    for number, (stack, slices) in enumerate(STACKS.items()):
        out = root / kind / f"merged{number}"
        recipe = {"merge_method": "passthrough", "dtype": "bfloat16", "slices": [
            {"sources": [{"model": str(root / kind / name), "layer_range": layers}]} for name, *layers in slices]}
        options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
        run_merge(MergeConfiguration.model_validate(recipe), str(out), options)
        written = {key: tensor for path in out.glob("*.safetensors") for key, tensor in load_file(path).items()}
        merged, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        wanted = stacked(kind, models, slices)
        end = {key: [name for name in "AB" if torch.equal(written[key], models[name].state_dict()[key])]
               for key in ("model.norm.weight", "lm_head.weight")}
        layers = len({key.split(".")[2] for key in written if key.startswith("model.layers.")})
        off = (logits(merged) - logits(wanted)).abs().max().item()
        print(f"{kind}, {stack}: {layers} in the file, {len(merged.model.layers)} in the model, "
              f"{len(report['missing_keys'])} tensors missing and {len(report['unexpected_keys'])} too many; norm of "
              f"{'/'.join(end['model.norm.weight'])}, head of {'/'.join(end['lm_head.weight'])}; "
              f"logits off by {off:.2g}")
        if kind == "Llama":  # the control
            assert off == 0 and layers == len(merged.model.layers) and end["lm_head.weight"] == ["B"]
            continue
        assert len(merged.model.layers) == LAYERS and off > 0.1, "the number of layers is now followed"
        assert end["model.norm.weight"] == end["lm_head.weight"] == ["A"], "norm and head are now the last model's"
        assert bool(report["missing_keys"]) == (layers < LAYERS)
        assert bool(report["unexpected_keys"]) == (layers > LAYERS)
        # The way out.
        config = json.loads((out / "config.json").read_text())
        config |= {"num_hidden_layers": layers, "layer_types": wanted.config.layer_types}
        (out / "config.json").write_text(json.dumps(config))
        for path in out.glob("*.safetensors"):
            last = {key: models["B"].state_dict()[key] for key in load_file(path) if key in end}
            save_file(load_file(path) | last, path, {"format": "pt"})
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(out)), logits(wanted))
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder" 2> "$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
