"""Telling what came back, and mending a call by what its error says."""

from random import Random

from minexaone.tasks.base import Example, assistant, function_call, held_out, say, tool, user
from minexaone.tasks.tool_use.calls import answer_key, key_of, make_use, request, with_others
from minexaone.tasks.tool_use.sentences import call_thought, error_text, joined, misspelt, question, report, told
from minexaone.tasks.tool_use.tools import COMMON_KINDS, Use, identifier, plain
from minexaone.tools import argument_error


def answer(rng: Random, language: str, level: int, test: bool) -> Example:
    """What the tools returned, in sentences.

    Level 1: a result, or several with their sum. 2: also errors, whose text is copied, and calls to be mended by what
    the error says.
    """
    chance = rng.random() if level > 1 else 0
    if chance > 0.6:
        return mended(rng, language, level, test)
    uses_level = rng.choice((1, 2)) if level == 1 else rng.choice((1, 2, 3))
    text, uses = request(rng, language, test, uses_level)
    while not test and (key := key_of(uses, test)) and held_out(key):  # the calls are learnt, too
        text, uses = request(rng, language, test, uses_level)
    failed = chance > 0.15
    if failed:  # all calls, or of several sometimes only one
        broken = [rng.choice(uses)] if len(uses) > 1 and rng.random() < 0.5 and not_dice(uses) else uses
        error = error_text(rng, language)
        for use in broken:
            use.result = {"error": error}
        sentences = [report(rng, language, use) for use in uses if use not in broken]
        sentences.append((say(rng, language, "tool.error.reply", y=error), [error], "tool.error.mark"))
        thoughts = {"steps": say(rng, language, "tool.think.error", y=error),
                    "brief": say(rng, language, "tool.think.error.brief")}
        reply, expected = joined(sentences)
    else:
        reply, expected, thoughts = told(rng, language, uses)
    messages = [user(text), assistant("", [use.call for use in uses]), *(tool(use.result) for use in uses)]
    return Example("answer", language, level, messages, assistant(reply), expected, thoughts, answer_key(uses, test),
                   with_others(rng, language, test, 1, uses))


def not_dice(uses):
    """Whether the results can be told one by one."""
    return not any(use.tool.kind == "dice" for use in uses)


def mended(rng, language, level, test):
    """A call that failed for a reason which the error says, and the same call done right."""
    use = make_use(rng, language, rng.choice(COMMON_KINDS), test, level)
    text, wrong, error = wrong_call(rng, language, use, test)
    right = use.call
    thoughts = {"steps": f"{say(rng, language, 'tool.think.mend', y=error)} {call_thought(rng, language, [right])}",
                "brief": say(rng, language, "tool.think.mend.brief")}
    tools = with_others(rng, language, test, 1, [use])
    if wrong["function"]["name"] != use.tool.name:  # as `Chat` says it
        names = ", ".join(t["function"]["name"] for t in tools)
        error = f"there is no tool {wrong['function']['name']!r}; the tools are: {names}"
        thoughts["steps"] = f"{say(rng, language, 'tool.think.mend', y=error)} {call_thought(rng, language, [right])}"
    messages = [user(text), assistant("", [wrong]), tool({"error": error})]
    return Example("answer", language, level, messages, assistant("", [right]), {"calls": [right["function"]]},
                   thoughts, key_of([use], test), tools, right_before=False)


def wrong_call(rng, language, use, test):
    """(question, wrong call, error): a misspelt word, a wrong name or type, a missing argument, or just bad luck."""
    text, right = question(rng, language, use), use.call
    spelt = () if use.tool.kind == "custom" else ("city", "person", "item", "query")
    role = next((role for role in use.values if role in spelt), None)
    form = rng.choice(("typo", "again", "name", "parameter", "missing", "type"))
    if form == "typo" and role:
        bad = misspelt(rng, use.values[role])
        asked = Use(use.tool, use.values | {role: bad}, None)
        error = error_text(rng, language, "typo", p=use.tool.parameters[role], bad=bad, good=use.values[role])
        return question(rng, language, asked), asked.call, error
    if form == "name":
        return text, function_call(identifier(rng, test), right["function"]["arguments"]), ""
    required = plain(use.tool.schema)["required"]
    if form in ("parameter", "missing", "type") and required:
        arguments = dict(right["function"]["arguments"])
        name = rng.choice(required)
        value = arguments.pop(name)
        if form == "parameter":
            arguments[identifier(rng, test)] = value
        elif form == "type":
            arguments[name] = str(value) if isinstance(value, int) else [value]
        return text, function_call(use.tool.name, arguments), argument_error(arguments, plain(use.tool.schema))
    return text, right, error_text(rng, language, "again")
