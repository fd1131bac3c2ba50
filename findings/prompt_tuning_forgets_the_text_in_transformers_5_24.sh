#!/usr/bin/env bash
# Guess: `generate` of a prompt-tuned or prefix-tuned model (PEFT 0.21.2) follows the model's own forward pass, in
# transformers 5.24.0 as in 5.23.0, as it does with LoRA: greedy ids are those of the highest logits.
#
# In transformers 5.24.0 `generate` hands the keys and values of the tokens before to `prepare_inputs_for_generation`
# under another name (`cache`, before it `past_key_values`). PEFT 0.21.2 looks for the old name alone when virtual tokens
# are in play, finds nothing and goes on without a word: behind the first id the prompt-tuned model sees its virtual
# tokens and the last token, the prefix-tuned one the last token alone (and its prompt without the prefix).
# Seen with random weights of Llama and Exaone4, prompts of 10 tokens, 30 new ones, 4 virtual: with 5.23.0 and with LoRA
# every id is that of the highest logit; with 5.24.0 most ids differ (of prompt tuning the first is right). Without a
# cache (`use_cache=False`) prompt tuning is right again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/check.py" <<'PYTHON'
import sys
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import Exaone4Config, Exaone4ForCausalLM, LlamaConfig, LlamaForCausalLM

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
PROMPT, NEW, VIRTUAL = 10, 30, 4
SIZES = dict(vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
             pad_token_id=0)
MODELS = {"llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
          "exaone4": lambda: Exaone4ForCausalLM(Exaone4Config(**SIZES, sliding_window=64, layer_types=[
              "sliding_attention"] * 3 + ["full_attention"]))}
KINDS = {"prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
         "prefix tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
         "LoRA": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)}


@torch.no_grad()
def others(build, config, **options):
    """How many of the greedy ids are not those of the highest logits in one forward pass over the whole reply, and the
    number of the first, from 0."""
    torch.manual_seed(0)
    model = build().eval()
    for weights in model.parameters():
        if weights.ndim == 2:
            weights.normal_(0, 0.15)
    model = get_peft_model(model, config).eval()
    for name, weights in model.named_parameters():
        if "prompt" in name:
            weights.normal_(0, 1)
    prompt = torch.randint(3, 128, (1, PROMPT))
    ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW,
                         min_new_tokens=NEW, do_sample=False, suppress_tokens=[2], **options)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -NEW - 1:-1]
    logits[:, 2] = -torch.inf  # the end is suppressed above, too
    wrong = (logits.argmax(-1) != ids[0, PROMPT:]).nonzero().flatten().tolist()
    return len(wrong), wrong[0] if wrong else None


print(f"transformers {transformers.__version__}, PEFT {peft.__version__}: ids that are not the likeliest, of {NEW}, and "
      "the first")
found = {(model, kind): others(build, config) for model, build in MODELS.items() for kind, config in KINDS.items()}
without = {model: others(build, KINDS["prompt tuning"], use_cache=False) for model, build in MODELS.items()}
for key, value in found.items():
    print(*key, value)
print("prompt tuning without a cache:", without)
assert (transformers.__version__, peft.__version__) == (sys.argv[1], "0.21.2")
assert all(found[model, "LoRA"] == without[model] == (0, None) for model in MODELS)
for model in MODELS:
    prompt, prefix = found[model, "prompt tuning"], found[model, "prefix tuning"]
    if sys.argv[1] == "5.23.0":
        assert prompt == prefix == (0, None), "the older version does it, too"
    else:
        assert prompt[0] > NEW // 2 and prompt[1] > 0 and prefix[0] > NEW // 2, "the text is not forgotten"
PYTHON
for version in 5.23.0 5.24.0; do
  "$folder/venv/bin/pip" install -q torch==2.13.0 "transformers==$version" peft==0.21.2
  "$folder/venv/bin/python" "$folder/check.py" "$version"
done
