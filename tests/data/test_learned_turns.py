"""Which turns of a conversation are learned, the system turn, and reasoning from a column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import REFUSED, ROWS, said, user
from tests.data.test_masks import learned, prepared
from tests.tokenizers import make_tokenizer
from tuner.data.chat.system_turn import with_system
from tuner.data.tokens.conversation import Prompts
from tuner.errors import DataError, RecipeError, TunerError
from tuner.recipe.schema import DataSection

SYSTEM = {"role": "system", "content": "Be brief."}
ROW = {"messages": [SYSTEM, user("Due?"), said("Now."), user("Why?"), said("So."), user("Ah!")]}
END = "<|im_end|>"
LEARNED: dict[str, tuple[Any, list[str]]] = {
    "answers": ("answers", ["Now.", "So."]),
    "last_answer": ("last_answer", ["So."]),
    "all": ("all", ["Be brief.", "Due?", "Now.", "Why?", "So.", "Ah!"]),
    "roles": ({"roles": ["user"]}, ["Due?", "Why?", "Ah!"]),
    "two roles": ({"roles": ["system", "assistant"]}, ["Be brief.", "Now.", "So."]),
}


@pytest.mark.parametrize("kind", LEARNED)
def test_the_turns_that_the_recipe_names_are_learned(tmp_path: Path, kind: str) -> None:
    learn, wanted = LEARNED[kind]
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    (example,) = prepared(tmp_path, [ROW], tokenizer, learn=learn).train
    assert learned(example, tokenizer) == [text + END for text in wanted]
    assert ("Ah!" in tokenizer.decode(example.input_ids)) == ("Ah!" in wanted)
    raw = prepared(tmp_path, [ROW], tokenizer, learn=learn, render="raw").train[0]
    # Nothing comes before the first token of a plain text that could predict it.
    assert "".join(learned(raw, tokenizer)) == "".join(wanted).removeprefix("B") + END


@pytest.mark.parametrize("name", FAMILIES)
def test_every_turn_is_learned_once_in_every_family(tmp_path: Path, name: str) -> None:
    """Where each answer is an example of its own (reasoning), too."""
    family = FAMILIES[name]
    tokenizer, turns = family.tokenizer(), [user("Due?"), said("Now."), user("Why?"), said("So.")]
    keys = {"stop_ids": family.stop_ids(tokenizer), "learn": "all"}
    reasoned = [user("Due?"), said("Now.", "One."), user("Why?"), said("So.", "Two.")]
    for messages in (turns, reasoned):
        result = prepared(tmp_path, [{"messages": messages}], tokenizer, **keys)
        text = "".join(each for row in result.train for each in learned(row, tokenizer))
        assert [text.count(said) for said in ("Due?", "Now.", "Why?", "So.")] == [1, 1, 1, 1]
        plain = prepared(tmp_path, [{"messages": messages}], tokenizer, stop_ids=keys["stop_ids"])
        assert [row.input_ids for row in result.train] == [row.input_ids for row in plain.train]


def test_reasoning_counts_where_another_turn_is_last(tmp_path: Path) -> None:
    turns = [user("Due?"), said("Now.", "One."), user("Ah!")]
    result = prepared(tmp_path, [{"messages": turns}], FAMILIES["qwen3"].tokenizer(), learn="all")
    assert result.report["rows_with_reasoning"] == 1
    assert result.sent.arguments == {}


def test_results_of_tools_are_learned_if_named(tmp_path: Path) -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    learn = {"roles": ["assistant", "tool"]}
    result = prepared(tmp_path, [ROWS["tools"]], tokenizer, learn=learn)
    assert [learned(row, tokenizer)[-1] for row in result.train][-1] == "At 16:40." + END
    text = "".join(each for row in result.train for each in learned(row, tokenizer))
    assert text.count("16:40") == 2
    assert "Due when?" not in text


def test_a_key_of_a_turn_comes_first(tmp_path: Path) -> None:
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    turns = [user("Due?") | {"train": True}, said("Now."), user("Why?"), said("So.", weight=0)]
    row = {"messages": turns}
    for learn, wanted in (("answers", ["Due?", "Now."]), ("all", ["Due?", "Now.", "Why?"])):
        result = prepared(tmp_path, [row], tokenizer, learn=learn)
        assert learned(result.train[0], tokenizer) == [text + END for text in wanted]
    result = prepared(tmp_path, [row], tokenizer, learn="last_answer")
    assert learned(result.train[0], tokenizer) == ["Due?" + END, "Now." + END]
    assert result.report["turns_learned_by_key"] == 1
    assert any("a key of theirs" in text for text in result.report["warnings"])


@pytest.mark.parametrize("render", ["chat", "raw"])
def test_weights_of_tokens(tmp_path: Path, render: str) -> None:
    """A fraction weighs the turn's tokens, its stop token among them, also if it was appended."""
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    turns = [user("Due?"), said("Now.", weight=0.5), user("Why?"), said("So.", loss=0.25)]
    (row,) = prepared(tmp_path, [{"messages": turns}], tokenizer, render=render).train
    weights = [w for w, flag in zip(row.weights, row.supervised, strict=True) if flag]
    texts = [tokenizer.decode([row.input_ids[n]]) for n, flag in enumerate(row.supervised) if flag]
    cut = texts.index("So") if "So" in texts else next(n for n, t in enumerate(texts) if t == "S")
    assert weights == [0.5] * cut + [0.25] * (len(weights) - cut)
    assert texts[-1] == END
    assert row.weight == sum(weights)
    keys: dict[str, Any] = {"max_length": len(row.input_ids) - 1, "cut": "answer"}
    (cropped,) = prepared(tmp_path, [{"messages": turns}], tokenizer, render=render, **keys).train
    assert cropped.weights == row.weights[: len(cropped.input_ids)]


