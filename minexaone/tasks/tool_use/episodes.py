"""Chains of calls that need each other's results, and the tools as a simulation."""

import json
from dataclasses import dataclass, field
from random import Random

from minexaone.reply import ToolCall
from minexaone.tasks.base import (
    MARKUP,
    Example,
    ask,
    assistant,
    canonical,
    function_call,
    held_out,
    made_up,
    phrases,
    say,
    tool,
    user,
)
from minexaone.tasks.tool_use.calls import with_others
from minexaone.tasks.tool_use.sentences import (
    brief_thought,
    call_thought,
    error_text,
    joined,
    misspelt,
    purpose,
    report,
)
from minexaone.tasks.tool_use.tools import (
    DONE,
    Use,
    draw_result,
    draw_values,
    identifier,
    leaves,
    make_tool,
    noun,
    plain,
    shown,
)
from minexaone.tasks.tool_use.verify import states
from minexaone.tools import argument_error


@dataclass
class Episode:
    """A request that needs several calls one after the other, and the tools as a simulation.

    messages: the start. tools: the schemas. script: the calls of a perfect run, each (call, result), failures with a
    second try included. `respond` gives the result of a call; it counts the calls, so draw a new episode for each run.
    """

    messages: list[dict]
    tools: list[dict]
    language: str
    level: int
    script: list[tuple[dict, object]]
    reply: str
    expected: dict
    key: str
    thoughts: list[dict] = field(default_factory=list)  # of each turn
    asked: dict = field(default_factory=dict)  # how often each call came

    def respond(self, name: str, arguments: dict) -> object:
        """What the tools return: the script's results, in its order where a call comes twice, else an error."""
        wanted = canonical(name, arguments)
        results = [result for call, result in self.script if canonical(**call) == wanted]
        if results:
            self.asked[wanted] = self.asked.get(wanted, 0) + 1
            return results[min(self.asked[wanted], len(results)) - 1]
        known = {t["function"]["name"]: t for t in self.tools}
        if name not in known:
            return {"error": f"there is no tool {name!r}; the tools are: {', '.join(known)}"}
        return {"error": argument_error(arguments, plain(known[name])) or "nothing found for these arguments"}

    def verify(self, content: str, calls: list[ToolCall]) -> bool:
        """Whether the calls contain the script's, in order, with at most two others, and the content of the last reply
        states the last result."""
        made = iter([canonical(call.name, call.arguments) for call in calls])
        return (len(calls) <= len(self.script) + 2
                and all(canonical(**call) in made for call, _ in self.script)
                and not MARKUP.search(content) and states(content, self.language, self.expected))


# What each kind needs and gives, for chains; "any" takes all.
LINKS = {"home": ("person", "city"), "boss": ("person", "person"), "wish": ("person", "item"),
         "age": ("person", "number"), "price": ("item", "number"), "add": ("number", "number"),
         "multiply": ("number", "number"), "weather": ("city", "text"), "time": ("city", "text"),
         "custom": ("any", "text"), "send": ("any", "text")}
# What a chain can start with, and what that gives; a note can hold anything.
STARTS = {"home": "city", "boss": "person", "wish": "item", "age": "number", "price": "number", "dice": "number",
          "notes": None}
REACH = {"person": 9, "item": 9, "number": 9, "city": 2, "text": 1}  # how many steps can follow
INPUTS = {"home": "person", "boss": "person", "wish": "person", "age": "person", "price": "item", "add": "a",
          "multiply": "a", "weather": "city", "time": "city", "send": "text"}


def chain(rng, steps):
    """The kinds of a chain, and the types of what they give."""
    starts = [kind for kind, gives in STARTS.items() if REACH[gives or "number"] >= steps - 1]
    kinds = [rng.choice(starts)]
    notable = [gives for gives in REACH if REACH[gives] >= steps - 1 and gives != "text"]
    types = [STARTS[kinds[0]] or rng.choice(notable)]
    for left in range(steps - 2, -1, -1):
        options = [kind for kind, (needs, gives) in LINKS.items()
                   if needs in (types[-1], "any") and kind not in kinds and REACH[gives] >= left
                   and (left == 0 or kind != "send")]
        if not options:
            return chain(rng, steps)
        kinds.append(rng.choice(options))
        types.append(LINKS[kinds[-1]][1])
    return kinds, types


def step_result(rng, language, kind, type_, values):
    """A plain result that the next step can take."""
    if kind == "notes":
        return rng.randrange(2, 100) if type_ == "number" else noun(rng, language, type_)
    if kind == "weather":
        return say(rng, language, "tool.sky")
    if kind == "custom":
        return made_up(rng, "en", plain=True)
    if kind == "price":
        return rng.randrange(2, 100)
    result = leaves(draw_result(rng, language, kind, values))[0]
    return "ok" if kind in DONE else result


def chain_use(rng, language, kind, type_, test, before):
    """One step of a chain: its input is the result of the step before."""
    if kind == "custom":
        value = before if isinstance(before, int) else str(before)
        values = {identifier(rng, test): value}
    else:
        values = draw_values(rng, language, kind)
        if "b" in values:
            values["b"] = rng.randrange(2, 100 if kind == "add" else 10)
        if before is not None:
            values[INPUTS[kind]] = str(before) if kind == "send" else before
    used = make_tool(rng, language, kind, test, values=values)
    return Use(used, values, step_result(rng, language, kind, type_, values))


