"""Calling tools: one call, several at once, or none where no tool fits."""

import json
from random import Random

from minexaone.tasks.base import Example, ask, assistant, held_out, listing, say, tool, user
from minexaone.tasks.tool_use.sentences import (
    brief_thought,
    call_thought,
    dice_question,
    ended,
    in_unit,
    purpose,
    question,
    tell_dice,
    told,
)
from minexaone.tasks.tool_use.tools import (
    ALIKE,
    ASKED_WITHOUT_TOOL,
    COMMON_KINDS,
    HARD_KINDS,
    KINDS,
    LISTED_KINDS,
    Use,
    custom_values,
    draw_result,
    draw_values,
    make_tool,
)


def make_use(rng, language, kind, test, level, like=None):
    """Draw a use of a tool, of a new one or of the tool of the use `like`."""
    if kind == "custom":
        values = custom_values(rng, test, level)
        used = make_tool(rng, language, kind, test, level, values)
    else:
        values = draw_values(rng, language, kind)
        used = like.tool if like else make_tool(rng, language, kind, test, level)
        if "unit" in used.parameters and not like and rng.random() < 0.5:
            values["unit"] = rng.choice(used.units)
    return Use(used, values, draw_result(rng, language, kind, values))


def pick_kind(rng, level):
    """A kind of tool; the unusual ones at level 3 only."""
    if rng.random() < (0.35 if level < 3 else 0.2):
        return "dice"
    return rng.choice(HARD_KINDS if level > 2 and rng.random() < 0.4 else COMMON_KINDS)


def single(rng, language, test, level):
    """(question, uses) of one call."""
    use = make_use(rng, language, pick_kind(rng, level), test, level)
    return question(rng, language, use), [use]


def parallel(rng, language, test, level):
    """(question, uses) of several calls that need nothing from each other."""
    form = rng.random()
    if form < 0.4:
        first = make_use(rng, language, "dice", test, level)
        count = rng.choice((2, 2, 2, 3, 3, 4) if level < 3 else (2, 2, 3, 3, 4, 5, 6))
        uses = [first] + [Use(first.tool, first.values, draw_result(rng, language, "dice", first.values))
                          for _ in range(count - 1)]
        return dice_question(rng, language, first.values["sides"], count), uses
    if form < 0.7:
        kind = rng.choice(list(LISTED_KINDS))
        uses = [make_use(rng, language, kind, test, level)]
        for _ in range(rng.choice((1, 1, 1, 2) if level < 3 else (1, 2, 3))):
            use = make_use(rng, language, kind, test, level, like=uses[0])
            use.values |= {role: v for role, v in uses[0].values.items() if role == "unit"}
            if use.values not in [other.values for other in uses]:
                uses.append(use)
        role = LISTED_KINDS[kind]
        text = ask(rng, language, f"tool.{kind}.ask", **{role: listing(language, [u.values[role] for u in uses])})
        return (in_unit(rng, language, uses[0], text) if "unit" in uses[0].values else text), uses
    first = make_use(rng, language, pick_kind(rng, level), test, level)
    kind = pick_kind(rng, level)
    same = kind != "custom" and ALIKE.get(kind, kind) == ALIKE.get(first.tool.kind, first.tool.kind)
    kind = first.tool.kind if same else kind
    second = make_use(rng, language, kind, test, level, like=first if same else None)
    texts = [question(rng, language, use) for use in (first, second)]
    return say(rng, language, "tool.also", a=ended(texts[0]), b=texts[1]), [first, second]


def request(rng, language, test, level):
    """(question, uses): one call at level 1, several at level 2, either at level 3."""
    several = level == 2 or (level > 2 and rng.random() < 0.6)
    return (parallel if several else single)(rng, language, test, level)


def with_others(rng, language, test, level, uses, without=()):
    """The schemas of the tools used among others that do not fit, in any order, no name twice."""
    taken = {ALIKE.get(kind, kind) for kind in (*without, *(use.tool.kind for use in uses))}
    schemas = {}
    for _ in range(rng.choice((2, 2, 3, 3, 4)) if level > 2 else rng.choice((0, 0, 1))):
        kind = rng.choice(COMMON_KINDS if level < 3 else list(KINDS))
        if kind == "custom" or ALIKE.get(kind, kind) not in taken:
            taken.add(ALIKE.get(kind, kind))
            other = make_tool(rng, language, kind, test, level)
            schemas[other.name] = other.schema
    schemas |= {use.tool.name: use.tool.schema for use in uses}  # after the others: these win
    schemas = list(schemas.values())
    rng.shuffle(schemas)
    return schemas


