"""The shipped model: its files, its equality with transformers, and that it does what the README shows."""

import json
import random
import re
from decimal import Decimal

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minexaone import Chat, Exaone4, Tokenizer
from minexaone.config_json import GLOBAL, SLIDING
from minexaone.files import SHIPPED
from minexaone.model import Config
from minexaone.tasks import Example, verify
from minexaone.tasks.base import assistant, user

QUESTIONS = {"en": "Explain how wonderful you are", "ko": "너가 얼마나 대단한지 설명해 봐",
             "es": "Explica lo increíble que eres"}


@pytest.fixture(scope="module")
def model():
    return Exaone4.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained()


def test_files(model):
    assert (SHIPPED / "model.safetensors").stat().st_size <= 16 * 2**20
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "chat_template.jinja", "README.md"} <= {path.name for path in SHIPPED.iterdir()}
    for file in SHIPPED.parent.rglob("config.json"):  # each as `save_pretrained` writes it now
        saved = json.loads(file.read_text(encoding="utf-8"))
        assert saved == Config.from_dict(saved).to_dict() and saved["sliding_window_pattern"] == "LLLG"
    config = model.config
    assert config.layer_types == [SLIDING, SLIDING, SLIDING, GLOBAL] * (config.num_hidden_layers // 4)
    assert 8 * config.sliding_window <= config.max_position_embeddings


@torch.inference_mode()
def test_float32_equals_transformers_over_200_greedy_steps(tokenizer):
    ours = Exaone4.from_pretrained(dtype="float32", device="cpu")
    theirs = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    long = "A message about nothing. " * 60  # the prompt alone is longer than two windows
    prompts = [tokenizer.apply_chat_template([{"role": "user", "content": text}])
               for text in (*QUESTIONS.values(), long + QUESTIONS["en"])]
    assert len(prompts[-1]) > 2 * ours.config.sliding_window
    batch = ours.generate(prompts, max_new_tokens=200, stop_ids=[])
    for prompt, new in zip(prompts, batch, strict=True):
        ids = torch.tensor([prompt])
        theirs_new = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=200, do_sample=False,
                                     eos_token_id=None, pad_token_id=0)[0, len(prompt):]
        assert new == theirs_new.tolist()
        logits, reference = ours(torch.tensor([prompt + new])), theirs(torch.tensor([prompt + new])).logits
        assert (logits - reference).abs().max() <= 1e-4 * max(1, reference.std().item())


def test_tokenizer_and_template_equal_transformers(tokenizer):
    theirs = AutoTokenizer.from_pretrained(SHIPPED)
    for text in (*QUESTIONS.values(), " 3.12\n\n vs   3.9\t", "漢字 🚀 e\u0301"):
        assert tokenizer.encode(text) == theirs.encode(text)
        messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
        for thinking in (False, True):
            options = dict(add_generation_prompt=True, enable_thinking=thinking)
            assert tokenizer.apply_chat_template(messages, **options) == theirs.apply_chat_template(
                messages, **options)["input_ids"]


@pytest.mark.parametrize("language", QUESTIONS)
def test_answers_in_the_language_of_the_question(model, tokenizer, language):
    reply = Chat(model, tokenizer).send(QUESTIONS[language])
    assert reply.finish_reason == "stop" and reply.reasoning == ""
    asked = Example("chat", language, 1, [user(QUESTIONS[language])], assistant(""), {"intent": "wonderful"}, {})
    assert verify(asked, reply)  # whole sentences of what it may say of itself
    assert bool(re.search("[가-힣]", reply.content)) == (language == "ko")
    assert bool(re.search(r"\b(soy|puedo|modelo)\b", reply.content)) == (language == "es")


@pytest.mark.parametrize("a, b", [("3.12", "3.9"), ("17.35", "17.349"), ("0.5", "0.48"), ("41.07", "14.7")])
def test_compares_decimals_by_thinking(model, tokenizer, a, b):
    reply = Chat(model, tokenizer, reasoning=True).send(f"Which one is bigger, {a} vs {b}?")
    assert reply.finish_reason == "stop" and len(reply.reasoning) > 20
    assert str(max(a, b, key=Decimal)) in reply.content


def test_rolls_dice_with_a_tool(model, tokenizer):
    rolls = []

    def roll_dice(max_num: int):
        """Roll a dice with the number 1 to N. User can select the number N.

        Args:
            max_num: Max number of the dice
        """
        rolls.append((max_num, random.randint(1, max_num)))
        return rolls[-1][1]

    reply = Chat(model, tokenizer, tools=[roll_dice]).send("Roll D6 dice twice!")
    assert [sides for sides, _ in rolls] == [6, 6] and reply.finish_reason == "stop"
    assert [call.result for call in reply.tool_calls] == [result for _, result in rolls]
    assert all(str(result) in reply.content for _, result in rolls)


def test_budget_forces_an_answer(model, tokenizer):
    reply = Chat(model, tokenizer, reasoning=True, reasoning_budget=5).send("Which one is bigger, 3.12 vs 3.9?")
    assert len(tokenizer.encode(reply.reasoning)) <= 6 and reply.content and reply.finish_reason == "stop"
