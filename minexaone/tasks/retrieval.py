"""Finding things in a text: a needle is a sentence worth remembering, the haystack all the others around it.

The same sentences make prompts of an exact length (`niah`, after "needle in a haystack") and plain documents that
refer back to what they said long before (`document`), from which a model learns to look far back.
"""

import re
from functools import cache
from random import Random
from string import Formatter

from minexaone.tasks.base import (
    Example,
    Task,
    ask,
    assistant,
    held_out,
    in_language,
    listing,
    particles,
    phrases,
    say,
    user,
)
from minexaone.tasks.conversation import has_word, invented, person

KINDS = ("number", "word")
LENGTHS = ((300, 700), (450, 850), (700, 1200))  # of the text, in characters, by level
VALUE_FIRST = 0.5  # of the needles of training say the value before its owner: of those models miss most
KOREAN = 0.45  # a Korean text says the same with less than half as many characters
# The chat format around a user's message, without and with reasoning: it counts towards a prompt's length.
FRAMES = ("[|user|]\n{}[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n",
          "[|user|]\n{}[|endofturn|]\n[|assistant|]\n<think>\n")


# --------------------------------------------------------------------------------------------------- haystacks


@cache
def templates(language: str) -> list[tuple[str, tuple[str, ...]]]:
    """The sentences of the haystack with the names of their gaps."""
    return [(text, tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(text) if name)))
            for text in phrases()["haystack"][language]]


def filler(rng: Random, language: str) -> str:
    """One sentence without importance; some look like needles, but none is."""
    template, gaps = rng.choice(templates(language))
    text = template.format(**{gap: fill(rng, language, gap) for gap in gaps})
    return particles(text) if language == "ko" else text


def fill(rng, language, gap):
    """What stands in a gap: a and b are people, n and m small and large numbers."""
    if gap in "ab":
        return person(rng, language)
    if gap in "nm":
        return rng.randrange(2, 100) if gap == "n" else rng.randrange(1000, 10000)
    if gap == "year":
        return rng.randrange(1800, 2025)
    if gap == "hour":
        return f"{rng.randrange(6, 23)}:{rng.randrange(60):02}"
    return rng.choice(phrases()[f"haystack.{gap}"][language])


def haystack(rng: Random, language: str, length_in_characters: int) -> list[str]:
    """Sentences that hold no needle and are, joined by spaces, not longer than wanted."""
    sentences, length = [], -1
    while True:
        sentence = filler(rng, language)
        length += len(sentence) + 1
        if length > length_in_characters:
            return sentences
        sentences.append(sentence)


# ----------------------------------------------------------------------------------------------------- needles


def draw_needles(rng, language, count, test, kinds=KINDS, others=()) -> list[tuple[str, str, str]]:
    """(kind, name, value) of needles of one split; no name or word is like another one, nor like those of `others`."""
    while True:
        needles, taken = [], [word.lower() for _, *words in others for word in words]
        while len(needles) < count:
            kind, name = rng.choice(kinds), person(rng, language)
            value = secret(rng, language, kind)
            if not any(alike(name, word) or alike(value, word) for word in taken) and not alike(name, value):
                needles.append((kind, name, value))
                taken += name.lower(), value.lower()
        if held_out(key_of(needles)) == test:
            return needles


def alike(word: str, other: str) -> bool:
    """Whether one is part of the other."""
    return word.lower() in other.lower() or other.lower() in word.lower()


def secret(rng, language, kind) -> str:
    """Four digits, or a word: half of the words are made up."""
    if kind == "number":
        return str(rng.randrange(1000, 10000))
    return rng.choice(phrases()["haystack.word"][language]) if rng.random() < 0.5 else invented(rng, language)


def key_of(needles) -> str:
    """What identifies a problem: the contents of its needles."""
    return " ".join(f"{name} {value}" for _, name, value in needles)


def state(rng, language, needle, form="") -> str:
    """A sentence about a needle: the needle itself, or its form ".reply" or ".again"."""
    kind, name, value = needle
    return say(rng, language, f"needle.{kind}{form}", x=name, y=value)


