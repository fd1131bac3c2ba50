"""Talk: questions about the model itself, questions it cannot answer, and what the user said some turns before."""

import re
from functools import cache

from minexaone.tasks.base import (
    Example,
    Task,
    ask,
    assistant,
    held_out,
    in_language,
    made_up,
    phrases,
    say,
    user,
)
from minexaone.tasks.knowledge import facts

INTENTS = ("hello", "thanks", "bye", "who", "maker", "size", "languages", "praise", "joke", "not_exaone", "abilities",
           "wonderful")
SHORT_INTENTS = INTENTS[:-2]  # those whose replies are short enough to stand between other things
ATTRIBUTES = ("name", "colour", "age", "city", "pet")


def chat(rng, language, level, test) -> Example:
    """Greetings, thanks, and questions about the model itself, some after another exchange."""
    intent = rng.choice((*INTENTS, "who", "wonderful", "wonderful"))
    past = small_talk(rng, language) if rng.random() < 0.3 else []
    return exchange(rng, language, intent, past)


def exchange(rng, language, intent, past=()):
    """One question about the model itself with its answer."""
    # A greeting is asked as it is written: most users' first words must not depend on chance.
    question = say(rng, language, f"{intent}.ask") if rng.random() < 0.5 else ask(rng, language, f"{intent}.ask")
    return Example("chat", language, 1, [*past, user(question)], assistant(say(rng, language, f"{intent}.reply")),
                   {"intent": intent}, {"steps": say(rng, language, f"{intent}.think")})


def unknown(rng, language, level, test) -> Example:
    """What the model cannot know: words that mean nothing, the wide world, or (without tools) the present moment."""
    past = small_talk(rng, language) if rng.random() < 0.15 else []
    return not_known(rng, language, past)


def not_known(rng, language, past=()):
    """One question that the model cannot answer."""
    kind, answer = rng.choice((("ask", ""), ("about.ask", ""), ("now.ask", "now.")))
    if kind == "now.ask":
        x = city(rng, language)
    elif kind == "about.ask" and rng.random() < 0.7:
        x = say(rng, language, "unknown.word")
    else:
        x = " ".join(made_up(rng, language) for _ in range(rng.randint(2, 4) if rng.random() < 0.1 else 1))
    question = ask(rng, language, f"unknown.{kind}", x=x, n=rng.randrange(1900, 2100))
    return Example("unknown", language, 1, [*past, user(question)],
                   assistant(say(rng, language, f"unknown.{answer}reply")), {"mark": "unknown.mark"},
                   {"steps": say(rng, language, f"unknown.{answer}think")}, key=question)


def small_talk(rng, language) -> list[dict]:
    """One earlier exchange, question and answer, that has nothing to do with what follows."""
    draw = rng.random()
    while True:
        if draw < 0.4:
            past = exchange(rng, language, rng.choice(SHORT_INTENTS))
        else:
            past = facts(rng, language, 1, False) if draw < 0.8 else not_known(rng, language)
        if not past.key or not held_out(past.key):  # what stands before a question is no part of the test
            return [past.messages[-1], assistant(past.reply["content"])]


# ----------------------------------------------------------------------------------------------------- memory


def person(rng, language) -> str:
    """A name: half of them common, half made up, so that a name must be copied and cannot be guessed."""
    if rng.random() < 0.5:
        return rng.choice(phrases()["person.name"][language])
    return invented(rng, language).capitalize()


def invented(rng, language) -> str:
    """A word that nobody has heard but everybody can say."""
    syllables = phrases()["person.syllable"][language]
    return "".join(rng.choice(syllables) for _ in range(rng.randint(2, 3)))


def city(rng, language) -> str:
    """A place to live."""
    known = rng.random() < 0.6
    return rng.choice(phrases()["person.city"][language]) if known else invented(rng, language).capitalize()


def value(rng, language, attribute) -> str:
    """What a user may say of themselves."""
    if attribute == "age":
        return str(rng.randint(5, 99))
    if attribute == "colour":
        return rng.choice(phrases()["recall.colour"][language])
    return city(rng, language) if attribute == "city" else person(rng, language)


