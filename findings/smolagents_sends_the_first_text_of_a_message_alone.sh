#!/usr/bin/env bash
# Guess: a message whose content is a list of several texts, as chat templates and smolagents' own messages write it,
# reaches a local model whole, with its tool calls: `TransformersModel` only joins the texts if the model reads no
# lists.
#
# smolagents 1.26.0: of each message the first text is sent, and the others are dropped, without a word, and so are
# `tool_calls`. (`get_clean_message_list` takes `message.content[0]["text"]` where `flatten_messages_as_text` is set,
# which `TransformersModel` sets for every model without images, and writes `role` and `content` alone.)
# Seen: prompts of a tiny model: "FIRST" of a message with "FIRST" and "SECOND", and an empty turn where the assistant
# called a tool. The same template called by transformers renders both texts and the call, and two messages with one
# text each arrive whole, joined by a line break: the way out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 accelerate==1.12.0 smolagents==1.26.0
cat > "$folder/check.py" <<'PYTHON'
import sys
from importlib.metadata import version

from smolagents import TransformersModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = """{% for m in messages %}[|{{ m.role }}|]
{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}
{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}[|endofturn|]
{% endfor %}[|assistant|]
"""
words = {word: number for number, word in enumerate(["[EOS]", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
bytes_alone = Tokenizer(models.BPE(words, []))
bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_alone.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token="[EOS]", pad_token="[EOS]",
                                    chat_template=TEMPLATE)
tokenizer.save_pretrained(sys.argv[1])
LlamaForCausalLM(LlamaConfig(
    vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, eos_token_id=0, pad_token_id=0, bos_token_id=None)).save_pretrained(sys.argv[1])
local = TransformersModel(sys.argv[1], device_map="cpu", max_new_tokens=2)
given, generate = [], local.model.generate


def listening(*arguments, **options):
    given.append(tokenizer.decode(options["inputs"][0]))
    return generate(*arguments, **options)


local.model.generate = listening


def texts(*words):
    return [{"type": "text", "text": word} for word in words]


user = {"role": "user", "content": texts("FIRST")}
call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Seoul"}}}
CASES = {  # a conversation, and as what it arrives
    "one text": ([user], [user]),
    "two texts": ([{"role": "user", "content": texts("FIRST", "SECOND")}], [user]),
    "two messages": ([user, {"role": "user", "content": texts("SECOND")}],
                     [{"role": "user", "content": "FIRST\nSECOND"}]),
    "a second message with two texts": ([user, {"role": "user", "content": texts("SECOND", "THIRD")}],
                                        [{"role": "user", "content": "FIRST\nSECOND"}]),
    "a tool call": ([user, {"role": "assistant", "content": texts(""), "tool_calls": [call]}, user],
                    [user, {"role": "assistant", "content": ""}, user]),
}
print(f"smolagents {version('smolagents')}")
for name, (messages, arrives) in CASES.items():
    local.generate(messages)
    whole, expected = (tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True)
                       for each in (messages, arrives))
    print(f"{name}: {given[-1]!r}; by transformers: {whole!r}")
    assert given[-1] == expected, name
    assert (whole == expected) == (name == "one text"), name
PYTHON
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf"
"$folder/venv/bin/python" "$folder/check.py" "$folder/model" 2> "$folder/err" || {
    tail -n 20 "$folder/err" >&2
    exit 1
}
