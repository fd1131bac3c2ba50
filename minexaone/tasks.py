"""Synthetic conversations in English, Korean and Spanish, with exact verifiers: what the shipped model learns from.

`sample` draws one example of one task; `verify` judges any reply to it. The sentences are in `phrases.py`; here
numbers, names and tools are put into them. A tenth of all operands is held out by their hash, and so are some names
of tools and parameters: a score on `split="test"` is no score of memory.

>>> example = sample(Random(0), task="compare", language="en", reasoning=True)
>>> verify(example, example.reply["content"])
True
"""

import json
import re
import unicodedata
import zlib
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random

from minexaone.phrases import PHRASES

LANGUAGES = ("en", "ko", "es")
# Tasks, and how often each is drawn. "call" and "answer" are the two halves of using a tool.
WEIGHTS = {"chat": 10, "facts": 10, "sums": 9, "unknown": 8, "compare": 24, "call": 20, "answer": 14, "recall": 5}
HELD_OUT = 10  # one key in ten belongs to the test split

DICE_TOOLS = ("roll_dice", "roll_die", "throw_dice", "roll", "dice_roll", "dice")
DICE_PARAMETERS = ("max_num", "sides", "n", "faces", "num_sides", "size", "maximum", "d", "upper", "limit")
TEST_DICE_TOOLS = ("cast_dice", "random_dice", "roll_one_dice")
TEST_DICE_PARAMETERS = ("number_of_sides", "top", "highest", "n_faces")
DICE_DESCRIPTIONS = (
    "Roll a dice with the number 1 to N. User can select the number N.", "Roll a dice.", "Roll a dice once.",
    "Roll one die with the given number of sides.", "Throw a die and return the number.",
    "Return a random number from 1 to N.", "주사위를 굴린다.", "주사위를 한 번 굴립니다.", "Tira un dado.",
    "Lanza un dado y devuelve el número.")
TOOL_NAMES = {"weather": "get_weather", "time": "get_time", "add": "add"}
WORDS = ("get find set make book price song light room open read send mail map list count word color file train check "
         "plan item user key day apple river music blue table number start stop save total score team").split()
ERRORS = ("timeout", "not available", "unknown city", "no connection", "invalid argument", "server error",
          "ValueError: bad value", "시간 초과", "도구를 쓸 수 없음", "sin conexión", "fuera de servicio")
NUMBER = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?")


@dataclass
class Example:
    """One turn to learn: `messages` lead to `reply`, an assistant message; `expected` is what `verify` looks for."""

    task: str
    language: str
    messages: list[dict]
    reply: dict
    expected: dict
    key: str = ""  # the operands: their hash decides the split; "": this example belongs to both
    tools: list[dict] = field(default_factory=list)
    reasoning: bool = False

    @property
    def text(self) -> str:
        """The reply as the model must write it, up to the end of the turn: thinking, content, calls."""
        calls = [f"<tool_call>{json.dumps(call['function'], ensure_ascii=False)}</tool_call>"
                 for call in self.reply.get("tool_calls", ())]
        thinking = f"{self.reply['reasoning_content']}\n</think>\n\n" if self.reasoning else ""
        return thinking + "\n".join([self.reply["content"]] * bool(self.reply["content"]) + calls)


# ------------------------------------------------------------------------------------------------- sentences

# The final consonant of a digit's Korean name (0 영 ... 9 구), numbered as in Unicode: 0 is none, 8 is ㄹ.
DIGIT_FINALS = (21, 8, 0, 16, 0, 0, 1, 8, 8, 0)
PARTICLES = re.compile(r"""(\S)(["']?)(은/는|이/가|을/를|과/와|이에요/예요|으로/로|이라고/라고|이야/야)""")


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

    return PARTICLES.sub(choose, text)


def say(rng: Random, language: str, key: str, **values) -> str:
    """One of the phrases of a key, filled in."""
    return particles(rng.choice(PHRASES[key][language]).format(**values))


def ask(rng: Random, language: str, key: str, **values) -> str:
    """The same for a user, who is less tidy: sometimes no capitals, accents or last mark, or a lead-in."""
    text = rng.choice(PHRASES[key][language])
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


