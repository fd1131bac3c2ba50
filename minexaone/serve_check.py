"""`python -m minexaone serve-check URL`: whether a server with the OpenAI API serves EXAONE 4.0 as it is meant.

A server decides by its options how it takes a reply apart. Each question is asked at once and streamed, and what comes
back is judged by what must hold for any EXAONE 4.0 model: thinking and calls in their own fields, no marks of the
template in the text, both ways alike. With --model the same checkpoint answers here, and greedy answers must be equal.
"""

import argparse
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "[|", "|]")  # of the template; never in an answer
DICE = {"type": "function", "function": {
    "name": "roll_dice", "description": "Roll a dice with the number 1 to N. User can select the number N.",
    "parameters": {"type": "object", "required": ["max_num"],
                   "properties": {"max_num": {"type": "integer", "description": "Max number of the dice"}}}}}
QUESTIONS = {  # those of the model card
    "English": ("Explain how wonderful you are", False, False),
    "Korean": ("너가 얼마나 대단한지 설명해 봐", False, False),
    "Spanish": ("Explica lo increíble que eres", False, False),
    "reasoning": ("Which one is bigger, 3.12 vs 3.9?", True, False),
    "a tool": ("Roll D6 dice twice!", False, True),
    "a tool, reasoning": ("Roll D6 dice twice!", True, True),
}


@dataclass
class Answer:
    """What a server made of one reply."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict] = field(default_factory=list)  # {"id": ..., "name": ..., "arguments": text}
    finish_reason: str | None = None


def ask(url: str, body: dict | None = None, timeout: float = 600) -> Iterator[dict]:
    """Send a request; yields the answer, or if body asks for a stream its chunks. ValueError if the server refuses."""
    request = urllib.request.Request(url, body and json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            if not (body and body.get("stream")):
                yield json.load(reply)
                return
            for line in reply:
                data = line.decode("utf-8").removeprefix("data:").strip()
                if line.startswith(b"data:") and data != "[DONE]":
                    yield json.loads(data)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url} answers {error.code}: {error.read(300).decode('utf-8', 'replace')}") from None
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{url} does not answer as an OpenAI server does ({error}): is it running, does the address "
                         "end in /v1?") from None


def complete(url: str, body: dict) -> Answer:
    """The answer to a chat request, put together from its pieces if body asks for a stream."""
    answer = Answer()
    for chunk in ask(f"{url}/chat/completions", body):
        for choice in chunk.get("choices") or []:
            part = choice.get("delta") or choice.get("message") or {}
            answer.content += part.get("content") or ""
            answer.reasoning += part.get("reasoning") or part.get("reasoning_content") or ""
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            for n, call in enumerate(part.get("tool_calls") or []):
                place = call.get("index", n)
                answer.calls += [{"id": None, "name": "", "arguments": ""}
                                 for _ in range(place + 1 - len(answer.calls))]
                seen, function = answer.calls[place], call.get("function") or {}
                seen["id"] = call.get("id") or seen["id"]
                seen["name"] += function.get("name") or ""
                seen["arguments"] += function.get("arguments") or ""
    return answer


def faults(answer: Answer, reasoning: bool, tools: bool) -> list[str]:
    """What is wrong with an answer, whatever the model."""
    found = [f"the answer contains {mark}" for mark in MARKS if mark in answer.content]
    found += [f"the reasoning contains {mark}" for mark in MARKS if mark in answer.reasoning]
    cut = answer.finish_reason == "length"
    if reasoning and not answer.reasoning:
        found.append("no reasoning came: is there a --reasoning-parser, and does enable_thinking reach the template?")
    if not reasoning and answer.reasoning:
        found.append("reasoning came in the mode without: the parser takes every answer for thinking")
    if not (answer.content or answer.calls or cut):
        found.append("neither an answer nor a call came")
    if tools and not answer.calls and not cut:
        found.append("no call came: is there a --tool-call-parser?")
    for call in answer.calls:
        try:
            right = isinstance(json.loads(call["arguments"])["max_num"], int) and call["name"] == "roll_dice"
        except (ValueError, KeyError, TypeError):
            right = False
        if not right:
            found.append(f"the call {call['name']}({call['arguments']}) is not roll_dice with a number")
    if answer.calls and answer.finish_reason not in ("tool_calls", "length"):
        found.append(f"finish_reason is {answer.finish_reason} beside calls, expected tool_calls")
    return found


def check(url: str, model: str, own: Callable | None = None, tokens: int = 512) -> Iterator[tuple[str, list[str]]]:
    """Yields (question, its faults). own(question, reasoning, tools) gives the same model's greedy `Answer`."""
    for name, (question, reasoning, tools) in QUESTIONS.items():
        body = {"model": model, "temperature": 0, "max_tokens": tokens,
                "messages": [{"role": "user", "content": question}],
                "chat_template_kwargs": {"enable_thinking": reasoning}} | ({"tools": [DICE]} if tools else {})
        whole, streamed = complete(url, body), complete(url, body | {"stream": True})
        found = faults(whole, reasoning, tools)
        for part in ("content", "reasoning"):
            if getattr(whole, part).strip() != getattr(streamed, part).strip():
                found.append(f"streamed, the {part} is another: {getattr(streamed, part)[:80]!r}")
        if [(call["name"], call["arguments"]) for call in whole.calls] != [
                (call["name"], call["arguments"]) for call in streamed.calls]:
            found.append("streamed, the calls are others")
        if own:
            found += differences(whole, own(question, reasoning, tools))
        yield name, found
        if whole.calls:
            results = [{"role": "tool", "tool_call_id": call["id"], "content": '{"result": 4}'} for call in whole.calls]
            calls = [{"id": call["id"], "type": "function", "function": {
                "name": call["name"], "arguments": call["arguments"]}} for call in whole.calls]
            said = {"role": "assistant", "content": whole.content, "tool_calls": calls}
            after = complete(url, body | {"messages": [*body["messages"], said, *results]})
            yield f"{name}, then its results", faults(after, reasoning, False)


