"""Python functions as tools: their description for the model, and the check of the arguments that the model writes."""

import functools
import inspect
import json
import math
import re
import types
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object",
              type(None): "null"}
DEEPEST = 64  # levels of arrays and objects in a call or a result


def tool_schema(function) -> dict:
    """Describe a function to the model, in the JSON schema form of the OpenAI API.

    Types come from the hints (str, int, float, bool, list[X], dict[str, X], Literal, Enum, Optional and unions),
    descriptions from the docstring: its text, and for parameters an "Args:" section or ":param name:" lines.

    >>> def roll_dice(max_num: int):
    ...     '''Roll a dice with the number 1 to N.
    ...
    ...     Args:
    ...         max_num: Max number of the dice
    ...     '''

    Raises `TypeError` if it is no function or a parameter has no (known) type hint, `ValueError` if there is no
    docstring.
    """
    if not inspect.isroutine(function) or isinstance(function, functools.partial):
        raise TypeError(f"a tool must be a function, not {function!r}: write one with def that calls it")
    name = function.__name__
    description, parameter_docs = _parse_docstring(inspect.getdoc(function) or "")
    if not description:
        raise ValueError(f"tool {name}: write a docstring, the model chooses tools by it")
    try:
        hints, parameters = get_type_hints(function), inspect.signature(function).parameters
    except Exception as error:  # noqa: BLE001  (a hint may be any expression)
        raise TypeError(f"tool {name}: its type hints cannot be read ({error}); define what they name at the top of "
                        "the file") from None
    properties, required = {}, []
    for parameter in parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"tool {name}: parameter {parameter} cannot be given by name; give it a name of its own")
        if parameter.name not in hints:
            raise TypeError(f"tool {name}: parameter {parameter.name} needs a type hint, such as {parameter.name}: int")
        try:
            schema = _type_schema(hints[parameter.name])
        except TypeError as error:
            raise TypeError(f"tool {name}: parameter {parameter.name}: {error}") from None
        if parameter.name in parameter_docs:
            schema["description"] = parameter_docs[parameter.name]
        properties[parameter.name] = schema
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return {"type": "function", "function": {
        "name": name, "description": description,
        "parameters": {"type": "object", "required": required, "properties": properties}}}


def _parse_docstring(doc):
    """The description, and {parameter: its description}, in Google's ("Args:") or Sphinx's (":param name:") style."""
    sections = r"(?m)^(?::\w+|(?:Args|Arguments|Parameters|Returns|Raises|Yields|Examples?):[ \t]*$)"
    entries = re.findall(r"(?m)^:param (?:[^:\n]* )?(\w+): *(.+(?:\n[ \t]+.+)*)", doc)
    section = re.search(r"(?m)^(?:Args|Arguments|Parameters):[ \t]*\n((?:[ \t]+.*\n?|\n)+)", doc)
    if section:
        body = inspect.cleandoc("\n" + section[1])
        entries += re.findall(r"(?m)^(\w+)(?: *\([^)\n]*\))?: *(.*(?:\n[ \t]+.+)*)", body)
    return re.split(sections, doc)[0].strip(), {name: " ".join(text.split()) for name, text in entries}


def _type_schema(hint):
    """The JSON schema of a type hint."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    bare = origin if origin in (list, dict) and not args else hint  # typing.List is list
    if bare in JSON_TYPES:
        return {"type": JSON_TYPES[bare]}
    if origin is list:
        return {"type": "array", "items": _type_schema(args[0])}
    if origin is dict and args[0] not in (str, Any):
        raise TypeError(f"{hint!r} cannot be: the keys of JSON are text; use dict[str, ...]")
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(args[1])}
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, Enum)):
        values = list(args) if args else [member.value for member in hint]
        kinds = {JSON_TYPES.get(type(value)) for value in values}
        if len(kinds) == 1 and kinds <= {"string", "integer", "number", "boolean"}:
            return {"type": kinds.pop(), "enum": values}
        raise TypeError(f"the choices {values} must be all text or all numbers")
    if origin in (Union, types.UnionType):
        options = [_type_schema(arg) for arg in args if arg is not type(None)]
        if len(options) == 1:
            schema = options[0]
        elif all(option.keys() == {"type"} for option in options):
            schema = {"type": [option["type"] for option in options]}
        else:
            schema = {"anyOf": options}
        return schema | ({"nullable": True} if type(None) in args else {})
    raise TypeError(f"{hint!r} has no JSON form; use str, int, float, bool, list[...], dict[str, ...], Literal or Enum")


def argument_error(arguments, parameters):
    """What is wrong with the arguments of a call, in words for the model, or None."""
    properties = parameters["properties"]
    problems = [f"missing: {name}" for name in parameters["required"] if name not in arguments]
    for name, value in arguments.items():
        if name not in properties:
            problems.append(f"unknown: {name}")
        elif not _fits(value, properties[name]):
            expected, got = (json.dumps(x, ensure_ascii=False) for x in (properties[name], value))
            problems.append(f"{name} must be {expected}, not {got}")
    return f"wrong arguments ({'; '.join(problems)})" if problems else None


def _fits(value, schema):
    """Whether a JSON value is of a type that `_type_schema` describes."""
    if value is None and schema.get("nullable"):
        return True
    if "anyOf" in schema:
        return any(_fits(value, option) for option in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "type" not in schema:
        return True
    allowed = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind = JSON_TYPES[type(value)]  # the exact type: bool, a kind of int in Python, is none here
    if kind not in allowed and not (kind == "integer" and "number" in allowed):
        return False
    if kind == "array" and "items" in schema:
        return all(_fits(item, schema["items"]) for item in value)
    if kind == "object" and "additionalProperties" in schema:
        return all(_fits(item, schema["additionalProperties"]) for item in value.values())
    return True


def call_function(function, arguments):
    """Call with JSON arguments. JSON knows no Enum: the function gets the member whose value the model wrote."""
    hints = get_type_hints(function)
    return function(**{name: _from_json(value, hints[name]) for name, value in arguments.items()})


def _from_json(value, hint):
    """A JSON value that fits the schema of `hint`, with the members of Enums for their values."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if origin is list and args:  # typing.List has none
        return [_from_json(item, args[0]) for item in value]
    if origin is dict and args:
        return {key: _from_json(item, args[1]) for key, item in value.items()}
    if origin in (Union, types.UnionType) and value is not None:
        return _from_json(value, next(arg for arg in args if arg is not type(None) and _fits(value, _type_schema(arg))))
    return value


def checked_json(text):
    """Parse JSON strictly. ValueError also for NaN, for numbers too large for a float, for half surrogate pairs, which
    no tokenizer can encode, and for more than `DEEPEST` levels, which Python might not write again."""
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    def number(text):
        if math.isinf(float(text)):
            raise ValueError(f"{text} is too large a number")
        return float(text)

    def levels(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(levels, inner), default=0)

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=number)
        deep = levels(value) > DEEPEST
    except RecursionError:
        deep = True
    if deep:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    json.dumps(value, ensure_ascii=False).encode()
    return value
