"""Tool use: replies are judged exactly, names are mostly new, chains can be run to their end."""

import json
from collections import defaultdict
from random import Random
from types import SimpleNamespace

import pytest
import torch

from minexaone.reply import Reply, ToolCall, read_reply
from minexaone.scoring.evaluate import run_episodes
from minexaone.tasks import sample, verify
from minexaone.tasks.base import LANGUAGES, Example, held_out, phrases, say, user
from minexaone.tasks.tool_use import TASKS, Episode, answers, calls, episode, sentences, tools, valid_calls
from minexaone.tasks.tool_use.verify import SUM

CASES = [(name, language, level) for name, task in TASKS.items() for language in LANGUAGES
         for level in range(1, task.levels + 1)]


@pytest.fixture(scope="module")
def examples():
    """Of each split, as `sample` would draw them."""
    rng, drawn = Random(0), {"train": [], "test": []}
    for split, count in (("train", 40), ("test", 20)):
        for name, language, level in CASES * count:
            example = TASKS[name].make(rng, language, level, split == "test")
            if not example.key or held_out(example.key) == (split == "test"):
                drawn[split].append(example)
    assert min(map(len, drawn.values())) > 40
    return drawn


def calling(*calls):
    """A reply that makes calls."""
    return Reply(tool_calls=[ToolCall(**call) for call in calls])


def known_names(example):
    """The names of the tools and of their parameters."""
    return {name for t in example.tools
            for name in [t["function"]["name"], *t["function"]["parameters"]["properties"]]}


def test_every_reference_reply_is_right_and_valid_and_another_ones_is_wrong(examples):
    replies = defaultdict(list)
    for e in examples["train"] + examples["test"]:
        assert verify(e, e.answer) and valid_calls(e, e.answer), e
        assert not verify(e, "") and not verify(e, "?") and not verify(e, e.answer.content + "</tool_call>"), e
        assert verify(e, e.text) == (not e.answer.tool_calls), e  # spelled calls are none
        replies[e.task, e.language].append(e.answer)
    rng = Random(1)
    for task in TASKS:
        drawn = [e for e in examples["train"] if e.task == task]
        assert sum(verify(e, rng.choice(replies[task, e.language])) for e in drawn) < 0.1 * len(drawn), task


def test_replies_are_in_the_language_of_the_question(examples):
    spoken = [e for e in examples["train"] if "calls" not in e.expected and "numbers" in e.expected]
    assert len(spoken) > 20
    for e in spoken:
        hangul = any("가" <= c <= "힣" for c in e.text)
        assert hangul == (e.language == "ko"), e.text
        other = say(Random(0), "en" if e.language == "ko" else "ko", "tool.dice.total", sum=e.expected["last"])
        assert not verify(e, ", ".join(map(str, e.expected["numbers"])) + f". {other}"), e


@pytest.mark.parametrize("reply, good", [
    ('{"name": "roll", "arguments": {"n": 6}}', False),
    ('{"name": "roll", "arguments": {"n": 6}}|{"arguments": {"n": 20}, "name": "roll"}', True),
    ('{"name": "roll", "arguments": {"n": 20}}|{"name": "roll", "arguments": {"n": 6}}', True),
    ('{"name": "roll", "arguments": {"n": "6"}}|{"name": "roll", "arguments": {"n": 20}}', False),
    ('{"name": "roll", "arguments": {"n": 6}}|{"name": "roll", "arguments": {"n": 6}}', False),
    ('{"name": "rol", "arguments": {"n": 6}}|{"name": "roll", "arguments": {"n": 20}}', False),
    ('{"name": "roll", "arguments": {"n": 6}|{"name": "roll", "arguments": {"n": 20}}', False)])
def test_calls_are_judged_as_json_in_any_order(toy_tokenizer, reply, good):
    calls = [{"name": "roll", "arguments": {"n": n}} for n in (6, 20)]
    example = Example("call", "en", 2, [], {}, {"calls": calls}, {})
    text = "\n".join(f"<tool_call>{call}</tool_call>" for call in reply.split("|")) + "[|endofturn|]"
    assert verify(example, read_reply(toy_tokenizer, toy_tokenizer.encode(text, parse_special=True))) is good
    assert not verify(example, read_reply(toy_tokenizer, toy_tokenizer.encode(text)))