# ------------------------------------------------------------------- tasks: each returns one example, thought included

INTENTS = ("hello", "thanks", "bye", "who", "not_exaone", "abilities", "wonderful")


def chat(rng, language, test):
    """Small talk and questions about the model itself."""
    intent = rng.choice(INTENTS + ("wonderful", "who"))
    # A greeting is asked as it is written: most users' first words must not depend on chance.
    question = say(rng, language, f"{intent}.ask") if rng.random() < 0.5 else ask(rng, language, f"{intent}.ask")
    known = ["minexaone"] if intent in INTENTS[3:] else [r.split("!")[0] for r in PHRASES[f"{intent}.reply"][language]]
    return turn("chat", language, question, say(rng, language, f"{intent}.reply"),
                say(rng, language, f"{intent}.think"), {"words": known})


def facts(rng, language, test):
    """A closed world: capitals, colours, opposites, what comes next, how many."""
    relation = rng.choice(("capital", "colour", "opposite", "next", "count"))
    x, y = rng.choice(PHRASES[f"{relation}.pairs"][language]).split(":")
    question = ask(rng, language, f"{relation}.ask", x=x)
    reply = say(rng, language, f"{relation}.reply", x=x, y=y)
    return turn("facts", language, question, reply[0].upper() + reply[1:],
                say(rng, language, "fact.think", x=x, y=y), {"words": [y]}, key=question)


def sums(rng, language, test):
    """Addition and subtraction of numbers below 100; thinking goes by tens, then ones."""
    top = rng.choice((10, 20, 100))
    op, a, b = rng.choice("+-"), rng.randrange(top), rng.randrange(top)
    if op == "-":
        a, b = max(a, b), min(a, b)
    c = a + b if op == "+" else a - b
    steps, tens, ones = [], b // 10 * 10, b % 10
    if tens and ones:
        half = a + tens if op == "+" else a - tens
        steps = [f"{a} {op} {tens} = {half}, {half} {op} {ones} = {c}"]
    thought = say(rng, language, "sum.think", b=b) + " " + steps[0] + "." if steps else f"{a} {op} {b} = {c}."
    return turn("sums", language, ask(rng, language, f"sum.{op}", a=a, b=b),
                say(rng, language, "sum.reply", a=a, b=b, op=op, c=c), thought, {"last": str(c)}, key=f"{a}{op}{b}")


def unknown(rng, language, test):
    """What the model cannot know. It must say so."""
    x = rng.choice((say(rng, language, "unknown.word"), made_up(rng, language), made_up(rng, language)))
    if rng.random() < 0.1:
        x = " ".join(made_up(rng, language) for _ in range(rng.randint(2, 8)))
    question = ask(rng, language, "unknown", x=x, n=rng.randrange(13, 3000))
    return turn("unknown", language, question, say(rng, language, "unknown.reply"),
                say(rng, language, "unknown.think"), {"words": PHRASES["unknown.mark"][language]}, key=question)


def compare(rng, language, test):
    """Which of two decimals is bigger (or smaller): align the integer parts, then go digit by digit."""
    a, b = ("3.12", "3.9") if test and rng.random() < 0.01 else decimals(rng)
    if rng.random() < 0.5:
        a, b = b, a
    goal = "bigger" if rng.random() < 0.75 else "smaller"
    sign = (Decimal(a) > Decimal(b)) - (Decimal(a) < Decimal(b))
    if sign == 0:
        reply, expected = say(rng, language, "equal.reply", x=a, y=b), {"equal": True, "numbers": [a, b]}
    else:
        first, other = (a, b) if (sign > 0) == (goal == "bigger") else (b, a)
        reply, expected = say(rng, language, f"{goal}.reply", x=first, y=other), {"first": first, "equal": False}
    return turn("compare", language, ask(rng, language, goal, a=a, b=b), reply,
                compare_thought(rng, language, a, b), expected, key=compare_key(a, b))


def compare_key(a: str, b: str) -> str:
    """The same for 3.9 and 3.90, and for both orders."""
    return " ".join(sorted(str(Decimal(x).normalize()) for x in (a, b)))