def hide(rng, language, needle, test) -> str:
    """The sentence that stands in the text; in training it says the value before its owner in half of all cases."""
    kind, name, value = needle
    if test or rng.random() > VALUE_FIRST:
        return state(rng, language, needle)
    texts = [text for text in phrases()[f"needle.{kind}"][language] if text.index("{y}") < text.index("{x}")]
    return particles(rng.choice(texts).format(x=name, y=value))


def needle(rng, language, level, test) -> Example:
    """Level 1: one needle in a short text. Level 2: two or three. Level 3: one or two in a longer text, between needles
    of the same kind that belong to others."""
    needles = draw_needles(rng, language, (1, rng.randint(2, 3), rng.randint(1, 2))[level - 1], test)
    others = []
    if level == 3:
        others = draw_needles(rng, language, rng.randint(2, 4), test, [kind for kind, _, _ in needles], needles)
    length = rng.randint(*LENGTHS[level - 1]) * (KOREAN if language == "ko" else 1)
    sentences = haystack(rng, language, length)
    stated = [hide(rng, language, each, test) for each in needles + others]
    for sentence in stated:
        sentences.insert(rng.randint(0, len(sentences)), sentence)
    content = prompt(rng, language, " ".join(sentences), question(rng, language, needles))
    return finding(rng, language, level, content, needles, others, stated)


def question(rng, language, needles) -> str:
    """All needles are asked for, one after the other; several questions keep their marks."""
    form = say if len(needles) > 1 else ask
    return " ".join(form(rng, language, f"needle.{kind}.ask", x=name) for kind, name, _ in needles)


def prompt(rng, language, text, asked) -> str:
    """The text with the question behind it."""
    return f"{say(rng, language, 'needle.intro')}\n\n{text}\n\n{asked}"


def finding(rng, language, level, content, needles, others, stated) -> Example:
    """The example whose thought quotes the needles; `stated` are the sentences of needles and others."""
    values = [value for _, _, value in needles]
    so = say(rng, language, "needle.so", y=listing(language, values))
    quotes = [say(rng, language, "needle.think", x=name, s=sentence)
              for (_, name, _), sentence in zip(needles, stated, strict=False)]
    thoughts = {"steps": "\n".join([*quotes, so]), "brief": so}
    if others:
        wrong = say(rng, language, "needle.wrong", x=needles[0][1], s=stated[len(needles)])
        thoughts["retry"] = "\n".join([wrong, *quotes, so])
    reply = " ".join(state(rng, language, each, ".reply") for each in needles)
    expected = {"names": [name for _, name, _ in needles], "values": values,
                "others": [value for _, _, value in others]}
    return Example("needle", language, level, [user(content)], assistant(reply), expected, thoughts, key_of(needles))


