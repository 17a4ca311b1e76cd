"""Where a problem of a request is: keys and positions of the body, in no library's words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tuner.inference.serve.fields import first_problem
from tuner.inference.serve.protocol import ChatAsk, ClassifyAsk, CompletionAsk

TURN = {"role": "user", "content": "Why?"}
CHAT: dict[str, Any] = {"model": "m", "messages": [TURN]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("shape", "body", "place", "said"),
    [
        (
            ChatAsk,
            CHAT | {"messages": [TURN, {"role": "user", "content": [IMAGE]}]},
            "messages.1.content.0.type",
            "this server reads text, not 'image_url'",
        ),
        (
            ChatAsk,
            CHAT | {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text",
            "Field required",
        ),
        (
            ChatAsk,
            CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages.0.content.0.text",
            "valid string",
        ),
        (ChatAsk, CHAT | {"messages": [TURN | {"content": 5}]}, "messages.0.content", "string"),
        (ChatAsk, CHAT | {"stop": [5]}, "stop.0", "valid string"),
        (ChatAsk, CHAT | {"stop": 5}, "stop", "valid string"),
        (ChatAsk, {"messages": [TURN]}, "model", "Field required"),
        (ChatAsk, [], "", "valid dictionary"),
        (
            ChatAsk,
            CHAT | {"tool_choice": {"type": "function", "function": {}}},
            "tool_choice.function.name",
            "Field required",
        ),
        (CompletionAsk, {"model": "m", "prompt": [[1], [-1]]}, "prompt.1.0", "greater"),
        (CompletionAsk, {"model": "m", "prompt": {"text": "a"}}, "prompt", "valid string"),
        (ClassifyAsk, {"model": "m", "input": [5]}, "input", "a text, an object, or a list"),
    ],
)
def test_a_problem_is_at_a_place_of_the_body(shape: Any, body: Any, place: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        shape.model_validate(body)
    problems = [each | {"loc": ("body", *each["loc"])} for each in caught.value.errors()]
    problem, found = first_problem(problems, body)
    assert ".".join(found) == place, problems
    assert said in problem["msg"]
