"""Training at a very small size: from nothing to a checkpoint that loads and speaks."""

import json
from random import Random

import pytest
import torch

from minexaone import Exaone4, Tokenizer, train
from minexaone.tasks import LANGUAGES, WEIGHTS, sample
from minexaone.train import CONTROL, PRESETS, Preset, Steps, encode, run, score, wilson


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """(folder, report) of the smoke preset."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads cost more than they give at this size
    folder = tmp_path_factory.mktemp("train") / "model"
    run(folder, "smoke", device="cpu", workers=0)
    yield folder, score(folder, "cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer(smoke):
    return Tokenizer.from_pretrained(smoke[0])


def test_loss_falls(smoke):
    (first, start), *_, (last, end) = smoke[1]["losses"]
    assert (first, last) == (1, PRESETS["smoke"].steps)
    assert start == pytest.approx(torch.log(torch.tensor(PRESETS["smoke"].vocab_size)).item(), abs=0.5)
    assert end < 0.85 * start


def test_checkpoint_loads_and_generates(smoke, tokenizer):
    model = Exaone4.from_pretrained(smoke[0], device="cpu")
    assert model.embed_tokens.weight.dtype == torch.bfloat16
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
    ids = model.generate(prompt, max_new_tokens=4)
    assert 1 <= len(ids) <= 4 and isinstance(tokenizer.decode(ids), str)


def test_nothing_half_written_is_left(smoke):
    folder, report = smoke
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "training_report.json"}
    assert json.loads((folder / "training_report.json").read_text(encoding="utf-8"))["steps"] == report["steps"]


def test_a_failed_run_leaves_the_old_model(tmp_path, monkeypatch):
    old = tmp_path / "model"
    old.mkdir()
    (old / "config.json").write_text("old")
    (old / "training_report.json").write_text("{}")
    monkeypatch.setattr(train, "train_tokenizer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(old, "smoke", device="cpu", workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (old / "config.json").read_text() == "old"


def test_a_folder_with_other_files_is_never_replaced(tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="name another folder"):
        run(tmp_path, "smoke", device="cpu", workers=0)
    monkeypatch.setattr("sys.argv", ["train", "--preset", "smoke", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        train.main()
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("steps", [-3, 0, 1])
def test_too_few_steps_are_refused(tmp_path, steps):
    with pytest.raises(ValueError, match="at least 2"):
        run(tmp_path / "model", "smoke", steps=steps, device="cpu", workers=0)


def test_report_has_every_cell(smoke):
    cells = {(row["task"], row["language"], row["reasoning"]) for row in smoke[1]["scores"]}
    expected = {(t, language, mode) for t in WEIGHTS for language in LANGUAGES for mode in (False, True)}
    assert {cell for cell in cells if cell[0] != "call, unseen tool"} <= expected
    assert len({cell[1:] for cell in cells}) == 6 and {cell[0] for cell in cells} >= set(WEIGHTS) - {"call"}
    assert all(0 <= row["low"] <= row["correct"] / row["total"] <= row["high"] <= 1 for row in smoke[1]["scores"])


def test_control_tokens_have_the_first_ids(tokenizer):
    assert [tokenizer.token_to_id(token) for token in CONTROL] == list(range(15))
    assert tokenizer.eos_token_id == 14
    assert tokenizer.special_ids == {0, 1, 2, 3, 10, 11, 12, 13, 14}


def test_digits_and_newlines_never_merge(smoke, tokenizer):
    data = json.loads((smoke[0] / "tokenizer.json").read_text(encoding="utf-8"))
    assert data["model"]["merges"]
    assert not [merge for merge in data["model"]["merges"] if set("".join(merge)) & set("0123456789Ċ")]
    assert len(tokenizer.encode("31415")) == 5


def test_any_text_round_trips(tokenizer):
    for text in ("", "  two  spaces\n\n", "숫자 3.12와 🚀", "¿Qué? ñ", "\u200d", "".join(map(chr, range(300)))):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_prompt_and_reply_join_to_the_template_of_the_whole(tokenizer):
    rng = Random(0)
    for _ in range(100):
        example = sample(rng)
        prompt, reply = encode(example, tokenizer, Random(1))  # Random(1) cuts no thinking at its first draws
        whole = tokenizer.apply_chat_template([*example.messages, example.reply], example.tools,
                                              add_generation_prompt=False, skip_think=False)
        assert prompt + reply + tokenizer.encode("\n") == whole


def test_cut_thinking_is_prompt_and_the_answer_is_learnt(tokenizer, monkeypatch):
    monkeypatch.setattr(train, "CUT", 1)
    example = sample(Random(0), task="compare", reasoning=True)
    prompt, reply = encode(example, tokenizer, Random(0))
    assert tokenizer.decode(prompt).endswith("\n</think>\n\n")
    assert tokenizer.decode(reply) == example.reply["content"] + "[|endofturn|]"


def test_lengths_fit_the_context(smoke):
    step = Steps(smoke[0], Preset(**vars(PRESETS["smoke"]) | {"tokens": 100_000}), seed=0)[0]
    assert max(ids.shape[1] for ids, _ in step) <= 1200 < 2048
    assert sum(int((weights == 1).sum()) for _, weights in step) > 10_000


def test_data_depends_on_seed_and_step_only(smoke):
    first, again, other = (Steps(smoke[0], PRESETS["smoke"], seed)[3] for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert [ids.shape for ids, _ in first] != [ids.shape for ids, _ in other]


def test_wilson_interval():
    low, high = wilson(97, 100)
    assert (round(low, 3), round(high, 3)) == (0.915, 0.99)
    assert wilson(0, 10)[0] == pytest.approx(0)
