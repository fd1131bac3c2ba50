"""The synthetic conversations: true, verifiable, in the right language, with a test split that training never sees."""

from collections import defaultdict
from random import Random

import pytest

from minexaone.phrases import PHRASES
from minexaone.tasks import (
    INTENTS,
    LANGUAGES,
    TEST_DICE_PARAMETERS,
    WEIGHTS,
    Example,
    compare_key,
    false_steps,
    held_out,
    particles,
    sample,
    verify,
)


@pytest.fixture(scope="module")
def examples():
    rng = Random(0)
    return {split: [sample(rng, split) for _ in range(4000)] for split in ("train", "test")}


def visible(example: Example) -> str:
    """What follows the thinking."""
    return example.text.rpartition("</think>\n\n")[2]


def test_every_reference_reply_is_right_and_another_ones_is_wrong(examples):
    replies = defaultdict(list)
    for example in examples["train"] + examples["test"]:
        assert verify(example, visible(example)), example
        assert not verify(example, ""), example
        replies[example.task, example.language].append(visible(example))
    rng = Random(0)
    for task in ("facts", "sums", "compare", "call", "answer"):  # their replies differ between examples
        wrong = [verify(e, rng.choice(replies[e.task, e.language])) for e in examples["test"] if e.task == task]
        assert sum(wrong) < 0.1 * len(wrong), task


@pytest.mark.parametrize("reply, good", [
    ("3.9 is bigger than 3.12.", True), ("3.90 is bigger.", True), ("3.12 is bigger than 3.9.", False),
    ("They are equal.", False), ("3.9와 3.12를 비교하면 3.9가 더 커요.", False), ("3.9 and 3.12 are equal.", False)])
def test_a_comparison_is_judged_by_the_first_number_and_the_language(reply, good):
    example = Example("compare", "en", [], {}, {"first": "3.9", "equal": False})
    assert verify(example, reply) is good


@pytest.mark.parametrize("reply, good", [
    ('<tool_call>{"name": "roll", "arguments": {"n": 6}}</tool_call>', False),
    ('<tool_call>{"name": "roll", "arguments": {"n": 6}}</tool_call>\n' * 2, True),
    ('<tool_call>{"arguments": {"n": 6}, "name": "roll"}</tool_call>\n' * 2, True),
    ('<tool_call>{"name": "roll", "arguments": {"n": "6"}}</tool_call>\n' * 2, False),
    ('<tool_call>{"name": "roll", "arguments": {"n": 6}</tool_call>\n' * 2, False), ("I rolled 6 and 6.", False)])
def test_calls_are_judged_as_json(reply, good):
    call = {"name": "roll", "arguments": {"n": 6}}
    assert verify(Example("call", "en", [], {}, {"calls": [call, call]}), reply) is good


def test_a_call_nobody_asked_for_is_wrong():
    example = Example("sums", "en", [], {}, {"last": "4"})
    assert verify(example, "2 + 2 = 4")
    assert not verify(example, '2 + 2 = 4 <tool_call>{"name": "add", "arguments": {"a": 2, "b": 2}}</tool_call>')


def test_train_and_test_share_no_operands(examples):
    keys = {split: {(e.task, e.key) for e in examples[split] if e.key} for split in examples}
    assert keys["train"] and keys["test"] and not keys["train"] & keys["test"]
    assert held_out(compare_key("3.12", "3.9")) and compare_key("3.9", "3.12") == compare_key("3.120", "3.90")
    assert not any(name in str(e.tools) for e in examples["train"] for name in TEST_DICE_PARAMETERS[:1])
    assert any(e.key == compare_key("3.12", "3.9") for e in (sample(Random(n), "test", "compare") for n in range(600)))


def test_every_step_of_the_thinking_is_true(examples):
    thoughts = [e.reply["reasoning_content"] for e in examples["train"] + examples["test"] if e.reasoning]
    assert not [step for thought in thoughts for step in false_steps(thought)]
    assert false_steps("So 3.12 > 3.9. 2 + 2 = 5, 3 - 1 = 2") == ["2 + 2 = 5", "3.12 > 3.9"]


def test_thinking_exists_in_reasoning_mode_only(examples):
    for example in examples["train"]:
        assert ("reasoning_content" in example.reply) == example.reasoning == ("</think>" in example.text)


def test_language_is_kept(examples):
    for e in examples["train"]:
        if e.task in ("compare", "chat", "unknown"):
            assert any("가" <= c <= "힣" for c in e.text) == (e.language == "ko"), e.text
    for key, texts in PHRASES.items():
        for language in LANGUAGES if key.partition(".")[2] in ("ask", "reply", "think") else ():
            hangul = [any("가" <= c <= "힣" for c in text) for text in texts[language] if "=" not in text]
            assert all(hangul) if language == "ko" else not any(hangul), key


def test_never_claims_to_be_another_model():
    for language in LANGUAGES:
        for intent in INTENTS:
            for reply in PHRASES[f"{intent}.reply"][language]:
                assert "LG" not in reply and "EXAONE" not in reply
                assert "minexaone" in reply or intent in ("hello", "thanks", "bye")


def test_phrases_exist_in_three_languages():
    for key, texts in PHRASES.items():
        assert set(texts) == set(LANGUAGES), key
        assert all(text and text == text.strip() for alternatives in texts.values() for text in alternatives), key


def test_korean_particles():
    assert particles("3.9은/는 3.12과/와 10이/가 7으로/로 6으로/로") == "3.9는 3.12와 10이 7로 6으로"
    assert particles("서울은/는 파리이에요/예요 물으로/로 민수이라고/라고") == "서울은 파리예요 물로 민수라고"
    assert particles('"밤"은/는') == '"밤"은'


def test_the_seed_decides():
    first, second, other = ([sample(rng) for _ in range(50)] for rng in (Random(7), Random(7), Random(8)))
    assert first == second != other


def test_all_tasks_languages_and_modes_occur(examples):
    assert {(e.task, e.language, e.reasoning) for e in examples["train"]} == {
        (task, language, mode) for task in WEIGHTS for language in LANGUAGES for mode in (False, True)}


def test_messages_are_plain_and_end_before_the_reply(examples):
    for e in examples["train"]:
        assert e.messages[-1]["role"] == ("tool" if e.task == "answer" else "user")
        names = [tool["function"]["name"] for tool in e.tools]
        assert len(names) == len(set(names))
        for call in e.expected.get("calls", []):
            parameters = next(t for t in e.tools if t["function"]["name"] == call["name"])["function"]["parameters"]
            assert set(parameters["required"]) <= set(call["arguments"]) <= set(parameters["properties"])
