"""A reply taken apart: reasoning, content and calls of tools, read from its ids, not from its text."""

from dataclasses import dataclass, field
from typing import Any, Literal

from minexaone.tools import checked_json


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
    finish_reason: "stop"; "length" (cut off at max_new_tokens or the end of the context); "thinking" (the turn ended
        within the thinking or with nothing behind it, or a call in the thinking was not run); or "tool_limit" (still
        calling after max_rounds).
    """

    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "thinking", "tool_limit"] = "stop"


class ReplyParser:
    """Takes a reply apart, token by token: reasoning, content, tool calls.

    It looks at ids, not at text. A model that explains what "<tool_call>" means spells it with ordinary tokens, and
    that calls nothing. `ended` is true once the model has ended its turn; ids after that are ignored.
    reasoning: the prompt opened a thought. stop_ids: where generation stops, beside the tokenizer's `special_ids`.
    """

    def __init__(self, tokenizer, reasoning: bool = False, stop_ids=()):
        self._tokenizer, self._ends = tokenizer, {*tokenizer.special_ids, *stop_ids}
        self._think, self._end_think, self._call, self._end_call = map(
            tokenizer.token_to_id, ("<think>", "</think>", "<tool_call>", "</tool_call>"))
        self._texts = {"reasoning": "", "content": "", "tool_call": ""}
        self._tool_calls, self._call_in_thought = [], False
        self.ended = False
        self._thinks = reasoning
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
                self._call_in_thought |= id == self._call
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
        reply = Reply(self._texts["reasoning"], self._texts["content"], self._tool_calls)
        if not self.ended:
            reply.finish_reason = "length"
        elif (self._kind == "reasoning" or self._call_in_thought
              or (reply.reasoning or self._thinks) and not (reply.content or reply.tool_calls)):
            reply.finish_reason = "thinking"
        return reply


def _parse_call(text, error=None):
    """{"name": ..., "arguments": {...}} as a `ToolCall`, or one whose error tells the model what is wrong."""
    try:
        call = checked_json(text)
        arguments = call.get("arguments", call.get("parameters")) if isinstance(call, dict) else 0
        if isinstance(arguments, str) and arguments:  # the OpenAI API's form: the object as JSON text
            arguments = checked_json(arguments)
        if arguments in (None, ""):
            arguments = {}
    except ValueError as reason:
        error = error or f"the call is not valid JSON ({reason})"
    else:
        if not isinstance(arguments, dict) or not isinstance(call.get("name"), str):
            error = error or 'the call must look like {"name": "...", "arguments": {...}}'
    if error:
        return ToolCall(error=f"{error}: {text}".encode(errors="replace").decode())
    return ToolCall(call["name"], arguments)


def read_reply(tokenizer, ids, reasoning: bool = False, stop_ids=()) -> Reply:
    """All ids of a reply taken apart at once; reasoning and stop_ids as in `ReplyParser`."""
    parser = ReplyParser(tokenizer, reasoning, stop_ids)
    for id in ids:
        parser.push(id)
    return parser.finish()
