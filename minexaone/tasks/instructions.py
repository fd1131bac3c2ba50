"""Requests from a small closed world that must be met in a certain form, every part of which can be checked.

A request asks for a list (of animals, colours ...), a repeated word, a word spelled out, or a greeting. Constraints say
in which language, how many, in which case and layout, and which word comes first or last.
"""

import json
import re

from minexaone.tasks.base import LANGUAGES, Example, Task, assistant, made_up, phrases, say, user

CATEGORIES = ("animal", "colour", "fruit", "food", "body", "clothes", "day")
GREETINGS = ("hello", "bye", "thanks")
LAYOUTS = ("dash", "comma", "json")
# What each kind of request can be combined with, beside its language, and what excludes what.
CHOICES = {"list": ("count", *LAYOUTS, "start", "end", "upper", "lower", "no_commas"),
           "repeat": (*LAYOUTS, "start", "end", "upper", "no_commas"),
           "spell": (*LAYOUTS, "start", "end", "upper", "no_commas"), "greet": ("start", "end", "upper", "lower")}
CLASHES = {"dash": ("comma", "json"), "comma": ("dash", "json", "no_commas"), "upper": ("lower",), "lower": ("upper",),
           "json": ("dash", "comma", "start", "end", "no_commas"), "start": ("json",), "end": ("json",),
           "no_commas": ("comma", "json")}
JOINERS = ("and", "y", "그리고")  # may stand between items whose layout is free
EDGE = " \t\r\n.,:;!?¡¿\"'"  # may stand around an item and around the word a reply starts or ends with


def make_constraint(rng, language, level, test):
    """Do what is asked in the form that is asked. The level is the number of constraints that must hold together."""
    kind = rng.choice(("list", "list", "list", "repeat", "spell", "greet"))
    expected = draw(rng, language, kind, level)
    wanted = expected["constraints"]
    items = draw_items(rng, expected)
    reply = lay_out(items, expected)
    goal = say(rng, language, f"instructions.{kind}.think", x=shown_topic(language, expected))
    plan = [clause(rng, language, name, value, ".think") for name, value in wanted.items()]
    shown = [in_case(item, wanted) for item in items]
    built = shown[0] if kind == "greet" else " ".join(f"{i} {item}" for i, item in enumerate(shown, 1))
    checks = ", ".join(say(rng, language, "instructions.holds", x=line) for line in plan)
    thoughts = {
        "steps": "\n".join([goal, *plan, built]),
        "brief": f"{goal} {say(rng, language, 'instructions.brief')} {', '.join(shown)}",
        "check": "\n".join([goal, *plan, built, say(rng, language, "instructions.check", x=checks)]),
        "retry": "\n".join([goal, *plan[:-1], say(rng, language, "instructions.wait", x=plan[-1]), built]),
    }
    return Example("constraint", language, level, [user(question(rng, language, expected))], assistant(reply), expected,
                   thoughts, key=json.dumps(expected, ensure_ascii=False, sort_keys=True))


# ---------------------------------------------------------------------------------------------------- drawing


def draw(rng, language, kind, level):
    """What `violations` looks at: kind, topic (a category, greeting or word), target language, {constraint: value}."""
    translate = kind in ("list", "greet") and (rng.random() < 0.4 or (kind == "greet" and level > 2))
    target = rng.choice([other for other in LANGUAGES if other != language]) if translate else language
    if kind in ("list", "greet"):
        topic = rng.choice(CATEGORIES if kind == "list" else GREETINGS)
    elif rng.random() < 0.4:
        topic = made_up(rng, language, plain=True)
    else:
        words = phrases()[f"instructions.{rng.choice(CATEGORIES)}.words"][language]
        topic = rng.choice([word for word in words if len(word) > 1])  # one letter cannot be separated by commas
    constraints = []
    while len(constraints) < level:
        constraints = ["language"] * translate + ["count"] * (kind == "repeat")
        for name in rng.sample(CHOICES[kind], len(CHOICES[kind])):
            cased = name in ("upper", "lower") and target == "ko"  # Hangul has no capitals
            if len(constraints) < level and not cased and not set(CLASHES.get(name, ())) & set(constraints):
                constraints.append(name)
    rng.shuffle(constraints)
    values = {"language": target, "count": rng.randint(2, 5), "start": edge_word(rng, target),
              "end": edge_word(rng, target)}
    return {"kind": kind, "topic": topic, "language": target,
            "constraints": {name: values.get(name, True) for name in constraints}}


def edge_word(rng, language):
    """A word that a reply can start or end with."""
    return made_up(rng, language, plain=True) if rng.random() < 0.4 else say(rng, language, "instructions.edge")


def draw_items(rng, expected):
    """The items of a right answer."""
    kind, topic, language = expected["kind"], expected["topic"], expected["language"]
    count = expected["constraints"].get("count", 3)
    if kind == "repeat":
        return [topic] * count
    if kind == "spell":
        return list(topic)
    words = phrases()[f"instructions.{topic}.words"][language]
    # In their fixed order, so that "what comes next" never is a word that was said already.
    return [words[i] for i in sorted(rng.sample(range(len(words)), count if kind == "list" else 1))]


def in_case(text, constraints):
    """A text in capitals or without them."""
    return text.upper() if "upper" in constraints else text.lower() if "lower" in constraints else text


