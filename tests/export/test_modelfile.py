"""Ollama's prompt is the trained prompt, in every family of chat templates, or there is none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import REFUSED, ROWS, said, user
from tests.export.go_template import execute, prompt
from tests.tokenizers import make_tokenizer
from tuner.data.chat.chat_template import ChatTemplate, with_defaults
from tuner.data.tokens.conversation import Prompts
from tuner.export.gguf import modelfile

SYSTEM = {"role": "system", "content": "Be brief."}
CHATS: dict[str, list[dict[str, Any]]] = {
    name: [{key: turn[key] for key in ("role", "content")} for turn in ROWS[name]["messages"][:-1]]
    for name in ("plain", "reasoning", "system", "turns", "turns with reasoning")
}
CHATS["system and turns"] = [SYSTEM, *CHATS["turns"]]
CHATS["three turns"] = [*CHATS["turns"], said("So."), user("When?")]

# What Go's templates cannot say, by family and by whether reasoning is asked for by default.
REASONED = "it takes the reasoning out of earlier answers"
UNSAID = {
    ("llama3.2", True): "it writes today's date",
    ("qwen3", True): REASONED,
    ("qwen3-2507-thinking", True): REASONED,
    ("deepseek-r1", True): REASONED,
    ("glm-4.5", True): "the model itself writes",
    ("gpt-oss", True): "it writes a turn differently once another follows",
}
CELLS = [(name, True) for name in FAMILIES] + [
    (name, False) for name in ("qwen3", "glm-4.5", "smollm3")
]


@pytest.mark.parametrize(("name", "reasons"), CELLS)
def test_ollama_sends_the_trained_prompt_or_has_no_modelfile(name: str, reasons: bool) -> None:
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    stops = family.stop_ids(tokenizer)
    chat = ChatTemplate(tokenizer, stops)
    if not reasons:
        defaults = chat.arguments(reasons=False)
        assert defaults
        tokenizer.chat_template = with_defaults(tokenizer.chat_template, defaults)
    if (name, reasons) in UNSAID:
        assert UNSAID[name, reasons] in str(modelfile.problem(tokenizer))
        with pytest.raises(modelfile.Unsayable):
            modelfile.text("m.gguf", tokenizer, stops, 512)
        return
    assert modelfile.problem(tokenizer) is None
    text = modelfile.text("m.gguf", tokenizer, stops, 512)
    prompts = Prompts(tokenizer, stops)
    for kind, turns in CHATS.items():
        if (name, "system") in REFUSED and "system" in kind:
            continue  # No prompt with a system turn was trained.
        wanted = tokenizer.decode(prompts.ids(turns))
        assert prompt(text, _as_written(name, turns)) == wanted
    for stop in (family.specials[0], *family.stops):
        assert f'PARAMETER stop "{stop}"\n' in text


def _as_written(name: str, turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns with their answers as the model writes them: some begin with white space."""
    spaces = {"mistral": " ", "glm-4.5": "\n"}.get(name, "")
    return [
        {**turn, "content": spaces + turn["content"]} if turn["role"] == "assistant" else turn
        for turn in turns
    ]


@pytest.mark.parametrize("writes", [True, False])
def test_the_first_token_is_sent_once(writes: bool) -> None:
    """llama.cpp puts BOS before a prompt by itself, if the prompts that were trained begin so."""
    tokenizer = make_tokenizer("bos")
    plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    tokenizer.chat_template = "{{ bos_token }}" * writes + plain
    assert prompt(modelfile.text("m.gguf", tokenizer, (), 512), [user("Due?")]) == "Due?\n"


def test_a_system_turn_that_the_template_does_not_know_is_not_lost() -> None:
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    text = modelfile.text("m.gguf", tokenizer, (), 512)
    assert prompt(text, [SYSTEM, user("Why?")]) == "[INST] Be brief.\n\nWhy? [/INST]"
    again = [user("Why?"), said(" So."), user("When?")]
    assert prompt(text, again) == "[INST] Why? [/INST] So.</s>[INST] When? [/INST]"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('never') }}", "it refuses a chat: never"),
        ("{{ messages[-1].content }}", "leaves out a user turn"),
        ("{% for m in messages %}{{ m.content + '}}\n{{' }}{% endfor %}", "signs of Go's"),
    ],
)
def test_what_cannot_be_said_is_named(template: str | None, why: str) -> None:
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = template
    assert why in str(modelfile.problem(tokenizer))


def test_the_evaluator_reads_what_go_reads() -> None:
    """By hand, after the documentation of text/template."""
    source = (
        '{{ $n := false }}{{ range .Messages }}{{ if eq .Role "a" }}<{{ .Content }}>'
        '{{ else if eq .Role "b" }}{{ if $n }}again{{ else }}once{{ end }}{{ $n = true }}'
        "{{ else }}?{{ end }}{{ end }}."
    )
    turns = [{"Role": role, "Content": "x"} for role in "abbc"]
    assert execute(source, {"Messages": turns}) == "<x>onceagain?."
