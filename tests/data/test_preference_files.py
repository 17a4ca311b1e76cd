"""Preference files as users bring them: which answer is the better one is never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import TOOL, said
from tests.data.test_preferences import prepared
from tests.tokenizers import make_tokenizer
from tuner.data.columns.template_match import NONE
from tuner.errors import DataError

ASKED, GOOD, BAD = "How deep is the harbour?", "Nine metres at low water.", "Deep."
USER = {"role": "user", "content": ASKED}
EARLIER = [["Where is the harbour?", "South of the old town."]]
BEFORE = [
    {"role": "user", "content": EARLIER[0][0]},
    {"role": "assistant", "content": EARLIER[0][1]},
]
NUMBERED = {"instruction": ASKED, "output_1": BAD, "output_2": GOOD}
LETTERED = {"question": ASKED, "response_a": GOOD, "response_b": BAD}
FILES: dict[str, dict[str, Any]] = {
    "number": {**NUMBERED, "preference": 2},
    "number of a table": {**NUMBERED, "preference": 2.0},
    "text of a table": {**NUMBERED, "preference": "2"},
    "name of the column": {**NUMBERED, "winner": "output_2"},
    "letter for numbers": {**NUMBERED, "better": "B"},
    "letter": {**LETTERED, "winner": "a"},
    "capital": {**LETTERED, "Winner": "A"},
    "model": {**LETTERED, "winner": "model_a"},
    "other case": {
        "Prompt": ASKED,
        "Response A": GOOD,
        "Response B": BAD,
        "Preferred": "Response A",
    },
    "from zero": {"prompt": ASKED, "response_0": BAD, "response_1": GOOD, "better_response_id": 1},
    "chinese": {"问题": ASKED, "回答1": BAD, "回答2": GOOD, "偏好": "回答2"},
    "chinese letters": {"指令": ASKED, "回答甲": GOOD, "回答乙": BAD, "胜者": "甲"},
    "scored": {**LETTERED, "score_a": 8, "score_b": 2},
    "scores as text": {**NUMBERED, "output_1_score": "1.5", "output_2_score": "3"},
    "chinese scores": {"提示": ASKED, "回答A": GOOD, "回答B": BAD, "评分A": 9, "评分B": 1},
    "scores in a list": {"query": ASKED, "Responses": [BAD, GOOD], "ratings": [1, 5]},
    "scores of answers": {
        "instruction": ASKED,
        "completions": [
            {"response": BAD, "overall_score": 1},
            {"response": GOOD, "overall_score": 4},
        ],
    },
    "ranks of answers": {
        "prompt": ASKED,
        "answers": [{"text": BAD, "rank": 2}, {"text": GOOD, "rank": 1}],
    },
    "best first": {"instruction": ASKED, "input": "", "output": [GOOD, BAD]},
    "pair with a question": {"question": ASKED, "chosen": GOOD, "rejected": BAD},
    "pair with an instruction": {"instruction": ASKED, "Chosen": GOOD, "Rejected": BAD},
    "pair of other names": {"prompt": ASKED, "better": GOOD, "worse": BAD},
    "pair in chinese": {"提示词": ASKED, "优选": GOOD, "拒绝": BAD},
    "pair with agreeing scores": {
        **{"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
        **{"score_chosen": 8.5, "score_rejected": 3},
    },
    "turns next to a list of them": {
        "conversations": [{"from": "human", "value": ASKED}],
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "turns as JSON text": {
        "chosen": json.dumps([USER, {"role": "assistant", "content": GOOD}]),
        "rejected": json.dumps([USER, {"role": "assistant", "content": BAD}]),
    },
    "whole chats": {
        "conversation_a": [USER, {"role": "assistant", "content": GOOD}],
        "conversation_b": [USER, {"role": "assistant", "content": BAD}],
        "winner": "model_a",
    },
    "marks": {
        "chosen": f"[客户]{ASKED}[律师]{GOOD}",
        "rejected": f"[客户]{ASKED}[律师]{BAD}",
    },
    "marks on lines": {
        "chosen": f"User: {ASKED}\nBot: {GOOD}",
        "rejected": f"User: {ASKED}\nBot: {BAD}",
    },
}


@pytest.mark.parametrize("name", FILES)
def test_the_better_answer_is_found(tmp_path: Path, name: str) -> None:
    (ranking,) = prepared(tmp_path, [FILES[name]]).train
    ((better, worse, _),) = ranking.pairs
    assert (ranking.texts[better], ranking.texts[worse]) == (GOOD, BAD)
    assert ranking.messages == (USER,)


WHOLE: dict[str, dict[str, Any]] = {
    "ranking": {"instruction": ASKED, "output": [GOOD, BAD]},
    "pair": {"instruction": ASKED, "chosen": GOOD, "rejected": BAD},
    "winner": {**NUMBERED, "preference": 2},
    "scores": {**LETTERED, "score_a": 2, "score_b": 1},
    "turns": {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
}


@pytest.mark.parametrize("history", [EARLIER, BEFORE, json.dumps(EARLIER)])
@pytest.mark.parametrize("name", WHOLE)
def test_all_parts_of_a_prompt_are_in_it(tmp_path: Path, name: str, history: Any) -> None:
    """Of every answer: the system text, what was said before, and what the question is about."""
    row = {**WHOLE[name], "system_prompt": "Be exact.", "History": history, "input": "Sutton Pool"}
    result = prepared(tmp_path, [row])
    asked = {"role": "user", "content": f"{ASKED}\n\nSutton Pool"}
    system = {"role": "system", "content": "Be exact."}
    assert result.train[0].messages == (system, *BEFORE, asked)
    assert result.report["ignored_columns"] == []
    texts = {make_tokenizer("chatml").decode(ids) for ids in result.train[0].answers}
    assert all(part in text for text in texts for part in ("Be exact.", "old town", "Sutton"))
    bare = prepared(tmp_path, [row], columns={"history": NONE, "input": NONE, "system": NONE})
    assert bare.train[0].messages == (USER,)


def test_ties_are_counted(tmp_path: Path) -> None:
    ties = ("tie", "Tie (bothbad)", "", None, "平局")
    rows = [{**LETTERED, "winner": "a"}, *({**LETTERED, "winner": tie} for tie in ties)]
    rows += [{**LETTERED, "question": f"{n}?", "winner": "b"} for n in range(3)]
    report = prepared(tmp_path, rows).report
    assert (report["tied_rows"], report["pairs_train"], report["unpaired_rows"]) == (5, 4, 0)
    assert any(
        "5 rows left out: a tie: of two answers, neither" in text for text in report["warnings"]
    )
    scored = [{**LETTERED, "question": f"{n}?", "score_a": 1, "score_b": n} for n in range(3)]
    assert prepared(tmp_path, scored).report["tied_rows"] == 1
    zero = [{**NUMBERED, "instruction": f"{n}?", "preference": n} for n in range(3)]
    assert prepared(tmp_path, zero).report["tied_rows"] == 1
    with pytest.raises(DataError, match="none of its 5 rows can be paired"):
        prepared(tmp_path, rows[1:6])


def lines(error: DataError) -> list[dict[str, str]]:
    """The values of `data.columns` that the fix of an error prints."""
    found = [line.split("data.columns: ")[1] for line in error.fix.splitlines()[1:]]
    return [yaml.safe_load(each) for each in found]


def test_a_winner_that_can_be_read_in_two_ways_is_refused(tmp_path: Path) -> None:
    """Numbers from 0 for answers A and B: the error prints both readings, and each works."""
    base = {"history": ASKED, "human_ref_A": GOOD, "human_ref_B": BAD}
    rows = [{**base, "labels": 1}, {**base, "history": "Else?", "labels": 0}]
    with pytest.raises(DataError, match="can be read in two ways") as caught:
        prepared(tmp_path, rows, columns={"prompt": "history"})
    for columns, texts in zip(lines(caught.value), ((BAD, GOOD), (GOOD, BAD)), strict=True):
        made = prepared(tmp_path, rows, columns={"prompt": "history", **columns})
        assert made.train[0].texts == texts
    mixed = [{**row, "score_A": 2, "score_B": 1} for row in rows]
    with pytest.raises(DataError, match="can be read in two ways") as caught:
        prepared(tmp_path, mixed)
    made = prepared(tmp_path, mixed, columns=lines(caught.value)[2])
    assert made.train[0].texts == (GOOD, BAD)
    flags = [{**row, "labels": bool(row["labels"])} for row in rows]
    with pytest.raises(DataError, match="can be read in two ways"):
        prepared(tmp_path, flags, columns={"prompt": "history"})


@pytest.mark.parametrize("better", [0, 1, False, True])
def test_scores_say_which_answer_a_number_means(tmp_path: Path, better: Any) -> None:
    """SHP: `labels` is 1 where the first answer has the higher score; its prompt is `history`."""
    first = {"history": ASKED, "human_ref_A": GOOD, "human_ref_B": BAD, "score_A": 9, "score_B": 2}
    second = {**first, "history": "Else?", "score_A": 1}
    rows = [{**first, "labels": better}, {**second, "labels": type(better)(1 - better)}]
    made = prepared(tmp_path, rows).train
    assert [each.texts for each in made] == [(GOOD, BAD), (BAD, GOOD)]
    assert made[0].messages == (USER,)


THUMBS = {"prompt": ASKED, "response": GOOD}


@pytest.mark.parametrize(
    ("name", "good", "bad", "asks"),
    [
        ("feedback", "great", "poor", True),
        ("is_toxic", False, True, True),
        ("is_correct", True, False, True),
        ("is_bad", 0, 1, False),
        ("评价", "满意", "不满意", False),
    ],
)
def test_thumbs_in_other_words_are_never_upside_down(
    tmp_path: Path, name: str, good: Any, bad: Any, asks: bool
) -> None:
    rows = [{**THUMBS, name: good}, {**THUMBS, "response": BAD, name: bad}]
    made = None if asks else prepared(tmp_path, rows)
    if asks:
        with pytest.raises(DataError, match="no format of preference data fits") as caught:
            prepared(tmp_path, rows)
        fix = [line.strip() for line in caught.value.fix.splitlines()[1:]]
        if name == "feedback":
            line = next(yaml.safe_load(each[6:]) for each in fix if "great: good" in each)
            made = prepared(tmp_path, rows, **line)
        else:
            made = prepared(tmp_path, rows, columns=lines(caught.value)[0])
    assert made is not None
    assert made.train[0].texts == (GOOD, BAD)


def test_a_score_of_one_answer_is_no_comparison(tmp_path: Path) -> None:
    """The error says what the rows are good for, and the form that it names is read."""
    row = {"prompt": ASKED, "response": GOOD, "helpfulness": 4, "verbosity": 1}
    with pytest.raises(DataError, match="needs two answers to the same prompt") as caught:
        prepared(tmp_path, [row, {**row, "helpfulness": 0}])
    assert "helpfulness (0 to 4), verbosity (1 to 1)" in caught.value.why
    made = prepared(tmp_path, [{"prompt": ASKED, "answers": [BAD, GOOD], "scores": [1, 4]}])
    assert made.train[0].texts[made.train[0].pairs[0][0]] == GOOD


@pytest.mark.parametrize("row", [LETTERED, NUMBERED, {**LETTERED, "score_a": 3}])
def test_two_answers_of_which_none_is_named_are_refused(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="no format of preference data fits") as caught:
        prepared(tmp_path, [row])
    assert "are two answers, and none is called better" in caught.value.problems[1]
    wanted, scores = lines(caught.value)
    # A score of one answer alone says nothing.
    wanted |= {"winner": "mine"} | ({"score_a": "none"} if "score_a" in row else {})
    assert prepared(tmp_path, [{**row, "mine": "B"}], columns=wanted).train
    graded = {**row, "x": 1, "y": 2}
    assert prepared(tmp_path, [graded], columns=dict(zip(scores, "xy", strict=True))).train


def test_a_winner_by_the_name_of_its_model(tmp_path: Path) -> None:
    """The line of the error names the answers; what is neither of them is a bad row, unless all
    are."""
    base = {"instruction": ASKED, "gpt4_output": GOOD, "small-llama_output": BAD}
    won = ("gpt4", "Small Llama", "tie", None)
    rows = [{**base, "instruction": f"{n}?", "best": each} for n, each in enumerate(won)]
    with pytest.raises(DataError, match="no format of preference data fits") as caught:
        prepared(tmp_path, rows)
    (columns,) = lines(caught.value)
    made = prepared(tmp_path, rows, columns=columns)
    assert [each.texts for each in made.train] == [(GOOD, BAD), (BAD, GOOD)]
    assert made.report["tied_rows"] == 2
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [*rows, {**base, "best": "c"}], columns=columns)
    assert caught.value.problems == [
        "the winner 'c' is none of the two answers, and no tie: rows.jsonl:5"
    ]
    with pytest.raises(DataError, match="'winner' names neither of the two answers") as caught:
        prepared(tmp_path, [{**LETTERED, "winner": word} for word in ("gpt4", "llama", "tie")])
    assert "max_bad_rows" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {**LETTERED, "winner": "a", "score_a": 1, "score_b": 2},
            "the better answer has the lower score",
        ),
        (
            {
                "prompt": ASKED,
                "chosen": GOOD,
                "rejected": BAD,
                "chosen_score": 1,
                "rejected_score": 2,
            },
            "the better answer has the lower score",
        ),
        ({**LETTERED, "response_b": GOOD, "winner": "a"}, "response_a and response_b are the same"),
        (
            {"prompt": ASKED, "answers": [{"text": GOOD, "rank": 1}, {"text": BAD, "rank": 1}]},
            "two answers have the same rank",
        ),
        (
            {"instruction": ASKED, "chosen": GOOD, "rejected": BAD, "history": ["x"]},
            "history is not a list of pairs of texts",
        ),
    ],
)
def test_rows_that_contradict_themselves(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [row])
    assert caught.value.problems == [f"{problem}: rows.jsonl:1"]


def test_a_part_of_the_task_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    """The lines of the error read it, or leave it out; bookkeeping is only listed."""
    row = {"prompt": ASKED, "context": "Sutton Pool", "chosen": GOOD, "rejected": BAD, "id": 7}
    with pytest.raises(DataError, match="part of the task would not be used: context") as caught:
        prepared(tmp_path, [row])
    read, left_out = lines(caught.value)
    used = prepared(tmp_path, [row], columns=read)
    assert used.train[0].prompt_text == f"{ASKED}\n\nSutton Pool"
    assert used.report["ignored_columns"] == ["id"]
    bare = prepared(tmp_path, [row], columns=left_out)
    assert bare.train[0].prompt_text == ASKED
    assert bare.report["ignored_columns"] == ["context", "id"]
    texts = {f"response_{letter}": f"{letter} metres" for letter in "abc"}
    three = {"question": ASKED, **texts, "chosen": GOOD, "rejected": BAD}
    with pytest.raises(DataError, match="response_a, response_b, response_c"):
        prepared(tmp_path, [three])


def test_a_column_that_says_the_same_again_is_no_part_of_the_task(tmp_path: Path) -> None:
    chats = [[USER, {"role": "assistant", "content": said}] for said in (GOOD, BAD)]
    row = {"prompt": ASKED, "chosen": chats[0], "rejected": chats[1], "messages": chats[0]}
    assert prepared(tmp_path, [row]).report["ignored_columns"] == ["messages"]
    other = {**row, "messages": [{"role": "user", "content": "Else?"}]}
    with pytest.raises(DataError, match="would not be used: messages"):
        prepared(tmp_path, [other])


def test_a_text_without_marks_among_marked_ones_is_a_bad_row(tmp_path: Path) -> None:
    """It is not taken for an answer whose prompt is how both begin."""
    rows = [FILES["marks"], {**FILES["marks"], "chosen": f"[客户]{ASKED}[律师]Ten."}]
    rows.append({"chosen": "Ask me that again.", "rejected": "Ask me."})
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows)
    assert caught.value.problems == [
        "chosen has no marks of speakers, which other rows have: rows.jsonl:3"
    ]


def test_a_named_format_takes_marked_texts_as_they_are(tmp_path: Path) -> None:
    """A recipe that names it, and a run of an earlier version, read what they read."""
    row = {"prompt": "<user>Go?<bot>", "chosen": GOOD, "rejected": BAD}
    assert prepared(tmp_path, [row], template="pairs").train[0].prompt_text == "<user>Go?<bot>"
    assert prepared(tmp_path, [row]).train[0].prompt_text == "Go?"


def test_a_mark_on_the_line_after_an_answer_is_text_where_turns_are_apart(tmp_path: Path) -> None:
    """In hh-rlhf's form, as in earlier versions."""
    before = f"\n\nHuman: {ASKED}\n\nAssistant: "
    row = {"chosen": f"{before}{GOOD}\nAssistant: Bye.", "rejected": before + BAD}
    (ranking,) = prepared(tmp_path, [row]).train
    assert ranking.texts == (f"{GOOD}\nAssistant: Bye.", BAD)


