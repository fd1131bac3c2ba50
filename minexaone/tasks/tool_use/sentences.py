"""What is said about uses of tools: questions, results, errors, thoughts."""

from itertools import pairwise

from minexaone.tasks.base import ask, listing, made_up, phrases, say
from minexaone.tasks.tool_use.tools import DONE, is_one, leaves, shown


def question(rng, language, use):
    """How a user asks for one use of a tool."""
    kind, values = use.tool.kind, use.values
    if kind == "dice":
        return dice_question(rng, language, values["sides"], 1)
    if kind == "custom":
        many = len(values) > 1 or rng.random() < 0.2
        x = listing(language, [f"{name} = {value}" if many else value for name, value in values.items()])
        return ask(rng, language, "tool.custom.ask", tool=use.tool.name, x=x)
    if kind == "switch":
        return ask(rng, language, f"tool.switch.{'on' if values['on'] else 'off'}.ask", device=values["device"])
    if kind == "total":
        return ask(rng, language, "tool.total.ask", list=", ".join(map(str, values["list"])))
    text = ask(rng, language, f"tool.{kind}.ask", **{role: v for role, v in values.items() if role != "unit"})
    return in_unit(rng, language, use, text) if "unit" in values else text


def in_unit(rng, language, use, text):
    """The question with a wish for a unit, in the user's words, which are not always the schema's."""
    word = phrases()["tool.unit.words"][language][use.tool.units.index(use.values["unit"])]
    return ask(rng, language, "tool.unit.ask", x=ended(text), u=word)


def ended(text):
    """With a mark at the end, so that something can follow."""
    return text if text[-1] in ".?!" else text + "."


def dice_question(rng, language, sides, count):
    """The question for `count` rolls of one die."""
    if count == 1 and rng.random() < 0.6:
        return ask(rng, language, "tool.dice.once.ask", sides=sides)
    times = "tool.times" if rng.random() < 0.75 else "tool.times.digit"
    return ask(rng, language, "tool.dice.ask", sides=sides, t=phrases()[times][language][count - 1])


def report(rng, language, use):
    """(sentence that states a result, the words it must contain, the mark it must contain)"""
    kind, values, found = use.tool.kind, use.values, leaves(use.result)
    y = shown(found[0])
    if kind == "weather" and len(found) == 2:
        temp, sky = found
        return say(rng, language, "tool.weather.both.reply", temp=temp, sky=sky, **values), [sky, str(temp)], None
    if kind == "time" and is_one(y):
        return say(rng, language, "tool.time.one.reply", y=y, **values), [y], None
    if kind == "switch":
        key = f"tool.switch.{'on' if values['on'] else 'off'}"
        return say(rng, language, f"{key}.reply", **values), [values["device"]], f"{key}.mark"
    if kind == "custom":
        return say(rng, language, "tool.custom.reply", y=y, tool=use.tool.name), [y, use.tool.name], None
    words = [shown(v) for v in values.values()] if kind in DONE else [y]
    return say(rng, language, f"tool.{kind}.reply", y=y, **values), words, None


def running_sums(results):
    """The additions that lead to the sum: "3 + 5 = 8, 8 + 2 = 10"."""
    totals = [sum(results[:i + 1]) for i in range(len(results))]
    return ", ".join(f"{t} + {r} = {s}" for (t, s), r in zip(pairwise(totals), results[1:], strict=True))


def call_thought(rng, language, calls):
    """One sentence for each call; for several equal ones, how many."""
    def sentence(call):
        arguments = ", ".join(f"{name} = {shown(value)}" for name, value in call["arguments"].items())
        key = "tool.think.call" if arguments else "tool.think.bare"
        return say(rng, language, key, tool=call["name"], x=arguments)

    functions = [call["function"] for call in calls]
    if len(functions) > 1 and all(function == functions[0] for function in functions):
        times = phrases()["tool.times"][language][len(functions) - 1]
        return f"{sentence(functions[0])} {say(rng, language, 'tool.think.times', t=times)}"
    return " ".join(map(sentence, functions))


def purpose(rng, language, used):
    """What a tool does, in the infinitive."""
    return say(rng, language, f"tool.{used.kind}.do", tool=used.name)


def brief_thought(rng, language, calls):
    """Only the names of the tools."""
    names = dict.fromkeys(call["function"]["name"] for call in calls)
    return " ".join(say(rng, language, "tool.think.brief", tool=name) for name in names)


def joined(sentences):
    """(reply, expected) from what `report` gave."""
    texts, words, marks = zip(*sentences, strict=True)
    expected = {"words": [word for group in words for word in group]}
    marks = [mark for mark in marks if mark]
    reply = " ".join(text if text[-1] in ".?!" else text + "." for text in texts[:-1])
    return f"{reply} {texts[-1]}".strip(), expected | ({"mark": marks[-1]} if marks else {})


def told(rng, language, uses):
    """(reply, expected, thoughts) for results without errors."""
    results = listing(language, [", ".join(map(shown, leaves(use.result))) for use in uses])
    steps = say(rng, language, "tool.think.result", y=results)
    if len(uses) > 1 and all(use.tool.kind == "dice" for use in uses):
        reply, expected = tell_dice(rng, language, uses)
        sums = running_sums(expected["numbers"])
        return reply, expected, {"steps": f"{steps} {sums}.", "brief": f"{steps} {say_total(rng, language, expected)}"}
    reply, expected = joined([report(rng, language, use) for use in uses])
    return reply, expected, {"steps": steps, "brief": say(rng, language, "tool.think.answer")}


def say_total(rng, language, expected):
    """The sum of several rolls, in a sentence."""
    return say(rng, language, "tool.dice.total", sum=expected["last"])


def tell_dice(rng, language, uses):
    """(reply, expected) for rolls: the numbers, and the additions that lead to their sum."""
    rolls = [leaves(use.result)[0] for use in uses]
    key = "tool.dice.many.reply" if len(rolls) > 1 else "tool.dice.reply"
    reply, expected = say(rng, language, key, y=listing(language, rolls)), {"numbers": rolls, "last": sum(rolls)}
    if len(rolls) > 1:
        reply += f" {running_sums(rolls)}. {say_total(rng, language, expected)}"
    return reply, expected


def error_text(rng, language, key="text", **values):
    """The text of an error: like a template, but with made-up words and numbers, to be copied letter by letter."""
    language = rng.choice(("en", "en", language))
    return say(rng, language, f"tool.error.{key}", n=rng.randrange(2, 1000), w=made_up(rng, language, plain=True),
               v=made_up(rng, "en", plain=True), **values)


def misspelt(rng, word):
    """With one letter changed."""
    i = rng.randrange(len(word))
    letter = word[i]
    if "가" <= letter <= "힣":  # another final consonant
        start = (ord(letter) - ord("가")) // 28 * 28 + ord("가")
        return word[:i] + chr(start + (ord(letter) - start + rng.choice((1, 4, 8, 16))) % 28) + word[i + 1:]
    new = rng.choice([c for c in "aeioulnrst" if c != letter.lower()])
    return word[:i] + (new.upper() if letter.isupper() else new) + word[i + 1:]
