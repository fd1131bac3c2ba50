"""A conversation: the model's reply taken apart, and Python functions as tools that it may call.

One turn is a loop: the model replies; if the reply calls tools, they run and the model reads their results and replies
again; the first reply without a call is the answer. Whatever the model writes is data: a call that is malformed, names
an unknown tool or has wrong arguments is not run, and the model is told so.
"""

import json

from minexaone.reply import Reply, ReplyParser
from minexaone.tools import argument_error, call_function, checked_json, tool_schema


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
            self.options |= {"reasoning_budget": reasoning_budget, "think_end_id": tokenizer.think_end_id,
                             "close_ids": tokenizer.close_ids}
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
