"""Tools as a model sees them: names drawn freely, schemas, values and results.

Real tools have names that no training set knows, so most names of tools and parameters here are drawn freely: what
remains to be learnt is to find a tool by its description and to copy its names from the schema. Names held out for the
test split are never seen in training.
"""

import json
from dataclasses import dataclass

from minexaone.tasks.base import function_call, held_out, made_up, phrases, say

FREE_NAMES = (0.4, 0.15)  # the share of tools and of parameters with a freely drawn name, in training and in tests
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


# ---------------------------------------------------------------------------------------------------------------- names

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
    if usual and rng.random() > FREE_NAMES[test]:
        return rng.choice(usual.split())
    return identifier(rng, test, sizes=(1, 2, 2, 2, 3))


def parameter_name(rng, role, test):
    """A usual or a free name."""
    usual = TEST_DICE_PARAMETERS if test and role == "sides" else ROLES[role][1]
    return identifier(rng, test) if rng.random() < FREE_NAMES[test] else rng.choice(usual.split())


# -------------------------------------------------------------------------------------------------------------- schemas

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


# --------------------------------------------------------------------------------------------------- values and results

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


def plain(tool_schema):
    """The parameters of a tool as `tools.argument_error` knows them: with "integer" for "int"."""
    parameters = {"required": [], "properties": {}} | tool_schema["function"].get("parameters", {})
    properties = {name: known | {"type": "integer"} if known.get("type") == "int" else known
                  for name, known in parameters["properties"].items()}
    return parameters | {"properties": properties}
