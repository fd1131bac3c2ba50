"""Using tools: calling them, telling what came back, and chains of calls that need each other's results.

Real tools have names that no training set knows, so most names of tools and parameters here are drawn freely: what
remains to be learnt is to find a tool by its description and to copy its names from the schema. Names held out for the
test split are never seen in training.
"""

import json
import re
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from minexaone.tasks.base import (
    Example,
    Task,
    ask,
    assistant,
    function_call,
    held_out,
    in_language,
    listing,
    made_up,
    phrases,
    say,
    tool,
    user,
)
from minexaone.tools import argument_error, checked_json

FREE_NAMES = 0.15  # the share of tools and of parameters with a freely drawn name
DICE_TOOLS = "roll_dice roll_die throw_dice roll dice_roll dice"
TEST_DICE_TOOLS = "cast_dice random_dice roll_one_dice"
DICE_PARAMETERS = "max_num sides n faces num_sides size maximum d upper limit"
TEST_DICE_PARAMETERS = "number_of_sides top highest n_faces"
WORDS = """
    get find set make book song light room open read mail map count color file train check plan user key day apple
    river music blue table start stop save score team fetch load query run do call push pull show hide move copy
    paste print scan parse build pack wrap split join merge sort filter group rank pick choose draw paint mix cook
    bake clean wash fix mend lift drop hold keep give take bring carry buy sell pay bill order ship track trace path
    road street house door wall roof floor tree leaf seed root flower grass field farm hill lake sea wave wind storm
    cloud rain snow ice fire sun moon star planet orbit rocket engine motor wheel gear belt chain rope knot net web
    link node edge graph stack queue heap pool cache disk drive port gate lock safe guard watch clock alarm bell
    horn drum flute piano voice word text line page chapter story poem letter note memo label tag mark sign flag
    badge coin cash bank loan rent tax fee price cost sale deal offer gift prize game match race jump swim climb
    walk ride fly sail boat bus car truck plane ticket seat hotel guest meal soup bread rice fruit lemon melon berry
    sugar salt pepper oil milk tea coffee cup plate bowl spoon fork knife box bag case shelf drawer desk chair lamp
    screen mouse pixel image photo video frame lens zoom crop blur level grade class lesson course exam quiz topic
    idea fact proof rule law judge vote poll state city region zone area block unit part item piece slice chunk
    batch lot value amount number total index rate ratio scale size width height depth weight mass speed force power
    energy heat cold temp degree angle point circle square cube ring loop cycle phase step stage mode type kind
    style theme skin tone sound noise signal sensor probe pump valve pipe tank tube wire cable plug socket fuse
    switch button dial lever handle client server agent worker job task event log report alert status health token
    session account profile contact friend member owner role
""".split()

# Of each role that a parameter can have: its JSON type and its usual names.
ROLES = {
    "sides": ("integer", DICE_PARAMETERS), "city": ("string", "city location place town where"),
    "unit": ("string", "unit units scale"),
    "a": ("integer", "a x first left num1"), "b": ("integer", "b y second right num2"),
    "list": ("array", "numbers values list items nums"), "expression": ("string", "expression formula expr input"),
    "amount": ("number", "amount value quantity"), "source": ("string", "from_unit source unit_in from"),
    "target": ("string", "to_unit target unit_out to"), "query": ("string", "query keyword q term search"),
    "text": ("string", "text message content body"), "when": ("string", "time when at hour"),
    "person": ("string", "person name who contact"), "device": ("string", "device name target appliance"),
    "on": ("boolean", "on enabled state power"), "item": ("string", "item product name article"),
}
# What tools do: the roles of the parameters, and the usual names of the tools.
KINDS = {
    "dice": (["sides"], DICE_TOOLS), "weather": (["city"], "get_weather weather current_weather forecast weather_now"),
    "time": (["city"], "get_time local_time time_in clock world_clock"), "add": (["a", "b"], "add plus add_numbers"),
    "multiply": (["a", "b"], "multiply mul times product"), "calculate": (["expression"], "calculator calc evaluate"),
    "notes": (["query"], "search_notes find_note notes lookup"), "price": (["item"], "get_price price price_of"),
    "home": (["person"], "find_city home_city where_lives"), "age": (["person"], "get_age age how_old"),
    "boss": (["person"], "get_manager boss_of manager"), "wish": (["person"], "wish_list get_wish wants"),
    "remind": (["when", "text"], "set_reminder remind"), "send": (["person", "text"], "send_message send message"),
    "custom": ([], ""),  # its parameters differ from tool to tool
    "total": (["list"], "sum_list total add_all"), "switch": (["device", "on"], "switch_device set_power toggle"),
    "convert": (["amount", "source", "target"], "convert convert_units unit_converter"),
    "coin": ([], "flip_coin toss_coin coin"), "battery": ([], "battery battery_level get_battery"),
}
HARD_KINDS = ("total", "switch", "convert", "coin", "battery")  # arrays, booleans, three parameters or none
COMMON_KINDS = tuple(kind for kind in KINDS if kind not in HARD_KINDS)
LISTED_KINDS = {"weather": "city", "time": "city", "price": "item", "notes": "query"}  # "Seoul and Paris"
ALIKE = {kind: "arithmetic" for kind in ("add", "multiply", "calculate", "total")}  # any of them could do it
ASKED_WITHOUT_TOOL = ("dice", "dice", "weather", "weather", "time", "time", "price", "send", "notes", "coin", "battery")
DONE = ("remind", "send", "switch")  # nothing comes back but that it is done
NUMBER = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?")
SUM = re.compile(r"(?<![\d+] )(?<!\d)(\d+) \+ (\d+) = (\d+)")
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.S)