def differences(theirs: Answer, ours: Answer) -> list[str]:
    """In what a server's answer is not that of the same model here."""
    found = [f"here the {part} is {getattr(ours, part).strip()[:80]!r}, there {getattr(theirs, part).strip()[:80]!r}"
             for part in ("content", "reasoning") if getattr(ours, part).strip() != getattr(theirs, part).strip()]
    calls = [[(call["name"], json.loads(call["arguments"])) for call in answer.calls] for answer in (ours, theirs)]
    return found + ([f"here the calls are {calls[0]}, there {calls[1]}"] if calls[0] != calls[1] else [])


def answers_here(folder: str, tokens: int) -> Callable:
    """The greedy answers of a checkpoint, for `check`."""
    from minexaone.generation import generate
    from minexaone.model import Exaone4
    from minexaone.reply import read_reply
    from minexaone.tokenizer import Tokenizer

    model, tokenizer = Exaone4.from_pretrained(folder), Tokenizer.from_pretrained(folder)

    def own(question, reasoning, tools):
        ids = tokenizer.apply_chat_template([{"role": "user", "content": question}], tools=[DICE] if tools else None,
                                            enable_thinking=reasoning)
        reply = read_reply(tokenizer, generate(model, ids, max_new_tokens=tokens), reasoning)
        calls = [{"id": None, "name": call.name, "arguments": json.dumps(call.arguments)} for call in reply.tool_calls]
        return Answer(reply.content, reply.reasoning, calls, reply.finish_reason)

    return own


def main(argv):
    """Ask, and print what is wrong; ValueError if anything is."""
    parser = argparse.ArgumentParser(prog="python -m minexaone serve-check", description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="of the API, as http://localhost:8000/v1")
    parser.add_argument("--model", help="folder or hub id of the same checkpoint, whose greedy answers must be equal")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest reply (512)")
    options = parser.parse_args(argv)
    url = options.url.rstrip("/")
    served = next(ask(f"{url}/models"))["data"][0]["id"]
    own = answers_here(options.model, options.max_tokens) if options.model else None
    wrong = 0
    for name, found in check(url, served, own, options.max_tokens):
        print(f"{name:32} {'right' if not found else '; '.join(found)}", flush=True)
        wrong += bool(found)
    if wrong:
        raise ValueError(f"{wrong} answers of {served} came back wrong: README, section Engines, has the options")