def chain_question(rng, language, uses):
    """The request for the whole chain: a question of one sentence, or one clause for each step."""
    kinds = [use.tool.kind for use in uses]
    pair = f"tool.pair.{'.'.join(kinds)}"
    if pair in phrases() and rng.random() < 0.5:
        return ask(rng, language, pair, **(uses[1].values | uses[0].values))
    text = say(rng, language, f"tool.{kinds[0]}.first", **uses[0].values)
    for use in uses[1:]:
        values = {"tool": use.tool.name} if use.tool.kind == "custom" else use.values
        clause = say(rng, language, f"tool.{use.tool.kind}.next", **values)
        text = say(rng, language, "tool.then", a=text, b=clause)
    text = text[0].upper() + text[1:] if rng.random() < 0.85 else text
    return text + rng.choice((".", ".", ""))


def episode(rng: Random, language: str, level: int, test: bool) -> Episode:
    """Draw a chain of level + 1 calls. In some, a call fails at first and says what to do, or fails for good."""
    while True:
        kinds, types = chain(rng, level + 1)
        uses, before = [], None
        for kind, type_ in zip(kinds, types, strict=True):
            uses.append(chain_use(rng, language, kind, type_, test, before))
            before = uses[-1].result
        key = json.dumps([kinds, list(uses[0].values.values()), [use.result for use in uses]], ensure_ascii=False)
        if held_out(key) == test and len({use.tool.name for use in uses}) == len(uses):
            return written_episode(rng, language, level, test, uses, key)


def written_episode(rng, language, level, test, uses, key):
    """The episode of a chain: its question, failures, thoughts and reply."""
    count, script, thoughts = len(uses), [], []
    text, trouble = chain_question(rng, language, uses), rng.random()
    where = rng.randrange(count) if trouble < 0.35 else None
    final = None
    for i, use in enumerate(uses):
        right, do = use.call, purpose(rng, language, use.tool)
        step = say(rng, language, "tool.think.step", i=i + 1, n=count, do=do)
        plan = f"{step} {call_thought(rng, language, [right])}"
        brief = brief_thought(rng, language, [right])
        if i == where:
            wrong, error, text = chain_trouble(rng, language, uses, i, text, trouble < 0.08)
            script.append((wrong["function"], {"error": error}))
            thoughts.append({"steps": f"{step} {call_thought(rng, language, [wrong])}", "brief": brief})
            if trouble < 0.08:
                final = error
                break
            plan = f"{say(rng, language, 'tool.think.mend', y=error)} {call_thought(rng, language, [right])}"
            brief = say(rng, language, "tool.think.mend.brief")
        script.append((right["function"], use.result))
        thoughts.append({"steps": plan, "brief": brief})
    if final:
        reply, expected = joined([(say(rng, language, "tool.error.reply", y=final), [final], "tool.error.mark")])
        thoughts.append({"steps": say(rng, language, "tool.think.error", y=final),
                         "brief": say(rng, language, "tool.think.error.brief")})
    else:
        reply, expected = joined([report(rng, language, uses[-1])])
        last = shown(leaves(uses[-1].result)[0])
        thoughts.append({"steps": say(rng, language, "tool.think.done", n=count, y=last),
                         "brief": say(rng, language, "tool.think.answer")})
    tools = with_others(rng, language, test, 1, uses)
    return Episode([user(text)], tools, language, level, script, reply, expected, key, thoughts)


def chain_trouble(rng, language, uses, i, text, for_good):
    """(call, error, question) of a step that fails: for good, by a misspelt word of the user, or for the moment."""
    use = uses[i]
    if for_good:
        return use.call, error_text(rng, language), text
    role = next((role for role in use.values if i == 0 and role in ("person", "item", "query")), None)
    if role and rng.random() < 0.5:
        bad = misspelt(rng, use.values[role])
        asked = Use(use.tool, use.values | {role: bad}, None)
        error = error_text(rng, language, "typo", p=use.tool.parameters[role], bad=bad, good=use.values[role])
        return asked.call, error, chain_question(rng, language, [asked, *uses[1:]])
    return use.call, error_text(rng, language, "again"), text


def multistep(rng: Random, language: str, level: int, test: bool) -> Example:
    """One turn of an `episode`: the next call, or after the last one the answer. Chains of 2, 3 and 4 calls."""
    chained = episode(rng, language, level, test)
    turn = rng.randrange(len(chained.script) + 1)
    messages = list(chained.messages)
    for made, result in chained.script[:turn]:
        messages += [assistant("", [function_call(**made)]), tool(result)]
    if turn < len(chained.script):
        made = chained.script[turn][0]
        reply, expected = assistant("", [function_call(**made)]), {"calls": [made]}
    else:
        reply, expected = assistant(chained.reply), chained.expected
    return Example("multistep", language, level, messages, reply, expected, chained.thoughts[turn], chained.key,
                   chained.tools)
