"""A small closed world: facts to know by heart, and questions that two or three of them answer together.

A fact that training never showed cannot be known: so level 1 holds out wordings only, level 2 holds out combinations.
"""

import re
from functools import cache

from minexaone.tasks.base import LANGUAGES, Example, Task, ask, assistant, in_language, phrases, say, user

RELATIONS = ("capital", "colour", "opposite", "next", "before", "count", "legs", "sound", "home", "translate")
HOPS = ("next", "before", "capital", "colour", "more", "sum", "opposite")
DAYS, MONTHS = slice(0, 7), slice(7, 19)  # in next.pairs; then come the seasons


@cache
def pairs(relation: str, language: str) -> tuple[tuple[str, str], ...]:
    """The facts of a relation as (x, y): the capital of x is y."""
    if relation == "before":
        return tuple((y, x) for x, y in pairs("next", language))
    return tuple(tuple(pair.split(":")) for pair in phrases()[f"{relation}.pairs"][language])


@cache
def meaning(relation: str, language: str) -> dict[str, str]:
    """The same to look up: {x: y}."""
    return dict(pairs(relation, language))


def language_name(language: str, target: str) -> str:
    """"영어" is English in Korean."""
    return phrases()["translate.language"][language][LANGUAGES.index(target)]


def words(language: str) -> list[str]:
    """The words that can be translated; the same place in each language means the same."""
    return phrases()["translate.word"][language]


def facts(rng, language, level, test) -> Example:
    """Level 1: one fact. Level 2: two or three facts, one after the other."""
    if level == 2:
        return HOP_MAKERS[rng.choice(HOPS)](rng, language)
    relation = rng.choice(RELATIONS)
    if relation == "translate":
        return translation(rng, language)
    x, y = rng.choice(pairs(relation, language))
    question = tidy(ask(rng, language, f"{relation}.ask", x=x))
    return example(language, 1, question, state(rng, language, f"{relation}.reply", x=x, y=y),
                   {"steps": say(rng, language, "fact.think", x=x, y=y)}, expect(relation, [y], [x]), key=question)


def translation(rng, language):
    """A word into or out of the language of the question."""
    other = rng.choice([o for o in LANGUAGES if o != language])
    source, target = rng.choice(((language, other), (other, language)))
    i = rng.randrange(len(words(language)))
    x, y = words(source)[i], words(target)[i]
    t = language_name(language, target)
    question = tidy(ask(rng, language, "translate.ask", x=x, t=t))
    return example(language, 1, question, state(rng, language, "translate.reply", x=x, y=y, t=t),
                   {"steps": say(rng, language, "fact.think", x=x, y=y)},
                   expect(f"word.{target}", [y], [x] if x != y else []), key=question)


# ------------------------------------------------------------------------------------------------ several facts


def hop_along(direction):
    """What comes two or three days or months after or before x: one step a fact."""
    def make(rng, language):
        unit, part = rng.choice((("days", DAYS), ("months", MONTHS)))
        x, _ = rng.choice(pairs("next", language)[part])
        count = rng.randint(2, 3)
        n, y, steps = phrases()[f"hop.{unit}"][language][count - 2], x, []
        for _ in range(count):
            last, y = y, meaning(direction, language)[y]
            steps.append(state(rng, language, f"{direction}.reply", x=last, y=y))
        values = {"x": x, "n": n, "y": y}
        return hop(rng, language, tidy(ask(rng, language, f"hop.{direction}.{unit}.ask", x=x, n=n)),
                   state(rng, language, f"hop.{direction}.reply", **values), steps, y,
                   expect("next", [y], [x]), f"{direction} {x} {n}")

    return make


def hop_capital(rng, language):
    """Is z the capital of x? Recall the capital, then compare."""
    x, y = rng.choice(pairs("capital", language))
    z = y if rng.random() < 0.5 else rng.choice([z for _, z in pairs("capital", language) if z != y])
    fact = say(rng, language, "capital.reply", x=x, y=y)
    return yes_or_no(rng, language, "capital", y == z, [fact], [y, z], expect("capital", [y], [x], enough=0),
                     x=x, y=y, z=z)


def hop_colour(rng, language):
    """Do two things have the same colour?"""
    x, y = rng.choice(pairs("colour", language))
    alike = rng.random() < 0.5
    z, w = rng.choice([(z, w) for z, w in pairs("colour", language) if z != x and (w == y) == alike] or [(x, y)])
    steps = [state(rng, language, "colour.reply", x=a, y=b) for a, b in ((x, y), (z, w))]
    return yes_or_no(rng, language, "colour", y == w, steps, [y, w],
                     expect("colour", [y, w] if y != w else [y], [], enough=0), x=x, y=y, z=z, w=w)


def yes_or_no(rng, language, kind, yes, steps, compared, expected, **values):
    """The example of a question that two facts answer: they are the same, or not."""
    outcome = "yes" if yes else "no"
    word = phrases()[f"fact.{outcome}"][language][0]
    same = state(rng, language, "hop.same" if yes else "hop.different", y=compared[0], z=compared[1])
    question = tidy(ask(rng, language, f"hop.{kind}.ask", **values))
    return hop(rng, language, question, state(rng, language, f"hop.{kind}.{outcome}", **values), [*steps, same], word,
               expected | {"first": word}, f"{kind} {values['x']} {values['z']}")


