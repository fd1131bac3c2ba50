#!/usr/bin/env bash
# Guess: `complete` and `stream_complete` of llama-index's HuggingFaceLLM send a model the same prompt: `system_prompt`
# and `completion_to_prompt` (where the chat template of a local model is put around the text) hold for both.
#
# llama-index-llms-huggingface 0.8.0: each leaves out one of the two, without a word. `stream_complete` never calls
# `completion_to_prompt`: a chat model gets the bare text. `complete` never puts the `system_prompt` in front: its
# branch asks whether there is no `completion_to_prompt`, and llama-index-core always fills one in
# (`LLM.set_completion_to_prompt`). (`predict` and `stream`, which take a template, do both themselves.)
# Seen: what the tokenizer of a tiny model is given: "SYSTEM hi" for `stream_complete` and "hi" for `complete` with a
# system prompt; "[|user|]hi" for `complete` and "hi" for `stream_complete` with a function; both ways out, the function
# called by hand with `formatted=True`, and `chat` with a system message, give equal prompts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 accelerate==1.12.0 \
    llama-index-core==0.14.25 llama-index-llms-huggingface==0.8.0
cat > "$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import torch
from llama_index.core.llms import ChatMessage
from llama_index.llms.huggingface import HuggingFaceLLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
words = {word: number for number, word in enumerate(["[EOS]", *letters])}
bytes_alone = Tokenizer(models.BPE(words, []))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_alone.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=bytes_alone, eos_token="[EOS]", pad_token="[EOS]",
    chat_template="{% for m in messages %}[|{{ m.role }}|]{{ m.content }}\n{% endfor %}[|assistant|]")
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, eos_token_id=0, pad_token_id=0, bos_token_id=None, max_position_embeddings=512)).eval()
generate, given = model.generate, []


def listening(*arguments, **options):
    given.append(tokenizer.decode(options["input_ids"][0]))
    return generate(*arguments, **options)


model.generate = listening


def prompts(whole, streamed, **options):
    """What the model is given by two calls."""
    llm = HuggingFaceLLM(model=model, tokenizer=tokenizer, context_window=512, max_new_tokens=4, **options)
    given.clear()
    whole(llm)
    list(streamed(llm))
    return tuple(given)


def by_template(text):
    message = {"role": "user", "content": text}
    return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)


def bare(**options):
    return prompts(lambda llm: llm.complete("hi"), lambda llm: llm.stream_complete("hi"), **options)


in_chat = [ChatMessage(role="system", content="SYSTEM"), ChatMessage(role="user", content="hi")]
chat = "[|system|]SYSTEM\n[|user|]hi\n[|assistant|]"
expected = {
    "neither": (bare(), ("hi", "hi")),
    "system_prompt": (bare(system_prompt="SYSTEM"), ("hi", "SYSTEM hi")),
    "completion_to_prompt": (bare(completion_to_prompt=by_template), (by_template("hi"), "hi")),
    "both": (bare(system_prompt="SYSTEM", completion_to_prompt=by_template), (by_template("hi"), "SYSTEM hi")),
    "formatted=True": (prompts(lambda llm: llm.complete(by_template("hi"), formatted=True),
                               lambda llm: llm.stream_complete(by_template("hi"), formatted=True)),
                       (by_template("hi"), by_template("hi"))),
    "chat": (prompts(lambda llm: llm.chat(in_chat), lambda llm: llm.stream_chat(in_chat)), (chat, chat)),
}
print(f"llama-index-llms-huggingface {version('llama-index-llms-huggingface')}: the prompt whole, and streamed")
for name, (found, right) in expected.items():
    print(f"{name}: {found[0]!r}, {found[1]!r}")
    assert found == right, (name, found)
PYTHON
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf"
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/err" || { tail -n 20 "$folder/err" >&2; exit 1; }
