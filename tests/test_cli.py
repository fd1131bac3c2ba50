"""The command line, as a person runs it: streams kept apart, errors in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minexaone.__main__ import main
from minexaone.model import KVCache


def run(*argv, stdin=None):
    return subprocess.run([sys.executable, "-m", "minexaone", *argv], capture_output=True, text=True, input=stdin,
                          env=os.environ | {"PYTHONIOENCODING": "utf-8"})


def test_answer_on_stdout_and_nothing_else():
    done = run("--device", "cpu", "Explain how wonderful you are")
    assert done.returncode == 0 and done.stderr == "" and len(done.stdout.strip()) > 30


def test_fast_steps_and_8_bits_answer_alike(capsys):
    answers = []
    for options in ([], ["--int8"], ["--int4"], ["--fast"]):
        assert main(["--device", "cpu", *options, "Explain how wonderful you are"]) == 0
        shown = capsys.readouterr()
        answers.append(shown.out)
    assert len(set(answers)) == 1 and "ready for fast steps after" in shown.err


@pytest.mark.parametrize("draft", ["text", str(Path(__file__).parent.parent / "assets" / "stages" / "sft")],
                         ids=["text", "model"])
def test_a_draft_leaves_the_answer_as_it_is(capsys, monkeypatch, draft):
    question, passes = ["--device", "cpu", "--reasoning", "Which one is bigger, 3.12 vs 3.9?"], []
    extend = KVCache.extend
    monkeypatch.setattr(KVCache, "extend", lambda cache, T, *more: passes.append(T) or extend(cache, T, *more))
    assert main(question) == 0
    plain, steps = capsys.readouterr(), passes.count(1)
    passes.clear()
    assert main(["--draft", draft, *question]) == 0
    assert capsys.readouterr() == plain and 5 in passes
    if draft == "text":
        assert len(passes) < steps  # some guesses were right


def test_thinking_on_stderr_and_the_prompt_from_stdin():
    done = run("--reasoning", "--device", "cpu", "-", stdin="Which one is bigger, 3.12 vs 3.9?")
    assert done.returncode == 0 and "3.9" in done.stdout and len(done.stderr) > 20
    assert "<think>" not in done.stdout + done.stderr


def test_chat_keeps_the_conversation_and_survives_a_bad_turn():
    done = run("chat", "--device", "cpu", stdin="Hello\n\n" + "too long " * 3000 + "\nThank you\n")
    assert done.returncode == 0 and done.stdout.count("> ") == 5
    assert done.stderr.count("\n") == 1 and "shorten it" in done.stderr


def test_seed_repeats_sampling(capsys):
    answers = []
    for seed in ("1", "1", "2", "3", "4"):  # so hot because the model is sure of its greeting
        assert main(["--device", "cpu", "--temperature", "4", "--seed", seed, "--max-new-tokens", "40", "Hi"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] and len(set(answers)) > 1


def test_info_of_the_shipped_model_and_of_published_shapes(capsys, tmp_path):
    assert main(["info", "--context", "1000"]) == 0
    shown = capsys.readouterr().out
    assert "LLLGLLLG" in shown and "sliding layers only" in shown and "1,000 tokens" in shown
    (tmp_path / "config.json").write_text("""{"model_type": "exaone4", "vocab_size": 102400, "hidden_size": 5120,
        "intermediate_size": 27392, "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8,
        "head_dim": 128, "sliding_window": 4096, "sliding_window_pattern": "LLLG", "max_position_embeddings": 131072,
        "rope_theta": 1000000, "tie_word_embeddings": false, "dtype": "bfloat16"}""")
    assert main(["info", str(tmp_path)]) == 0  # no weights are needed
    shown = capsys.readouterr().out
    assert "32,003,216,384" in shown and "9.40 GB at 131,072 tokens (34.36 GB if all layers were global)" in shown


@pytest.mark.parametrize("argv, words", [
    (["--model", "no/such/folder", "hi"], "no/such/folder is neither a folder nor a hub id"),
    (["--temperature", "-1", "--device", "cpu", "hi"], "temperature is -1"),
    (["--draft", "no/such/folder", "--device", "cpu", "hi"], "no/such/folder is neither a folder nor a hub id"),
    (["--dtype", "int4", "hi"], "dtype is 'int4'"), (["--device", "abacus", "hi"], "abacus"),
    (["--device", "cpu", ""], "prompt"), (["--budget", "-1", "--reasoning", "hi"], "budget"),
    (["info", "--context", "-5"], "--context is -5"), (["info", "--context", "0"], "--context is 0"),
    (["evaluate", "--json", "."], "--json is ., a folder"),
    (["evaluate", "--json", __file__ + "/x/y.json"], "test_cli.py"),
    (["--budget", "3", "--device", "cpu", "hi"], "set reasoning=True"), (["--model", "", "hi"], "name is empty"),
    (["--seed", str(2**70), "--device", "cpu", "hi"], "seed is 118"), (["--revision", "main", "hi"], "revision"),
    (["--device", "cpu", "chat"], "the command comes first")])
def test_errors_are_one_line_and_a_status(capsys, argv, words):
    assert main(argv) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and words in shown.err and shown.err.startswith("minexaone: ")


@pytest.mark.parametrize("argv", [[], ["--top-k", "many", "hi"], ["one", "two"], ["info", "--nonsense"]])
def test_wrong_usage_exits_with_2(argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2


@pytest.mark.parametrize("encoding, prompt", [
    ("cp1252", "너는 누구야?"), ("ascii", "너는 누구야?"), ("cp949", "Explica lo increíble que eres")])
def test_an_answer_is_never_cut_by_the_encoding_of_a_pipe(encoding, prompt):
    done = subprocess.run([sys.executable, "-X", "utf8=0", "-m", "minexaone", "--device", "cpu", prompt],
                          capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    right = run("--device", "cpu", prompt).stdout
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout.decode(encoding).splitlines() == \
        right.encode(encoding, "backslashreplace").decode(encoding).splitlines() and "minexaone" in right


def test_temperature_0_is_greedy_whatever_the_checkpoint_advises(monkeypatch, capsys):
    from minexaone import config_json
    monkeypatch.setattr(config_json, "sampling_advice", lambda folder, reasoning: {
        "temperature": 100.0, "presence_penalty": 2.0, "top_k": 50})  # so hot that no sample is the greedy answer
    prompt = ["--device", "cpu", "--max-new-tokens", "40", "Explain how wonderful you are"]
    shown = []
    for options in ([], ["--temperature", "0"], ["--temperature", "0", "--seed", "1"]):
        assert main([*options, *prompt]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] != shown[1] == shown[2] == run(*prompt).stdout
