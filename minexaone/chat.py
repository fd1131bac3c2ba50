"""A conversation: the model's reply taken apart, and Python functions as tools that it may call.

One turn is a loop: the model replies; if the reply calls tools, they run and the model reads their results and replies
again; the first reply without a call is the answer. Whatever the model writes is data: a call that is malformed, names
an unknown tool or has wrong arguments is not run, and the model is told so.
"""

import json
import threading
from contextlib import contextmanager
from copy import deepcopy

from minexaone.generation import PromptCache
from minexaone.habits import in_our_words
from minexaone.reply import Reply, ReplyParser
from minexaone.tools import argument_error, call_function, checked_json, tool_schema

LONGEST_ERROR = 500  # characters of it that the model reads: it may repeat a value of any length


class Chat:
    """Holds a conversation with a model.

    model: an `Exaone4`, or anything with its `stream` method. tokenizer: a `Tokenizer`.
    system: the system prompt. tools: Python functions with type hints and docstrings (see `tool_schema`). A tool runs
        for as long as it takes: one that may hang needs a time limit of its own.
    reasoning: let the model think first; the model's makers then advise temperature=0.6, top_p=0.95.
    reasoning_budget: close thinking after so many tokens. max_new_tokens: limit of one reply, thinking included.
    max_rounds: how many times in one turn the model's calls are run and their results handed back.
    parse_special: True lets control tokens spelled in messages and tool results take effect
        (see `Tokenizer.apply_chat_template`).
    drop_oldest: forget the oldest turns when the history leaves no room for a reply in the context. A tool's result
        of more than a quarter of the context is not handed on: the model is told.
    sampling: further options of `Exaone4.stream`, e.g. temperature, top_p, presence_penalty, stop_ids, seed. With a
        seed, reply n of the conversation (from 0) draws with seed + n, or all would draw the same numbers.

    `messages` is the history, and `reply` what the last complete turn gave. A turn that fails or is interrupted leaves
    both as they were. Raises ValueError for a history that does not fit, RuntimeError for a second turn within one.

    From turn to turn and round to round the model reads only what is new: `prompt_cache` keeps the rest, and its
    `reused` says how many tokens of the last prompt that was. With reasoning the template drops a turn's thinking when
    the next one begins. So that a model with sliding windows can take it back, these hold up to `max_new_tokens` tokens
    more, at most twice the window; after a longer thought the history is read anew (see `PromptCache`).
    """

    def __init__(self, model, tokenizer, system=None, tools=(), reasoning=False, reasoning_budget=None, max_rounds=8,
                 parse_special=False, drop_oldest=False, max_new_tokens=1024, **sampling):
        if reasoning_budget is not None and not reasoning:
            raise ValueError("reasoning_budget limits thinking, and there is none: set reasoning=True or leave it out")
        if type(max_rounds) is not int or max_rounds < 0:
            raise ValueError(f"max_rounds is {max_rounds!r}, expected a whole number, 0 to run no call at all")
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.reasoning, self.max_rounds, self.parse_special = reasoning, max_rounds, parse_special
        self.drop_oldest, self.options = drop_oldest, {"max_new_tokens": max_new_tokens, **in_our_words(sampling)}
        self.prompt_cache, self._busy = PromptCache(spare=max_new_tokens), threading.Lock()
        self.clear()
        if reasoning_budget is not None:
            self.options |= {"reasoning_budget": reasoning_budget, "think_end_id": tokenizer.think_end_id,
                             "close_ids": tokenizer.close_ids}
        self.schemas = [tool_schema(function) for function in tools or ()]
        self.tools = {function.__name__: function for function in tools or ()}
        if len(self.tools) < len(self.schemas):
            raise ValueError("two tools have the same name: rename one")

    def clear(self):
        """Begin anew: only the system prompt stays."""
        with self._alone():
            self.messages = [{"role": "system", "content": self.system}] if self.system else []
            self.reply, self._replies = None, 0

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
        with self._alone():
            yield from self._turn(text)

    @contextmanager
    def _alone(self):
        """Turns that overlap would lose one another."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("this chat is in the middle of a turn: read its stream to the end or close it first, "
                               "and give every thread a Chat of its own")
        try:
            yield
        finally:
            self._busy.release()

    def _turn(self, text):
        messages, config = [*self.messages, {"role": "user", "content": text}], getattr(self.model, "config", None)
        stop_ids, seed = self.options.get("stop_ids"), self.options.get("seed")
        if stop_ids is None:
            stop_ids = config.stop_ids if config else ()
        turn = Reply()
        for round in range(self.max_rounds + 1):
            prompt = self._prompt(messages, config.max_position_embeddings if config else None)
            n = self._replies + round
            options = self.options | ({"seed": (seed + n) % 2**62} if n and seed is not None else {})
            if hasattr(self.model, "new_cache"):  # what only streams ids need not know of caches
                options = {"prompt_cache": self.prompt_cache} | options
            parser = ReplyParser(self.tokenizer, self.reasoning, stop_ids)
            for id in self.model.stream(prompt, **options):
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
                    if config:
                        self._fit(call, config.max_position_embeddings // 4)
                result = call.result if call.error is None else {"error": call.error[:LONGEST_ERROR]}
                messages.append({"role": "tool", "content": result})
                yield "tool_result", json.dumps(result, ensure_ascii=False)
            turn = Reply("\n\n".join(filter(None, [turn.reasoning, reply.reasoning])), reply.content,
                         turn.tool_calls + reply.tool_calls, reply.finish_reason)
            if not reply.tool_calls or reply.finish_reason == "length":
                break
        else:
            turn.finish_reason = "tool_limit"
        self.messages, self.reply, self._replies = messages, turn, n + 1

    def _prompt(self, messages, context):
        """The ids that lead to the next reply; to make room for it, the oldest turns may leave `messages`."""
        def render(messages):
            return self.tokenizer.apply_chat_template(
                messages, tools=self.schemas, enable_thinking=self.reasoning, parse_special=self.parse_special)

        while True:
            prompt = render(messages)
            if context is None:
                return prompt
            users = [i for i, message in enumerate(messages) if message["role"] == "user"]
            if (self.drop_oldest and len(users) > 1
                    and len(prompt) + min(self.options["max_new_tokens"], context // 2) > context):
                del messages[users[0]:users[1]]
            elif len(prompt) >= context:
                alone = render(messages[:users[0]] + messages[users[-1]:])
                way = ("this turn with the system prompt fills it, so shorten it" if len(alone) >= context else
                       "begin anew with /clear (in Python clear(), or Chat(..., drop_oldest=True) to forget old ones)")
                raise ValueError(f"the conversation has {len(prompt)} tokens, the context holds {context}: {way}")
            else:
                return prompt

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
            result = call_function(function, deepcopy(call.arguments))  # a tool must not change the history
            # Through JSON and back: the history holds a plain copy, which the tool cannot change later.
            call.result = checked_json(json.dumps(result, ensure_ascii=False, allow_nan=False))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  (whatever went wrong in a tool, sys.exit too, is for the model)
            call.error = _in_words(error)

    def _fit(self, call, most):
        """A result of more tokens than that becomes an error for the model to read: the turn goes on."""
        size = len(self.tokenizer.encode(json.dumps(call.result, ensure_ascii=False)))
        if size > most:
            call.result, call.error = None, f"the result has {size} tokens, which is too long: ask for less"


def _in_words(error):
    """What an exception says, in text that can be encoded."""
    try:
        return f"{type(error).__name__}: {error}".encode(errors="replace").decode()
    except Exception:  # noqa: BLE001  (its own __str__ fails)
        return type(error).__name__


def _assistant_message(reply):
    """The history's form of a reply. Reasoning has its own key: "<think>" inside the content would be plain text."""
    message = {"role": "assistant", "content": reply.content}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [{"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                                 for call in reply.tool_calls]
    return message