@dataclass
class Tool:
    """A tool: what kind it is, its JSON schema, and the names of its parameters by their role."""

    kind: str
    schema: dict
    parameters: dict[str, str]

    @property
    def name(self) -> str:
        """The tool's name, as the model must write it."""
        return self.schema["function"]["name"]

    @property
    def units(self) -> list[str]:
        """The choices of the optional unit."""
        return self.schema["function"]["parameters"]["properties"][self.parameters["unit"]]["enum"]

    def call(self, values: dict) -> dict:
        """A call with a value for each role."""
        return function_call(self.name, {self.parameters[role]: value for role, value in values.items()})


@dataclass
class Use:
    """One use of a tool: the values by role, and what comes back."""

    tool: Tool
    values: dict
    result: object

    @property
    def call(self) -> dict:
        """The call, as in an assistant message's tool_calls."""
        return self.tool.call(self.values)

    @property
    def operands(self) -> list:
        """What makes this use differ from others in the split. Dice of common shapes, and coins, are in both. On or off
        makes no difference: training would show a held-out device in its other state alone."""
        common = self.tool.kind == "dice" and self.values["sides"] in (4, 6, 8, 10, 12, 20, 100)
        values = [value for value in self.values.values() if not isinstance(value, bool)]
        return [] if common or not values else [self.tool.kind, *values]


# ------------------------------------------------------------------------------------------------------ names


def identifier(rng, test, sizes=(1, 1, 1, 2)):
    """A free name of so many words, some made up, in the usual spellings; a tenth of all belongs to the tests."""
    while True:
        words = [rng.choice(WORDS) if rng.random() < 0.6 else made_up(rng, "en", plain=True)
                 for _ in range(rng.choice(sizes))]
        spelling = rng.random()
        if spelling < 0.6:
            name = "_".join(words)
        elif spelling < 0.85:
            name = words[0] + "".join(map(str.capitalize, words[1:]))
        elif spelling < 0.93:
            name = "".join(map(str.capitalize, words))
        else:
            name = "-".join(words)
        if rng.random() < 0.08:
            name += rng.choice(("_", "", "_v")) + str(rng.randrange(1, 100))
        if held_out(name) == test:
            return name


def tool_name(rng, kind, test):
    """A usual or a free name."""
    usual = TEST_DICE_TOOLS if test and kind == "dice" else KINDS[kind][1]
    if usual and rng.random() > FREE_NAMES:
        return rng.choice(usual.split())
    return identifier(rng, test, sizes=(1, 2, 2, 2, 3))


def parameter_name(rng, role, test):
    """A usual or a free name."""
    usual = TEST_DICE_PARAMETERS if test and role == "sides" else ROLES[role][1]
    return identifier(rng, test) if rng.random() < FREE_NAMES else rng.choice(usual.split())


# ---------------------------------------------------------------------------------------------------- schemas