def decimals(rng):
    """Two decimals that are not too easy: most share the integer part, many the first decimals as well."""
    def digits(low, high):
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))

    whole, fraction = str(rng.randrange(10 ** rng.randint(1, 3))), digits(0 if rng.random() < 0.1 else 1, 4)
    whole2 = whole if rng.random() < 0.65 else str(rng.randrange(10 ** rng.randint(1, 3)))
    fraction2 = (fraction[:rng.randint(0, 3)] + digits(1, 4))[:4] if rng.random() < 0.5 else digits(1, 4)
    if rng.random() < 0.1:
        whole2, fraction2 = whole, (fraction + "0" * rng.randint(0, 2))[:4]
    a, b = (f"{w}.{f}" if f else w for w, f in ((whole, fraction), (whole2, fraction2)))
    minus = rng.random()
    signs = ("-", "-") if minus < 0.08 else ("-", "") if minus < 0.14 else ("", "")
    return tuple(sign + x if Decimal(x) else x for sign, x in zip(signs, (a, b), strict=True))


def relation(a, b) -> str:
    """"3.12 < 3.9" """
    return f"{a} {'<' if Decimal(a) < Decimal(b) else '>' if Decimal(a) > Decimal(b) else '='} {b}"


def compare_thought(rng, language, a, b):
    """Signs first, then whole parts, then digit by digit."""
    lines = [say(rng, language, "compare.goal", a=a, b=b)]
    if a[0] == "-" and b[0] == "-":
        lines += [say(rng, language, "compare.both"), *align(rng, language, a[1:], b[1:]), relation(a[1:], b[1:]) + "."]
    elif "-" in a + b:
        lines.append(say(rng, language, "compare.signs"))
    else:
        lines += align(rng, language, a, b)
    return "\n".join([*lines, say(rng, language, "compare.so", s=relation(a, b))])


def align(rng, language, a, b):
    """The lines that compare two positive decimals, up to the first digit that decides."""
    (whole, _, p), (whole2, _, q) = a.partition("."), b.partition(".")
    lines = [say(rng, language, "compare.whole", s=relation(whole, whole2))]
    if whole == whole2:
        width = max(len(p), len(q))
        p, q = p.ljust(width, "0"), q.ljust(width, "0")
        lines.append(say(rng, language, "compare.pad", p=p or "0", q=q or "0"))
        for i in range(width):
            lines.append(say(rng, language, "compare.digit", i=i + 1, s=relation(p[i], q[i])))
            if p[i] != q[i]:
                break
    return lines


def recall(rng, language, test):
    """The user's name, said some turns before or never."""
    name = rng.choice((say(rng, language, "name"), made_up(rng, language, plain=True).capitalize()))
    question = ask(rng, language, "name.ask")
    if rng.random() < 0.2:
        reply = say(rng, language, "name.none")
        return turn("recall", language, question, reply, say(rng, language, "name.none.think"), {"words": [reply]})
    past = [user(ask(rng, language, "name.tell", x=name)), assistant(say(rng, language, "name.meet", x=name))]
    if rng.random() < 0.5:
        past += small_talk(rng, language)
    return turn("recall", language, question, say(rng, language, "name.reply", x=name),
                say(rng, language, "name.think", x=name), {"words": [name]}, past=past, key=name)


# ------------------------------------------------------------------------------------------------------ tools


def call(rng, language, test):
    """A question that needs a tool, and the calls; or one for dice when there is no dice tool."""
    if rng.random() < 0.08:
        question = dice_request(rng, language, sides(rng), rng.randint(1, 4))
        tools = distinct(other_tool(rng, language)[0] for _ in range(rng.randint(0, 2)))
        reply = say(rng, language, "dice.none")
        return turn("call", language, question, reply, say(rng, language, "dice.none.think"), {"words": [reply]},
                    tools=tools)
    tools, question, calls, thought, key, found = request(rng, language, test)
    past = []
    if found is None and rng.random() < 0.15:  # the same once more
        results = [rng.randint(1, 6) for _ in calls]
        past = [user(question), assistant("", calls), *map(tool, results),
                assistant(dice_report(rng, language, results)[0])]
        question = ask(rng, language, "again")
    return turn("call", language, question, "", thought, {"calls": [c["function"] for c in calls]}, past=past,
                tools=tools, key=key, calls=calls)


