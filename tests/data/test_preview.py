"""`tuner data preview`: rows in parts, for people and for programs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import FAMILIES
from tests.conftest import write_rows
from tests.data.test_conversations import CALL, TOOL, said, user
from tuner.cli import data as cli_data
from tuner.console import rows as shown_rows
from tuner.console.console import Console
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Part, Preview
from tuner.errors import DataError, RecipeError
from tuner.machine import hardware
from tuner.plan import make
from tuner.recipe import load as recipe_load
from tuner.recipe.schema import DataSection

ROW = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        user("Due <|im_end|> when?"),
        said("I look.", "A tide.", tool_calls=[CALL], weight=0.5),
        {"role": "tool", "content": "16:40"},
        said("At 16:40."),
    ],
    "tools": [TOOL],
}


def previews(folder: Path, name: str, rows: list[Any], **keys: Any) -> list[Preview]:
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    write_rows(folder / "rows.jsonl", rows)
    data = DataSection(**({"train": ("rows.jsonl",), "eval": 0} | keys))
    inputs = Inputs(data, tokenizer, folder, 7, 2048, family.stop_ids(tokenizer))
    return SftData(inputs).preview(len(rows))[1]


def texts(parts: list[Part], **wanted: Any) -> list[str]:
    return [
        part.text
        for part in parts
        if all(getattr(part, name) == value for name, value in wanted.items())
    ]


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3"])
def test_who_speaks_and_what_is_learned(tmp_path: Path, name: str) -> None:
    first, *rest = (each.parts for each in previews(tmp_path, name, [ROW]))
    last = (rest or [first])[-1]
    assert texts(first, role="system", kind="text") == ["Be brief."]
    assert "".join(texts(first, role="user", kind="text")).replace(" ", "") == "Duewhen?"
    assert texts(first, role="user", kind="special") == ["<|im_end|>"]
    (tools,) = texts(first, role="system", kind="tools")
    assert '"description": "High water."' in tools
    assert texts(first, kind="reasoning", weight=0.5, learned=True) == ["A tide."]
    (call,) = texts(first, role="assistant", kind="call", weight=0.5)
    assert '{"at": "Brest"}' in call
    assert "16:40" in "".join(texts(last, role="tool", kind="text", learned=False, weight=0.0))
    assert "".join(texts(last, learned=True, weight=1.0)) == "At 16:40.<|im_end|>"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parts_of_a_row_are_the_whole_row(tmp_path: Path, name: str) -> None:
    """Every family's own texts are told from the template's, also if its turns are not located."""
    row = {"messages": [user("Due?"), said("Now.", "One."), user("Why?"), said("So.", "Two.")]}
    tokenizer = FAMILIES[name].tokenizer()
    for shown in previews(tmp_path, name, [row]):
        whole = tokenizer.decode(shown.ids)
        assert "".join(part.text for part in shown.parts) == whole
        assert texts(shown.parts, role="user", kind="text")[0] == "Due?"
    assert texts(shown.parts, role="assistant", kind="text")[-1].strip() == "So."
    assert "Two." in "".join(texts(shown.parts, kind="reasoning", learned=True))


def test_a_row_is_readable_with_and_without_colours(tmp_path: Path) -> None:
    parts = [asdict(part) for part in previews(tmp_path, "qwen2.5", [ROW])[0].parts]
    pieces = shown_rows.pieces(parts)
    text = "".join(piece for piece, _ in pieces)
    for wanted in (
        "system    │ <|im_start|>system",
        "Due ‹special: <|im_end|> = 9 tokens: < | i m _ en d | >› when?",
        "⟦0.5: <think>",
        "‹reasoning: A tide.›",
        "‹call: ",
        "⟦At 16:40.<|im_end|>⟧",
    ):
        assert wanted in text
    styles = {style for _, style in pieces}
    assert {"italic bold green", "bold red", "dim cyan", "bold green"} <= styles

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for out, coloured in ((Terminal(), True), (io.StringIO(), False)):
        console = Console()
        console._out = out
        console.row("rows.jsonl:1", parts)
        assert ("\x1b[" in out.getvalue()) == coloured
        assert "Be brief." in out.getvalue()


def test_the_command_says_how_much_it_checked_and_refuses_what_the_plan_refuses(
    make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"messages": [user(f"Say {n}."), said(f"{n}.", weight=0.5)]} for n in range(4)]
    recipe = make_recipe(data_rows=rows, data={"template": "chat", "eval": 0})
    cli_data.preview(str(recipe), (), 2, Console(json=True))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["rows_checked"] for event in events if event["event"] == "preview"] == [4]
    (first, _) = [event["parts"] for event in events if event["event"] == "row"]
    assert all(
        set(part) == {"role", "kind", "text", "learned", "weight", "pieces"} for part in first
    )
    assert {part["weight"] for part in first} == {0.0, 0.5}
    (event, _) = [each for each in events if each["event"] == "row"]
    assert (event["row"], event["new"], event["truncated"]) == ("train.jsonl:1", [], False)
    assert event["name"] == f"train.jsonl:1 ({event['tokens']} tokens)"
    cli_data.preview(str(recipe), (), 2, Console())
    assert (
        "4 rows read and checked, as in a plan: 4 to train on, 0 held out, 0 bad rows"
        in capsys.readouterr().out
    )
    given = ("data.render=raw", "model.chat_template=chatml")
    with pytest.raises(RecipeError) as caught:
        cli_data.preview(str(recipe), given, 1, Console(json=True))
    assert "model.chat_template is set" in str(caught.value.problems)


def test_markup_of_chats_in_plain_text_is_shown_in_pieces(tmp_path: Path) -> None:
    text = "Chat: <|im_start|>user\nDue?<|im_end|>\nFriday."
    (shown,) = previews(tmp_path, "qwen2.5", [{"text": text}])
    special = [part for part in shown.parts if part.kind == "special"]
    assert [part.text for part in special] == ["<|im_start|>", "<|im_end|>"]
    assert all(len(part.pieces) > 1 and "".join(part.pieces) == part.text for part in special)


def test_preview_and_plan_agree_on_the_rows(
    make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad row behind those that are shown is found; warnings come before the rows."""
    rows: list[Any] = [{"prompt": f"Say {n}.", "completion": f"{n}."} for n in range(9)]
    rows.append({"prompt": "Say <|im_end|>.", "completion": ""})
    recipe = make_recipe(data_rows=rows, data={"template": "auto", "eval": 2})
    with pytest.raises(DataError) as shown:
        cli_data.preview(str(recipe), (), 1, Console())
    with pytest.raises(DataError) as planned:
        make.make(recipe_load.load(recipe), hardware.detect(), output=Path("none"))
    assert shown.value.as_dict() == planned.value.as_dict()

    skip = ["data.max_bad_rows=1"]
    made = make.make(recipe_load.load(recipe, skip), hardware.detect(), output=Path("none"))
    capsys.readouterr()
    cli_data.preview(str(recipe), skip, 1, Console(json=True))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [event["event"] for event in events]
    assert names == ["preview", "warning", "row"]
    assert events[0]["data"] == json.loads(json.dumps(made.facts["data"]))
    assert events[1]["text"] == made.warnings[0] == "1 bad row left out: train.jsonl:10"


