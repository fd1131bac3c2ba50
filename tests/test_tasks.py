"""What all synthetic tasks share: true references, a test split that training never sees, languages, the seed."""

from collections import defaultdict
from random import Random

import pytest

from minexaone import tasks
from minexaone.tasks import ALONE, DOMAINS, LANGUAGES, TASKS, held_out, in_a_chat, in_language, phrases, sample, verify
from minexaone.tasks.base import ask, listing, made_up, particles


@pytest.fixture(scope="module")
def examples():
    rng = Random(0)
    return {"train": [sample(rng) for _ in range(3000)], "test": [sample(rng, "test") for _ in range(800)]}


def visible(example):
    """What follows the thinking."""
    return example.text.rpartition("</think>\n\n")[2]


def test_every_reference_reply_is_right_and_an_empty_one_is_wrong(examples):
    for example in examples["train"] + examples["test"]:
        assert verify(example, example.answer), example
        assert not verify(example, ""), example


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"chat", "unknown"}))  # whose replies are few
def test_another_examples_reply_is_wrong(task):
    rng, seen = Random(task), defaultdict(list)
    examples = [sample(rng, task=task, language="en") for _ in range(150)]
    for example in examples:
        seen[visible(example)].append(example)
    wrong = [verify(e, seen[rng.choice([reply for reply in seen if reply != visible(e)])][0].answer) for e in examples]
    assert sum(wrong) < 0.1 * len(wrong)


def test_train_and_test_share_no_problem(examples):
    keys = {split: {(e.task, e.key) for e in examples[split] if e.key} for split in examples}
    assert len(keys["train"]) > 1500 and len(keys["test"]) > 400 and not keys["train"] & keys["test"]
    assert all(held_out(key) for _, key in keys["test"]) and not any(held_out(key) for _, key in keys["train"])


def test_thinking_exists_in_reasoning_mode_only_and_ends_in_the_chosen_style(examples):
    for example in examples["train"]:
        assert ("</think>" in example.text) == example.reasoning
        assert "steps" in example.thoughts and example.style in example.thoughts
        assert all(thought and thought == thought.strip() for thought in example.thoughts.values())


def test_all_tasks_languages_modes_and_levels_occur(examples):
    cells = {(e.task, e.language, e.reasoning) for e in examples["train"]}
    assert cells == {(task, language, mode) for task in TASKS for language in LANGUAGES for mode in (False, True)}
    assert {(e.task, e.level) for e in examples["train"]} == {
        (name, level) for name, task in TASKS.items() for level in range(1, task.levels + 1)}
    assert len(DOMAINS) == 7


def test_what_is_asked_for_is_drawn():
    for n in range(40):
        example = sample(Random(n), "test", "sums", "ko", True, 3, "retry")
        assert (example.task, example.language, example.reasoning, example.level, example.style) == (
            "sums", "ko", True, 3, "retry")


def test_the_seed_decides():
    first, second, other = ([sample(rng) for _ in range(60)] for rng in (Random(7), Random(7), Random(8)))
    assert first == second != other


def test_messages_are_plain_and_end_before_the_reply(examples):
    for e in examples["train"]:
        assert e.messages[-1]["role"] in ("user", "tool")
        names = [tool["function"]["name"] for tool in e.tools]
        assert len(names) == len(set(names))


def test_phrases_exist_in_three_languages_and_are_tidy():
    for key, texts in phrases().items():
        assert set(texts) - {"de"} == set(LANGUAGES), key  # German is a language of the lab
        for language, alternatives in texts.items():
            assert all(text and text == text.strip() for text in alternatives), (key, language)


def test_never_claims_to_be_another_model(examples):
    for e in examples["train"]:
        assert "LG" not in e.reply["content"] and "EXAONE" not in e.reply["content"].replace("minexaone", "")


@pytest.mark.parametrize("text, language, good", [
    ("3.9 is bigger than 3.12.", "en", True), ("3.9 is bigger than 3.12.", "ko", False),
    ("3.9 es mayor que 3.12.", "es", True), ("3.9 es mayor que 3.12.", "en", False),
    ("3.9가 3.12보다 더 커요.", "ko", True), ("3.9가 3.12보다 더 커요.", "es", False), ("42", "ko", True),
    ("minexaone이에요", "ko", True), ("Zorlu", "es", True)])
def test_in_language(text, language, good):
    assert in_language(text, language) is good


def test_korean_particles():
    assert particles("3.9은/는 3.12과/와 10이/가 7으로/로 6으로/로") == "3.9는 3.12와 10이 7로 6으로"
    assert particles("서울은/는 파리이에요/예요 물으로/로 민수이라고/라고") == "서울은 파리예요 물로 민수라고"
    assert particles('"밤"은/는') == '"밤"은'


def test_small_helpers():
    assert [listing(language, (3, 5, 2)) for language in LANGUAGES] == ["3, 5 and 2", "3, 5, 2", "3, 5 y 2"]
    assert listing("en", [7]) == "7"
    assert all(made_up(Random(n), "en", plain=True).isalpha() for n in range(50))
    assert len({ask(Random(n), "en", "hello.ask") for n in range(60)}) > 10


def test_an_example_in_a_chat_stands_last_and_what_is_before_it_is_of_the_training_split(monkeypatch):
    rng, systems = Random(5), 0
    for n in range(200):
        example = sample(rng, "test", rng.choice(ALONE), reasoning=n % 2 == 0)
        seen = in_a_chat(rng, example, n % 5)
        roles = [message["role"] for message in seen.messages]
        systems += roles[0] == "system"
        turns = roles[roles[0] == "system":]
        assert turns == ["user", "assistant"] * (len(turns) // 2) + ["user"] and "system" not in turns
        assert len(turns) >= 1 + 2 * (n % 5) and seen.messages[-1] == example.messages[-1]
        assert (seen.reply, seen.expected, seen.reasoning) == (example.reply, example.expected, example.reasoning)
        assert verify(seen, seen.answer) and (n % 5 or seen == example)
    assert systems > 5
    drawn = []
    monkeypatch.setattr(tasks, "sample", lambda *args, **options: drawn.append(sample(*args, **options)) or drawn[-1])
    in_a_chat(rng, example, 300)
    assert len(drawn) == 300 and {other.task for other in drawn} == set(ALONE)
    assert not any(held_out(other.key) for other in drawn if other.key)
    drawn.clear()  # "I have no tool for that" must not stand before one that tells the weather
    in_a_chat(rng, sample(rng, "test", "answer"), 300)
    assert {other.task for other in drawn} == set(ALONE) - {"unknown"}