def answer(rng, language, test):
    """What a tool returned, in a sentence; several rolls with their sum; an error as an error."""
    tools, question, calls, _, _, found = request(rng, language, test)
    if rng.random() < 0.15:
        error = rng.choice(ERRORS)
        results = [{"error": error}] * len(calls)
        reply, thought = say(rng, language, "error.reply", y=error), say(rng, language, "error.think")
        expected = {"words": [error], "mark": PHRASES["failed"][language]}
    elif found is None:
        n = next(iter(calls[0]["function"]["arguments"].values()))
        results = [rng.randint(1, n) for _ in calls]
        reply, steps = dice_report(rng, language, results)
        thought = say(rng, language, "result.think", y=listing(language, results)) + steps
        expected = {"numbers": results} | ({"last": str(sum(results))} if steps else {})
    else:
        result, reply = found
        results, shown = [result], show(language, result)
        thought, expected = say(rng, language, "result.think", y=shown), {"words": [shown]}
    past = [user(question), assistant("", calls), *map(tool, results)]
    return turn("answer", language, None, reply, thought, expected, past=past, tools=tools, key=str(results))


def request(rng, language, test):
    """(tools, question, calls, thought, key, found): found is None for dice, else (result, sentence that states it)."""
    if rng.random() < 0.6:
        n, count = sides(rng), rng.choice((1, 1, 2, 2, 2, 3, 3, 4))
        schema, parameter = dice_tool(rng, test)
        name = schema["function"]["name"]
        calls = [function_call(name, {parameter: n}) for _ in range(count)]
        question = dice_request(rng, language, n, count)
        spelled = PHRASES["times"][language][count - 1]
        thought = say(rng, language, "dice.think", t=spelled, n=n, tool=name, p=parameter)
        key, found = (f"d{n}" if n not in (2, 4, 6, 8, 10, 12, 20, 100) else ""), None
    else:
        schema, question, arguments, *found = other_tool(rng, language)
        name = schema["function"]["name"]
        calls, key = [function_call(name, arguments)], question
        thought = say(rng, language, "tool.think", tool=name, x=", ".join(map(str, arguments.values())))
    others = [dice_tool(rng, test)[0] if found and rng.random() < 0.4 else other_tool(rng, language)[0]
              for _ in range(rng.choice((0, 0, 1, 2)))]
    tools = distinct([*others, schema])
    rng.shuffle(tools)
    return tools, question, calls, thought, key, found


def dice_report(rng, language, results):
    """The sentence that states the rolls, and the additions (empty for one roll) that lead to their sum."""
    totals = [sum(results[:i + 1]) for i in range(len(results))]
    steps = ", ".join(f"{t} + {r} = {s}" for t, r, s in zip(totals, results[1:], totals[1:], strict=False))
    reply = say(rng, language, "dice.reply", list=listing(language, results))
    if not steps:
        return reply, ""
    return f"{reply} {steps}. {say(rng, language, 'dice.total', sum=totals[-1])}", f" {steps}."


def sides(rng):
    """How many sides a die has."""
    return rng.choice((4, 6, 6, 6, 8, 10, 12, 20, 100, rng.randint(2, 100), rng.randint(2, 100), rng.randint(2, 100)))


def dice_request(rng, language, n, count):
    """The question for `count` rolls of a die with n sides."""
    if count == 1 and rng.random() < 0.6:
        return ask(rng, language, "dice.once", n=n)
    times = PHRASES["times" if rng.random() < 0.75 else "times.digit"][language][count - 1]
    return ask(rng, language, "dice", n=n, t=times)


