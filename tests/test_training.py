"""The whole pipeline with its smallest preset: every stage runs, a killed run goes on, the report can be drawn."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import groupby, islice
from random import Random

import pytest
import torch

from minexaone import Exaone4, Tokenizer
from minexaone.reply import Reply
from minexaone.scoring import evaluate, rollouts
from minexaone.tasks import TASKS, in_language, sample, verify
from minexaone.tasks.base import held_out, plain
from minexaone.training import agapo, compare, data, lab, ratio, report, ship, simper
from minexaone.training.__main__ import STAGES, main, train_all
from minexaone.training.data import RATIO, needle, sft_documents, turn_document, turn_ids
from minexaone.training.run import PRESETS, Run
from minexaone.training.tokenizer import CONTROL


def as_finished(tokenizer, ids, reasoning, stop_ids):
    """Reads what a model that never ends a reply has written."""
    return Reply(content=tokenizer.decode(ids))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run. Its model learns next to nothing, so replies are rewarded by chance: half of them are "right"."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "read_reply", as_finished)
        patch.setattr(rollouts, "verify", lambda example, reply: len(reply.content) % 2 == 0)
        train_all(Run(folder, PRESETS["smoke"], 0, torch.device("cpu")))
    return folder


@pytest.fixture(scope="module")
def tokenizer(run):
    return Tokenizer.from_pretrained(run / "tokenizer")


def read(run, stage):
    return json.loads((run / stage / "report.json").read_text(encoding="utf-8"))


def test_every_stage_leaves_a_model_and_a_report(run):
    assert {path.name for path in run.iterdir()} == {"tokenizer", "run.json", ".lock", *STAGES}  # and no checkpoint
    for stage in STAGES:
        model = Exaone4.from_pretrained(run / stage, device="cpu")
        assert model.config.max_position_embeddings == {"pretrain": 512, "extend1": 1024}.get(stage, 2048)
        assert Tokenizer.from_pretrained(run / stage).vocab_size == model.config.vocab_size
        assert all(entry["loss"] == entry["loss"] for log in report.logs(read(run, stage)) for entry in log["steps"])


def test_every_stage_changes_the_weights(run):
    weights = [Exaone4.from_pretrained(run / stage, device="cpu").layers[0].mlp.up_proj.weight for stage in STAGES]
    assert all(not torch.equal(a, b) for a, b in zip(weights, weights[1:], strict=False))


def test_the_command_skips_what_is_done(run, monkeypatch):
    monkeypatch.setitem(STAGES, "sft", lambda run: 1 / 0)
    before = (run / "simper2" / "model.safetensors").stat().st_mtime_ns
    main(["--out", str(run), "--smoke", "--device", "cpu"])
    assert (run / "simper2" / "model.safetensors").stat().st_mtime_ns == before


def test_a_killed_run_ends_where_a_whole_one_does(run, tmp_path, monkeypatch):
    killed = Run(tmp_path, PRESETS["smoke"], 0, torch.device("cpu"))
    (tmp_path / "tokenizer").symlink_to(run / "tokenizer")
    draw = data.Steps.__getitem__
    monkeypatch.setattr(data.Steps, "__getitem__", lambda self, step: draw(self, step) if step < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_all(killed)
    assert (tmp_path / "pretrain.state.safetensors").is_file() and not killed.is_done("pretrain")
    monkeypatch.setattr(data.Steps, "__getitem__", draw)
    train_all(killed, until="pretrain")
    a, b = (Exaone4.from_pretrained(folder / "pretrain", device="cpu") for folder in (run, tmp_path))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert [e["loss"] for e in read(run, "pretrain")["log"]["steps"]] == [
        e["loss"] for e in read(tmp_path, "pretrain")["log"]["steps"]]


@pytest.mark.parametrize("other, told", [(["--smoke", "--seed", "5"], "seed 0, not 5"),
                                         (["--preset", "tiny"], "preset smoke, not tiny")])
def test_another_seed_or_preset_is_refused(run, other, told, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    with pytest.raises(SystemExit) as end:
        main(["--out", str(run), "--device", "cpu", *other])
    error = capsys.readouterr().err
    assert end.value.code == 1 and told in error and "another folder" in error and error.count("\n") == 1
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_stages_of_an_unknown_run_are_refused(run, tmp_path, capsys):
    (tmp_path / "pretrain").symlink_to(run / "pretrain")
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--device", "cpu", "--smoke"])
    assert "has report.json, but no run.json" in capsys.readouterr().err


def test_one_process_at_a_time_and_a_killed_one_lets_go(run, capsys):
    hold = ("import pathlib, sys; from minexaone.files import locked\n"
            "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); input()")
    with subprocess.Popen([sys.executable, "-c", hold, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(SystemExit) as end:
            main(["--out", str(run), "--smoke", "--device", "cpu"])
        assert end.value.code == 1 and f"another process is at work in {run}" in capsys.readouterr().err
        other.kill()
    main(["--out", str(run), "--smoke", "--device", "cpu"])


def test_saving_a_stage_leaves_the_model_and_an_error_leaves_the_stage(run, tmp_path, monkeypatch):
    saved = Run(tmp_path, PRESETS["smoke"], 0, torch.device("cpu"))
    (tmp_path / "tokenizer").symlink_to(run / "tokenizer")
    (tmp_path / ".sft.7.part").mkdir()  # of a process that was killed
    model = Exaone4.from_pretrained(run / "sft", dtype="float32", device="cpu")
    saved.save("sft", model, {"n": 1})
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert Exaone4.from_pretrained(tmp_path / "sft", device="cpu").embed_tokens.weight.dtype == torch.bfloat16
    assert (tmp_path / "sft/model.safetensors").read_bytes() == (run / "sft/model.safetensors").read_bytes()
    monkeypatch.setattr("minexaone.training.run.shutil.copy", lambda *args: [].pop(0))
    with pytest.raises(IndexError):
        saved.save("sft", model, {"n": 2})
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer", "sft"} and saved.report("sft")["n"] == 1


def test_evaluation_report_and_shipping(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_NEW_TOKENS", 4)  # this model never ends a reply
    scores = tmp_path / "scores.json"
    evaluate.main([str(run / "simper2"), "--count", "1", "--needles", "1", "--device", "cpu", "--json", str(scores)])
    found = json.loads(scores.read_text())
    assert {(r["task"], r["language"], r["reasoning"]) for r in found["by_task"]} == {
        (task, language, mode) for task in TASKS for language in ("en", "ko", "es") for mode in (False, True)}
    assert {row["length"] for row in found["needles"]} == {256, 512, 1024, 2048}
    assert {(r["others"], r["reasoning"]) for r in found["chats"]} == {
        (n, mode) for n in evaluate.OTHERS for mode in (False, True)}
    assert "needles found" in capsys.readouterr().out
    (run / "scores.simper2.json").write_text(scores.read_text())
    ship.main([str(run), "--assets", str(tmp_path / "assets"), "--preset", "smoke"])
    (run / "scores.simper2.json").unlink()
    pictures = {path.name for path in (tmp_path / "assets" / "training").glob("*.png")}
    assert pictures == {"loss.png", "agapo.png", "levels.png", "thinking.png", "budget.png", "needles.png"}
    card = (tmp_path / "assets" / "model" / "README.md").read_text()
    assert "| others before | 0 | 1 | 2 | 4 | 8 |" in card
    assert all(f"| {task} | {mode}reasoning | " in card for task in TASKS for mode in ("", "non-"))
    assert all(f"| {stage} | " in card for stage in STAGES) and f"on {read(run, 'sft')['hardware']} with torch" in card
    for folder, stage in {"model": "simper2", "stages/base": "extend2", "stages/sft": "sft",
                          "stages/agapo": "agapo"}.items():
        ours, theirs = (Exaone4.from_pretrained(path, device="cpu").embed_tokens.weight
                        for path in (tmp_path / "assets" / folder, run / stage))
        assert torch.equal(ours, theirs)
        Tokenizer.from_pretrained(tmp_path / "assets" / folder)


def test_shipping_onto_a_full_disk_leaves_what_was_shipped(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("")

    def full(source, target, **options):
        (target / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ship.shutil, "copytree", full)
    with pytest.raises(SystemExit) as end:
        ship.main([str(run), "--assets", str(tmp_path), "--preset", "smoke"])
    assert end.value.code == 1 and capsys.readouterr().err.endswith("No space left on device\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


def test_an_unfinished_run_is_not_shipped(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sft").symlink_to(run / "sft")
    with pytest.raises(SystemExit, match="no finished extend2, agapo, simper2: train first"):
        ship.main([str(tmp_path / "run"), "--assets", str(tmp_path / "assets")])
    assert not (tmp_path / "assets").exists()


def test_algorithms_are_compared(run, tmp_path, capsys):
    for name in ("tokenizer", "sft"):
        (tmp_path / name).symlink_to(run / name)
    compare.main([str(tmp_path), "--preset", "smoke", "--seeds", "0", "--parts", "--count", "2", "--device", "cpu"])
    found = report.collect(tmp_path)["comparisons"]
    assert {row["algorithm"] for row in found.values()} == set(agapo.ALGORITHMS)
    assert not list(tmp_path.glob("*.state.safetensors"))
    compare.main([str(tmp_path), "--preset", "smoke", "--seeds", "0", "--count", "2", "--device", "cpu"])
    assert capsys.readouterr().out.count("compare.agapo-0:") == 1  # what is done is done


def test_a_comparison_with_another_preset_is_refused(run, capsys):
    with pytest.raises(SystemExit) as end:
        compare.main([str(run), "--device", "cpu"])
    assert end.value.code == 1 and "preset smoke, not tiny" in capsys.readouterr().err


def test_ratios_are_compared_from_the_base_model(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_NEW_TOKENS", 4)
    for name in ("tokenizer", "extend2"):
        (tmp_path / name).symlink_to(run / name)
    arguments = [str(tmp_path), "--preset", "smoke", "--count", "1", "--device", "cpu", "--seeds", "0", "--ratios"]
    ratio.main([*arguments, "1"])
    ratio.main([*arguments, "1", "3"])
    assert capsys.readouterr().out.count("ratio.1-0:") == 1  # what is done is done
    one, three = json.loads((tmp_path / "ratio.json").read_text())
    assert (one["ratio"], three["ratio"]) == (1, 3) and one["loss"] != three["loss"]
    assert {*one["reasoning"]} == {"right", "mode_kept", "tokens"} and not list(tmp_path.glob("*.state.safetensors"))
    with pytest.raises(SystemExit):
        ratio.main([str(tmp_path / "nothing"), "--preset", "smoke", "--device", "cpu"])
    assert "has no finished extend2" in capsys.readouterr().err


def test_the_lab_runs_every_setting_once(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_NEW_TOKENS", 4)
    monkeypatch.setattr(lab, "STAGES", tmp_path / "stages")
    (tmp_path / "stages").mkdir()
    for name, stage in (("base", "extend2"), ("sft", "sft")):
        (tmp_path / "stages" / name).symlink_to(run / stage)
    for _ in range(2):
        lab.main(["--out", str(tmp_path / "lab"), "--preset", "smoke", "--seeds", "0", "--device", "cpu"])
    layers, window, ratios, languages, algorithms = (
        json.loads((tmp_path / "lab" / f"{name}.0.json").read_text()) for name in lab.EXPERIMENTS)
    assert [row["setting"] for row in layers] == list(lab.PATTERNS) and len(window) == 2
    assert [row["setting"] for row in ratios] == ["0.67", "1.5", "3"]
    assert [row["setting"] for row in languages] == list(lab.LANGUAGE_SETTINGS)
    assert all({cell["language"] for cell in row["scores"]} == {"en", "ko", "es", "de"} for row in languages)
    assert {row["setting"] for row in algorithms} == set(agapo.ALGORITHMS)
    assert capsys.readouterr().out.count("seed 0") == 6 + 2 + 3 + 3 + 7  # what is done is done
    sizes = [row["cache_bytes"] for row in layers]
    assert sizes == sorted(sizes)  # the more global layers, the more cache
    assert all(row["curve"][0] > 3 and row["seconds"] > 0 for row in layers + window)  # guessing: ln 64 = 4.2
    assert len({row["before"]["held_out"] for row in algorithms}) == 1  # all begin where the others do
    assert {path.name for path in tmp_path.iterdir()} == {"stages", "lab"}


def test_the_labs_strings_repeat_and_what_is_asked_can_be_known():
    ids, period = lab.repeating(200, 96, torch.Generator().manual_seed(0))
    known = lab.predictable(period, 96)
    assert period.min() == 4 and 50 < period.max() <= 64 and (period < 16).float().mean() == pytest.approx(0.5, abs=0.1)
    for row, p, can in zip(ids.tolist(), period.tolist(), known.tolist(), strict=True):
        for t in range(1, 96):  # the letter before has been seen, a period ago, and what came then comes again
            assert can[t - 1] == (t - 1 >= p)
            assert not can[t - 1] or (row[t - 1 - p], row[t - p]) == (row[t - 1], row[t])


def test_a_run_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        report.main([str(tmp_path), "--out", str(tmp_path / "x")])
    assert "holds no finished stage: train first" in capsys.readouterr().err and not (tmp_path / "x").exists()


# --------------------------------------------------------------------------------------------------- the data


def test_control_tokens_have_the_first_ids(tokenizer):
    assert [tokenizer.token_to_id(token) for token in CONTROL] == list(range(15))
    assert tokenizer.eos_token_id == 14 and tokenizer.special_ids == {0, 1, 2, 3, 10, 11, 12, 13, 14}


def test_digits_and_newlines_never_merge(run, tokenizer):
    merges = json.loads((run / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    assert merges and not [merge for merge in merges if set("".join(merge)) & set("0123456789Ċ")]
    assert len(tokenizer.encode("31415")) == 5


def test_prompt_and_reply_join_to_the_template_of_the_whole(tokenizer):
    rng = Random(0)
    for _ in range(100):
        example = sample(rng)
        prompt, reply = turn_ids(example, tokenizer)
        thinking = {"reasoning_content": example.thoughts[example.style]} if example.reasoning else {}
        whole = tokenizer.apply_chat_template([*example.messages, example.reply | thinking], example.tools,
                                              add_generation_prompt=False, skip_think=False)
        assert prompt + reply + tokenizer.encode("\n") == whole


def test_only_the_reply_counts_and_cut_thinking_is_prompt(tokenizer, monkeypatch):
    example = sample(Random(0), task="compare", reasoning=True)
    prompt, reply = turn_ids(example, tokenizer)
    document = turn_document(example, tokenizer, Random(1))  # which cuts nothing at its first draw
    assert document.ids == prompt + reply and document.weights == [0.0] * len(prompt) + [1.0] * len(reply)
    monkeypatch.setattr(data, "CUT", 1)
    document = turn_document(example, tokenizer, Random(0))
    counted = [id for id, weight in zip(document.ids, document.weights, strict=True) if weight]
    assert tokenizer.decode(counted) == example.reply["content"] + "[|endofturn|]"
    assert tokenizer.decode(document.ids[:-len(counted)]).endswith("\n</think>\n\n")


def test_right_replies_of_earlier_turns_count_and_wrong_ones_do_not(tokenizer):
    def counted(example):
        document = turn_document(example, tokenizer, Random(1))
        groups = groupby(zip(document.ids, document.weights, strict=True), lambda pair: pair[1])
        return [tokenizer.decode([id for id, _ in group]) for weight, group in groups if weight]

    seen = set()
    for n in range(300):
        example = sample(Random(n), task=("multistep", "answer", "recall", "call")[n % 4], reasoning=n % 8 > 3)
        earlier = [message for message in example.messages if message["role"] == "assistant"]
        parts = counted(example)
        seen.add((example.task, example.right_before, len(earlier)))
        assert parts[-1] == example.text + "[|endofturn|]"
        assert len(parts) == 1 + len(earlier) * example.right_before
        for message, part in zip(earlier, parts, strict=False) if example.right_before else ():
            assert part.endswith("[|endofturn|]") and part.startswith(message["content"] or "<tool_call>")
            assert all(call["function"]["name"] in part for call in message.get("tool_calls", ()))
    assert {("answer", False, 1), ("answer", True, 1), ("multistep", True, 3), ("recall", True, 3)} <= seen


def test_reasoning_and_non_reasoning_tokens_stand_at_their_ratio(tokenizer):
    tokens = {True: 0, False: 0}
    stream = sft_documents(Random(0), tokenizer, 2048, second=False)
    for _ in range(600):
        ids = next(stream).ids
        reply = tokenizer.decode(ids).rpartition("[|assistant|]")[2]
        tokens[not reply.startswith("\n<think>\n\n</think>")] += len(ids)
    assert RATIO * 0.95 < tokens[True] / tokens[False] < RATIO * 1.1


@pytest.mark.parametrize("context", [256, 2048])
def test_half_of_the_pages_tokens_are_problems(tokenizer, monkeypatch, context):
    long = []

    def noted(make):
        return lambda *args: long.append(1) or make(*args)

    monkeypatch.setattr(data, "needle", noted(data.needle))
    monkeypatch.setattr(data.retrieval, "document", noted(data.retrieval.document))
    tokens, stream = {True: 0, False: 0}, data.pretraining_documents(Random(0), tokenizer, context)
    for _ in range(400):
        ids = next(stream).ids
        tokens[bool(long)] += len(ids)
        long.clear()
    assert abs(tokens[True] - tokens[False]) <= context


def test_a_plain_page_has_no_control_tokens_and_a_needle_is_as_long_as_asked(tokenizer):
    for n in range(50):
        ids = tokenizer.encode(plain(sample(Random(n))))
        assert not set(ids) & set(range(4, 15)) - {8, 9}
    for length in (600, 1500):
        example = needle(Random(length), tokenizer, length)
        assert len(tokenizer.apply_chat_template(example.messages)) <= length


# ------------------------------------------------------------------------------------------------ sampled replies


def test_a_round_keeps_wrong_groups_and_drops_right_ones(run, tokenizer, monkeypatch):
    model = Exaone4.from_pretrained(run / "sft", device="cpu")
    rewards = iter([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    monkeypatch.setattr(rollouts, "verify", lambda example, reply: next(rewards))
    monkeypatch.setattr(rollouts, "read_reply", as_finished)
    rng = Random(0)
    examples = [agapo.hard_example(rng) for _ in range(3)]
    rounds = agapo.Rollouts(model, model, tokenizer, examples, algorithm=agapo.AGAPO, queries=3, group=2, updates=1,
                            max_new_tokens=8, tokens=1024, longest=1024, seed=0)
    batches, numbers = next(rounds.draw(0))
    assert numbers["reward"] == 0.5 and numbers["all_correct"] == numbers["all_wrong"] == pytest.approx(1 / 3)
    scores = [score for batch in batches for score in batch.scores.tolist() if score]
    assert len(scores) == 4 and batches[0].count == 4  # the right group is gone
    assert sum(score > 0 for score in scores) == 1 and sum(score < 0 for score in scores) == 3
    torch.testing.assert_close(batches[0].reference * batches[0].weights, agapo.PackedModel(model)(
        batches[0]).detach() * batches[0].weights)


def test_all_updates_of_a_round_are_compared_with_the_policy_that_sampled(run, tokenizer, monkeypatch):
    model, sampler = (Exaone4.from_pretrained(run / "sft", dtype="float32", device="cpu") for _ in range(2))
    rewards = iter([1.0, 0.0] * 8)
    monkeypatch.setattr(rollouts, "verify", lambda example, reply: next(rewards))
    monkeypatch.setattr(rollouts, "read_reply", as_finished)
    examples = [agapo.hard_example(Random(0))]
    rounds = agapo.Rollouts(model, sampler, tokenizer, examples, algorithm=agapo.GRPO, queries=2, group=4, updates=2,
                            max_new_tokens=8, tokens=1024, longest=1024, seed=0)
    for n, (batches, _) in enumerate(islice(rounds.draw(0), 2)):
        (batch,) = batches
        now, then = (agapo.PackedModel(m)(batch).detach() * batch.weights for m in (model, sampler))
        torch.testing.assert_close(batch.old * batch.weights, then)
        assert torch.equal(now, then) == (n == 0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 1.1


def test_replies_are_the_same_alone_and_in_a_batch(run, tokenizer):
    model = Exaone4.from_pretrained(run / "sft", dtype="float32", device="cpu")
    examples = [sample(Random(n), task="chat") for n in range(5)]
    together = rollouts.roll_out(model, tokenizer, examples, 0, 12, 0.0)
    for example, found in zip(examples, together, strict=True):
        assert rollouts.roll_out(model, tokenizer, [example], 0, 12, 0.0)[0].ids == found.ids
    assert [r.example for r in rollouts.roll_out(model, tokenizer, examples[:2], 0, 4, group=2)] == [
        examples[0], examples[0], examples[1], examples[1]]


def test_sampled_replies_do_not_depend_on_how_many_are_generated_together(run, tokenizer, monkeypatch):
    model = Exaone4.from_pretrained(run / "sft", dtype="float32", device="cpu")
    examples = [sample(Random(n), task="chat") for n in range(5)]
    found = {}
    for size in (1, 3, 64):
        monkeypatch.setattr(rollouts, "rows_at_once", lambda model, size=size: size)
        found[size] = [r.ids for r in rollouts.roll_out(model, tokenizer, examples, 3, 12, group=2)]
    assert found[1] == found[3] == found[64] and len(set(map(tuple, found[1]))) == 10


def test_presets_fit_together():
    for preset in PRESETS.values():
        assert preset.contexts[-1] >= 16 * preset.window and preset.agapo.steps % preset.round[2] == 0
        assert preset.compared.save_every % preset.compared_round[2] == 0
        assert preset.agapo.save_every % preset.round[2] == 0 and preset.tokens >= preset.contexts[-1]


# -------------------------------------------------------------------------------------------- rounds of SimPER


def test_a_round_of_simper_that_costs_too_much_is_taken_back_and_the_next_is_half_as_bold(run, tmp_path, monkeypatch):
    for name in ("tokenizer", "agapo"):
        (tmp_path / name).symlink_to(run / name)
    monkeypatch.setattr(rollouts, "read_reply", as_finished)
    monkeypatch.setattr(rollouts, "verify", lambda example, reply: len(reply.content) % 2 == 0)
    right = iter([0.9, 0.897, 0.88, 0.88, 0.9])  # before, and after each round: a third of a point is fine, two are not
    splits = []

    def summary(replies, tokenizer):
        splits.append({held_out(r.example.key) for r in replies if r.example.key})
        return {"right": 0.5 if splits[-1] == {True} else next(right), "thinking_tokens": 1.0}

    weights = []
    fit = simper.fit

    def recorded(model, *args):
        log = fit(model, *args)
        weights.append(model.embed_tokens.weight.detach().bfloat16().clone())
        return log

    monkeypatch.setattr(simper, "summary", summary)
    monkeypatch.setattr(simper, "fit", recorded)
    preset = replace(PRESETS["smoke"], pairs=(4, 4, 4, 2), evaluated=20)
    bold = preset.simper.learning_rate
    simper.simper(Run(tmp_path, preset, 0, torch.device("cpu")), 1)
    rounds = read(tmp_path, "simper1")["rounds"]
    assert [row["kept"] for row in rounds] == [True, False, False, True]
    assert [row["learning_rate"] for row in rounds] == [bold, bold, bold / 2, bold / 4]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(Exaone4.from_pretrained(tmp_path / "simper1", device="cpu").embed_tokens.weight, weights[3])
    assert splits == [{False}] * 5 + [{True}] * 2  # no problem that is reported on decides


def test_a_quarter_of_stage_twos_queries_are_stage_ones():
    first, second = (simper.draw_queries(stage, 8, seed=3) for stage in (1, 2))
    assert [e.messages for e in first[:2]] == [e.messages for e in second[:2]] and len(second) == 8


def test_what_stage_one_aims_at_thinks_and_what_holds_the_rest_does_not():
    shares = {stage: sum(e.reasoning for e in queries) / len(queries)
              for stage in (1, 2) for queries in [[simper.preference_example(Random(n), stage) for n in range(400)]]}
    assert shares[1] == pytest.approx(0.75, abs=0.07) and shares[2] == pytest.approx(0.5, abs=0.08)
    quiet = {e.task for n in range(400) if not (e := simper.preference_example(Random(n), 1)).reasoning}
    assert {"chat", "recall", "sums"} <= quiet and not quiet & {"call", "loop"}


def test_german_has_all_that_the_lab_asks_in_it_and_right_answers_are_right():
    rng = Random(0)
    for task, reasoning in [(task, reasoning) for task in lab.SFT_TASKS for reasoning in (False, True)] * 150:
        example = sample(rng, rng.choice(("train", "test")), task, lab.FOURTH, reasoning)
        assert verify(example, example.answer), example
        if task == "compare":
            assert in_language(example.reply["content"], "de")
    assert not in_language("3.9 is bigger than 3.12.", "de") and not in_language("3.9 es mayor que 3.12.", "de")


def test_a_silent_language_never_thinks_and_the_ratio_stays(tokenizer, monkeypatch):
    drawn, tokens = [], {True: 0, False: 0}
    monkeypatch.setattr(lab, "sample", lambda *args, **options: drawn.append(e := sample(*args, **options)) or e)
    for document, _ in zip(lab.mixture(Random(0), tokenizer, RATIO, ("en", "de"), silent=("de",)), range(400),
                           strict=False):
        tokens[drawn[-1].reasoning] += len(document.ids)
    assert {(e.language, e.reasoning) for e in drawn} == {("en", True), ("en", False), ("de", False)}
    assert tokens[True] / tokens[False] == pytest.approx(RATIO, rel=0.05)
