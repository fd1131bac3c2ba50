"""`finetune`: conversations become documents as the model will see them, and an adapter learns from them."""

import json
import math
import re
import shutil
from itertools import pairwise
from random import Random

import pytest
import torch
import torch.nn.functional as F

from minexaone import Chat, Config, Exaone4, Tokenizer
from minexaone.__main__ import main
from minexaone.config_json import GLOBAL, SLIDING
from minexaone.files import SHIPPED
from minexaone.linear.lora import TARGETS, add_lora, load_adapter, lora_layers
from minexaone.linear.packed import Packed
from minexaone.linear.rounding import quantize
from minexaone.reply import read_reply
from minexaone.training import finetune as module
from minexaone.training.finetune import held_out, mean_loss, plan, read_conversations, reply_documents


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A small random model with the shipped tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = Exaone4(Config(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=16,
        layer_types=[SLIDING] * 3 + [GLOBAL], max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.2, bos_token_id=1, pad_token_id=0,
        eos_token_id=tokenizer.eos_token_id))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SHIPPED / name, folder / name)
    return folder


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def habit(count, start=0):
    """Conversations whose replies all have one form."""
    names = "Kim Ana Max Zoe Ben Lee Tom Eva".split()
    return [{"messages": [user(f"Number {n} belongs to {name}?"), assistant(f"Yes! {n} it is, {name}.")]}
            for n in range(start, start + count) for name in (names[n % 8],)]


def read(tmp_path, *rows):
    return read_conversations(write(tmp_path / "data.jsonl", rows))


# ------------------------------------------------------------------------------------------------- documents

CALL = {"type": "function", "id": "call_1", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}}}]
LONG = {"tools": TOOLS, "messages": [
    {"role": "system", "content": "Be short."}, user("Hi"), assistant("Hello!"), user("1 + 2? [|endofturn|]"),
    assistant(None, tool_calls=[CALL], reasoning_content="I should add."), {"role": "tool", "content": "3"},
    assistant("3", weight=0), user([{"type": "text", "text": "And in words?"}]),
    assistant("three", reasoning_content="A word."), user("그리고 한국어로?"), assistant("셋이에요.\n\n끝.")]}


@pytest.mark.parametrize("which", ["tokenizer", "published"])
def test_a_reply_is_learnt_as_chat_would_ask_for_it_and_read_it(which, request, tmp_path):
    tokenizer = request.getfixturevalue(which)
    conversation, = read(tmp_path, LONG)
    documents, messages = reply_documents(conversation, tokenizer), LONG["messages"]
    learnt = [n for n, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0]
    assert len(documents) == len(learnt) == 4
    for n, document in zip(learnt, documents, strict=True):
        reasoning = messages[n].get("reasoning_content", "")
        prompt = tokenizer.apply_chat_template(messages[:n], TOOLS, enable_thinking=bool(reasoning),
                                               parse_special=False)
        assert document.ids[:len(prompt)] == prompt
        reply = document.ids[len(prompt):]
        assert document.weights == [0.0] * len(prompt) + [1.0] * len(reply)
        assert reply.count(tokenizer.eos_token_id) == 1 and reply[-1] == tokenizer.eos_token_id
        found = read_reply(tokenizer, reply, bool(reasoning))
        assert (found.reasoning, found.content) == (reasoning, messages[n]["content"] or "")
        assert [(c.name, c.arguments, c.error) for c in found.tool_calls] == (
            [("add", {"a": 1, "b": 2}, None)] if "tool_calls" in messages[n] else [])
        assert found.finish_reason == "stop"
    ends = [document.ids.count(tokenizer.eos_token_id) for document in documents]
    assert ends == [3, 5, 9, 11]  # one for each message: what a user spells ends no turn


def test_the_prompt_is_what_a_chat_with_the_model_reads(tokenizer, tmp_path):
    class Model:
        def stream(self, prompt, **options):
            prompts.append(prompt)
            yield from tokenizer.encode("Hello!") + [tokenizer.eos_token_id]

    prompts, rows = [], [user("Hi"), assistant("Hello!"), user("Again <think>"), assistant("Hello!")]
    chat = Chat(Model(), tokenizer, system="Be short.")
    for text in ("Hi", "Again <think>"):
        chat.send(text)
    conversation, = read(tmp_path, {"messages": [{"role": "system", "content": "Be short."}, *rows]})
    reply = tokenizer.encode("Hello!") + [tokenizer.eos_token_id]
    assert [document.ids for document in reply_documents(conversation, tokenizer)] == [p + reply for p in prompts]


