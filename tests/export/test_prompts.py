"""What an artefact's own tokenizer sends is what was trained, or the artefact is not kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import TOOL, said, user
from tests.export.exporting import command, exported, needs_llama
from tests.export.test_tampered import refused
from tuner.console.console import Console
from tuner.errors import IntegrityError, ModelError
from tuner.export.proof import prompts, rows
from tuner.inference import open_model
from tuner.machine import hardware
from tuner.machine.imports import function
from tuner.recipe.formats import FORMATS

# Where llama.cpp is installed, it reads the GGUF file's prompts.
pytestmark = [pytest.mark.llama, pytest.mark.usefixtures("in_process")]

QUICK: dict[str, Any] = {
    "train": {"max_steps": 2, "learning_rate": 0.02},
    "eval": {"samples": 0, "enabled": False},
    "model": {"chat_template": "qwen3"},
    # Without reasoning, so that the default argument is false.
    "data": {"template": "auto", "eval": 0},
}
ROWS: list[dict[str, Any]] = [
    {"messages": [user(f"Due {number}?"), said(f"On day {number}.")]} for number in range(4)
]
ROWS[1]["messages"] += [user("Why?"), said("So.")]
ROWS[2]["tools"] = [TOOL]

# What the exported tokenizer is changed by, and what the error shows.
TEMPLATE = "chat_template.jinja"
MUTANTS: dict[str, tuple[str, Callable[[str], str], str]] = {
    "newline": (
        TEMPLATE,
        lambda text: text.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n\\n'"),
        "artefact '<|im_start|>user\\nDue 0?<|im_end|>\\n<|im_start|>assistant\\n\\n",
    ),
    "doubled BOS": (
        TEMPLATE,
        lambda text: "{{- '<|endoftext|>' -}}" + text,
        "artefact '<|endoftext|><|im_start|>user",
    ),
    "default lost": (TEMPLATE, lambda text: text.partition("{{- '' }}")[2], "by default"),
    "other tokens": (
        "tokenizer.json",
        lambda text: json.dumps(_with_token(json.loads(text), "Due")),
        "trained  [",
    ),
}


def _with_token(known: dict[str, Any], word: str) -> dict[str, Any]:
    token = known["added_tokens"][-1] | {"id": len(known["model"]["vocab"]) + 9, "content": word}
    return {**known, "added_tokens": [*known["added_tokens"], token]}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_an_artefact_that_sends_another_prompt_is_not_kept(
    mutant: str,
    monkeypatch: pytest.MonkeyPatch,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Exit 6 with both prompts; what was proven with it stays."""
    file, change, shown = MUTANTS[mutant]
    original = function(FORMATS["merged"].live)

    def write(plan: Any, trained: Any, folder: Path) -> None:
        original(plan, trained, folder)
        before = (folder / file).read_text("utf-8")
        assert change(before) != before
        (folder / file).write_text(change(before), "utf-8")

    monkeypatch.setitem(FORMATS, "merged", replace(FORMATS["merged"], live=write))
    with pytest.raises(IntegrityError, match="does not send the prompt that was trained") as caught:
        run_recipe(make_recipe("llama", data_rows=ROWS, **QUICK))
    assert caught.value.exit_code == 6
    assert shown in str(caught.value.why)
    refused(tmp_path / "run", "integrity", {"adapter"})


FORMS = ("merged", "int8", "gguf")