def test_calls_of_a_pair_are_calls(tmp_path: Path) -> None:
    """Their arguments as text or as an object: once, and as the family writes them."""
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    rows = []
    for given in ({"at": "Brest"}, json.dumps({"at": "Brest"})):
        call = {"type": "function", "id": "c", "function": {"name": "tide", "arguments": given}}
        chosen = {"role": "assistant", "content": None, "tool_calls": [call]}
        row = {"tools": [TOOL], "prompt": [USER], "chosen": [chosen], "rejected": [said(BAD)]}
        rows.append(row)
    one, other = (prepared(tmp_path, [row], tokenizer).train[0] for row in rows)
    assert one.answers == other.answers
    call_text = (
        '<tool_call>\n{"name": "tide", "arguments": {"at": "Brest"}}\n</tool_call><|im_end|>'
    )
    assert tokenizer.decode(one.answers[0][len(one.prompt_ids) :]) == call_text


@pytest.mark.parametrize("name", ["qwen3", "qwen2.5", "deepseek-r1", "gpt-oss"])
def test_reasoning_of_a_pair_belongs_to_its_answers(tmp_path: Path, name: str) -> None:
    """In a field or in the text, in both answers or in one; the prompt is the same for both."""
    tokenizer = FAMILIES[name].tokenizer()
    fields = {
        "prompt": [USER],
        "chosen": [said(GOOD, "Be kind.")],
        "rejected": [said(GOOD, "Be rude.")],
    }
    (ranking,) = prepared(tmp_path, [fields], tokenizer).train
    texts = [tokenizer.decode(ids[len(ranking.prompt_ids) :]) for ids in ranking.answers]
    assert ["Be kind." in texts[0], "Be rude." in texts[1]] == [True, True]
    assert all(GOOD in text for text in texts)
    assert "Be " not in tokenizer.decode(ranking.prompt_ids)
    inside = {
        "prompt": ASKED,
        "chosen": f"<think>\nBe kind.\n</think>\n\n{GOOD}",
        "rejected": f"<think>\nBe rude.\n</think>\n\n{GOOD}",
    }
    assert prepared(tmp_path, [inside], tokenizer).train[0].answers == ranking.answers
    half = {**inside, "rejected": BAD}
    assert prepared(tmp_path, [half], tokenizer).train[0].texts == (GOOD, BAD)