def dice_tool(rng, test):
    """(schema, name of its parameter)"""
    if rng.random() < 0.3:  # as in the model card
        number = {"type": rng.choice(("int", "integer")), "description": "Max number of the dice"}
        return schema("roll_dice", DICE_DESCRIPTIONS[0], {"max_num": number}), "max_num"
    name = rng.choice(TEST_DICE_TOOLS if test else DICE_TOOLS)
    parameter = rng.choice(TEST_DICE_PARAMETERS if test else DICE_PARAMETERS)
    if not test and rng.random() < 0.3:
        parameter = identifier(rng)
    return schema(name, rng.choice(DICE_DESCRIPTIONS), {parameter: property_(rng, "integer")}, rng), parameter


def other_tool(rng, language):
    """(schema, a question for it, the arguments of the call, a result, the sentence that states the result)"""
    def phrase(key, **values):
        return ask(rng, language, key, **values), lambda result: say(
            rng, language, f"{key}.reply", y=show(language, result), **values)

    kind, city = rng.choice(("weather", "weather", "time", "add", "custom")), say(rng, language, "city")
    name, required = TOOL_NAMES.get(kind), None
    if kind == "weather":
        units = rng.choice((["C", "F"], ["celsius", "fahrenheit"]))
        (question, reply), arguments, required = phrase("weather", x=city), {"city": city}, ["city"]
        properties = {"city": property_(rng, "string")}
        if rng.random() < 0.6:
            properties["unit"] = {"type": "string", "enum": units}
            if rng.random() < 0.4:
                arguments["unit"] = rng.choice(units)
                question = f"{question.rstrip('?. ')} ({arguments['unit']})"
        sky = say(rng, language, "sky")
        result = rng.choice(({"temp": rng.randint(-9, 38), "sky": sky}, sky))
    elif kind == "time":
        (question, reply), arguments = phrase("time", x=city), {"city": city}
        properties, result = {"city": property_(rng, "string")}, f"{rng.randrange(24):02}:{rng.randrange(60):02}"
    elif kind == "add":
        arguments = {"a": rng.randrange(1000), "b": rng.randrange(1000)}
        question, reply = phrase("add", **arguments)
        properties, result = {key: property_(rng, "integer") for key in arguments}, sum(arguments.values())
    else:
        name, parameter = identifier(rng), identifier(rng)
        value = rng.choice((rng.randrange(1000), rng.choice(WORDS), made_up(rng, "en")))
        (question, reply), arguments = phrase("custom", x=value, tool=name), {parameter: value}
        properties = {parameter: property_(rng, "integer" if isinstance(value, int) else "string")}
        result = rng.choice((rng.randrange(1000), made_up(rng, "en")))
    if kind == "custom":
        description = " ".join(rng.sample(WORDS, 3)).capitalize() + "."
    else:
        description = say(rng, rng.choice(LANGUAGES), f"{kind}.description")
    return schema(name, description, properties, rng, required), question, arguments, result, reply(result)


def show(language, result):
    """A result as a sentence states it."""
    return listing(language, result.values()) if isinstance(result, dict) else str(result)


def distinct(schemas):
    """No name twice: the last one stays."""
    return list({schema["function"]["name"]: schema for schema in schemas}.values())


def identifier(rng):
    """A name for a tool or a parameter: one or two words, some of them made up."""
    return "_".join(rng.choice((rng.choice(WORDS), rng.choice(WORDS), made_up(rng, "en", plain=True)))
                    for _ in range(rng.randint(1, 2)))


def property_(rng, kind):
    """A parameter's schema, with or without a description."""
    described = {"description": " ".join(rng.sample(WORDS, 2))} if rng.random() < 0.4 else {}
    return {"type": "int" if kind == "integer" and rng.random() < 0.2 else kind, **described}


def schema(name, description, properties, rng=None, required=None):
    """In the order of `tools.tool_schema`; with rng sometimes in the other common order."""
    parameters = {"type": "object", "required": required or list(properties), "properties": properties}
    if rng and rng.random() < 0.3:
        parameters = {key: parameters[key] for key in ("type", "properties", "required")}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


# ----------------------------------------------------------------------------------------------- conversations


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