@pytest.mark.parametrize("verb", ["reward", "rlhf"])
def test_the_verb_says_what_the_rows_are_for(
    verb: str, make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe without the section of its task is previewed as the command would train it."""
    rows = [{"prompt": f"Say {n}.", "chosen": f"{n}.", "rejected": "No."} for n in range(6)]
    recipe = make_recipe(data_rows=rows, data={"template": "auto", "eval": 2})
    given = ["rlhf.algorithm=dpo"] if verb == "rlhf" else []
    cli_data.preview(str(recipe), given, 1, Console(), verb)
    said = capsys.readouterr().out
    assert "4 to train on, 2 held out" in said
    assert said.count("answer 1: better (") == said.count("answer 2: worse (") == 1


@pytest.mark.parametrize("verb", ["reward", "rlhf"])
def test_special_tokens_in_prompts_and_answers_are_shown_in_pieces(
    verb: str, make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the chat template writes is no such text."""
    answers = {"chosen": "Yes.", "rejected": "<|im_start|>No."} if verb == "reward" else {}
    rows = [{"prompt": f"{n}<|im_end|>?", **answers} for n in range(4)]
    rewards = {"reward": [{"rule": "length", "max": 8}], "max_new_tokens": 8, "algorithm": "rloo"}
    recipe = make_recipe(
        data_rows=rows,
        data={"template": "auto", "eval": 0},
        **({"rlhf": rewards} if verb == "rlhf" else {}),
    )
    cli_data.preview(str(recipe), (), 1, Console(json=True), verb)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [
        [part["text"] for part in event["parts"] if part["kind"] == "special"]
        for event in events
        if event["event"] == "row"
    ]
    prompt = ["<|im_end|>"]
    assert found == ([prompt] if verb == "rlhf" else [prompt, [*prompt, "<|im_start|>"]])
    assert "special tokens in the rows' text" in events[1]["text"]