def test_a_row_without_a_named_role_is_bad(tmp_path: Path) -> None:
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [ROW], tokenizer, learn={"roles": ["tool"]})
    assert "data.learn names only tool" in str(caught.value.problems) + caught.value.why


def test_a_turn_whose_text_the_template_changes_is_not_guessed(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content'] +", "message['content'].replace('u', 'U') +"
    )
    prepared(tmp_path, [{"messages": [user("Due?"), said("Now.")]}], tokenizer)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [{"messages": [user("Due?"), said("Now.")]}], tokenizer, learn="all")
    assert "changes the text of turns" in str(caught.value.problems) + caught.value.why


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("answer", "did you mean"),
        ({"roles": ["asistant"]}, "did you mean 'assistant'"),
        ({"roles": []}, "expected roles"),
        ({"role": ["user"]}, "or a mapping"),
        (3, "or a mapping"),
    ],
    ids=str,
)
def test_what_learn_takes(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        DataSection(train=("a.jsonl",), learn=value)


@pytest.mark.parametrize("key", ["learn", "system", "reasoning_column"])
def test_plain_text_has_no_turns(tmp_path: Path, key: str) -> None:
    given: dict[str, Any] = {"learn": "all", "system": "Be brief.", "reasoning_column": "note"}
    rows = [{"text": "One.", "note": "9"}]
    with pytest.raises((RecipeError, DataError)) as caught:
        prepared(tmp_path, rows, make_tokenizer("plain"), **{key: given[key]})
    assert f"data.{key}" in str(caught.value)
    assert "no turns" in caught.value.why


PLAIN = {"messages": [user("Due?"), said("Now.")]}
TEXT = 'Be "brief",\nand 你好 __init__.'


@pytest.mark.parametrize("name", [name for name in FAMILIES if (name, "system") not in REFUSED])
def test_a_system_turn_is_sent_where_there_is_none(tmp_path: Path, name: str) -> None:
    """Trained with it, sent without: the same prompt; a turn that is there comes first."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    stops = family.stop_ids(tokenizer)
    own = {"messages": [SYSTEM, *PLAIN["messages"]]}
    result = prepared(tmp_path, [PLAIN, own], tokenizer, stop_ids=stops, system=TEXT)
    assert result.chat_template
    tokenizer.chat_template = with_system(result.chat_template, TEXT)
    prompts = Prompts(tokenizer, stops)
    arguments = prompts.template.arguments(False) if prompts.template else {}
    for turns, example in zip(([], [SYSTEM]), result.train, strict=True):
        sent = prompts.ids([*turns, user("Due?")], None, arguments)
        assert example.input_ids[: len(sent)] == sent
        text = tokenizer.decode(sent)
        assert (TEXT in text, "Be brief." in text) == (not turns, bool(turns))


def test_a_template_without_a_system_turn_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("chatml")
    whole = tokenizer.chat_template
    eats = whole.replace(
        "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
    )
    raises = (
        "{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + whole
    )
    for template, why in (
        (eats, "leaves the system turn out"),
        (raises, "System role not supported"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(RecipeError, match=r"data\.system.*no system turn") as caught:
            prepared(tmp_path, [PLAIN], tokenizer, system="Be brief.", max_bad_rows=5)
        assert why in caught.value.why
    tokenizer.chat_template = whole
    with pytest.raises(RecipeError, match="special token"):
        prepared(tmp_path, [PLAIN], tokenizer, system="Be <|im_end|> brief.")


def test_reasoning_from_a_column(tmp_path: Path) -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    keys: dict[str, Any] = {"reasoning_column": "thought"}
    wanted = "<think>\nThe first.\n</think>\n\nNow." + END
    for row in (
        {"prompt": "Due?", "completion": "Now."},
        {"instruction": "Due?", "output": "Now."},
        {"question": "Due?", "answer": "Now."} | {"context": "A lease."},
        {"messages": [user("Due?"), said("So."), user("And?"), said("Now.")]},
        {"messages": [user("Due?"), said("Now.", "The first.")]},
    ):
        result = prepared(tmp_path, [row | {"thought": "The first.\n"}], tokenizer, **keys)
        assert learned(result.train[-1], tokenizer) == [wanted]
        assert result.report["rows_with_reasoning"] == 1
        assert result.report["ignored_columns"] == []
    rows = [{"prompt": "Due?", "completion": "Now.", "thought": t} for t in ("", None, " \n", "R")]
    assert prepared(tmp_path, rows, tokenizer, **keys).report["rows_with_reasoning"] == 1


BAD_REASONING = [
    ({"prompt": "q", "completion": "a", "thought": 3}, "'thought' is not text"),
    ({"messages": [user("q"), said("a", "S")], "thought": "R"}, "different reasoning"),
    ({"prompt": "q", "completion": "", "thought": "R"}, "empty"),
]


@pytest.mark.parametrize(("row", "problem"), BAD_REASONING, ids=lambda each: str(each)[-20:])
def test_a_column_that_is_no_reasoning_is_bad(
    tmp_path: Path, row: dict[str, Any], problem: str
) -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    with pytest.raises(TunerError) as caught:
        prepared(tmp_path, [row], tokenizer, reasoning_column="thought")
    assert problem in str(caught.value.problems) + caught.value.why
    with pytest.raises(DataError, match="no column 'thougt'") as caught:
        prepared(tmp_path, [row], tokenizer, reasoning_column="thougt")
    assert "did you mean 'thought'" in caught.value.fix


@pytest.mark.parametrize("kind", ["turns", "turns with reasoning", "tools"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_in_the_middle_is_learned_like_a_last_one(
    tmp_path: Path, name: str, kind: str
) -> None:
    """The same text and a stop token; what comes behind that is context, as it is at the end."""
    family, row = FAMILIES[name], ROWS[kind]
    if (name, kind) in REFUSED:
        return
    tokenizer = family.tokenizer()

    def answers(turns: int) -> list[str]:
        part = {**row, "messages": row["messages"][:turns]}
        made = prepared(tmp_path, [part], tokenizer, stop_ids=family.stop_ids(tokenizer))
        assert made.report["rows_with_unended_answers"] == 0
        return [text for each in made.train for text in learned(each, tokenizer)]

    ends = [n for n, turn in enumerate(row["messages"], 1) if turn["role"] == "assistant"]
    stops = (family.specials[0], *family.stops)
    for middle, last in zip(answers(ends[-1]), [answers(n)[-1] for n in ends], strict=True):
        assert middle.endswith(stops)
        assert last.endswith(stops)
        if middle != last:
            # GLM's stop token opens the next turn.
            assert (
                len({re.sub("|".join(map(re.escape, stops)), "", t) for t in (middle, last)}) == 1
            )
