"""What all tasks share: the example, sentences in three languages, messages, and the test split."""

import json
import re
import unicodedata
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

from minexaone.reply import Reply, ToolCall

LANGUAGES = ("en", "ko", "es")
STYLES = {"brief": 2, "steps": 3, "check": 2, "retry": 1}  # ways to think with their weights: see `Example.thoughts`
HELD_OUT = 10  # one key in ten belongs to the test split
MARKUP = re.compile(r"</?(?:think|tool_)")


@dataclass
class Example:
    """One assistant turn: `messages` lead to `reply`, an assistant message; `expected` is what `verify` looks for.

    thoughts: the thinking before the reply, by style: "brief" only says what is asked and jumps to the result, "steps"
        works it out, "check" also checks the result in another way, "retry" goes wrong first, notices and starts again.
        Every task has "steps", the others where they make sense. Each ends at the right result.
    key: the operands that make this problem this one and no other: its hash decides whether it is held out for tests.
        "" if the question is one of a fixed list, which both splits share.
    """

    task: str
    language: str  # of the question
    level: int  # 1 is easy
    messages: list[dict]
    reply: dict
    expected: dict
    thoughts: dict[str, str]
    key: str = ""
    tools: list[dict] = field(default_factory=list)
    reasoning: bool = False
    style: str = "steps"
    right_before: bool = True  # whether the assistant's turns in `messages` are right, so that they can be learnt too

    @property
    def text(self) -> str:
        """The reply as the model must write it, up to the end of the turn: thinking, content, calls."""
        calls = [f"<tool_call>{json.dumps(call['function'], ensure_ascii=False)}</tool_call>"
                 for call in self.reply.get("tool_calls", ())]
        thinking = f"{self.thoughts[self.style]}\n</think>\n\n" if self.reasoning else ""
        return thinking + "\n".join([self.reply["content"]] * bool(self.reply["content"]) + calls)

    @property
    def answer(self) -> Reply:
        """The same as it is read."""
        return Reply(self.thoughts[self.style] if self.reasoning else "", self.reply["content"],
                     [ToolCall(**call["function"]) for call in self.reply.get("tool_calls", ())])


@dataclass(frozen=True)
class Task:
    """A kind of problem.

    make(rng, language, level, test) draws an `Example`; test asks for what training must never see beside the key, such
    as names of tools. right(example, content) judges what the model wrote beside thinking and calls. weight: how often
    it is drawn. levels: the hardest level; the upper half is called hard.
    """

    make: callable
    right: callable
    domain: str
    weight: float
    levels: int = 1

    def verify(self, example: Example, reply: Reply | str) -> bool:
        """Whether a reply is right, exactly: it ended, its content is right, and its calls are those expected, if any.

        A text stands for a reply with this content alone. Markup that is spelled in it calls nothing, and is wrong.
        """
        reply = Reply(content=reply) if isinstance(reply, str) else reply
        made = sorted(canonical(call.name, call.arguments) for call in reply.tool_calls)
        return (reply.finish_reason == "stop" and not MARKUP.search(reply.content)
                and made == sorted(canonical(**call) for call in example.expected.get("calls", ()))
                and self.right(example, reply.content))


def canonical(name: str, arguments: dict) -> str:
    """A call as text that is the same for equal calls only: 6, 6.0, "6" and true all differ."""
    return json.dumps([name, arguments], sort_keys=True, ensure_ascii=False)


def held_out(key: str) -> bool:
    """Whether a problem belongs to the test split."""
    return zlib.crc32(key.encode()) % HELD_OUT == 0


def plain(example: Example) -> str:
    """An example as a page of plain text, as a base model reads it: no roles, no control tokens."""
    lines = [f"Tools: {json.dumps(example.tools, ensure_ascii=False)}"] if example.tools else []
    for message in example.messages:
        label = {"user": "Q: ", "assistant": "A: ", "tool": "Result: ", "system": ""}[message["role"]]
        content = message["content"]
        lines.append(label + (content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)))
    if example.reasoning:
        lines.append(f"T: {example.thoughts[example.style]}")
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in example.reply.get("tool_calls", ())]
    return "\n".join([*lines, "A: " + "\n".join([example.reply["content"]] * bool(example.reply["content"]) + calls)])


# ------------------------------------------------------------------------------------------------- sentences

# The final consonant of a digit's Korean name (0 영 ... 9 구), numbered as in Unicode: 0 is none, 8 is ㄹ.
DIGIT_FINALS = (21, 8, 0, 16, 0, 0, 1, 8, 8, 0)
PARTICLES = re.compile(r"""(\S)(["']?)(은/는|이/가|을/를|과/와|이에요/예요|으로/로|이라고/라고|이야/야)""")