def niah(rng: Random, language: str, length: int, depth: float, tokens_of, reasoning=False, needles=1,
         turns=False, test=False) -> Example:
    """A haystack whose rendered prompt has nearly, and never more than, `length` tokens.

    depth: where the first needle lies, 0 at the beginning of the text, 1 at its end; further ones lie anywhere.
    tokens_of(text): how many tokens a text has. turns: ask for one needle after the other, the last one being the
    problem, and not for all in one question. test: whether the needles are of the split that training never sees.
    Raises `ValueError` if the needles alone are too long.
    """
    drawn = [] if turns else draw_needles(rng, language, needles, test)
    while len(drawn) < needles:  # each is a problem of its own, and none of a test may be learnt
        drawn += draw_needles(rng, language, 1, test, others=drawn)
    stated = [hide(rng, language, each, test) for each in drawn]
    asked, *later = [question(rng, language, [each]) for each in drawn] if turns else [question(rng, language, drawn)]
    told = [state(rng, language, each, ".reply") for each in drawn[:len(later)]]
    intro, later_text = say(rng, language, "needle.intro"), "".join(map("".join, zip(told, later, strict=True)))

    def content(sentences):
        return f"{intro}\n\n{' '.join(sentences)}\n\n{asked}"

    def rendered(sentences):
        return FRAMES[reasoning].format(content(sentences)) + later_text + FRAMES[0] * len(later)

    left = length - tokens_of(rendered(stated))
    if left < 0:
        raise ValueError(f"{length} tokens are too few for the question and {needles} needles")
    sentences, costs, misses = [], [], 0
    while misses < 16:  # at the end, try a few shorter sentences
        sentence = filler(rng, language)
        cost = tokens_of(" " + sentence)
        if cost <= left:
            sentences.append(sentence)
            costs.append(cost)
            left -= cost
        else:
            misses += 1
    for sentence, where in reversed(list(zip(stated, [depth, *(rng.random() for _ in stated[1:])], strict=True))):
        place = place_at(costs, where)
        sentences.insert(place, sentence)
        costs.insert(place, 0)
    while tokens_of(rendered(sentences)) > length and len(sentences) > len(stated):
        # Pieces and the whole can differ by a token or two: drop the last sentence that is no needle.
        sentences.remove(next(sentence for sentence in reversed(sentences) if sentence not in stated))
    if not later:
        example = finding(rng, language, 3, content(sentences), drawn, [], stated)
    else:  # the last one is asked for now
        example = finding(rng, language, 3, later[-1], drawn[-1:], drawn[:-1], stated[-1:] + stated[:-1])
        asked = [content(sentences), *later[:-1]]
        example.messages[:0] = [message for pair in zip(asked, told, strict=True)
                                for message in (user(pair[0]), assistant(pair[1]))]
    example.reasoning = reasoning
    return example


def place_at(costs, depth) -> int:
    """Before which sentence a needle must stand so that a share `depth` of all tokens lies before it."""
    target, passed = depth * sum(costs), 0
    for place, cost in enumerate(costs):
        if passed + cost / 2 > target:
            return place
        passed += cost
    return len(costs)


def document(rng: Random, language: str, length_in_characters: int) -> str:
    """Plain text to learn long contexts from: every third sentence repeats or asks for a needle said long before."""
    sentences, length, needles, names = [], 0, [], set()
    gap = 0  # characters until the next needle
    density = KOREAN if language == "ko" else 1
    while True:
        if gap <= 0:
            while True:
                new, = draw_needles(rng, language, 1, False)
                if new[1] not in names:
                    break
            needles.append(new)
            names.add(new[1])
            sentence, gap = hide(rng, language, new, False), rng.randint(150, 300) * density
        elif rng.random() < 0.43:  # a third of all sentences, as about every fifth is a needle
            sentence = state(rng, language, rng.choice(needles), ".again")
        else:
            sentence = filler(rng, language)
        length += len(sentence) + 1
        gap -= len(sentence) + 1
        if length > length_in_characters:
            return "".join(sentences).rstrip()
        sentences.append(sentence + (" " if rng.random() < 0.9 else "\n"))


# ---------------------------------------------------------------------------------------------------- verifier


def verify(example: Example, reply: str) -> bool:
    """Whether a reply gives exactly the values asked for, in their order, and no name goes with another's value."""
    values, names = example.expected["values"], example.expected["names"]
    own = reply
    for known in (*names, *values):
        own = re.sub(re.escape(known), " ", own, flags=re.IGNORECASE)
    return all((
        all(has_word(reply, value) for value in values),
        not any(has_word(reply, other) for other in example.expected["others"] if other not in values),
        not re.search(r"\d", own), in_order(reply, values),
        in_order(reply, names) or not any(has_word(reply, name) for name in names),
        in_language(own, example.language),
    ))


def in_order(text: str, words) -> bool:
    """Whether words stand in a text, one behind the other."""
    return re.search(".*?".join(map(re.escape, words)), text, flags=re.S | re.I) is not None


TASKS = {"needle": Task(needle, verify, "long context", 8, 3)}