def call(rng: Random, language: str, level: int, test: bool) -> Example:
    """A question, and the calls that it needs; sometimes no tool fits.

    Level 1: one call. 2: several calls at once. 3: either, among two to four other tools, with optional parameters,
    choices, lists, booleans, or no parameters. At levels 2 and 3 other requests, answered already, may stand before.
    """
    chance = rng.random()
    if chance < 0.1:
        return no_fitting_tool(rng, language, level, test)
    if chance < 0.2 and level == 1:
        return list_tools(rng, language, level, test)
    text, uses = request(rng, language, test, level)
    while len({use.tool.name for use in uses}) < len({id(use.tool) for use in uses}):  # two tools of one name
        text, uses = request(rng, language, test, level)
    calls = [use.call for use in uses]
    messages = [user(text)]
    if uses[0].tool.kind == uses[-1].tool.kind == "dice" and rng.random() < 0.12:  # the same once more
        told, _ = tell_dice(rng, language, uses)
        messages += [assistant("", calls), *(tool(use.result) for use in uses), assistant(told),
                     user(ask(rng, language, "tool.again"))]
        before = []
    else:
        past, before = answered(rng, language, test, rng.randrange(level), uses)
        messages = past + messages
    wanted = [say(rng, language, "tool.think.want", do=purpose(rng, language, used))
              for used in {use.tool.name: use.tool for use in uses}.values()]
    thoughts = {"steps": " ".join([*wanted, call_thought(rng, language, calls)]),
                "brief": brief_thought(rng, language, calls)}
    return Example("call", language, level, messages, assistant("", calls), {"calls": [c["function"] for c in calls]},
                   thoughts, key_of(uses, test), with_others(rng, language, test, level, uses + before))


def answered(rng, language, test, count, uses):
    """(messages, uses) of up to `count` requests that have been answered, with tools that do nothing that `uses` do."""
    messages, before = [], []
    for _ in range(count):
        text, new = request(rng, language, test, rng.choice((1, 1, 2)))
        kinds, names = ({f(use) for use in uses + before} for f in (alike_kind, lambda use: use.tool.name))
        fits = not any(alike_kind(use) in kinds - {"custom"} or use.tool.name in names for use in new)
        if fits and len({use.tool.name for use in new}) == len({id(use.tool) for use in new}) and (
                test or not any(key and held_out(key) for key in (key_of(new, test), answer_key(new, test)))):
            reply, _, _ = told(rng, language, new)
            messages += [user(text), assistant("", [use.call for use in new]), *(tool(use.result) for use in new),
                         assistant(reply)]
            before += new
    return messages, before


def alike_kind(use):
    """One name for all kinds of tools that could do the same."""
    return ALIKE.get(use.tool.kind, use.tool.kind)


def key_of(uses, test):
    """The operands of all uses. Common dice alone are in both splits ("" in training): in tests the held-out names of
    their tools tell them apart, or else nearly all tests, which take a tenth of all other keys, would be about dice."""
    operands = [use.operands for use in uses]
    if not any(operands):
        return json.dumps([use.call for use in uses]) if test else ""
    return json.dumps(operands, ensure_ascii=False)


def answer_key(uses, test):
    """The operands and results of all uses."""
    return json.dumps([key_of(uses, test), [use.result for use in uses]], ensure_ascii=False)


def no_fitting_tool(rng, language, level, test):
    """A question for which there is no tool, or no tools at all."""
    kind = rng.choice(ASKED_WITHOUT_TOOL)
    tools = [] if rng.random() < 0.3 else with_others(rng, language, test, level, [], [kind])
    if not tools:
        kind = rng.choice([kind for kind in ASKED_WITHOUT_TOOL if kind not in ("weather", "time")])  # "unknown"'s
    use = make_use(rng, language, kind, test, 1)
    use.values.pop("unit", None)
    do = purpose(rng, language, use.tool)
    names = ", ".join(t["function"]["name"] for t in tools)
    key = "tool.none.think" if tools else "tool.none.empty"
    thoughts = {"steps": say(rng, language, key, do=do, tools=names), "brief": say(rng, language, "tool.none.brief")}
    return Example("call", language, level, [user(question(rng, language, use))],
                   assistant(say(rng, language, "tool.none.reply", do=do)), {"words": [do], "mark": "tool.none.mark"},
                   thoughts, key_of([use], test), tools)


def list_tools(rng, language, level, test):
    """The question which tools there are."""
    tools = []
    while not tools:
        tools = with_others(rng, language, test, rng.choice((1, 3)), [])
    names = [t["function"]["name"] for t in tools]
    y = listing(language, names)
    thoughts = {"steps": say(rng, language, "tool.list.think", y=y), "brief": say(rng, language, "tool.list.brief")}
    return Example("call", language, level, [user(ask(rng, language, "tool.list.ask"))],
                   assistant(say(rng, language, "tool.list.reply", y=y)), {"words": names}, thoughts, str(names), tools)