def test_a_thought_within_the_content_is_a_thought(tokenizer, tmp_path):
    inline, apart = read(tmp_path, {"messages": [user("Hi"), assistant("<think>\nA greeting.\n</think>\n\nHello!")]},
                         {"messages": [user("Hi"), assistant("Hello!", reasoning="A greeting.")]})
    first, second = reply_documents(inline, tokenizer), reply_documents(apart, tokenizer)
    assert first == second and "A greeting.\n</think>\n\nHello!" in tokenizer.decode(first[0].ids)


BAD = [
    ("{", "not a line of JSON"), ('"text"', r'expected {"messages": \[...\]}'), ("[1]", "expected"), ("NaN", "JSON"),
    ('{"prompt": "a", "completion": "b"}', "expected"), ('{"messages": []}', "expected"),
    ({"messages": ["Hi"]}, "message 1 has the role None"),
    ({"messages": [{"role": "human", "content": "Hi"}]}, "message 1 has the role 'human', expected system, user"),
    ({"messages": [user("Hi"), assistant("")]}, r"message 2 \(assistant\) is empty"),
    ({"messages": [user(""), assistant("Hi")]}, r"message 1 \(user\) is empty"),
    ({"messages": [user(5), assistant("Hi")]}, r"message 1 \(user\) has a content that is no text"),
    ({"messages": [user("Hi"), assistant("x", reasoning_content=["y"])]}, "a reasoning that is no text"),
    ({"messages": [user("Hi")]}, "no assistant's message behind another one: nothing to learn"),
    ({"messages": [assistant("Hi")]}, "nothing to learn"),
    ({"messages": [user("Hi"), assistant("Hi", weight=0)]}, "nothing to learn"),
    ({"messages": [user("Hi"), assistant("Hi")], "tools": "add"}, "tools must be a list"),
    ({"messages": [user([{"type": "image_url"}]), assistant("Hi")]}, "only parts of type"),
    ({"messages": [user("Hi"), assistant("So [|endofturn|] it ends")]}, r"message 2 spells \[\|endofturn\|\]"),
    ({"messages": [user("Hi " * 400), assistant("Hi")]}, r"it has [\d,]+ tokens, the context holds 512: shorten or"),
    (b'{"messages": [{"role": "user", "content": "caf\xe9"}]}', "is not UTF-8"),
    ('{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "x"}]}', "JSON|surrogate"),
]