def lay_out(items, expected):
    """The reply with these items."""
    wanted = expected["constraints"]
    between, gap = " " if expected["kind"] == "repeat" or "no_commas" in wanted else ", ", " "
    if "json" in wanted:
        text = json.dumps(items, ensure_ascii=False)
    elif "dash" in wanted:
        text, gap = "\n".join(f"- {item}" for item in items), "\n"
    else:
        text = (", " if "comma" in wanted else between).join(items)
    if "start" in wanted:
        text = f"{wanted['start']}:{gap}{text}"
    if "end" in wanted:
        text += f"{'' if 'dash' in wanted else '.'}{gap}{wanted['end']}"
    return in_case(text, wanted)


# ----------------------------------------------------------------------------------------------------- asking


def question(rng, language, expected):
    """The request and its constraints, one sentence each, as a user types them."""
    kind, constraints = expected["kind"], dict(expected["constraints"])
    number = amount(rng, language, constraints.get("count", 0))
    key = f"instructions.{expected['topic'] if kind == 'greet' else kind}.ask"
    if kind == "list" and "count" in constraints and rng.random() < 0.6:
        key = "instructions.counted.ask"
    if kind == "repeat" or key == "instructions.counted.ask":
        del constraints["count"]  # the request says it already
    sentences = [clause(rng, language, name, value) for name, value in constraints.items()]
    position = 0 if rng.random() < 0.75 else len(sentences)
    sentences.insert(position, say(rng, language, key, x=shown_topic(language, expected), n=number))
    text = " ".join(sentences)
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.2:
        text = text.rstrip(".?!")
    return say(rng, language, "lead") + " " + text if rng.random() < 0.1 else text


def shown_topic(language, expected):
    """A category as the question names it; else the word itself."""
    if expected["kind"] == "list":
        return phrases()[f"instructions.{expected['topic']}"][language][0]
    return expected["topic"]


def amount(rng, language, number):
    """A number from 2 on, mostly as a word."""
    words = phrases()["instructions.number"][language]
    return words[number - 2] if number >= 2 and rng.random() < 0.7 else str(number)


def clause(rng, language, name, value, form=""):
    """A constraint as a sentence of the question, or (form ".think") as a line of thought."""
    if name == "language":
        value = phrases()["instructions.languages"][language][LANGUAGES.index(value)]
    elif name == "count" and not form:
        value = amount(rng, language, value)
    return say(rng, language, f"instructions.{name}{form}", v=value)


# ---------------------------------------------------------------------------------------------------- judging


def violations(example: Example, reply: str) -> list[str]:
    """The constraints that a reply breaks; "content" if it is not what was asked for at all."""
    expected = example.expected
    wanted, text, broken = expected["constraints"], reply.strip(), []
    if ("upper" in wanted or "lower" in wanted) and in_case(text, wanted) != text:
        broken.append("upper" if "upper" in wanted else "lower")
    if "no_commas" in wanted and any(comma in text for comma in ",，、"):
        broken.append("no_commas")
    if "start" in wanted:
        first = re.match(r"\W*(\w+)", text)
        if first and first[1].lower() == wanted["start"]:
            text = text[first.end():].lstrip(EDGE)
        else:
            broken.append("start")
    if "end" in wanted:
        last = re.search(r"(?<!\w)(\w+)\W*\Z", text)
        if last and last[1].lower() == wanted["end"]:
            text = text[:last.start()].rstrip(EDGE)
        else:
            broken.append("end")
    layout = next((name for name in LAYOUTS if name in wanted), "")
    items = split(text, layout) if layout else loose_items(text, expected["kind"])
    if items is None:
        broken.append(layout)
        items = loose_items(text, expected["kind"])
    items = [item.strip(EDGE).casefold() for item in items]
    if "count" in wanted and len(items) != wanted["count"]:
        broken.append("count")
    if not fits(items, expected, expected["language"]):
        elsewhere = any(fits(items, expected, other) for other in LANGUAGES if expected["kind"] in ("list", "greet"))
        broken.append("language" if elsewhere else "content")
    return broken


def split(text, layout):
    """The items of a text in a layout, None if it has another one."""
    if layout == "dash":
        lines = text.splitlines()
        return [line[2:] for line in lines] if all(line.startswith("- ") for line in lines) else None
    if layout == "comma":
        return text.split(",") if "," in text and "\n" not in text else None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return items if isinstance(items, list) and all(isinstance(item, str) for item in items) else None


def loose_items(text, kind):
    """The words of a text, whatever stands between them; a greeting is one item."""
    if kind == "greet":
        return [text]
    words = re.findall(r"[^\W\d_]+", text)
    return [word for word in words if word.casefold() not in JOINERS] if kind == "list" else words


def fits(items, expected, language):
    """Whether the items are what was asked for, in this language."""
    kind, topic = expected["kind"], expected["topic"]
    if kind == "repeat":
        return bool(items) and set(items) == {topic.casefold()}
    if kind == "spell":
        return items == list(topic.casefold())
    known = [word.casefold() for word in phrases()[f"instructions.{topic}.words"][language]]
    enough = len(items) == 1 if kind == "greet" else len(items) > 1
    return enough and len(set(items)) == len(items) and all(item in known for item in items)


def verify_constraint(example, reply):
    """Whether every constraint holds."""
    return not violations(example, reply)


TASKS = {"constraint": Task(make_constraint, verify_constraint, "instruction following", 10, 3)}
