#!/usr/bin/env bash
# Guess: with `think_end_token`, lm-eval applies a task's stop strings to the answer alone, whichever backend generates:
# its function that reads a reply takes the thought away first, and says that a stop string must not end a thought; the
# vLLM backend was mended in this sense (lm-evaluation-harness, pull request 3700, 2026).
#
# lm_eval 0.4.13, backend `hf`: the stop strings also end the generation, inside the thought. A task that names none of
# its own inherits "\n\n": a thought with one blank line ends there and is taken for the answer, and of a reply that
# writes a blank line behind `</think>`, as EXAONE 4.0 and Qwen3 do, nothing is left. Both score 0, without a word.
# Seen: three deterministic models that all reply "42": 1.0 for the task that stops at "Q:", and for the one that names
# no stop string 1.0 without blank lines, 0.0 with one in the thought, and 0.0 with one behind it;
# `gen_kwargs` with another `until` gives 1.0 again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 accelerate==1.12.0 peft==0.21.2 lm_eval==0.4.13
cat > "$folder/check.py" <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = Path(sys.argv[1])
(folder / "data.jsonl").write_text(json.dumps({"question": "Q: six times seven?", "answer": "42"}) + "\n")


def says(pieces):
    """A model that continues "<think>" with these pieces, one token each, whatever came before; and its tokenizer."""
    words = ["[UNK]", "[EOS]", "Q: six times seven?", "<think>", *pieces]
    assert len(set(words)) == len(words)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=word == "[EOS]") for word in words[1:]])
    tokenizer.decoder = decoders.Fuse()
    size = len(words)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=1, pad_token_id=1, bos_token_id=None, tie_word_embeddings=False,
        max_position_embeddings=512)).eval()
    chain = [3, *range(4, size), 1]
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.zero_()  # the layer adds nothing: the next token depends on the last one alone
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        for now, following in zip(chain, chain[1:]):
            model.lm_head.weight[following, now] = 1
    return model, PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="[EOS]", pad_token="[EOS]", unk_token="[UNK]",
        chat_template="{{ messages[-1].content }}{% if enable_thinking %}<think>{% endif %}")


def score(pieces, until, **options):
    """(what lm-eval takes for the answer, its score)."""
    model, tokenizer = says(pieces)
    task = {"task": "sum", "dataset_path": "json", "dataset_kwargs": {"data_files": str(folder / "data.jsonl")},
            "test_split": "train", "output_type": "generate_until", "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}", "metric_list": [{"metric": "exact_match"}],
            "generation_kwargs": {"do_sample": False, "max_gen_toks": 64} | ({"until": until} if until else {})}
    backend = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", think_end_token="</think>",
                   enable_thinking=True)
    found = simple_evaluate(model=backend, tasks=[task], apply_chat_template=True, log_samples=True, bootstrap_iters=0,
                            **options)
    sample, = found["samples"]["sum"]
    return sample["resps"][0][0], found["results"]["sum"]["exact_match,none"]


REPLIES = {"no blank line": ["6 * 7.", "\n", "That is 42.", "</think>", "42"],
           "a blank line in the thought": ["6 * 7.", "\n\n", "That is 42.", "</think>", "42"],
           "a blank line behind the thought": ["6 * 7.", "\n", "That is 42.", "</think>", "\n\n", "42"]}
found = {(name, until): score(pieces, until) for name, pieces in REPLIES.items() for until in ("Q:", None)}
for (name, until), (answer, right) in found.items():
    print(f"lm_eval {version('lm_eval')}, {name}, until {until!r}: answer {answer!r}, score {right}")
names = list(REPLIES)
assert all(found[name, "Q:"] == ("42", 1.0) for name in names)
assert all(score(REPLIES[name], None, gen_kwargs={"until": ["Q:"]}) == ("42", 1.0) for name in names)  # the way out
assert [found[name, None] for name in names] == [("42", 1.0), ("6 * 7.", 0.0), ("", 0.0)], found
PYTHON
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hf"
"$folder/venv/bin/python" "$folder/check.py" "$folder" 2> "$folder/err" || { tail -n 20 "$folder/err" >&2; exit 1; }