def make_tool(rng, language, kind, test, level=1, values=None) -> Tool:
    """Draw a tool of a kind. A custom tool takes the types of its parameters from `values`, {name: value}."""
    if kind == "dice" and not test and rng.random() < 0.25:  # as in the model card
        number = {"type": rng.choice(("int", "integer")), "description": "Max number of the dice"}
        about = phrases()["tool.dice.about"]["en"][0]
        return Tool(kind, schema("roll_dice", about, {"max_num": number}), {"sides": "max_num"})
    other = rng.choice(("en", "en", language))  # most schemas are English, whatever the user speaks
    if kind == "custom":
        values = custom_values(rng, test, level) if values is None else values
        names, properties = {name: name for name in values}, {name: value_schema(v) for name, v in values.items()}
        about = say(rng, other, "tool.custom.about", w=rng.choice(WORDS), v=made_up(rng, "en", plain=True))
    else:
        optional = kind == "weather" and rng.random() < (0.7 if level > 2 else 0.2)
        names = {role: parameter_name(rng, role, test) for role in [*KINDS[kind][0], *["unit"] * optional]}
        while len(set(names.values())) < len(names):
            names = {role: parameter_name(rng, role, test) for role in names}
        properties = {names[role]: property_(rng, other, role, level, described=len(names) > 1) for role in names}
        about = say(rng, other, f"tool.{kind}.about")
    required = [name for role, name in names.items() if role != "unit"]
    return Tool(kind, schema(tool_name(rng, kind, test), about, properties, required, rng, level), names)


def property_(rng, language, role, level, described):
    """A parameter's schema. Where a tool has several, only a description tells which is which."""
    kind = ROLES[role][0]
    result = {"type": "int" if kind == "integer" and rng.random() < 0.15 else kind}
    if role == "list":
        result["items"] = {"type": "integer"}
    if role == "unit":
        result["enum"] = rng.choice((["C", "F"], ["celsius", "fahrenheit"], ["c", "f"], ["Celsius", "Fahrenheit"]))
    if described or rng.random() < 0.4:
        result["description"] = say(rng, language, f"tool.role.{role}")
    if level > 2 and kind == "integer" and rng.random() < 0.1:
        result["minimum"] = 0
    return result


def value_schema(value):
    """The schema that a value fits."""
    return {"type": {bool: "boolean", int: "integer", float: "number", str: "string"}[type(value)]}


def schema(name, description, properties, required=None, rng=None, level=1):
    """In the order of `tools.tool_schema`; with rng sometimes in other common forms."""
    required = list(properties) if required is None else required
    parameters = {"type": "object", "required": required, "properties": properties}
    if rng and rng.random() < 0.3:
        parameters = {key: parameters[key] for key in ("type", "properties", "required")}
    if rng and level > 2 and rng.random() < 0.1:
        parameters["additionalProperties"] = False
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


# ----------------------------------------------------------------------------------------- values and results


def number_of_sides(rng):
    """How many sides a die has."""
    return rng.choice((4, 6, 6, 6, 8, 10, 12, 20, 100)) if rng.random() < 0.6 else rng.randint(2, 100)


def clock(rng, earliest=0):
    """A time of day, "07:05" or "7:05"."""
    return f"{rng.randrange(earliest, 24):{rng.choice(('02', ''))}}:{rng.randrange(60):02}"


def noun(rng, language, key):
    """A word of a list, or often a made-up one: arguments are to be copied, not known."""
    if rng.random() < 0.35:
        word = made_up(rng, language, plain=True)
        return word.capitalize() if key in ("city", "person") else word
    return say(rng, language, f"tool.{key}")


def draw_value(rng, language, kind, role):
    """The value of a role."""
    if role == "sides":
        return number_of_sides(rng)
    if role in ("city", "person", "item", "query", "device"):
        return noun(rng, language, role)
    if role in ("a", "b"):
        return rng.randrange(2, 1000 if kind == "add" else 100)
    if role == "list":
        return [rng.randrange(100) for _ in range(rng.randint(3, 5))]
    if role == "expression":
        return f"{rng.randrange(2, 100)} {rng.choice('+-*')} {rng.randrange(2, 100)}"
    if role == "amount":
        return rng.choice((rng.randrange(2, 500), rng.randrange(11, 100) / 10))
    if role == "when":
        return clock(rng, earliest=2)
    if role == "on":
        return rng.random() < 0.5
    return say(rng, language, f"tool.{'chore' if kind == 'remind' else 'message' if role == 'text' else role}")


