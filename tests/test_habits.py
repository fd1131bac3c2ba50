"""What users of transformers write: the same result here, or one line that says what to write instead."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from minexaone.chat import Chat
from minexaone.files import SHIPPED
from minexaone.habits import INSTEAD, in_our_words
from minexaone.model import Exaone4
from minexaone.tokenizer import Tokenizer

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TABLE = README.split("| in transformers you write | here you write |\n|---|---|\n")[1].split("\n\n")[0]
TEXT = "[|user|]\nWhich one is bigger, 3.12 or 3.9?[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n"


def rows():
    for line in TABLE.splitlines():
        theirs, ours = (re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split(" | "))
        yield theirs[0], ours[0] if ours else theirs[0]


def plain(value):
    return value.tolist() if hasattr(value, "tolist") else value


@torch.inference_mode()
def test_every_row_of_the_readmes_table_gives_the_same(tmp_path):
    names = {"folder": SHIPPED, "text": TEXT, "torch": torch, "AutoModelForCausalLM": AutoModelForCausalLM,
             "AutoTokenizer": AutoTokenizer, "Exaone4": Exaone4, "Tokenizer": Tokenizer,
             "messages": [{"role": "user", "content": "Hi"}], "ids": Tokenizer.from_pretrained()(TEXT)["input_ids"]}
    theirs, ours = names | {"out": tmp_path / "theirs"}, names | {"out": tmp_path / "ours"}
    compared = 0
    for left, right in rows():
        if " = " in left:
            exec(left, theirs)  # noqa: S102  (the README's own)
            exec(right, ours)  # noqa: S102
            continue
        if "stop" not in theirs and "model" in ours:
            theirs["stop"] = ours["stop"] = ours["model"].generate(ours["ids"], max_new_tokens=3)[2]
        expected, found = eval(left, theirs), eval(right, ours)
        if "save_pretrained" in left:
            names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
            assert all((tmp_path / side / name).is_file() for side in ("theirs", "ours") for name in names)
        elif "logits" in left:
            assert (expected - found).abs().max() < 1e-4 * expected.std()
        else:
            assert plain(expected) == plain(found), left
        compared += 1
    assert compared == len(TABLE.splitlines()) - 2 > 10


@pytest.fixture(scope="module")
def model():
    return Exaone4.from_pretrained(dtype="float32", device="cpu")


def test_options_by_both_names_mean_the_same(model, toy_tokenizer):
    ids = Tokenizer.from_pretrained()(TEXT)["input_ids"]
    alone = model.generate(ids, max_new_tokens=6)
    stop = alone[3]
    assert model.generate(ids, max_new_tokens=6, eos_token_id=stop) == alone[:alone.index(stop) + 1]
    assert model.generate(ids, max_new_tokens=6, eos_token_id=[stop]) == alone[:alone.index(stop) + 1]
    assert model.generate(ids, max_new_tokens=6, eos_token_id=None) == alone  # the checkpoint's, as in transformers
    assert model.generate(ids, max_new_tokens=6, do_sample=False, temperature=0.7, top_p=0.9) == alone
    drawn = model.generate(ids, max_new_tokens=6, temperature=3.0, seed=1)
    assert model.generate(ids, max_new_tokens=6, do_sample=True, temperature=3.0, seed=1) == drawn != alone
    assert list(model.stream(input_ids=ids, max_new_tokens=6, do_sample=None)) == alone
    padded = torch.tensor([[0, 0, *ids]])
    mask = torch.tensor([[0, 0] + [1] * len(ids)])
    assert model.generate(padded, attention_mask=mask, max_new_tokens=6) == [alone]
    assert model.generate(input_ids=padded, attention_mask=mask, max_new_tokens=6) == [alone]
    texts = [TEXT, "Hello", "너는 누구야?"]
    tokenizer = Tokenizer.from_pretrained()
    assert model.generate(tokenizer(texts), max_new_tokens=6) == model.generate(
        [tokenizer.encode(text, parse_special=True) for text in texts], max_new_tokens=6)
    assert Chat(model, toy_tokenizer, do_sample=False, eos_token_id=5).options == {
        "max_new_tokens": 1024, "temperature": 0.0, "stop_ids": [5]}


@pytest.mark.parametrize("option", INSTEAD)
def test_an_option_without_a_like_says_what_to_write(model, option):
    """Each is an option that transformers has; it is refused at the call, before a stream is read."""
    theirs = {*vars(GenerationConfig()), "generation_config", "streamer", "stopping_criteria", "assistant_model"}
    assert option in theirs
    for function in (model.generate, model.stream):
        with pytest.raises(TypeError, match=rf"^{option} is an option of transformers, not of minexaone: \w+") as error:
            function([3, 4], **{option: 3})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("options", "kind", "message"), [
    ({"do_sample": True}, ValueError, "do_sample=True needs a temperature.* write temperature=1.0"),
    ({"do_sample": True, "temperature": 0}, ValueError, "do_sample=True needs a temperature"),
    ({"do_sample": "no"}, ValueError, "do_sample is 'no', expected True or False"),
    ({"do_sample": torch.ones(2)}, ValueError, "do_sample is tensor.*, expected True or False"),
    ({"eos_token_id": 3, "stop_ids": [4]}, TypeError, "eos_token_id and stop_ids are two names of one option"),
    ({"prompts": [3], "input_ids": [4]}, TypeError, "input_ids and prompts are two names of one option"),
    ({"eos_token_id": "x", "prompts": [3]}, ValueError, "stop_ids is 'x', expected token ids"),
    ({"eos_token_id": True, "prompts": [3]}, ValueError, "stop_ids is True, expected token ids"),
    ({"attention_mask": [1]}, ValueError, "prompt"),
    ({}, ValueError, "prompt"),
])
def test_options_that_cannot_be_are_named(model, options, kind, message):
    with pytest.raises(kind, match=message):
        model.generate(**options)


def test_options_are_not_changed_where_they_stand():
    given = {"eos_token_id": 3, "do_sample": False}
    assert in_our_words(given) == {"stop_ids": [3], "temperature": 0.0}
    assert given == {"eos_token_id": 3, "do_sample": False}


def test_the_tokenizer_is_called_as_one_of_transformers(toy_tokenizer, tmp_path):
    toy_tokenizer.save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, "", ["너는 누구야?", "", TEXT], []):
        assert toy_tokenizer(text) == ({**theirs(text)} if text else {"input_ids": [], "attention_mask": []})
    assert len(toy_tokenizer) == len(theirs) and toy_tokenizer
    for id in (5, torch.tensor(5), torch.tensor(5).numpy(), 300):
        assert toy_tokenizer.decode(id) == theirs.decode(id)
    ids = theirs([TEXT, "너는"])["input_ids"]
    for skip in (False, True):
        assert toy_tokenizer.batch_decode(ids, skip) == theirs.batch_decode(ids, skip_special_tokens=skip)
    assert toy_tokenizer.batch_decode(torch.tensor([ids[0]])) == [TEXT]
    with pytest.raises(TypeError, match="no option return_tensors, padding: .* torch.tensor"):
        toy_tokenizer(TEXT, return_tensors="pt", padding=True)
    with pytest.raises(TypeError, match="write batch_decode"):
        toy_tokenizer.decode(ids)