@pytest.mark.parametrize("base", ["chatml", "bos"])
def test_every_format_sends_the_trained_prompt(
    base: str, make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """Also with a template that writes no BOS on a base that puts one before every text."""
    model = {"chat_template": "qwen3", "new_tokens": ["<|im_start|>", "<|im_end|>"]}
    sections = QUICK if base == "chatml" else {**QUICK, "model": model}
    recipe = make_recipe(
        "llama", tokenizer=base, data_rows=ROWS, **sections, export={"formats": ["adapter"]}
    )
    run_recipe(recipe)
    run = tmp_path / "run"
    known = rows.load_prompts(run)
    assert {each["what"] for each in known} == {
        f"{what}{default}"
        for what in ("a last turn", "a later turn", "a turn with tools")
        for default in ("", ", by default")
    }
    _, events = command("export", run, *(word for name in FORMS for word in ("--format", name)))
    (warned,) = (text for each in events if "tools" in (text := str(each.get("text"))))
    assert warned.startswith("gguf: the Modelfile writes no prompts with tools")
    assert (run / "gguf/Modelfile").is_file()
    for name in FORMS:
        assert prompts.compared({"prompts": known, **JOB}, name, run / name) == {"different": []}
        # Seen to compare: one with another end.
        other = [known[0] | {"ids": [*known[0]["ids"], 5], "text": f"{known[0]['text']}x"}]
        assert prompts.compared({"prompts": other, **JOB}, name, run / name)["different"]


JOB = {"trust_remote_code": False}


def test_verify_compares_the_prompts_of_the_run_again(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """A library that renders differently is noticed; runs that kept no prompts verify as before."""
    recipe = make_recipe("llama", data_rows=ROWS, **QUICK, export={"formats": ["adapter"]})
    run_recipe(recipe)
    run, file = tmp_path / "run", tmp_path / "run" / rows.FILE
    assert command("verify", run / "adapter")[0] == 0
    kept = json.loads(file.read_text("utf-8"))
    kept["prompts"][0]["text"] += "x"
    file.write_text(json.dumps(kept), "utf-8")
    code, (event,) = command("verify", run / "adapter")
    assert code == 6
    assert "does not send the prompt" in event["error"]["what"]
    del kept["prompts"]
    file.write_text(json.dumps(kept), "utf-8")
    assert command("verify", run / "adapter")[0] == 0
    exported(run, "merged")


@needs_llama
def test_a_gguf_adapter_without_the_first_token_is_refused(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """llama.cpp would put BOS before a prompt that was trained without one: merged, it does not."""
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        "utf-8",
    )
    model = {"chat_template": "own.jinja"}
    sections = {**QUICK, "model": model, "export": {"formats": ["adapter"]}}
    run_recipe(make_recipe("llama", tokenizer="bos", data_rows=ROWS[:2], **sections))
    with pytest.raises(ModelError, match="another prompt than was trained") as caught:
        exported(tmp_path / "run", "gguf-adapter")
    assert caught.value.fix.endswith("--format gguf")
    exported(tmp_path / "run", "gguf")


def test_a_template_that_writes_the_date_is_proven_on_any_day(tmp_path: Path) -> None:
    tokenizer = FAMILIES["chatml"].tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') + '\\n' }}" + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path)
    text = "2026-01-02\n<|im_start|>user\nDue?<|im_end|>\n<|im_start|>assistant\n"
    record = {
        **{"row": "1", "what": "a last turn", "messages": [user("Due?")], "tools": None},
        **{"arguments": {}, "text": text, "written": "2026-01-02T03:04:05"},
        "ids": tokenizer.encode(text, add_special_tokens=False),
    }
    job = {"prompts": [record], **JOB}
    assert prompts.compared(job, "merged", tmp_path) == {"different": []}
    record["written"] = "2026-01-03T03:04:05"
    assert prompts.compared(job, "merged", tmp_path)["different"]


def test_prompts_that_ollama_cannot_write_are_served(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """No Modelfile but the reason, and a command that sends the trained prompts."""
    row = {"messages": [user("Due?"), said("Now.", "The first.")]}
    recipe = make_recipe("llama", data_rows=[row] * 4, **QUICK, export={"formats": ["adapter"]})
    run_recipe(recipe)
    run = tmp_path / "run"
    code, events = command("export", run, "--format", "gguf")
    assert code == 0
    (warned,) = (each["text"] for each in events if "no Modelfile" in str(each.get("text")))
    assert "(it takes the reasoning out of earlier answers)" in warned
    assert not (run / "gguf/Modelfile").exists()
    file = warned.partition("tuner serve ")[2].removesuffix(" sends them")
    source = open_model.model_to_open(file, None, [], hardware.detect(), "serve")
    model = open_model.load(source, Console(quiet=True))
    (known, *_) = rows.load_prompts(run)
    sent = model.prompts_of(model.active).ids(known["messages"], None, known["arguments"])
    assert sent == known["ids"]
