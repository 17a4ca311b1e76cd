"""The prompt that is trained is the prompt that is sent, in every family of chat templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.chat_templates import FAMILIES
from tests.data.test_masks import learned, prepared
from tuner.data.chat.chat_template import ChatTemplate, with_defaults
from tuner.data.preferences import PreferenceData
from tuner.data.tokens.conversation import Prompts
from tuner.data.tokens.prepared import Inputs
from tuner.data.turns.reasoning import separated
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

CALL = {
    "type": "function",
    "id": "call00001",
    "function": {"name": "tide", "arguments": {"at": "Brest"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "High water.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}


def _call(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "tide", "arguments": arguments}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, thought: str = "", **keys: Any) -> dict[str, Any]:
    reasoning = {"reasoning_content": thought} if thought else {}
    return {"role": "assistant", "content": text, **reasoning, **keys}


Row = dict[str, Any]
RENAMED = ("Due", "Paid")
ROWS: dict[str, Row] = {
    "plain": {"messages": [user("Due?"), said("Now.")]},
    "reasoning": {"messages": [user("Due?"), said("Now.", "The first.")]},
    "system": {
        "messages": [{"role": "system", "content": "Be brief."}, user("Due?"), said("Now.")]
    },
    "turns": {"messages": [user("Due?"), said("Now."), user("Why?"), said("So.")]},
    "turns with reasoning": {
        "messages": [user("Due?"), said("Now.", "One."), user("Why?"), said("So.", "Two.")]
    },
    "some with reasoning": {
        "messages": [user("Due?"), said("Now.", "One."), user("Why?"), said("So.")]
    },
    "tools": {
        "messages": [
            user("Due when?"),
            said("", tool_calls=[CALL]),
            {"role": "tool", "content": "16:40"},
            said("At 16:40."),
        ],
        "tools": [TOOL],
    },
    "tools and content": {
        "messages": [user("Due when?"), said("I look.", tool_calls=[CALL])],
        "tools": [TOOL],
    },
    "tools and reasoning": {
        "messages": [user("Due when?"), said("", "A tide.", tool_calls=[CALL])],
        "tools": [TOOL],
    },
    "tools, reasoning and an answer": {
        "messages": [
            user("Due when?"),
            said("", "A tide.", tool_calls=[CALL]),
            {"role": "tool", "content": "16:40"},
            said("At 16:40."),
        ],
        "tools": [TOOL],
    },
}
# What a family cannot show, by what its error says.
REFUSED = {
    **{
        (name, row): "cannot render tools"
        for name in ("chatml", "smollm2", "gemma2", "gemma", "phi-4", "deepseek-r1")
        for row in ROWS
        if "tools" in row
    },
    ("gemma2", "system"): "no system turns",
    **{
        (name, row): why
        for name in ("llama3.1", "llama3.2")
        for row, why in (
            ("tools and content", "leaves out an assistant turn next to its tool calls"),
            ("tools and reasoning", "leaves out the reasoning of an answer"),
            ("tools, reasoning and an answer", "leaves out the reasoning of an answer"),
        )
    },
    ("smollm3", "tools"): "cannot render tool calls",
    ("smollm3", "tools and content"): "cannot render tool calls",
    ("smollm3", "tools and reasoning"): "cannot render tool calls",
    ("smollm3", "tools, reasoning and an answer"): "cannot render tool calls",
}


def state(row: Row) -> bool:
    return bool(row["messages"][-1].get("reasoning_content"))


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_one_prompt_everywhere(tmp_path: Path, name: str, kind: str) -> None:
    """Trained, held out, chat and serve, exported tokenizer."""
    family, row = FAMILIES[name], ROWS[kind]
    tokenizer = family.tokenizer()
    stops = family.stop_ids(tokenizer)
    if (name, kind) in REFUSED:
        with pytest.raises(DataError, match=REFUSED[name, kind]):
            prepared(tmp_path, [row], tokenizer, stop_ids=stops)
        return
    (tmp_path / "held.jsonl").write_text(json.dumps(row).replace(*RENAMED), "utf-8")
    result = prepared(tmp_path, [row], tokenizer, stop_ids=stops, eval="held.jsonl")
    chat = ChatTemplate(tokenizer, stops)
    arguments = chat.arguments(state(row))
    turns = row["messages"][:-1]
    sent = Prompts(tokenizer, stops).ids(turns, row.get("tools"), arguments)

    example = result.train[-1]
    text = tokenizer.decode(sent)
    assert tokenizer.decode(example.input_ids).startswith(text)
    if len(result.train) > 1 or kind in ("plain", "reasoning", "system"):
        first = example.supervised.index(True)
        assert example.input_ids[:first] == sent
    else:
        assert example.input_ids[: len(sent)] == sent
        assert example.supervised[len(sent)]
        assert not example.supervised[len(sent) - 1]

    held = result.eval[-1].prompt_ids
    assert tokenizer.decode(held) == text.replace(*RENAMED)

    tokenizer.save_pretrained(tmp_path / "exported")
    exported = AutoTokenizer.from_pretrained(tmp_path / "exported")
    native = [chat.native(separated(turn)) for turn in turns]
    assert text == exported.apply_chat_template(
        native, tools=row.get("tools"), add_generation_prompt=True, tokenize=False, **arguments
    )
    # What is learned of the last turn is what the template writes there, and a stop token.
    (*_, last) = learned(example, tokenizer)
    assert last.endswith((family.specials[0], *family.stops))
    drops = (name, kind) == ("gpt-oss", "tools, reasoning and an answer")
    if not drops and not chat.abilities.composed and (chat.abilities.reasoning or not state(row)):
        whole = exported.apply_chat_template(
            [chat.native(separated(turn)) for turn in row["messages"]],
            tools=row.get("tools"),
            tokenize=False,
            **arguments,
        )
        written = last if whole.startswith(text + last) else last.removesuffix(family.specials[0])
        assert whole.startswith(text + written)
        assert not whole.removeprefix(text + written).strip()
    # By default, as most answers have it.
    answers = [turn for turn in row["messages"] if turn["role"] == "assistant"]
    reasons = [bool(turn.get("reasoning_content")) for turn in answers]
    most = chat.arguments(sum(reasons) * 2 >= len(reasons))
    default = with_defaults(exported.chat_template, result.sent.arguments)
    given: dict[str, Any] = {"tools": row.get("tools"), "add_generation_prompt": True}
    wanted = exported.apply_chat_template(native, tokenize=False, **given, **most)
    exported.chat_template = default
    assert wanted == exported.apply_chat_template(native, tokenize=False, **given)


CALLED = '<tool_call>\n{"name": "tide", "arguments": {"at": "Brest"}}\n</tool_call>'
LEARNED: dict[tuple[str, str], list[list[str]]] = {
    ("qwen3", "plain"): [["Now.<|im_end|>"]],
    ("qwen3", "reasoning"): [["<think>\nThe first.\n</think>\n\nNow.<|im_end|>"]],
    ("qwen3", "turns"): [["Now.<|im_end|>"], ["So.<|im_end|>"]],
    ("qwen3", "some with reasoning"): [
        ["<think>\nOne.\n</think>\n\nNow.<|im_end|>"],
        ["So.<|im_end|>"],
    ],
    ("qwen3", "tools"): [[CALLED + "<|im_end|>"], ["At 16:40.<|im_end|>"]],
    ("qwen3", "tools and content"): [["I look.\n" + CALLED + "<|im_end|>"]],
    ("qwen3", "tools and reasoning"): [["<think>\nA tide.\n</think>\n\n" + CALLED + "<|im_end|>"]],
    ("qwen3-2507-thinking", "plain"): [["\n</think>\n\nNow.<|im_end|>"]],
    ("qwen3-2507-thinking", "reasoning"): [["The first.\n</think>\n\nNow.<|im_end|>"]],
    ("qwen2.5", "reasoning"): [["<think>\nThe first.\n</think>\n\nNow.<|im_end|>"]],
    ("qwen2.5", "turns"): [["Now.<|im_end|>", "So.<|im_end|>"]],
    ("glm-4.5", "plain"): [["\nNow.<|endoftext|>"]],
    ("glm-4.5", "reasoning"): [["\n<think>The first.</think>\nNow.<|endoftext|>"]],
    ("glm-4.5", "turns"): [["\nNow.<|user|>", "\nSo.<|endoftext|>"]],
    ("glm-4.5", "tools and content"): [
        [
            "\nI look.\n<tool_call>tide\n<arg_key>at</arg_key>\n<arg_value>Brest</arg_value>\n"
            "</tool_call><|endoftext|>"
        ]
    ],
    ("deepseek-r1", "plain"): [["\n</think>\n\nNow.<｜end▁of▁sentence｜>"]],
    ("deepseek-r1", "reasoning"): [["The first.\n</think>\n\nNow.<｜end▁of▁sentence｜>"]],
    ("deepseek-r1", "some with reasoning"): [
        ["One.\n</think>\n\nNow.<｜end▁of▁sentence｜>"],
        ["\n</think>\n\nSo.<｜end▁of▁sentence｜>"],
    ],
    ("gpt-oss", "plain"): [["<|channel|>final<|message|>Now.<|return|>"]],
    ("gpt-oss", "reasoning"): [
        [
            "<|channel|>analysis<|message|>The first.<|end|><|start|>assistant"
            "<|channel|>final<|message|>Now.<|return|>"
        ]
    ],
    ("gpt-oss", "tools and reasoning"): [
        [
            "<|channel|>analysis<|message|>A tide.<|end|><|start|>assistant to=functions.tide"
            '<|channel|>commentary json<|message|>{"at": "Brest"}<|call|>'
        ]
    ],
    ("gpt-oss", "tools, reasoning and an answer"): [
        [
            "<|channel|>analysis<|message|>A tide.<|end|><|start|>assistant to=functions.tide"
            '<|channel|>commentary json<|message|>{"at": "Brest"}<|call|>'
        ],
        ["<|channel|>final<|message|>At 16:40.<|return|>"],
    ],
    ("smollm3", "plain"): [["Now.<|im_end|>"]],
    ("smollm3", "reasoning"): [["<think>\nThe first.\n</think>\n\nNow.<|im_end|>"]],
    ("gemma", "system"): [["Now.<end_of_turn>"]],
    ("mistral", "turns"): [[" Now.</s>", " So.</s>"]],
    ("mistral", "tools and content"): [
        [' I look.[TOOL_CALLS] [{"name": "tide", "arguments": {"at": "Brest"}}]</s>']
    ],
    ("llama3", "turns"): [["Now.<|eot_id|>", "So.<|eot_id|>"]],
    ("phi-4", "plain"): [["Now.<|im_end|>"]],
    ("chatml", "reasoning"): [["<think>\nThe first.\n</think>\n\nNow.<|im_end|>"]],
}


@pytest.mark.parametrize(("name", "kind"), LEARNED, ids=lambda each: str(each))
def test_what_is_learned_is_what_the_model_writes(tmp_path: Path, name: str, kind: str) -> None:
    """The assistant's part and its stop token, no more and no less."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    result = prepared(tmp_path, [ROWS[kind]], tokenizer, stop_ids=family.stop_ids(tokenizer))
    assert [learned(each, tokenizer) for each in result.train] == LEARNED[name, kind]


