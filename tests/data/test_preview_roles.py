"""Every piece of a previewed row has the role and the kind of what the template wrote it for."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import REFUSED, ROWS, TOOL, Row
from tests.data.test_preview import previews
from tuner.data.tokens.prepared import Part

SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = ROWS["tools"]
CHATS: dict[str, Row] = {
    **{kind: ROWS[kind] for kind in ("plain", "system", "turns with reasoning", "tools")},
    "system and tools": {**TOOLS, "messages": [SYSTEM, *TOOLS["messages"]]},
    "twice": {
        "messages": [*TOOLS["messages"], *ROWS["plain"]["messages"]],
        "tools": [TOOL],
    },
}
OWN_SYSTEM = {"qwen2.5", "gpt-oss", "smollm3", "smollm2", "llama3.1", "llama3.2"}
# Inside the first question.
TOOLS_OF = {"llama3": "user", "llama3.1": "user", "llama3.2": "user"}


def blocks(parts: list[Part]) -> list[tuple[str, str]]:
    """Speakers in order, each with all of its text."""
    return [
        (role, "".join(part.text for part in group))
        for role, group in groupby(parts, key=lambda part: part.role)
    ]


def texts(parts: list[Part], kind: str) -> list[tuple[str, str]]:
    return [(part.role, part.text) for part in parts if part.kind == kind]


def wanted(name: str, row: Row, answers: int) -> list[str]:
    """The speakers of a row up to its last answer."""
    roles = [turn["role"] for turn in row["messages"][:answers]]
    leads = name in OWN_SYSTEM or ("tools" in row and TOOLS_OF.get(name) != "user")
    return ["system", *roles] if leads and roles[0] != "system" else roles


@pytest.mark.parametrize("kind", [*CHATS, "tools and content", "tools, reasoning and an answer"])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_turn_is_a_block_of_its_speaker(tmp_path: Path, name: str, kind: str) -> None:
    """The whole of it: from its opening token to its last one, calls that are context too."""
    row = {**ROWS, **CHATS}[kind]
    if ((name, "tools") in REFUSED and "tools" in row) or (name, kind) in REFUSED:
        return
    shown = previews(tmp_path, name, [row])
    ends = [n for n, turn in enumerate(row["messages"], 1) if turn["role"] == "assistant"]
    for each, count in zip(shown, ends[-len(shown) :], strict=True):
        found = blocks(each.parts)
        roles = wanted(name, row, count)
        if name == "mistral" and kind == "twice" and each is shown[-1]:
            # It shows the tools before the last question.
            roles = [*roles[1:-2], "system", *roles[-2:]]
        if kind == "system" and name in ("gemma", "mistral"):
            assert found[0][1].endswith("Be brief.")
        assert [role for role, _ in found] == roles


def call_rows() -> list[str]:
    return [name for name in FAMILIES if (name, "tools") not in REFUSED]


@pytest.mark.parametrize("name", call_rows())
def test_tools_and_calls_are_named_so(tmp_path: Path, name: str) -> None:
    """Tools once, as they are; each call as the assistant's, learned or not."""
    for each in previews(tmp_path, name, [CHATS["twice"]]):
        tools, calls = (texts(each.parts, kind) for kind in ("tools", "call"))
        ((role, schema),) = tools
        assert role == TOOLS_OF.get(name, "system")
        assert '"properties": {' in schema
        assert "Due" not in schema
        (call,) = calls
        assert call[0] == "assistant"
        assert "tide" in call[1]
        assert "Brest" in call[1]
        assert "16:40" not in call[1]
        assert not call[1].endswith(FAMILIES[name].specials[0])


def test_a_call_that_is_context_is_no_list_of_tools(tmp_path: Path) -> None:
    """Qwen3's second answer comes after a call that is not learned there."""
    _, last = previews(tmp_path, "qwen3", [TOOLS])
    found: list[Any] = [(part.role, part.kind, part.text) for part in last.parts]
    call = '<tool_call>\n{"name": "tide", "arguments": {"at": "Brest"}}\n</tool_call>'
    place = found.index(("assistant", "call", call))
    assert found[place - 1] == ("assistant", "template", "<|im_start|>assistant\n")
    assert found[place + 1] == ("assistant", "template", "<|im_end|>\n")
    assert found[place + 2] == ("tool", "template", "<|im_start|>user\n<tool_response>\n")
    assert found[-1] == ("assistant", "template", "\n")


def test_the_systems_turn_of_a_template_is_the_systems(tmp_path: Path) -> None:
    (shown,) = previews(tmp_path, "qwen2.5", [ROWS["plain"]])
    assert blocks(shown.parts)[:2] == [
        ("system", "<|im_start|>system\nYou are a helpful model.<|im_end|>\n"),
        ("user", "<|im_start|>user\nDue?<|im_end|>\n"),
    ]
    assert {part.kind for part in shown.parts if part.role == "system"} == {"template"}