def draw_values(rng, language, kind):
    """The values of a kind's roles."""
    if kind == "convert":
        units = rng.choice((["km", "m", "mile", "cm"], ["kg", "g", "lb", "t"], ["L", "ml", "cup"]))
        source, target = rng.sample(units, 2)
        return {"amount": draw_value(rng, language, kind, "amount"), "source": source, "target": target}
    return {role: draw_value(rng, language, kind, role) for role in KINDS[kind][0]}


def custom_values(rng, test, level):
    """{parameter: value} for a made-up tool."""
    values = {}
    for _ in range(rng.choice((1, 1, 2) if level < 3 else (1, 2, 3))):
        value = rng.choice((rng.randrange(1000), rng.choice(WORDS), made_up(rng, "en", plain=True)))
        values[identifier(rng, test)] = value
    return values


def draw_result(rng, language, kind, values):
    """What a tool returns, as plain JSON."""
    if kind == "weather":
        sky = say(rng, language, "tool.sky")
        return rng.choice(({"temp": rng.randint(-9, 38), "sky": sky}, sky))
    if kind in DONE:
        return rng.choice(("ok", {"status": "ok"}, True, "done"))
    if kind == "custom":
        value = rng.choice((rng.randrange(1000), made_up(rng, "en", plain=True)))
    elif kind in ("add", "multiply"):
        value = values["a"] + values["b"] if kind == "add" else values["a"] * values["b"]
    elif kind == "calculate":
        a, operator, b = values["expression"].split()
        a, b = int(a), int(b)
        value = {"+": a + b, "-": a - b, "*": a * b}[operator]
    elif kind == "notes":
        value = rng.choice((made_up(rng, language, plain=True), rng.randrange(10, 10000), clock(rng)))
    else:
        value = {"dice": lambda: rng.randint(1, values["sides"]), "time": lambda: clock(rng),
                 "price": lambda: rng.choice((rng.randrange(2, 100), rng.randrange(100, 1000) / 10)),
                 "age": lambda: rng.randrange(3, 100), "battery": lambda: rng.randrange(1, 101),
                 "home": lambda: noun(rng, language, "city"), "boss": lambda: noun(rng, language, "person"),
                 "wish": lambda: noun(rng, language, "item"), "total": lambda: sum(values["list"]),
                 "convert": lambda: rng.randrange(10, 10000) / 10,
                 "coin": lambda: say(rng, language, "tool.coin.sides")}[kind]()
    return {rng.choice(("result", "value", "output", "data", kind)): value} if rng.random() < 0.2 else value


def leaves(result):
    """The values in a result."""
    return list(result.values()) if isinstance(result, dict) else [result]