def turn(task, language, question, reply, thought, expected, past=(), tools=(), key="", calls=()):
    """The example that leads from a question (None: from a result at the end of `past`) to a reply."""
    messages = [*past] + ([user(question)] if question is not None else [])
    return Example(task, language, messages, assistant(reply, calls) | {"reasoning_content": thought}, expected, key,
                   list(tools))


def small_talk(rng, language):
    """One earlier exchange that has nothing to do with what follows."""
    past = rng.choice((chat, facts, sums, compare, unknown))(rng, language, False)
    return [past.messages[-1], assistant(past.reply["content"])]


TASKS = {f.__name__: f for f in (chat, facts, sums, unknown, compare, call, answer, recall)}


def held_out(key: str) -> bool:
    """Whether operands belong to the test split. 3.12 and 3.9 of the model card always do."""
    return key == compare_key("3.12", "3.9") or zlib.crc32(key.encode()) % HELD_OUT == 0


def sample(rng: Random, split="train", task=None, language=None, reasoning=None) -> Example:
    """Draw one example; what is None is drawn as well. `split` is "train" or "test"."""
    task = task or rng.choices(list(WEIGHTS), WEIGHTS.values())[0]
    language = language or rng.choice(LANGUAGES)
    example = TASKS[task](rng, language, split == "test")
    while example.key and held_out(example.key) != (split == "test"):
        example = TASKS[task](rng, language, split == "test")
    example.reasoning = rng.random() < 0.5 if reasoning is None else reasoning
    if not example.reasoning:
        del example.reply["reasoning_content"]
    if rng.random() < 0.1 and task not in ("recall", "answer"):
        example.messages = small_talk(rng, language) + example.messages
    if rng.random() < 0.12 and task not in ("call", "answer", "sums"):  # tools that this question does not need
        example.tools = [rng.choice((dice_tool(rng, False)[0], other_tool(rng, language)[0]))]
    if rng.random() < 0.15:
        example.messages = [{"role": "system", "content": say(rng, language, "system")}] + example.messages
    return example


# -------------------------------------------------------------------------------------------------- verifiers


def parse_calls(text: str) -> list | None:
    """The calls in a reply; None if one is no JSON."""
    try:
        return [json.loads(call) for call in re.findall(r"<tool_call>(.*?)</tool_call>", text, re.S)]
    except ValueError:
        return None


def verify(example: Example, reply: str) -> bool:
    """Whether a reply (what comes after the thinking) is right, exactly: calls, numbers and words, and the language."""
    expected, numbers = example.expected, [Decimal(n) for n in NUMBER.findall(reply)]
    if "calls" in expected or "<tool_call>" in reply:
        return parse_calls(reply) == expected.get("calls", [])
    own = re.sub("|".join(map(re.escape, expected.get("words", ["\0"]))), "", reply)  # what is not copied or named
    hangul = {"가" <= c <= "힣" for c in own if c.isalpha()} or {example.language == "ko"}
    equal = any(word in reply for word in PHRASES["equal"][example.language])
    return all((
        any(hangul) == (example.language == "ko"),
        any(word.lower() in reply.lower() for word in expected.get("words", [""])),
        any(word in reply for word in expected.get("mark", [""])),
        "first" not in expected or numbers[:1] == [Decimal(expected["first"])],
        "last" not in expected or numbers[-1:] == [Decimal(expected["last"])],
        numbers[:len(expected.get("numbers", ()))] == [Decimal(n) for n in expected.get("numbers", ())],
        equal == expected.get("equal", equal),
    ))


def false_steps(thought: str) -> list[str]:
    """The statements of a thought that are not true: sums, differences and comparisons."""
    number = r"(-?\d+(?:\.\d+)?)"
    sums, wrong = re.compile(rf"{number} ([+-]) {number} = {number}"), []
    for a, op, b, c in sums.findall(thought):
        if Decimal(a) + Decimal(b) * (1 if op == "+" else -1) != Decimal(c):
            wrong.append(f"{a} {op} {b} = {c}")
    for a, op, b in re.findall(rf"{number} ([<>=]) {number}", sums.sub("", thought)):
        if relation(a, b) != f"{a} {op} {b}":
            wrong.append(f"{a} {op} {b}")
    return wrong