def hop_more(rng, language):
    """Which of two animals has more legs?"""
    x, a = rng.choice(pairs("legs", language))
    z, b = rng.choice([(z, b) for z, b in pairs("legs", language) if b != a])
    (most, high), (least, low) = sorted(((x, int(a)), (z, int(b))), key=lambda animal: -animal[1])
    steps = [state(rng, language, "legs.reply", x=x, y=a), state(rng, language, "legs.reply", x=z, y=b),
             f"{high} > {low}."]
    return hop(rng, language, tidy(ask(rng, language, "hop.more.ask", x=x, z=z)),
               state(rng, language, "hop.more.reply", y=most, w=least), steps, most,
               expect("legs.x", [most, least], [], enough=1) | {"mark": phrases()["hop.more.mark"][language][0]},
               f"more {x} {z}")


def hop_sum(rng, language):
    """How many legs do two animals have together?"""
    (x, a), (z, b) = rng.sample(pairs("legs", language), 2)
    y = int(a) + int(b)
    steps = [state(rng, language, "legs.reply", x=x, y=a), state(rng, language, "legs.reply", x=z, y=b),
             f"{a} + {b} = {y}."]
    return hop(rng, language, tidy(ask(rng, language, "hop.sum.ask", x=x, z=z)),
               state(rng, language, "hop.sum.reply", y=y), steps, y,
               expect("count", [str(y)], [a, b]), f"sum {x} {z}")


def hop_opposite(rng, language):
    """The opposite of a word, in another language."""
    x, opposite = rng.choice([(x, y) for x, y in pairs("opposite", language) if y in words(language)])
    target = rng.choice([o for o in LANGUAGES if o != language])
    y = words(target)[words(language).index(opposite)]
    values = {"x": x, "t": language_name(language, target)}
    steps = [state(rng, language, "opposite.reply", x=x, y=opposite),
             state(rng, language, "translate.reply", x=opposite, y=y, t=values["t"])]
    return hop(rng, language, tidy(ask(rng, language, "hop.opposite.ask", **values)),
               state(rng, language, "hop.opposite.reply", y=y, **values), steps, y,
               expect(f"word.{target}", [y], [x]), f"opposite {x} {target}")


HOP_MAKERS = {"next": hop_along("next"), "before": hop_along("before"), "capital": hop_capital, "colour": hop_colour,
              "more": hop_more, "sum": hop_sum, "opposite": hop_opposite}


def hop(rng, language, question, reply, steps, result, expected, key):
    """An example of level 2: `steps` are the facts in their order.

    There is no brief thought: what jumps to a result that it knows by heart can only guess a combination that is new.
    """
    thought = "\n".join([*steps, say(rng, language, "fact.so", y=result)])
    return example(language, 2, question, reply, {"steps": thought}, expected, key)


# -------------------------------------------------------------------------------------------------- sentences


def tidy(text: str) -> str:
    """Spanish contracts "de el" and "a el"; English and Korean have no such words."""
    if " el " in text:
        text = text.replace(" de el ", " del ").replace(" a el ", " al ")
    return text


def state(rng, language, key, **values) -> str:
    """A whole sentence: it begins with a capital letter, whatever stands first."""
    text = tidy(say(rng, language, key, **values))
    return text[0].upper() + text[1:]


def example(language, level, question, reply, thoughts, expected, key):
    """An example of this module's one task."""
    return Example("facts", language, level, [user(question)], assistant(reply), expected, thoughts, key)


# --------------------------------------------------------------------------------------------------- verifier


def expect(among, answers, given, enough=None) -> dict:
    """What a reply must name: of the answers `among` all that were possible exactly these, in this order.

    given: what the question already named. enough: how many of the answers will do (None: all).
    """
    return {"among": among, "answers": answers, "given": given,
            "enough": len(answers) if enough is None else enough}


def bare(word: str) -> str:
    """Without an article, in lower case."""
    return re.sub(r"^(a|an|the|el|la|un|una) ", "", word.lower())


@cache
def possible(among: str, language: str) -> re.Pattern:
    """Finds each answer that a question of this kind could have; a Korean word may have a particle behind it."""
    if among in ("count", "legs"):
        return re.compile(r"\d+")
    if among.startswith("word."):
        language = among[5:]
        found = words(language)
    elif among == "legs.x":
        found = [x for x, _ in pairs("legs", language)]
    else:
        found = [y for _, y in pairs(among, language)]
    found = sorted(map(bare, found), key=lambda word: (-len(word), word))
    end = "" if language == "ko" else r"(?!\w)"
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, found))}){end}")


def verify(example: Example, reply: str) -> bool:
    """Whether a reply names the right answers and no others, in the language of the question."""
    expected, text = example.expected, reply.lower()
    given, answers = [bare(x) for x in expected["given"]], [bare(y) for y in expected["answers"]]
    found = [word for word in dict.fromkeys(possible(expected["among"], example.language).findall(text))
             if word not in given or word in answers]
    foreign = expected["among"].startswith("word.")
    own = re.sub("|".join(map(re.escape, answers + given)), " ", text) if foreign else text
    return all((
        reply.strip(), expected["enough"] <= len(found) <= len(answers), found == answers[:len(found)],
        re.match(rf"{expected.get('first', '')}\b".lower(), text) if "first" in expected else True,
        expected.get("mark", "") in text,
        in_language(own, example.language),
    ))


TASKS = {"facts": Task(facts, verify, "world knowledge", 10, 2)}