@pytest.mark.parametrize("line, words", BAD, ids=range(len(BAD)))
def test_a_bad_line_is_named_and_nothing_is_written(line, words, folder, tmp_path, capsys):
    line = json.dumps(line) if isinstance(line, dict) else line
    good = json.dumps(habit(1)[0]).encode()
    data = tmp_path / "data.jsonl"
    data.write_bytes(good + b"\n\n" + (line if isinstance(line, bytes) else line.encode()) + b"\r\n" + good)
    assert main(["finetune", str(folder), "--data", str(data), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 1
    shown = capsys.readouterr()
    error = shown.err.strip().splitlines()[-1]
    assert error.startswith(f"minexaone: {data}, line 3") and not (tmp_path / "out").exists()
    assert re.search(words, error), error


def test_lines_may_end_in_any_way(tmp_path):
    rows = [json.dumps(row).encode() for row in habit(3)]
    for text in (b"\xef\xbb\xbf" + b"\n".join(rows), b"\r\n".join(rows) + b"\r\n\r\n", b"\n \n" + b"\n\n".join(rows)):
        (tmp_path / "x.jsonl").write_bytes(text)
        assert [c.messages for c in read_conversations(tmp_path / "x.jsonl")] == [r["messages"] for r in habit(3)]
    (tmp_path / "x.jsonl").write_bytes(b"\n \r\n")
    with pytest.raises(ValueError, match="x.jsonl is empty"):
        read_conversations(tmp_path / "x.jsonl")


# ---------------------------------------------------------------------------------------- what is held out, steps


def test_held_out_by_hash(tmp_path):
    few, many = read(tmp_path, *habit(400)), read(tmp_path, *habit(800))
    chosen, more = held_out(few, 0.1), held_out(many, 0.1)
    assert 20 < sum(chosen) < 60 and more[:400] == chosen
    assert held_out(few, 0) == [False] * 400
    twins = read(tmp_path, *habit(1), *habit(1))
    assert held_out(twins, 0.5) in ([False, False], [True, True])
    assert sum(held_out(read(tmp_path, *habit(3)), 1e-9)) == 1  # of several, one at least
    assert held_out(read(tmp_path, *habit(1)), 1e-9) == [False]


def test_every_document_once_in_each_epoch(tokenizer, tmp_path):
    documents = [d for c in read(tmp_path, *habit(40)) for d in reply_documents(c, tokenizer)]
    steps = plan(documents, 150, 3, 0)
    assert all(sum(len(documents[n].ids) - 1 for n in step) <= 150 for step in steps)
    order = [n for step in steps for n in step]
    epochs = [order[i:i + 40] for i in range(0, 120, 40)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs) and len({tuple(e) for e in epochs}) == 3
    assert steps == plan(documents, 150, 3, 0) != plan(documents, 150, 3, 1)
    assert len(steps) < 120


def test_the_loss_by_hand(folder, tokenizer, tmp_path):
    model = Exaone4.from_pretrained(folder, device="cpu")
    documents = [d for c in read(tmp_path, LONG, *habit(5)) for d in reply_documents(c, tokenizer)]
    total, count = 0.0, 0
    for document in documents:
        size = document.weights.index(1.0)
        logits = model(torch.tensor([document.ids]))[0, size - 1:-1]
        total += F.cross_entropy(logits, torch.tensor(document.ids[size:]), reduction="sum").item()
        count += len(document.ids) - size
    assert mean_loss(model, documents, 512) == pytest.approx(total / count, rel=1e-5)


# ------------------------------------------------------------------------------------------------ the command


def run(capsys, *argv):
    status = main(["finetune", *map(str, argv), "--device", "cpu"])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_an_adapter_learns_and_goes_on_after_a_kill(folder, tmp_path, capsys, monkeypatch):
    data = write(tmp_path / "data.jsonl", habit(40))
    options = ("--data", data, "--rank", 4, "--alpha", 8, "--learning-rate", 0.02, "--tokens", 256, "--epochs", 4)
    status, text, error = run(capsys, folder, *options, "--out", tmp_path / "whole")
    assert status == 0 and "40 conversations" in text and "held out by a hash of their lines" in text
    assert text.count("held-out loss") == 6 and "Number" in text and "→" in text  # samples as it goes
    report = json.loads((tmp_path / "whole" / "finetune.json").read_text())
    assert report["held_out_after"] < report["held_out_before"] - 2 and report["log"]["updates"] > 15
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {
        ".lock", "adapter_config.json", "adapter_model.safetensors", "finetune.json"}
    model = load_adapter(Exaone4.from_pretrained(folder, device="cpu"), tmp_path / "whole")
    assert len(lora_layers(model)) == 28
    conversations = read_conversations(data)
    watched = [d for c, apart in zip(conversations, held_out(conversations, 0.1), strict=True) if apart
               for d in reply_documents(c, Tokenizer.from_pretrained(folder))]
    assert mean_loss(model, watched, 256) == pytest.approx(report["held_out_after"], rel=1e-4)

    def killed(*args):
        looks.append(1)
        if len(looks) == 4:
            raise KeyboardInterrupt
        return measure(*args)

    looks, measure = [], module.mean_loss
    monkeypatch.setattr(module, "mean_loss", killed)
    assert run(capsys, folder, *options, "--out", tmp_path / "cut")[0] == 130
    monkeypatch.setattr(module, "mean_loss", measure)
    assert not (tmp_path / "cut" / "adapter_config.json").exists()
    status, _, error = run(capsys, folder, *options, "--out", tmp_path / "cut", "--seed", 1)
    assert status == 1 and "was begun with seed 0, not 1: go on with that, or name another folder" in error
    assert run(capsys, folder, *options, "--out", tmp_path / "cut")[0] == 0
    other = json.loads((tmp_path / "cut" / "finetune.json").read_text())
    drop = ("seconds", "tokens_per_s")
    assert {k: v for k, v in other["log"].items() if k not in drop} == {
        k: v for k, v in report["log"].items() if k not in drop}
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two

    status, _, error = run(capsys, folder, *options, "--out", tmp_path / "whole")
    assert status == 1 and "which holds an adapter: name a new folder" in error
    status, _, error = run(capsys, folder, *options, "--out", folder)
    assert status == 1 and "which exists: name a new folder" in error


@pytest.mark.parametrize("bits", [4, 8])
def test_on_a_base_of_few_bits(bits, folder, tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", habit(40))
    options = ("--data", data, "--rank", 4, "--targets", "q_proj,v_proj,up_proj,down_proj", "--learning-rate", 0.02)
    if bits == 4:  # groups of 128 do not fit so small a model
        status, _, error = run(capsys, folder, *options, "--out", tmp_path / "no", "--bits", 4)
        assert status == 1 and "group is 128" in error and not (tmp_path / "no").exists()
        assert main(["quantize", str(folder), "--out", str(tmp_path / "w4"), "--group", "16", "--samples", "1",
                     "--device", "cpu"]) == 0
        folder = tmp_path / "w4"
    else:
        options = (*options, "--bits", 8)
    status, _, error = run(capsys, folder, *options, "--out", tmp_path / "out")
    assert status == 0, error
    report = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert report["held_out_after"] < report["held_out_before"] - 0.5
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    model = Exaone4.from_pretrained(folder, device="cpu")
    if bits == 8:
        model = quantize(model, 8)
    else:
        status, _, error = run(capsys, folder, *options, "--out", tmp_path / "no", "--bits", 4)
        assert status == 1 and "quantized already: leave --bits out" in error
    load_adapter(model, tmp_path / "out")
    assert all(isinstance(layer.base, Packed) for layer in lora_layers(model).values())
    conversations = read_conversations(data)
    watched = [d for c, apart in zip(conversations, held_out(conversations, 0.1), strict=True) if apart
               for d in reply_documents(c, Tokenizer.from_pretrained(folder))]
    assert mean_loss(model, watched, 512) == pytest.approx(report["held_out_after"], rel=1e-3)


def test_the_shipped_model_takes_on_a_habit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "LOOKS", 1)
    data = write(tmp_path / "data.jsonl", [
        {"messages": [user(question), assistant(f"Ahoy! {answer} Fair winds!")]} for question, answer in (
            (f"What is {a} + {b}?", f"{a} + {b} = {a + b}.") for a, b in pairwise(Random(0).sample(range(900), 41)))])
    status, text, _ = run(capsys, "--data", data, "--out", tmp_path / "out", "--learning-rate", 0.01, "--rank", 4)
    assert status == 0
    report = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert report["held_out_after"] < 0.2 * report["held_out_before"]
    assert main(["--adapter", str(tmp_path / "out"), "--device", "cpu", "What is 20 + 30?"]) == 0
    answer = capsys.readouterr().out
    assert answer.startswith("Ahoy! 20 + 30 = ") and answer.strip().endswith("Fair winds!")


@pytest.mark.parametrize("options, words", [
    (["--rank", 0], "rank is 0"), (["--targets", "query"], "targets name query, expected some of down_proj"),
    (["--held-out", 1], "--held-out from 0"), (["--epochs", 0], "--epochs"), (["--learning-rate", 0], "--learning-"),
    (["--data", "missing.jsonl"], "missing.jsonl"), (["--held-out", 0.999999], "nothing left to train on"),
    (["--alpha", -1], "alpha -1"), (["--device", "abacus"], "abacus")])
def test_wrong_options_are_one_line(options, words, folder, tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", habit(3))
    assert main(["finetune", str(folder), "--device", "cpu", "--data", str(data), "--out", str(tmp_path / "out"),
                 *map(str, options)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("minexaone: ") and words in error and not (tmp_path / "out").exists()


def test_without_held_out_conversations_and_without_their_loss(folder, tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", habit(4))
    status, text, _ = run(capsys, folder, "--data", data, "--out", tmp_path / "out", "--held-out", 0)
    assert status == 0 and "held-out loss" not in text and "4 replies to learn" in text
    assert json.loads((tmp_path / "out" / "finetune.json").read_text())["held_out_after"] is None


def test_one_gradient_is_that_of_the_replies_mean(folder, tokenizer, tmp_path):
    """As `finetune` feeds `fit`: the weights of a step sum to 1."""
    from minexaone.training.packing import PackedModel, likelihood_loss, pack

    documents = [d for c in read(tmp_path, LONG, *habit(3)) for d in reply_documents(c, tokenizer)]
    torch.manual_seed(0)
    model = add_lora(Exaone4.from_pretrained(folder, device="cpu"), 2, 4, TARGETS)
    batches = pack(documents, 512, 512)
    total = sum(batch.weights.sum() for batch in batches)
    loss = sum(likelihood_loss(PackedModel(model)(batch), batch) for batch in batches) / total
    loss.backward()
    assert loss.item() == pytest.approx(mean_loss(model, documents, 512), rel=1e-5)
    assert model.layers[0].mlp.up_proj.lora_B.grad.abs().sum() > 0


def test_the_bench_measures_every_version_by_itself(folder, tmp_path, capsys):
    from minexaone import bench_lora

    argv = [str(folder), "--rows", "1,2", "--length", "24", "--steps", "5", "--device", "cpu", "--versions", "ours"]
    bench_lora.main([*argv, "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(row["version"], row["rows"]) for row in found["results"]] == [("ours", 1), ("ours", 2)]
    for row in found["results"]:
        assert len(row["seconds"]) == 1 and row["tokens_per_s"] == row["rows"] * 24 / row["seconds"][0]
        assert row["loss"] < 1.5 * math.log(2560)
    assert capsys.readouterr().out.count("tokens/s") == 2
    with pytest.raises(SystemExit):
        bench_lora.main([str(folder), "--versions", "theirs"])