@cache
def phrases() -> dict[str, dict[str, list[str]]]:
    """{key: {language: [alternative, ...]}} from the files in `phrases/`.

    A key stands at the beginning of a line, then come its alternatives in each language, separated by " | ". Braces are
    filled in; of a Korean particle pair such as "은/는", `particles` keeps the one that fits the sound before it. "a:b"
    is a pair of a question and its answer.
    """
    texts = {}
    for file in sorted((Path(__file__).parent / "phrases").glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line[:1].strip():
                latest = texts.setdefault(line, {})
                key = line
            elif re.match("  [a-z]{2}: ", line):
                language = line[2:4]
                if language in latest:
                    raise ValueError(f"{file}: the key {key!r} stands twice in {language}: rename one")
                latest[language] = line[6:]
            elif line.strip():
                latest[language] += " " + line.strip()
    return {key: {language: text.split(" | ") for language, text in texts[key].items()} for key in texts}


def particles(text: str) -> str:
    """Settle Korean particle pairs: the first form follows a final consonant, the second a vowel.

    >>> particles("3.9은/는 3.12과/와 사과을/를")
    '3.9는 3.12와 사과를'
    """
    def choose(match):
        last, quote, pair = match.groups()
        if "가" <= last <= "힣":
            final = (ord(last) - ord("가")) % 28
        else:
            final = DIGIT_FINALS[int(last)] if last in "0123456789" else last.lower() in "bcdfghjklmnpqrstvwxz"
        closed, opened = pair.split("/")
        return last + quote + (opened if not final or (pair == "으로/로" and final == 8) else closed)

    return PARTICLES.sub(choose, text) if "/" in text else text


def say(rng: Random, language: str, key: str, **values) -> str:
    """One of the phrases of a key, filled in."""
    return particles(rng.choice(phrases()[key][language]).format(**values))


def ask(rng: Random, language: str, key: str, **values) -> str:
    """The same for a user, who is less tidy: sometimes no capitals, accents or last mark, or a lead-in."""
    text = rng.choice(phrases()[key][language])
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.2:
        text = text.rstrip(".?!")
    if language == "es" and rng.random() < 0.15:
        text = "".join(c for c in unicodedata.normalize("NFD", text.lstrip("¿¡")) if c not in "\u0301")
    if rng.random() < 0.1:
        text = say(rng, language, "lead") + " " + text
    return particles(unicodedata.normalize("NFC", text).format(**values))


def listing(language: str, items) -> str:
    """"3, 5 and 2" """
    *rest, last = map(str, items)
    joint = {"en": " and ", "ko": ", ", "es": " y "}[language]
    return joint.join([", ".join(rest), last]) if rest else last


def made_up(rng: Random, language: str, plain=False) -> str:
    """A word that means nothing, as names and typing errors do; rarely (not if plain) a few symbols."""
    if not plain and rng.random() < 0.1:
        blocks = (33, 127), (0xA1, 0x3000), (0x1F300, 0x1F600)  # ASCII, other alphabets, emoji
        return "".join(chr(rng.randrange(*rng.choice(blocks))) for _ in range(rng.randint(1, 4)))
    if language == "ko":
        return "".join(chr(rng.randrange(ord("가"), ord("힣"))) for _ in range(rng.randint(2, 4)))
    return "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(("", "", "n", "r", "s", "l"))
                   for _ in range(rng.randint(1, 3)))


@cache
def own_words(language: str) -> frozenset[str]:
    """The words of the phrases of one language that none of the others of `LANGUAGES` has."""
    def words(language):
        texts = " ".join(text for key in phrases() for text in phrases()[key].get(language, ()))
        return set(re.findall(r"[^\W\d_]+", re.sub(r"{.*?}", " ", texts).lower()))

    return frozenset(words(language).difference(*(words(other) for other in LANGUAGES if other != language)))


def in_language(text: str, language: str) -> bool:
    """Whether a text is in a language: Hangul is Korean, and Latin letters are told apart by the words of the phrases.

    A text without letters (numbers, symbols) is in every language, and so is one of unknown words in Latin letters,
    unless Korean is expected. Single Latin letters, as in a word that is spelled, are no words.
    """
    words = re.findall(r"[^\W\d_]{2,}|[가-힣]", text.lower())
    hangul = re.search("[가-힣]", text) is not None
    if language == "ko" or hangul:
        return not words or hangul == (language == "ko")
    def known(language):
        return sum(word in own_words(language) for word in words)

    return all(known(other) <= known(language) for other in ("en", "es"))


# --------------------------------------------------------------------------------------------------- messages


def user(text):
    """A user's message."""
    return {"role": "user", "content": text}


def assistant(text, calls=()):
    """An assistant's message."""
    return {"role": "assistant", "content": text} | ({"tool_calls": list(calls)} if calls else {})


def tool(result):
    """The message that hands a result back."""
    return {"role": "tool", "content": result}


def function_call(name, arguments):
    """One of an assistant message's tool_calls."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}