def shown(value):
    """A value as it stands in the JSON that the model reads, without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def is_one(time):
    """Whether Spanish says "es la" of a time and not "son las"."""
    return time.split(":")[0] in ("1", "01")


# --------------------------------------------------------------------------------------------------- sentences


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


# ----------------------------------------------------------------------------------------------------- "call"


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
    if chance < 0.13 and level == 1:
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
    bare = rng.random() < 0.3
    kinds = [kind for kind in ASKED_WITHOUT_TOOL if not (bare and kind in ("weather", "time"))]  # "unknown" asks these
    use = make_use(rng, language, rng.choice(kinds), test, 1)
    use.values.pop("unit", None)
    do = purpose(rng, language, use.tool)
    tools = [] if bare else with_others(rng, language, test, level, [], [use.tool.kind])
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


# --------------------------------------------------------------------------------------------------- "answer"


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


def misspelt(rng, word):
    """With one letter changed."""
    i = rng.randrange(len(word))
    letter = word[i]
    if "가" <= letter <= "힣":  # another final consonant
        start = (ord(letter) - ord("가")) // 28 * 28 + ord("가")
        return word[:i] + chr(start + (ord(letter) - start + rng.choice((1, 4, 8, 16))) % 28) + word[i + 1:]
    new = rng.choice([c for c in "aeioulnrst" if c != letter.lower()])
    return word[:i] + (new.upper() if letter.isupper() else new) + word[i + 1:]


def plain(tool_schema):
    """The parameters of a tool as `tools.argument_error` knows them: with "integer" for "int"."""
    parameters = {"required": [], "properties": {}} | tool_schema["function"].get("parameters", {})
    properties = {name: known | {"type": "integer"} if known.get("type") == "int" else known
                  for name, known in parameters["properties"].items()}
    return parameters | {"properties": properties}


# ------------------------------------------------------------------------------------------------- "multistep"


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
        wanted = canonical({"name": name, "arguments": arguments})
        results = [result for call, result in self.script if canonical(call) == wanted]
        if results:
            self.asked[wanted] = self.asked.get(wanted, 0) + 1
            return results[min(self.asked[wanted], len(results)) - 1]
        known = {t["function"]["name"]: t for t in self.tools}
        if name not in known:
            return {"error": f"there is no tool {name!r}; the tools are: {', '.join(known)}"}
        return {"error": argument_error(arguments, plain(known[name])) or "nothing found for these arguments"}

    def verify(self, final_reply: str, calls_made: list[dict]) -> bool:
        """Whether the calls ({"name", "arguments"}) contain the script's, in order, with at most two others, and the
        reply states the last result."""
        made = iter(map(canonical, calls_made))
        return (len(calls_made) <= len(self.script) + 2
                and all(canonical(call) in made for call, _ in self.script)
                and parse_calls(final_reply) == []
                and states(final_reply, self.language, self.expected))


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


# --------------------------------------------------------------------------------------------------- verifiers


def parse_calls(text: str) -> list | None:
    """The calls in a reply, each {"name", "arguments"}; None if one is malformed or never closed."""
    if re.search(r"</?tool_", CALL.sub("", text)):
        return None
    try:
        calls = [checked_json(call) for call in CALL.findall(text)]
    except (ValueError, RecursionError):
        return None
    good = all(isinstance(c, dict) and c.keys() == {"name", "arguments"} and isinstance(c["name"], str)
               and isinstance(c["arguments"], dict) for c in calls)
    return calls if good else None


def canonical(call: dict) -> str:
    """A call as text that is the same for equal calls only: 6, 6.0, "6" and true all differ."""
    return json.dumps(call, sort_keys=True, ensure_ascii=False)


def valid_calls(example: Example, reply: str) -> bool:
    """Whether every call in a reply names a tool of the example and its arguments fit. True without any call."""
    calls, tools = parse_calls(reply), {t["function"]["name"]: plain(t) for t in example.tools}
    return calls is not None and all(
        c["name"] in tools and not argument_error(c["arguments"], tools[c["name"]]) for c in calls)


def states(reply: str, language: str, expected: dict) -> bool:
    """Whether a reply holds the words, numbers and mark expected, in the right language, and no false sum."""
    numbers, words = [float(n) for n in NUMBER.findall(reply)], expected.get("words", [])
    if not reply.strip() or not all(contains(reply, word) for word in words):
        return False
    own = reply
    for word in sorted(words, key=len, reverse=True):
        own = own.replace(word, " ")
    rolls = expected.get("numbers", [])
    marks = phrases()[expected["mark"]][language] if "mark" in expected else [""]
    return (in_language(own, language) and any(mark in reply.lower() for mark in marks)
            and numbers[:len(rolls)] == rolls and ("last" not in expected or numbers[-1:] == [expected["last"]])
            and ("numbers" not in expected or all(int(a) + int(b) == int(c) for a, b, c in SUM.findall(reply))))


def contains(text: str, word: str) -> bool:
    """Whether a word stands in a text and is not merely a piece of a longer word or number."""
    left = r"(?<![A-Za-z0-9])(?<!\d\.)(?<!-)" if word[0].isascii() and word[0].isalnum() else ""
    right = r"(?![A-Za-z0-9]|\.\d)" if word[-1].isascii() and word[-1].isalnum() else ""
    return re.search(left + re.escape(word) + right, text) is not None


def verify(example: Example, reply: str) -> bool:
    """Right calls in any order, or no call and a reply that states what is expected."""
    calls = parse_calls(reply)
    if calls is None:
        return False
    if "calls" in example.expected:
        return (sorted(map(canonical, calls)) == sorted(map(canonical, example.expected["calls"]))
                and in_language(CALL.sub("", reply), example.language))
    return not calls and states(reply, example.language, example.expected)


TASKS = {"call": Task(call, verify, "tool use", 16, 3), "answer": Task(answer, verify, "tool use", 8, 2),
         "multistep": Task(multistep, verify, "tool use", 12, 3)}
