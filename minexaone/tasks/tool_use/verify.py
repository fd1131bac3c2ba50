"""Whether calls and sentences about results are right."""

import json
import re

from minexaone.tasks.base import Example, in_language, phrases
from minexaone.tasks.tool_use.tools import plain
from minexaone.tools import argument_error, checked_json

NUMBER = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?")
SUM = re.compile(r"(?<![\d+] )(?<!\d)(\d+) \+ (\d+) = (\d+)")
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.S)


def parse_calls(text: str) -> list | None:
    """The calls in a reply, each {"name", "arguments"}; None if one is malformed or never closed."""
    if re.search(r"</?tool_", CALL.sub("", text)):
        return None
    try:
        calls = [checked_json(call) for call in CALL.findall(text)]
    except (ValueError, RecursionError):
        return None
    good = all(isinstance(c, dict) and c.keys() == {"name", "arguments"} and isinstance(c["name"], str)
               and isinstance(c["arguments"], dict) for c in calls)
    return calls if good else None


def canonical(call: dict) -> str:
    """A call as text that is the same for equal calls only: 6, 6.0, "6" and true all differ."""
    return json.dumps(call, sort_keys=True, ensure_ascii=False)


def valid_calls(example: Example, reply: str) -> bool:
    """Whether every call in a reply names a tool of the example and its arguments fit. True without any call."""
    calls, tools = parse_calls(reply), {t["function"]["name"]: plain(t) for t in example.tools}
    return calls is not None and all(
        c["name"] in tools and not argument_error(c["arguments"], tools[c["name"]]) for c in calls)


def states(reply: str, language: str, expected: dict) -> bool:
    """Whether a reply holds the words, numbers and mark expected, in the right language, and no false sum."""
    numbers, words = [float(n) for n in NUMBER.findall(reply)], expected.get("words", [])
    if not reply.strip() or not all(contains(reply, word) for word in words):
        return False
    own = reply
    for word in sorted(words, key=len, reverse=True):
        own = own.replace(word, " ")
    rolls = expected.get("numbers", [])
    marks = phrases()[expected["mark"]][language] if "mark" in expected else [""]
    return (in_language(own, language) and any(mark in reply.lower() for mark in marks)
            and numbers[:len(rolls)] == rolls and ("last" not in expected or numbers[-1:] == [expected["last"]])
            and ("numbers" not in expected or all(int(a) + int(b) == int(c) for a, b, c in SUM.findall(reply))))


def contains(text: str, word: str) -> bool:
    """Whether a word stands in a text and is not merely a piece of a longer word or number."""
    left = r"(?<![A-Za-z0-9])(?<!\d\.)(?<!-)" if word[0].isascii() and word[0].isalnum() else ""
    right = r"(?![A-Za-z0-9]|\.\d)" if word[-1].isascii() and word[-1].isalnum() else ""
    return re.search(left + re.escape(word) + right, text) is not None


def verify(example: Example, reply: str) -> bool:
    """Right calls in any order, or no call and a reply that states what is expected."""
    calls = parse_calls(reply)
    if calls is None:
        return False
    if "calls" in example.expected:
        return (sorted(map(canonical, calls)) == sorted(map(canonical, example.expected["calls"]))
                and in_language(CALL.sub("", reply), example.language))
    return not calls and states(reply, example.language, example.expected)
