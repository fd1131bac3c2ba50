#!/usr/bin/env bash
# Guess: `generate(assistant_early_exit=2)` in transformers (the first two layers draft, the whole model checks) leaves
# the greedy reply of an Exaone4 model as it is, as it does with Llama: a draft may be poor, but never changes the reply.
#
# transformers 5.24.0: the exit is a number written into the configuration while a draft is made, and it is up to each
# architecture's loop over its layers to obey it. Exaone4's and Cohere2's run all layers; the draft's cache has the two
# that the configuration tells of, and the third layer ends in IndexError: list index out of range. The number is not
# put back then: from there on the same model fails at every call of `generate`, also without a draft, until somebody
# sets `config.num_hidden_layers` again or loads it anew.
# Seen: Llama, Qwen3 and Gemma3 reply as without a draft; Exaone4 (sliding layers or none) and Cohere2 raise, and leave
# 2 of 4 layers in their configuration.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
cat > "$folder/check.py" <<'PYTHON'
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

LAYERS, EXIT = 4, 2
SIZES = dict(vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=LAYERS, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
             pad_token_id=0, tie_word_embeddings=False)
MIXED = dict(sliding_window=8, layer_types=["sliding_attention"] * 3 + ["full_attention"])
MODELS = {"llama": {}, "qwen3": {}, "gemma3_text": MIXED, "exaone4": MIXED, "cohere2": MIXED,
          "exaone4 without a window": dict(sliding_window=None, layer_types=["full_attention"] * LAYERS)}


def tried(name, more):
    """What a draft of the first layers does to a greedy reply of 40 tokens, and whether the model works afterwards."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name.split()[0], **SIZES | more)).eval()
    for weights in model.parameters():
        if weights.ndim == 2:
            torch.nn.init.normal_(weights, 0, 0.25)  # so that a reply is not one id again and again
    prompt = torch.randint(3, 128, (1, 20))
    options = dict(max_new_tokens=40, min_new_tokens=40, do_sample=False)
    alone = model.generate(prompt, **options)
    assert len(set(alone[0, 20:].tolist())) > 10, name
    try:
        drafted = model.generate(prompt, assistant_early_exit=EXIT, **options)
        return "as alone" if torch.equal(drafted, alone) else "another reply"
    except IndexError as error:
        assert str(error) == "list index out of range"
    left = model.config.num_hidden_layers
    try:
        model.generate(prompt, **options)
    except IndexError:
        model.config.num_hidden_layers = LAYERS
        assert torch.equal(model.generate(prompt, **options), alone)  # so nothing else was changed
        return f"IndexError, and again without a draft: {left} of {LAYERS} layers in its configuration"
    return "IndexError"


found = {name: tried(name, more) for name, more in MODELS.items()}
for name, what in found.items():
    print(f"transformers {transformers.__version__}, {name}: {what}")
broken = f"IndexError, and again without a draft: {EXIT} of {LAYERS} layers in its configuration"
assert transformers.__version__ == "5.24.0"
assert all(found[name] == "as alone" for name in ("llama", "qwen3", "gemma3_text")), "the others reply otherwise"
assert all(found[name] == broken for name in ("exaone4", "exaone4 without a window", "cohere2")), "these are not broken"
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
