"""Tools with `strict: true`: a call that their schema does not allow is no call."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from transformers.utils.chat_parsing.response_templates import load_response_template

from tests.data.test_conversations import TOOL
from tests.inference.test_reading import GLM, TAGGED
from tuner.inference import call_forms
from tuner.inference.reading import Reader, whole
from tuner.inference.serve.tools import Tool
from tuner.inference.strict import asked, fits

PORT = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
FITTING: list[tuple[dict[str, Any], Any, bool]] = [
    (PORT, {"at": "Brest"}, True),
    (PORT, {}, False),
    (PORT, {"at": 3}, False),
    (PORT, {"at": "Brest", "days": 1}, True),
    ({**PORT, "additionalProperties": False}, {"at": "Brest", "days": 1}, False),
    ({**PORT, "additionalProperties": {"type": "integer"}}, {"at": "B", "days": 1.0}, True),
    ({**PORT, "additionalProperties": {"type": "integer"}}, {"at": "B", "days": True}, False),
    ({"type": ["string", "null"]}, None, True),
    ({"type": ["string", "null"]}, [], False),
    ({"type": "array", "items": {"enum": ["a", "b"]}}, ["a", "b"], True),
    ({"type": "array", "items": {"enum": ["a", "b"]}}, ["c"], False),
    ({"anyOf": [{"type": "number"}, {"const": "all"}]}, "all", True),
    ({"anyOf": [{"type": "number"}, {"const": "all"}]}, "none", False),
    ({"$ref": "#/$defs/port", "$defs": {"port": PORT}}, {"at": "Brest"}, True),
    ({"$ref": "#/$defs/port", "$defs": {"port": PORT}}, {}, False),
    ({"$ref": "#/$defs/sea", "$defs": {"port": PORT}}, {"at": "Brest"}, False),
    ({"type": "string", "minLength": 9}, "short", True),
    ({}, [{"any": 1}], True),
]


@pytest.mark.parametrize(("schema", "value", "fit"), FITTING, ids=str)
def test_what_a_schema_allows(schema: dict[str, Any], value: Any, fit: bool) -> None:
    assert fits(value, schema, schema) == fit


def test_references_in_a_circle_allow_nothing() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}
    tool = {"function": {"name": "tide", "strict": True, "parameters": schema}}
    assert not asked([tool], "tide", {"at": "Brest"})


@pytest.mark.parametrize("strict", [True, False, None])
@pytest.mark.parametrize(
    ("form", "text"), [("JSON in tags", TAGGED), ("keys and values in tags", GLM)]
)
def test_a_call_that_does_not_fit_is_content(form: str, text: str, strict: bool | None) -> None:
    """Word for word; the same call is one where the tool is not strict, or the schema allows it."""
    tool = copy.deepcopy(TOOL)
    tool["function"]["strict"] = strict
    for required in ("at", "days"):
        tool["function"]["parameters"]["required"] = [required]
        shown = Tool.model_validate(tool).given
        said = whole(
            Reader(False, load_response_template(call_forms.FORMS[form]), [shown]).feed(
                text, end=True
            )
        )
        if strict and required == "days":
            assert (said.content, said.calls) == (text, [])
        else:
            (call,) = said.calls
            assert json.loads(call["arguments"]) == {"at": "Brest"}