def recall(rng, language, level, test) -> Example:
    """`level` things that the user says, and up to as many other exchanges between; then one of them is asked for.

    In a quarter of the cases the user has not said it, or anything at all (a third of these); in a sixth nothing is
    asked, the last thing is told.
    """
    attributes = rng.sample(ATTRIBUTES, level + 1)
    told, turns = {}, []
    for attribute in attributes[:-1]:
        x = value(rng, language, attribute)
        # 하늘 is a name and begins 하늘색; Rosa is a name, rosa a colour.
        while any(x.lower() in other.lower() or other.lower() in x.lower() for other in told.values()):
            x = value(rng, language, attribute)
        told[attribute] = x
        statement = ask(rng, language, f"recall.{attribute}.tell", x=x)
        turns.append((attribute, statement, [user(statement), reply_to(rng, language, attribute, x)]))
    last = turns.pop() if rng.random() < 1 / 6 else None
    missing = not last and rng.random() < 0.3
    if missing and rng.random() < 1 / 3:
        told, turns = {}, []
    labels = dict(zip(ATTRIBUTES, phrases()["recall.label"][language], strict=True))
    notes = {attribute: f"{labels[attribute]} {x}" for attribute, x in told.items()}
    past = [message for *_, messages in turns for message in messages]
    for _ in range(rng.randint(level - 1, level) if past else 0):
        place = 2 * rng.randint(1, len(past) // 2)  # never before the first thing told
        past[place:place] = small_talk(rng, language)
    if last:
        attribute, question, (_, answer) = last
        x, reply = told[attribute], answer["content"]
        thought = say(rng, language, "recall.tell.think", note=notes[attribute])
    else:
        attribute = attributes[-1] if missing else rng.choice(attributes[:-1])
        question, x = ask(rng, language, f"recall.{attribute}.ask"), told.get(attribute)
        reply = say(rng, language, "recall.none.reply" if missing else f"recall.{attribute}.reply", x=x)
        thought = say(rng, language, "recall.none.think" if missing else "recall.think", x=x, asked=labels[attribute],
                      notes=", ".join(notes.values()) if told else say(rng, language, "recall.nothing"))
    others = [other for other in told.values() if other != x]
    expected = {"x": x, "others": others, "mark": None if x else "recall.none.mark"}
    return Example("recall", language, level, [*past, user(question)], assistant(reply), expected, {"steps": thought},
                   key=f"{attribute} {x}" if x else f"no {attribute} {others}" if told else "")


def reply_to(rng, language, attribute, x):
    """What the model says to something told: with a capital letter in front."""
    text = say(rng, language, f"recall.{attribute}.ok", x=x)
    return assistant(text[0].upper() + text[1:])


# -------------------------------------------------------------------------------------------------- verifiers


def has_word(text: str, word: str) -> bool:
    """Whether a word or number stands in a text, not merely as part of another; Korean particles may follow."""
    end = r"(?!\d)" if word[-1].isdigit() else "" if "가" <= word[-1] <= "힣" else r"(?![^\W가-힣])"
    return re.search(rf"(?<!\w){re.escape(word.lower())}{end}", text.lower()) is not None


def sentences(text: str) -> list[str]:
    """The sentences of a text, without what may differ: letter case and the last mark."""
    return [sentence.rstrip(".!?").lower() for sentence in re.split(r"(?<=[.!?])\s+", text.strip())]


@cache
def known_replies(intent: str, language: str) -> list[list[str]]:
    """The sentences of each reply to an intent."""
    return [sentences(reply) for reply in phrases()[f"{intent}.reply"][language]]


def verify_chat(example: Example, reply: str) -> bool:
    """What the model says of itself is fixed: one of the intent's replies, whole, and sentences of others, if any."""
    known, said = known_replies(example.expected["intent"], example.language), sentences(reply)
    return (said[0] in {whole[0] for whole in known} and set().union(*known).issuperset(said)
            and any(set(said).issuperset(whole) for whole in known))


def verify_mark(example: Example, reply: str) -> bool:
    """The words that say the model does not know, in the language of the question."""
    mark = phrases()[example.expected["mark"]][example.language][0]
    return mark in reply.lower() and in_language(reply, example.language)


def verify_recall(example: Example, reply: str) -> bool:
    """What was told and asked for, nothing else that was told; or that it was not told."""
    x, others = example.expected["x"], example.expected["others"]
    if any(has_word(reply, other) for other in others):
        return False
    if x is None:
        return verify_mark(example, reply)
    own = re.sub(re.escape(x), " ", reply, flags=re.IGNORECASE)
    not_told = phrases()["recall.none.mark"][example.language][0] in own.lower()
    numbers = re.findall(r"\d+", reply)
    return has_word(reply, x) and not not_told and set(numbers) <= {x} and in_language(own, example.language)


TASKS = {
    "chat": Task(chat, verify_chat, "conversation", 10),
    "unknown": Task(unknown, verify_mark, "conversation", 6),
    "recall": Task(recall, verify_recall, "conversation", 8, 3),
}