@pytest.mark.parametrize("control", [True, False])
def test_a_tool_loop_runs_the_calls_that_chat_would_run(toy_tokenizer, control):
    class Script:
        device = torch.device("cpu")
        config = SimpleNamespace(stop_ids=[toy_tokenizer.eos_token_id])

        def generate(self, prompts, **options):
            text = texts.pop(0)
            return [[*toy_tokenizer.encode(text, parse_special=control), toy_tokenizer.eos_token_id] for _ in prompts]

    for n in range(5):
        run = episode(Random(n), "en", 2, True)
        texts = [f"<tool_call>{json.dumps(call)}</tool_call>" for call, _ in run.script] + [run.reply]
        assert run_episodes(Script(), toy_tokenizer, [run], False) == [control]


@pytest.mark.parametrize("call, good", [
    ({"name": "roll", "arguments": {"n": 6}}, True), ({"name": "roll", "arguments": {"n": "6"}}, False),
    ({"name": "roll", "arguments": {}}, False), ({"name": "roll", "arguments": {"n": 6, "m": 1}}, False),
    ({"name": "rol", "arguments": {"n": 6}}, False)])
def test_calls_are_valid_if_they_fit_the_schema(call, good):
    schema = tools.schema("roll", "Roll a dice.", {"n": {"type": "int"}})  # "int", as in the model card
    assert valid_calls(Example("call", "en", 1, [], {}, {}, {}, tools=[schema]), calling(call)) is good


@pytest.mark.parametrize("expected, reply, good", [
    ({"numbers": [3, 5], "last": 8}, "You rolled 3 and 5. 3 + 5 = 8. The sum is 8.", True),
    ({"numbers": [3, 5], "last": 8}, "You rolled 3 and 5. The sum is 9.", False),
    ({"numbers": [3, 5], "last": 8}, "You rolled 5 and 3. The sum is 8.", False),
    ({"numbers": [3, 5], "last": 8}, "You rolled 3 and 5. 3 + 5 = 9. The sum is 8.", False),
    ({"numbers": [3, 5], "last": 8}, "주사위 결과는 3, 5예요. 합은 8이에요.", False),
    ({"words": ["sunny", "21"]}, "It is sunny in Oslo, with 21 degrees.", True),
    ({"words": ["sunny", "21"]}, "It is sunny in Oslo, with 211 degrees.", False),
    ({"words": ["5"]}, "The temperature is -5.", False),
    ({"words": ["no banko"], "mark": "tool.error.mark"}, "There was an error: no banko.", True),
    ({"words": ["no banko"], "mark": "tool.error.mark"}, "It is no banko today.", False),
    ({"words": ["no banko"], "mark": "tool.error.mark"}, "There was an error: no banka.", False),
    ({"words": ["21"]}, 'It is 21. <tool_call>{"name": "a", "arguments": {}}</tool_call>', False)])
def test_sentences_are_judged_by_what_they_must_contain(expected, reply, good):
    assert verify(Example("answer", "en", 1, [], {}, expected, {}), reply) is good


def test_every_addition_is_true(examples):
    texts = [text for e in examples["train"] for text in (e.text, *e.thoughts.values())]
    sums = [numbers for text in texts for numbers in SUM.findall(text)]
    assert len(sums) > 50
    assert all(int(a) + int(b) == int(c) for a, b, c in sums)
    assert SUM.findall("3 + 5 = 8, 8 + 2 = 10.") == [("3", "5", "8"), ("8", "2", "10")]


