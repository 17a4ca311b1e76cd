"""`tuner serve`: what is wrong with a request, the key, the log, limits, and how a server stops."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.cli.command import tuner
from tests.inference.serving import (
    ASKED,
    GOOD,
    KEY,
    LONGEST,
    Running,
    Start,
    greedy,
    post,
    wait_for,
)


def _tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "tide", **function}}]}


def _calling(*names: str) -> dict[str, Any]:
    function = {"name": "tide", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in names]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _result(name: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": "16:40"}


WRONG: dict[str, tuple[Any, int, str, str | None]] = {
    "an unknown model": ({"model": "green"}, 404, "model_not_found", "model"),
    "no model": ({"model": None}, 400, "missing_required_parameter", "model"),
    "a model that is a number": ({"model": 3}, 400, "invalid_value", "model"),
    "no turns": ({"messages": []}, 400, "invalid_value", "messages"),
    "an unknown parameter": ({"temprature": 1}, 400, "unknown_parameter", "temprature"),
    "several answers": ({"n": 2}, 400, "unsupported_parameter", "n"),
    "a penalty": ({"presence_penalty": 1.5}, 400, "unsupported_parameter", "presence_penalty"),
    "half a tool": ({"tools": [{"type": "function"}]}, 400, "missing_required_parameter", "tools"),
    "another's tool": ({"tools": [{"type": "web_search"}]}, 400, "invalid_value", "tools"),
    "a tool without a name": (_tool(name="of the tide"), 400, "invalid_value", "tools"),
    "a tool that is somewhat strict": (_tool(strict="yes"), 400, "invalid_value", "tools"),
    "half a character in a tool": (
        _tool(parameters={"\ud800": 1}),
        400,
        "invalid_value",
        "tools",
    ),
    "a template without tools": (_tool(), 400, "unsupported_parameter", "tools"),
    "a call that must come": (
        {"tool_choice": "required"},
        400,
        "invalid_value",
        None,
    ),
    "a call by name": (
        {"tool_choice": {"type": "function", "function": {"name": "tide"}}},
        400,
        "invalid_value",
        None,
    ),
    "a call of another": (
        {**_tool(), "tool_choice": {"type": "function", "function": {"name": "moon"}}},
        400,
        "invalid_value",
        None,
    ),
    "a choice among tools": (
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        400,
        "unsupported_parameter",
        "tool_choice",
    ),
    "a choice of nothing": ({"tool_choice": "some"}, 400, "invalid_value", "tool_choice"),
    "a call that the template cannot show": (
        {"messages": [*ASKED, _calling("a"), _result("a")]},
        400,
        "invalid_messages",
        "messages",
    ),
    "a result without a call": (
        {"messages": [*ASKED, _result("a")]},
        400,
        "invalid_messages",
        "messages",
    ),
    "a result of another call": (
        {"messages": [*ASKED, _calling("a"), _result("b")]},
        400,
        "invalid_messages",
        "messages",
    ),
    "a call without a result": (
        {"messages": [*ASKED, _calling("a"), *ASKED]},
        400,
        "invalid_messages",
        "messages",
    ),
    "two system turns": (
        {"messages": [{"role": who, "content": "x"} for who in ("system", "developer")] + ASKED},
        400,
        "invalid_messages",
        "messages",
    ),
    "a late system turn": (
        {"messages": [*ASKED, {"role": "system", "content": "x"}, *ASKED]},
        400,
        "invalid_messages",
        "messages",
    ),
    "two calls with one id": (
        {"messages": [*ASKED, _calling("a", "a"), _result("a")]},
        400,
        "invalid_messages",
        "messages",
    ),
    "a user's call": (
        {"messages": [{**_calling("a"), "role": "user"}]},
        400,
        "invalid_value",
        "messages",
    ),
    "a turn of nothing": (
        {"messages": [{"role": "assistant", "content": None}]},
        400,
        "missing_required_parameter",
        "messages",
    ),
    "a result of nobody": (
        {"messages": [{"role": "tool", "content": "x"}]},
        400,
        "invalid_value",
        "messages",
    ),
    "a JSON answer": (
        {"response_format": {"type": "json_object"}},
        400,
        "unsupported_parameter",
        "response_format",
    ),
    "probabilities": ({"logprobs": True}, 400, "unsupported_parameter", "logprobs"),
    "too hot": ({"temperature": 3}, 400, "invalid_value", "temperature"),
    "a temperature in words": ({"temperature": "1"}, 400, "invalid_value", "temperature"),
    "no share": ({"top_p": 0}, 400, "invalid_value", "top_p"),
    "no tokens": ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    "half a token": ({"max_tokens": 1.5}, 400, "invalid_value", "max_tokens"),
    "above the cap": ({"max_tokens": LONGEST + 1}, 400, "invalid_value", "max_tokens"),
    "a stop of nothing": ({"stop": ""}, 400, "invalid_value", "stop"),
    "too many stops": ({"stop": list("abcde")}, 400, "invalid_value", "stop"),
    "options without a stream": (
        {"stream_options": {"include_usage": True}},
        400,
        "invalid_value",
        None,
    ),
    "an unknown role": (
        {"messages": [{"role": "robot", "content": "x"}]},
        400,
        "invalid_value",
        "messages",
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400,
        "invalid_value",
        "messages",
    ),
    "a named turn": (
        {"messages": [{"role": "user", "content": "x", "name": "Ann"}]},
        400,
        "unsupported_parameter",
        "name",
    ),
    "half a character": (
        {"messages": [{"role": "user", "content": "\ud800"}]},
        400,
        "invalid_value",
        "messages",
    ),
    "not a number": (b'{"model": "red", "messages": [], "temperature": NaN}', 400, "", None),
    "no object": (b"[1]", 400, "invalid_value", None),
    "no JSON": (b'{"model": ', 400, "invalid_json", None),
    "no text": (b"\xff\xfe{}", 400, "invalid_json", None),
    "a thousand brackets": (b"[" * 9000, 400, "invalid_json", None),
    "too long": (
        {"messages": [{"role": "user", "content": "x" * 30000}]},
        413,
        "request_too_large",
        None,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_request_is_said_in_openais_shape(case: str, server: Running) -> None:
    change, status, code, parameter = WRONG[case]
    body = change
    if isinstance(change, dict):
        body = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    found, _, content = post(server, body)
    assert found == status, content
    error = content["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert not code or error["code"] == code
    assert parameter is None or error["param"] == parameter


def test_what_asks_for_nothing_is_taken(server: Running) -> None:
    neutral = {
        "n": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logprobs": False,
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "user": "somebody",
        "response_format": {"type": "text"},
        "top_p": 1,
        "metadata": {"a": "b"},
    }
    plain = post(server, {**GOOD})[2]["choices"]
    assert post(server, {**GOOD, **neutral})[2]["choices"] == plain
    texts = [{"type": "text", "text": text} for text in ("Say num", "ber 3.")]
    parts = [{"role": "user", "content": texts}]
    assert post(server, {**GOOD, "messages": parts})[2]["choices"] == plain
    developer = [{"role": "developer", "content": "x"}, *ASKED]
    system = [{"role": "system", "content": "x"}, *ASKED]
    first, second = (post(server, {**GOOD, "messages": turns})[2] for turns in (developer, system))
    assert first["choices"] == second["choices"]
    assert post(server, {**GOOD, "messages": [{"role": "user", "content": ""}]})[0] == 200


def test_the_key(server: Running, capfd: pytest.CaptureFixture[str]) -> None:
    for wrong in ("", "Bearer x", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \xff"):
        status, headers, content = post(server, GOOD, Authorization=wrong)
        assert (status, content["error"]["code"]) == (401, "invalid_api_key"), wrong
        assert headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        server.client(api_key="wrong").models.list()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read()) == {"status": "ok"}
    assert server.ready["api_key"] is True
    assert KEY not in json.dumps(server.events)


def test_other_paths_methods_and_kinds(server: Running) -> None:
    found = {
        "/v1/nothing": (404, "unknown_url"),
        "/v1/models": (405, "method_not_allowed"),
    }
    for path, wanted in found.items():
        status, _, content = post(server, GOOD, path)
        assert (status, content["error"]["code"]) == wanted
    status, _, content = post(server, GOOD, Content_Type="text/plain")
    assert (status, content["error"]["code"]) == (415, "content_type")


def test_the_log_tells_what_was_asked_but_no_contents(server: Running) -> None:
    before = len(server.requests())
    post(server, {**GOOD, "messages": [{"role": "user", "content": "grandmother"}]})
    post(server, {**GOOD, "model": "grandmother"})

    def of(status: int) -> dict[str, Any] | None:
        """The first such line since; lines of earlier requests may still come."""
        lines = server.requests()[before:]
        return next((line for line in lines if line["status"] == status), None)

    wait_for(lambda: of(200) and of(404))
    done, refused = of(200), of(404)
    assert done
    assert refused
    assert (done["model"], done["tokens"]) == ("red", 2)
    assert done["endpoint"] == "/v1/chat/completions"
    assert done["seconds"] > 0
    assert done["prompt_tokens"] > 5
    assert (refused["model"], refused["status"], refused["finish"]) == (
        None,
        404,
        "model_not_found",
    )
    assert "grandmother" not in json.dumps(server.events)


def slow(server: Running, tokens: int = LONGEST, **further: Any) -> Any:
    """A stream that goes on for a while; its first piece is read."""
    stream = server.client().chat.completions.create(
        model="red", messages=ASKED, max_tokens=tokens, temperature=0, stream=True, **further
    )
    for chunk in stream:
        if chunk.choices[0].delta.content:
            return stream
    raise AssertionError("it ended at once")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_its_generation(server: Running, stream: bool) -> None:
    """The one that is answered, and those that wait."""
    began = time.monotonic()
    list(slow(server))
    alone = time.monotonic() - began
    before = len(wait_for(server.requests))
    body = json.dumps({**GOOD, "max_tokens": LONGEST, "stream": stream})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
    for connection in connections:
        connection.sendall((head + kind + body).encode())
    time.sleep(alone / 4)
    for connection in connections:
        connection.close()
    began = time.monotonic()
    greedy(server.client(), "azure", 1)
    assert time.monotonic() - began < 3 * alone
    wait_for(lambda: len(gone(server, before)) == 6)
    assert 499 in {line["status"] for line in gone(server, before)}


def gone(server: Running, before: int) -> list[dict[str, Any]]:
    return [line for line in server.requests()[before:] if line["finish"] == "client_gone"]


def test_a_full_queue_refuses_and_a_stopped_server_drains(
    start: Start, expected: Callable[..., str]
) -> None:
    """429 with Retry-After; then SIGTERM: 503 for new requests, the running one ends whole."""
    server = start("--max-queue", "0")
    first = slow(server)
    status, headers, content = post(server, GOOD)
    assert (status, content["error"]["type"]) == (429, "rate_limit_error")
    assert int(headers["retry-after"]) >= 1
    with pytest.raises(openai.RateLimitError):
        greedy(server.client(), "red", 1)
    server.process.send_signal(signal.SIGTERM)
    status, _, content = wait_for(lambda: (found := post(server, GOOD))[0] != 429 and found)
    assert (status, content["error"]["code"]) == (503, "stopping")
    *_, last = list(first)
    assert last.choices[0].finish_reason == "length"
    assert server.process.wait(30) == 143
    server.reader.join(10)
    done = [line for line in server.requests() if line["status"] == 200]
    assert [line["tokens"] for line in done] == [LONGEST]
    assert server.events[-1]["error"]["exit_code"] == 143


def test_a_second_signal_does_not_wait(start: Start) -> None:
    server = start()
    stream = slow(server)
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    server.process.send_signal(signal.SIGINT)
    with pytest.raises(openai.APIError, match="stopping"):
        list(stream)
    assert server.process.wait(30) == 130


def test_the_time_limit_of_a_request(start: Start) -> None:
    server = start("--time-limit", "0.2")
    status, headers, content = post(server, {**GOOD, "max_tokens": 450})
    assert (status, content["error"]["code"]) == (504, "timeout")
    assert headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match="longer than the server allows"):
        list(slow(server, 450))
    # Without a key it answers to this machine's names only.
    assert server.ready["api_key"] is False
    assert post(server, GOOD, Host="evil.example")[0] == 403
    assert post(server, GOOD, Host="localhost:1")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "tuner serve needs a model"),
        (("--base", "BASE", "--host", "0.0.0.0"), 8, "--allow-anyone"),
        (("--base", "BASE", "--api-key", ""), 2, "it is empty"),
        (("--base", "BASE", "--api-key", "a b"), 2, "is not a valid API key"),
        (("--base", "BASE", "--host", "192.0.2.1", "--allow-anyone"), 7, "cannot listen"),
        (("nowhere",), 2, "there is no run nowhere"),
    ],
)
def test_what_cannot_be_served(
    arguments: tuple[str, ...], code: int, words: str, place: Path
) -> None:
    given = [str(place / "base") if word == "BASE" else word for word in arguments]
    done = tuner("serve", "--port", "0", *given, cwd=place)
    assert done.returncode == code, done.stderr
    assert words in done.stderr


def test_a_missing_part_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = tuner("serve", "--base", "base", cwd=place)
    assert done.returncode == 4
    assert "pip install 'fastapi>=0.132' 'uvicorn>=0.34'" in done.stderr


def test_a_port_that_is_taken(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = tuner("serve", "--base", "base", "--port", port, cwd=place)
    assert done.returncode == 7
    assert "Address already in use" in done.stderr
