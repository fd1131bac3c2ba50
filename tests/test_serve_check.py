"""serve-check against servers that do it right and wrong."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minexaone import serve_check
from minexaone.__main__ import main
from minexaone.serve_check import Answer, answers_here, check, differences

CALL = {"id": "call-1", "type": "function", "function": {"name": "roll_dice", "arguments": '{"max_num": 6}'}}


def right(body):
    """A message as a server makes it that takes replies apart as it must."""
    thinks = body["chat_template_kwargs"]["enable_thinking"]
    message = {"role": "assistant", "content": "", "reasoning": "3.12 < 3.9, 그래." if thinks else None}
    if body.get("tools") and body["messages"][-1]["role"] == "user":
        return message | {"tool_calls": [CALL, CALL]}
    return message | {"content": "¡Mañana! 나는 좋아."}


def all_is_thinking(body):
    """As with a parser for models that always think: without a tag, everything is reasoning."""
    message = right(body)
    return message if message["reasoning"] else message | {"reasoning": message["content"], "content": ""}


def no_parsers(body):
    """As a server without options."""
    message = right(body)
    text = message["content"] + "".join(f"<tool_call>{json.dumps(call)}</tool_call>"
                                        for call in message.pop("tool_calls", ()))
    thought = f"{message.pop('reasoning')}</think>" if message["reasoning"] else ""
    return message | {"content": thought + text}


def wrong_call(body):
    message = right(body)
    if "tool_calls" in message:
        message["tool_calls"] = [CALL | {"function": {"name": "roll_dice", "arguments": '{"max_num": "six"}'}}]
    return message


@pytest.fixture
def serve():
    """message function -> address; also what differs when streamed."""
    servers = []

    def serve(message_of, streamed=lambda message: message):
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def send(self, text, kind="application/json"):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(text.encode())

            def do_GET(self):
                self.send(json.dumps({"data": [{"id": "mini"}]}))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = message_of(body)
                reason = "tool_calls" if message.get("tool_calls") else "stop"
                if not body.get("stream"):
                    self.send(json.dumps({"choices": [{"message": message, "finish_reason": reason}]}))
                    return
                message, parts = streamed(message), []
                for key in ("reasoning", "content"):
                    parts += [{key: letter} for letter in message.get(key) or ""]  # a character at a time
                for n, call in enumerate(message.get("tool_calls", ())):
                    begun = call["function"] | {"arguments": ""}
                    parts.append({"tool_calls": [call | {"index": n, "function": begun}]})
                    parts += [{"tool_calls": [{"index": n, "function": {"arguments": letter}}]}
                              for letter in call["function"]["arguments"]]
                chunks = [{"choices": [{"delta": part}]} for part in parts]
                chunks += [{"choices": [{"delta": {}, "finish_reason": reason}]}, {"choices": []}]
                self.send("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n",
                          "text/event-stream")

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_right_server_passes(serve, capsys):
    assert main(["serve-check", serve(right)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(serve_check.QUESTIONS) + 2 and all(line.endswith(" right") for line in lines)


@pytest.mark.parametrize(("server", "said"), [
    (all_is_thinking, ["reasoning came in the mode without", "neither an answer nor a call came"]),
    (no_parsers, ["the answer contains </think>", "no reasoning came", "no call came", "contains <tool_call>"]),
    (wrong_call, ['the call roll_dice({"max_num": "six"}) is not roll_dice with a number'])])
def test_what_is_wrong_is_named(serve, server, said, capsys):
    assert main(["serve-check", serve(server)]) == 1
    shown = capsys.readouterr()
    assert all(text in shown.out for text in said) and "answers of mini came back wrong" in shown.err


def test_a_stream_that_tells_another_story_is_named(serve):
    def cut(message):
        return message | {"content": message["content"][:3], "tool_calls": message.get("tool_calls", [])[:1]}

    found = dict(check(serve(right, cut), "mini"))
    assert "streamed, the content is another" in found["English"][0]
    assert found["a tool"] == ["streamed, the calls are others"]


def test_greedy_answers_are_compared_with_the_models_own(serve):
    own = answers_here(None, 200)
    said = {question: own(question, thinks, tools) for question, thinks, tools in serve_check.QUESTIONS.values()
            if not (tools and thinks)}
    assert said["Roll D6 dice twice!"].calls and said["Which one is bigger, 3.12 vs 3.9?"].reasoning
    for answer in said.values():
        assert serve_check.faults(answer, bool(answer.reasoning), bool(answer.calls)) in (
            [], ["finish_reason is stop beside calls, expected tool_calls"])
        assert differences(answer, answer) == []
    assert "here the content is" in differences(Answer("other"), said["Explain how wonderful you are"])[0]
    assert any("here the calls are" in line for line in differences(Answer(), said["Roll D6 dice twice!"]))


def test_no_server_is_one_line(capsys):
    assert main(["serve-check", "http://127.0.0.1:9/v1"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is it running" in error