def test_train_and_test_share_no_operands_and_no_free_names(examples):
    keys = {split: {(e.task, e.key) for e in examples[split] if e.key} for split in examples}
    assert keys["train"] and keys["test"] and not keys["train"] & keys["test"]
    usual = {name for _, names in tools.KINDS.values() for name in names.split()}
    usual |= {name for _, names in tools.ROLES.values() for name in names.split()}
    free = {split: {name for e in examples[split] for name in known_names(e)} - usual for split in examples}
    assert len(free["train"]) > 800 and not free["train"] & free["test"]
    held = set(f"{tools.TEST_DICE_TOOLS} {tools.TEST_DICE_PARAMETERS}".split())
    assert not held & free["train"] and held & free["test"]


def test_no_earlier_turn_holds_a_problem_of_the_tests():
    """Earlier calls and replies are learnt, too."""
    keys, rng = set(), Random(0)
    for n in range(400):
        uses = calls.single(rng, "en", False, 1)[1]
        messages, before = calls.answered(rng, ("en", "ko", "es")[n % 3], False, 2, uses)
        assert len(messages) == 0 or messages[-1]["role"] == "assistant"
        assert not {calls.alike_kind(use) for use in before} & {calls.alike_kind(uses[0])} - {"custom"}
        keys |= {calls.key_of(before, False)} if sum(m["role"] == "user" for m in messages) == 1 else set()
    assert len(keys) > 100 and not [key for key in keys if key and held_out(key)]
    for _ in range(300):
        example = answers.answer(rng, "en", 2, False)
        if example.right_before and json.loads(example.key)[0]:
            assert not held_out(json.loads(example.key)[0])


@pytest.mark.parametrize("kind", ["coin", "battery"])
def test_tools_without_parameters_are_asked_for_in_both_splits(kind):
    about = {about for texts in phrases()[f"tool.{kind}.about"].values() for about in texts}
    for split in ("train", "test"):
        rng = Random(split)
        examples = [sample(rng, split, "call", "en", level=3) for _ in range(400)]
        asked = [e for e in examples for t in e.tools if t["function"]["description"] in about
                 and t["function"]["name"] in {call["name"] for call in e.expected.get("calls", ())}]
        assert len(asked) > (5 if split == "train" else 0), split


@pytest.mark.parametrize("split, low, high", [("train", 0.38, 0.58), ("test", 0.15, 0.35)])
def test_many_names_are_free_and_hardly_one_comes_twice(examples, split, low, high):
    names = [t["function"]["name"] for e in examples[split] for t in e.tools]
    usual = {name for _, kind in tools.KINDS.values() for name in kind.split()} | set(tools.TEST_DICE_TOOLS.split())
    free = [name for name in names if name not in usual]
    assert low < len(free) / len(names) < high
    assert len(set(free)) > 0.75 * len(free)


def test_levels_are_harder_and_harder(examples):
    def mean(task, level, size):
        values = [size(e) for e in examples["train"] if e.task == task and e.level == level]
        return sum(values) / len(values)

    assert all(len(e.expected.get("calls", "1")) == 1 for e in examples["train"] if (e.task, e.level) == ("call", 1))
    assert mean("call", 2, lambda e: len(e.expected.get("calls", ()))) > 1.7
    assert mean("call", 3, lambda e: len(e.tools)) > mean("call", 2, lambda e: len(e.tools)) + 1.5
    assert mean("answer", 1, lambda e: "error" in str(e.messages)) == 0
    assert mean("answer", 2, lambda e: "error" in str(e.messages)) > 0.7
    rng = Random(0)
    for level in (1, 2, 3):  # the trouble of one call can add one, and can cut the chain short
        steps = [len(episode(rng, "en", level, False).script) for _ in range(60)]
        assert max(set(steps), key=steps.count) == level + 1 and max(steps) == level + 2


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("test", (False, True))
def test_an_episode_can_be_run_to_its_end(language, test):
    rng, troubled = Random(2), 0
    for level in (1, 2, 3) * 15:
        run, made = episode(rng, language, level, test), []
        assert held_out(run.key) == test
        for call, result in run.script:
            made.append(call)
            answered = run.respond(**call)
            assert answered == result
            troubled += isinstance(answered, dict) and "error" in answered
        calls = calling(*made).tool_calls
        assert run.verify(run.reply, calls), run
        assert not run.verify(run.reply, calls[:-1]) and not run.verify("", calls)
        assert not run.verify(run.reply, calls + calls[-1:] * 3)
        assert len(calls) < 2 or calls[0] == calls[1] or not run.verify(run.reply, calls[::-1])
        known = run.tools[0]["function"]["name"]
        assert "error" in run.respond("no_such_tool", {}) and "unknown" in run.respond(known, {"?": 1})["error"]
    assert troubled > 4


