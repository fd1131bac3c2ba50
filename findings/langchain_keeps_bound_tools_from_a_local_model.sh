#!/usr/bin/env bash
# Guess: `ChatHuggingFace(llm=HuggingFacePipeline(...)).bind_tools(tools)` puts the tools into the prompt of the local
# model, through its chat template, or refuses; and `stop` and other arguments of a call hold, or are refused.
#
# langchain-huggingface 1.2.3: it takes them all and drops them, without a word: the prompt with tools is the prompt
# without, and so with `tool_choice`, `with_structured_output` and `enable_thinking`; `stop` and `max_new_tokens` change
# nothing either, and the tool calls of earlier replies are left out of the history. (`_to_chat_prompt` calls the
# template with the messages alone, and `HuggingFacePipeline._generate` reads nothing but `pipeline_kwargs` and
# `skip_prompt`; the tools are issue 29033 of langchain, open since January 2025.)
# Seen: prompts and lengths of a tiny model: equal with and without tools; 8 new tokens in spite of `max_new_tokens=2`;
# past the text in `stop`. The ways out: `pipeline_kwargs` in the call, and a tokenizer whose template is called with
# the tools already. A result of a tool cannot be handed over at all: a `ToolMessage` raises.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 accelerate==1.12.0 \
    langchain-core==1.8.3 langchain-huggingface==1.2.3
cat > "$folder/check.py" <<'PYTHON'
import sys
from functools import partial
from importlib.metadata import version

import torch
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, pipeline

TEMPLATE = """{% if tools %}[|system|]
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{% for m in messages %}[|{{ m.role }}|]
{{ m.content or "" }}{% for call in m.tool_calls or [] %}<tool_call>{{ call | tojson }}</tool_call>{% endfor %}
{% endfor %}[|assistant|]
{% if enable_thinking %}<think>
{% endif %}"""
words = {word: number for number, word in enumerate(["[EOS]", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
bytes_alone = Tokenizer(models.BPE(words, []))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_alone.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token="[EOS]", pad_token="[EOS]",
                        chat_template=TEMPLATE).save_pretrained(sys.argv[1])
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, eos_token_id=0, pad_token_id=0, bos_token_id=None, tie_word_embeddings=False)).eval()
with torch.no_grad():  # it says "aaaa..." to everything
    for weights in model.parameters():
        weights.fill_(1 if weights.ndim == 1 else 0)
    model.model.embed_tokens.weight[:, 0] = 1
    model.lm_head.weight[words["a"], 0] = 1
model.save_pretrained(sys.argv[1])
pipe = pipeline("text-generation", model=sys.argv[1], device="cpu", do_sample=False, max_new_tokens=8,
                return_full_text=False)
prompts, generate = [], pipe.model.generate


def listening(*arguments, **options):
    prompts.append(pipe.tokenizer.decode(options["input_ids"][0]))
    return generate(*arguments, **options)


pipe.model.generate = listening
chat = ChatHuggingFace(llm=HuggingFacePipeline(pipeline=pipe, model_id=sys.argv[1]))


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return "sunny"


def prompt_of(chat, messages="hi"):
    prompts.clear()
    reply = chat.invoke(messages)
    return prompts[0], getattr(reply, "content", None)


def rendered(*messages, **options):
    return pipe.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **options)


user, definition = {"role": "user", "content": "hi"}, convert_to_openai_tool(weather)
plain = prompt_of(chat)
print(f"langchain-huggingface {version('langchain-huggingface')}: {plain}")
assert plain == (rendered(user), "a" * 8)
assert '"name": "weather"' in rendered(user, tools=[definition])  # the template would list them
schema = {"title": "Weather", "description": "A city", "type": "object", "properties": {"city": {"type": "string"}}}
for name, changed in {
    "bind_tools": chat.bind_tools([weather]),
    "bind_tools, tool_choice": chat.bind_tools([weather], tool_choice="weather"),
    "with_structured_output": chat.with_structured_output(schema),
    "enable_thinking": chat.bind(enable_thinking=True, chat_template_kwargs={"enable_thinking": True}),
    "max_new_tokens": chat.bind(max_new_tokens=2, max_tokens=2),
    "stop": chat.bind(stop=["aaa"]),
}.items():
    found = prompt_of(changed)
    print(f"{name}: {found}")
    assert found[0] == plain[0] and found[1] in (plain[1], None), name

call = {"name": "weather", "args": {"city": "Seoul"}, "id": "1", "type": "tool_call"}
history = [HumanMessage("hi"), AIMessage("", tool_calls=[call]), HumanMessage("so?")]
found, _ = prompt_of(chat, history)
print(f"a tool call in the history: {found!r}")
assert found == rendered(user, {"role": "assistant", "content": ""}, {"role": "user", "content": "so?"})
try:
    chat.invoke([*history[:2], ToolMessage("sunny", tool_call_id="1"), history[2]])
    raise AssertionError("a ToolMessage is taken")
except ValueError as error:
    print(f"a ToolMessage: {error}")

# the ways out
assert prompt_of(chat.bind(pipeline_kwargs={"max_new_tokens": 2}))[1] == "aa"
stopped = prompt_of(chat.bind(pipeline_kwargs={"stop_strings": ["aaa"], "tokenizer": pipe.tokenizer}))[1]
assert stopped == "aaa", stopped
chat.tokenizer.apply_chat_template = partial(
    chat.tokenizer.apply_chat_template, tools=[definition], enable_thinking=True)
found, _ = prompt_of(chat)
print(f"the template called with tools already: {found!r}")
assert found == rendered(user, tools=[definition], enable_thinking=True) != plain[0]
PYTHON
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf"
"$folder/venv/bin/python" "$folder/check.py" "$folder/model" 2> "$folder/err" || {
    tail -n 20 "$folder/err" >&2
    exit 1
}
