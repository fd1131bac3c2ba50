"""A conversation: the model's reply taken apart, and Python functions as tools that it may call.

One turn is a loop: the model replies; if the reply calls tools, they run and the model reads their results and replies
again; the first reply without a call is the answer. Whatever the model writes is data: a call that is malformed, names
an unknown tool or has wrong arguments is not run, and the model is told so.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from minexaone.tools import argument_error, call_function, checked_json, tool_schema


@dataclass
class ToolCall:
    """One call: `result` holds the function's JSON value, or `error` says why there is none."""

    name: str = ""
    arguments: dict = field(default_factory=dict)
    error: str | None = None
    result: Any = None


@dataclass
class Reply:
    """What came back in one turn.

    reasoning: the text of the think blocks. content: the answer; empty if thinking never ended.
    tool_calls: all calls of the turn, in order, run or not.
    finish_reason: "stop", "length" (cut off at max_new_tokens) or "tool_limit" (still calling after max_rounds).
    """

    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "tool_limit"] = "stop"


class Chat:
    """Holds a conversation with a model.

    model: an `Exaone4`, or anything with its `stream` method. tokenizer: a `Tokenizer`.
    system: the system prompt. tools: Python functions with type hints and docstrings (see `tool_schema`).
    reasoning: let the model think first; the model's makers then advise temperature=0.6, top_p=0.95.
    reasoning_budget: close thinking after so many tokens. max_new_tokens: limit of one reply, thinking included.
    max_rounds: how many times in one turn the model's calls are run and their results handed back.
    parse_special: True lets control tokens spelled in messages and tool results take effect
        (see `Tokenizer.apply_chat_template`).
    sampling: further options of `Exaone4.stream`, e.g. temperature, top_p, presence_penalty, seed.

    `messages` is the history, and `reply` what the last complete turn gave. A turn that fails or is interrupted leaves
    both as they were.
    """

    def __init__(self, model, tokenizer, system=None, tools=(), reasoning=False, reasoning_budget=None, max_rounds=8,
                 parse_special=False, max_new_tokens=1024, **sampling):
        self.model, self.tokenizer = model, tokenizer
        self.messages = [{"role": "system", "content": system}] if system else []
        self.reply = None
        self.reasoning, self.max_rounds, self.parse_special = reasoning, max_rounds, parse_special
        self.options = {"max_new_tokens": max_new_tokens, **sampling}
        if reasoning and reasoning_budget is not None:
            self.options |= {"reasoning_budget": reasoning_budget, "think_end_id": tokenizer.token_to_id("</think>"),
                             "close_ids": tokenizer.encode("\n</think>\n\n")}
        self.schemas = [tool_schema(function) for function in tools or ()]
        self.tools = {function.__name__: function for function in tools or ()}
        if len(self.tools) < len(self.schemas):
            raise ValueError("two tools have the same name: rename one")

    def send(self, text: str) -> Reply:
        """Say something and wait for the whole reply."""
        for _ in self.stream(text):
            pass
        return self.reply

    def stream(self, text: str):
        """Say something; yields (kind, text) as it comes and sets `reply` at the end.

        Kinds: "reasoning" and "content" come in pieces, "tool_call" and "tool_result" as one JSON text each. A
        call that was never closed has only its result, an error.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        turn = Reply()
        for round in range(self.max_rounds + 1):
            prompt = self.tokenizer.apply_chat_template(
                messages, tools=self.schemas, enable_thinking=self.reasoning, parse_special=self.parse_special)
            parser = ReplyParser(self.tokenizer, self.reasoning, self.options.get("stop_ids") or ())
            for id in self.model.stream(prompt, **self.options):
                yield from parser.push(id)
                if parser.ended:
                    break
            reply = parser.finish()
            messages.append(_assistant_message(reply))
            for call in reply.tool_calls:
                if reply.finish_reason == "length":
                    call.error = call.error or "not run: the reply was cut off at the limit of tokens"
                elif round == self.max_rounds:
                    call.error = call.error or "not run: too many rounds of tool calls in one turn"
                else:
                    self._run(call)
                result = call.result if call.error is None else {"error": call.error}
                messages.append({"role": "tool", "content": result})
                yield "tool_result", json.dumps(result, ensure_ascii=False)
            turn = Reply("\n\n".join(filter(None, [turn.reasoning, reply.reasoning])), reply.content,
                         turn.tool_calls + reply.tool_calls, reply.finish_reason)
            if not reply.tool_calls or reply.finish_reason == "length":
                break
        else:
            turn.finish_reason = "tool_limit"
        self.messages, self.reply = messages, turn

    def _run(self, call):
        """Check and run one call, into `call.result` or `call.error`."""
        if call.error:
            return
        function = self.tools.get(call.name)
        if function is None:
            call.error = f"there is no tool {call.name!r}; the tools are: {', '.join(self.tools) or 'none'}"
            return
        schema = next(s["function"] for s in self.schemas if s["function"]["name"] == call.name)
        call.error = argument_error(call.arguments, schema["parameters"])
        if call.error:
            return
        try:
            result = call_function(function, call.arguments)
            # Through JSON and back: the history holds a plain copy, which the tool cannot change later.
            call.result = checked_json(json.dumps(result, ensure_ascii=False, allow_nan=False))
        except Exception as error:  # noqa: BLE001  (whatever went wrong in a tool is for the model to read)
            call.error = f"{type(error).__name__}: {error}".encode(errors="replace").decode()


def _assistant_message(reply):
    """The history's form of a reply. Reasoning has its own key: "<think>" inside the content would be plain text."""
    message = {"role": "assistant", "content": reply.content}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [{"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                                 for call in reply.tool_calls]
    return message


class ReplyParser:
    """Takes a reply apart, token by token: reasoning, content, tool calls.

    It looks at ids, not at text. A model that explains what "<tool_call>" means spells it with ordinary tokens, and
    that calls nothing. `ended` is true once the model has ended its turn; ids after that are ignored.
    """

    def __init__(self, tokenizer, reasoning: bool = False, stop_ids=()):
        self._tokenizer, self._ends = tokenizer, {*tokenizer.special_ids, *stop_ids}
        self._think, self._end_think, self._call, self._end_call = map(
            tokenizer.token_to_id, ("<think>", "</think>", "<tool_call>", "</tool_call>"))
        self._texts = {"reasoning": "", "content": "", "tool_call": ""}
        self._tool_calls = []
        self.ended = False
        # With reasoning on, the prompt itself ends with "<think>\n".
        self._enter("reasoning" if reasoning else "content")

    def _enter(self, kind):
        # A new decoder: half a character at the end of a section is dropped, and so are the newlines held back there.
        self._kind, self._decoder, self._newlines, self._fresh = kind, self._tokenizer.stream_decoder(), "", True

    def push(self, id: int) -> list[tuple[str, str]]:
        """Take the next id; returns the (kind, text) pieces that are certain now.

        Kinds "reasoning" and "content" come as they grow, "tool_call" as the whole JSON text of a call.
        """
        if self.ended:
            return []
        if id in self._ends:  # [|endofturn|]; a role or another one never belongs to a reply either
            self.ended = True
        elif self._kind == "reasoning":
            if id == self._end_think:
                self._enter("content")
            elif id != self._think:
                return self._add(id)
        elif self._kind == "tool_call" and id == self._end_call:
            return [("tool_call", self._close_call())]
        elif id == self._call:
            if self._kind == "tool_call":
                self._close_call("the call has no </tool_call>")
            self._enter("tool_call")
        elif self._kind == "tool_call":
            self._add(id)
        elif id == self._think:
            self._enter("reasoning")
        elif id not in (self._end_think, self._end_call):  # one that closes nothing is dropped
            return self._add(id)
        return []

    def _add(self, id):
        text = self._newlines + self._decoder.push(id)
        if self._fresh:  # the format puts newlines around every section: they are not part of it
            text = text.lstrip("\n")
        kept = text.rstrip("\n")
        self._newlines = text[len(kept):]
        if not kept:
            return []
        if self._fresh and self._texts[self._kind]:  # content goes on after a call
            kept = "\n" + kept
        self._fresh = False
        self._texts[self._kind] += kept
        return [(self._kind, kept)]

    def _close_call(self, error=None):
        text, self._texts["tool_call"] = self._texts["tool_call"], ""
        self._tool_calls.append(_parse_call(text, error))
        self._enter("content")
        return text

    def finish(self) -> Reply:
        """The whole reply. A call left open is malformed; thinking left open stays reasoning and is no answer."""
        if self._kind == "tool_call":
            self._close_call("the call has no </tool_call>")
        return Reply(self._texts["reasoning"], self._texts["content"], self._tool_calls,
                     "stop" if self.ended else "length")


def _parse_call(text, error=None):
    """{"name": ..., "arguments": {...}} as a `ToolCall`, or one whose error tells the model what is wrong."""
    try:
        call = checked_json(text)
    except (ValueError, RecursionError) as reason:
        error = error or f"the call is not valid JSON ({reason})"
    else:
        arguments = call.get("arguments", call.get("parameters", {})) if isinstance(call, dict) else None
        if not isinstance(arguments, dict) or not isinstance(call.get("name"), str):
            error = error or 'the call must look like {"name": "...", "arguments": {...}}'
    if error:
        return ToolCall(error=f"{error}: {text}".encode(errors="replace").decode())
    return ToolCall(call["name"], arguments)