def test_a_call_that_fails_at_first_works_the_second_time():
    call = {"name": "a", "arguments": {}}
    run = Episode([user("?")], [], "en", 1, [(call, {"error": "busy"}), (call, 7)], "It is 7.", {"words": ["7"]}, "")
    assert [run.respond("a", {}) for _ in range(3)] == [{"error": "busy"}, 7, 7]
    calls = calling(call, call).tool_calls
    assert run.verify("It is 7.", calls) and not run.verify("It is 7.", calls[:1])
    assert not run.verify("It is 7. <tool_call>{}</tool_call>", calls)


def test_no_tool_and_no_call_without_a_fitting_one(examples):
    refusals = [e for e in examples["train"] if e.expected.get("mark") == "tool.none.mark"]
    assert len(refusals) > 20 and any(e.tools for e in refusals) and not all(e.tools for e in refusals)
    for e in refusals:
        assert not verify(e, calling({"name": "roll", "arguments": {"n": 6}}))


def test_without_any_tool_the_present_moment_is_asked_by_one_task_alone():
    texts = {language: {text for kind in ("weather", "time") for text in phrases()[f"tool.{kind}.do"][language]}
             for language in LANGUAGES}
    bare = [e for n in range(4000) for e in [calls.call(Random(n), LANGUAGES[n % 3], 1, n % 2 == 0)] if not e.tools]
    assert len(bare) > 100
    assert not any(do in e.expected["words"] for e in bare for do in texts[e.language])


def test_calls_can_be_copied_from_what_the_model_reads(examples):
    """Each name or word in a call stands in the schema or in the messages."""
    calls = [(e, call) for e in examples["train"] for call in e.expected.get("calls", ())]
    assert len(calls) > 500
    for e, call in calls:
        seen = json.dumps([e.messages, e.tools], ensure_ascii=False)
        for value in (call["name"], *call["arguments"], *call["arguments"].values()):
            assert not isinstance(value, str) or json.dumps(value, ensure_ascii=False)[1:-1] in seen, (e, value)


def test_spanish_says_es_la_for_one_o_clock():
    rng, clock = Random(0), tools.make_tool(Random(0), "es", "time", False)
    for result, words in (("1:05", "es la 1:05"), ("01:05", "es la 01:05"), ("13:05", "son las 13:05")):
        use = tools.Use(clock, {"city": "Busán"}, result)
        assert all(words in sentences.report(rng, "es", use)[0].lower() for _ in range(20))


def test_phrases_exist_in_three_languages():
    own = {key: texts for key, texts in phrases().items() if key.startswith("tool.")}
    assert len(own) > 100
    for key, texts in own.items():
        assert set(texts) == set(LANGUAGES), key
        assert all(text and text == text.strip() for alternatives in texts.values() for text in alternatives), key


def test_the_seed_decides():
    def draw(seed):
        rng = Random(seed)
        return [TASKS[name].make(rng, language, level, False) for name, language, level in CASES]

    assert draw(7) == draw(7) != draw(8)


def test_messages_end_before_the_reply_and_no_tool_has_two_schemas(examples):
    for e in examples["train"]:
        assert e.messages[-1]["role"] in {"call": ("user",), "answer": ("tool",), "multistep": ("user", "tool")}[e.task]
        names = [t["function"]["name"] for t in e.tools]
        assert len(names) == len(set(names))


def test_both_states_of_a_device_are_in_one_split():
    keys = {on: calls.key_of([tools.Use(tools.make_tool(Random(0), "en", "switch", False, 1),
                                              {"device": "lamp", "on": on}, None)], False) for on in (True, False)}
    assert keys[True] == keys[False] and "lamp" in keys[True]
