"""Whether calls and sentences about results are right."""

import re

from minexaone.reply import Reply
from minexaone.tasks.base import Example, in_language, phrases
from minexaone.tasks.tool_use.tools import plain
from minexaone.tools import argument_error

NUMBER = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?")
SUM = re.compile(r"(?<![\d+] )(?<!\d)(\d+) \+ (\d+) = (\d+)")


def valid_calls(example: Example, reply: Reply) -> bool:
    """Whether every call in a reply names a tool of the example and its arguments fit. True without any call."""
    tools = {t["function"]["name"]: plain(t) for t in example.tools}
    return all(call.name in tools and not argument_error(call.arguments, tools[call.name])
               for call in reply.tool_calls)


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
    """Beside calls a reply may say anything in the language of the question; without, it states what is expected."""
    if "calls" in example.expected:
        return in_language(reply, example.language)
    return states(reply, example.language, example.expected)