FORMS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "content": lambda thought, text: said(f"<think>{thought}</think>{text}"),
    "reasoning_content": said,
    "reasoning": lambda thought, text: {**said(text), "reasoning": thought},
    "thinking": lambda thought, text: {**said(text), "thinking": thought},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_all_forms_of_reasoning_are_alike(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    rows = [{"messages": [user("Due?"), FORMS[form]("The first.", "Now.")]} for form in FORMS]
    rows[1] = ROWS["reasoning"]
    result = prepared(tmp_path, rows, tokenizer, stop_ids=family.stop_ids(tokenizer))
    assert result.report["rows_with_reasoning"] == len(FORMS)
    assert len({tuple(each.input_ids) for each in result.train}) == 1
    assert "The first." in "".join(learned(result.train[0], tokenizer))


@pytest.mark.parametrize("name", ["qwen3", "glm-4.5", "chatml", "deepseek-r1", "gpt-oss"])
def test_reasoning_as_context_or_dropped(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    keys = {"stop_ids": family.stop_ids(tokenizer)}
    row = ROWS["reasoning"]
    shown = prepared(tmp_path, [row], tokenizer, reasoning="context", **keys).train[0]
    whole = prepared(tmp_path, [row], tokenizer, **keys).train[0]
    assert shown.input_ids == whole.input_ids
    assert "".join(learned(shown, tokenizer)).startswith("Now.")
    dropped = prepared(tmp_path, [row], tokenizer, reasoning="drop", **keys)
    plain = prepared(tmp_path, [ROWS["plain"]], tokenizer, **keys)
    assert dropped.train[0].input_ids == plain.train[0].input_ids
    assert dropped.report["rows_with_reasoning"] == 0


def test_held_out_prompts_hold_no_reasoning_of_the_reference(tmp_path: Path) -> None:
    """D1: generated answers do not start from the gold thoughts."""
    for name in ("qwen3", "gpt-oss", "chatml"):
        family = FAMILIES[name]
        tokenizer = family.tokenizer()
        rows = [{"messages": [user(f"Due {n}?"), said("Now.", "The first.")]} for n in range(4)]
        result = prepared(tmp_path, rows, tokenizer, eval=2)
        for row in result.eval:
            assert "The first." not in tokenizer.decode(row.prompt_ids)
            assert row.reference == "Now."


@pytest.mark.parametrize(
    "mark",
    [{"weight": 0}, {"train": False}, {"loss": 0}, {"loss_mask": 0}, {"train_on_turn": False}],
    ids=str,
)
def test_a_masked_turn_is_context(tmp_path: Path, mark: dict[str, Any]) -> None:
    """D5: what a row says is not to be learned is shown, and no target."""
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    first, second = said("Now.", **mark), said("So.", weight=1)
    row = {"messages": [user("Due?"), first, user("Why?"), second]}
    for render in ("chat", "raw"):
        result = prepared(tmp_path, [row], tokenizer, render=render)
        assert learned(result.train[0], tokenizer) == ["So.<|im_end|>"]
        assert "Now." in tokenizer.decode(result.train[0].input_ids)
        assert result.report["unread_turn_keys"] == {}
    row = {"messages": [user("Due?"), second, user("Why?"), first]}
    result = prepared(tmp_path, [row], tokenizer)
    assert learned(result.train[0], tokenizer) == ["So.<|im_end|>"]
    with pytest.raises(DataError, match="no turn is learned"):
        prepared(tmp_path, [{"messages": [user("Due?"), first]}], tokenizer)


@pytest.mark.parametrize(
    ("marks", "problem"),
    [
        ({"weight": 2}, "'weight'"),
        ({"train": "no"}, "'train'"),
        ({"loss": 1, "train": 0}, "contra"),
    ],
    ids=str,
)
def test_a_mark_that_says_nothing_is_bad(
    tmp_path: Path, marks: dict[str, Any], problem: str
) -> None:
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    with pytest.raises(DataError, match=problem):
        prepared(tmp_path, [{"messages": [user("Due?"), said("Now.", **marks)]}], tokenizer)


def test_keys_of_turns_that_nothing_reads_are_named(tmp_path: Path) -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    turns = [{**user("Due?"), "mood": "kind"}, said("Now.", "One.", mood="kind", rank=1)]
    report = prepared(tmp_path, [{"messages": turns}], tokenizer).report
    assert report["unread_turn_keys"] == {"mood": 2, "rank": 1}
    assert (
        "keys of turns that nothing reads: 'mood' (2 turns), 'rank' (1 turn)" in report["warnings"]
    )


def test_reasoning_without_an_answer_is_bad(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is reasoning, but the answer is empty"):
        prepared(
            tmp_path,
            [{"messages": [user("Due?"), said("", "One.")]}],
            FAMILIES["qwen3"].tokenizer(),
        )


PAIR = {"prompt": "Due when?", "chosen": "On the first.", "rejected": "Never."}


def test_pairs_are_asked_for_with_the_argument_for_such_answers(tmp_path: Path) -> None:
    """DPO: the block of a template that can turn reasoning off belongs to the prompt, unless an
    answer has some; a reward model scores behind the prompt that the template writes by itself."""
    tokenizer = FAMILIES["qwen3"].tokenizer()
    reasoned = {**PAIR, "chosen": "<think>\nhm\n</think>\n\nOn the first."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(PAIR) + "\n", "utf-8")
    (tmp_path / "other.jsonl").write_text(json.dumps(reasoned) + "\n", "utf-8")
    ends = {}
    for name in ("rows", "other"):
        for apart in (True, False):
            data = DataSection(train=(f"{name}.jsonl",), eval=0)
            made = PreferenceData(Inputs(data, tokenizer, tmp_path, 7, 512), apart).prepare()
            ends[name, apart] = tokenizer.decode(made.train[0].prompt_ids)[-12:]
            wanted = {"enable_thinking": False} if name == "rows" and apart else {}
            assert made.sent.arguments == wanted
    assert ends.pop(("rows", True)).endswith("</think>\n\n")
    assert all(end.endswith("assistant\n") for end in ends.values())


def test_the_tokens_of_a_prompt_are_those_that_are_sent(tmp_path: Path) -> None:
    """Two line breaks at the end of a prompt are one token, in front of an answer they are two."""
    tokenizer = FAMILIES["qwen3"].tokenizer()
    tokenizer.add_tokens(["</think>"])
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    model = backend["model"]
    newline = "\u010a"  # how byte-level BPE spells a line break
    model["vocab"][newline * 2] = max(model["vocab"].values()) + 1000
    model["merges"].append([newline, newline])
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
    alone = tokenizer("</think>\n\n", add_special_tokens=False)["input_ids"]
    whole = tokenizer("</think>\n\nNow.", add_special_tokens=False)["input_ids"]
    assert whole[: len(alone)] != alone
    for kind in ("plain", "turns"):
        result = prepared(tmp_path, [ROWS[kind]], tokenizer)
        for example, turns in zip(result.train, (1, 3), strict=False):
            sent = Prompts(tokenizer, []).ids(
                ROWS[kind]["messages"][:turns], arguments={"enable_thinking": False}
            )
            assert example.input_ids[: len(sent)] == sent
            assert example.supervised.index(True) == len(sent)
    # Where one text has several answers, each becomes an example if a prompt among them changes.
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ':\n\n' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:\n\n' }}{% endif %}"
    )
    result = prepared(tmp_path, [ROWS["turns"]], tokenizer)
    assert [learned(each, tokenizer) for each in result.train] == [
        ["Now.<|im_end|>"],
        ["So.<|im_end|>"],
    ]
    for example, turns in zip(result.train, (1, 3), strict=True):
        sent = Prompts(tokenizer, []).ids(ROWS["turns"]["messages"][:turns])
        assert example.input_ids[: len(sent)] == sent


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "not text": ([user("q"), {**said("A"), "reasoning_content": ["x"]}], "is not text but list"),
    "twice": ([user("q"), {**said("A", "R"), "thinking": "S"}], "two different texts"),
    "twice inside": ([user("q"), said("<think>S</think>A", "R")], "two different texts"),
    "not closed": ([user("q"), said("<think>R")], "does not end"),
    "no answer": (
        [user("q"), {"role": "assistant", "reasoning_content": "R"}],
        "is reasoning, but",
    ),
    "no json": ([user("q"), said("", tool_calls=[_call("no json")])], "are not JSON"),
    "no object": ([user("q"), said("", tool_calls=[_call("[1]")])], "are not an object"),
    "no arguments": ([user("q"), said("", tool_calls=[{"name": "t"}])], "are not an object"),
    "no name": ([user("q"), said("", tool_calls=[{"arguments": {}}])], "has no name"),
    "no list": ([user("q"), said("", tool_calls="x")], "not a list of objects"),
    "a user's call": (
        [{**user("q"), "tool_calls": [CALL]}, said("A")],
        "a user turn has tool calls",
    ),
    "no call": ([user("q"), {"role": "tool", "content": "5"}, said("A")], "after a call"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_turn_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    turns, problem = BAD[kind]
    with pytest.raises(DataError, match=problem):
        prepared(tmp_path, [{"messages": turns}], FAMILIES["qwen3"].tokenizer())


def test_reasoning_that_its_prompt_began_is_reasoning(tmp_path: Path) -> None:
    """What DeepSeek-R1 writes, as it is often saved."""
    tokenizer = FAMILIES["deepseek-r1"].tokenizer()
    rows = [{"messages": [user("q"), said(text)]} for text in ("R</think>A", "<think>R</think>A")]
    one, other = prepared(tmp_path, rows, tokenizer).train
    assert one.input_ids == other.input_ids


def test_reasoning_of_plain_rows_may_be_context(tmp_path: Path) -> None:
    keys = {"render": "raw", "reasoning": "context"}
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    row = prepared(tmp_path, [ROWS["reasoning"]], tokenizer, **keys).train[0]
    assert learned(row, tokenizer) == ["Now.<|im_end|>"]
    assert "The first." in tokenizer.decode(row.input_ids)


def test_a_template_that_keeps_reasoning_inside_the_answer(tmp_path: Path) -> None:
    """Its prompt opens the reasoning; of a row without, the answered chat does not show that."""
    tokenizer = FAMILIES["deepseek-r1"].tokenizer()
    source = tokenizer.chat_template
    tokenizer.chat_template = source.replace("turn.content.split('</think>')[-1]", "turn.content")
    assert tokenizer.chat_template != source
    for kind, answer in (
        ("plain", "\n</think>\n\nNow."),
        ("reasoning", "The first.\n</think>\n\nNow."),
    ):
        (row,) = prepared(tmp_path, [ROWS[kind]], tokenizer).train
        assert learned(row, tokenizer) == [answer + "<｜end▁of▁sentence｜>"]
