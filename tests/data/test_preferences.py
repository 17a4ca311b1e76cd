"""Preference data: formats, pairs, bad rows, the split by prompt, and the answers' token ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizers import BOS_TEMPLATE, THINK_TEMPLATE, make_tokenizer
from tuner.data.preferences import PreferenceData, Ranking
from tuner.data.tokens.conversation import Prompts
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

PROMPT = "When is the rent due?"
GOOD, BAD = "On the first day of each month.", "Never."
USER, YES, NO = (
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": GOOD},
    {"role": "assistant", "content": BAD},
)
EARLIER = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hi."},
]

HH = "hh-rlhf-harmless/harmless_base_test.jsonl"


def prepared(folder: Path, rows: Sequence[Any], tokenizer: Any = None, **keys: Any) -> Prepared:
    """Prepare rows, and `held` for an eval file, without an eval split unless asked for."""
    context = keys.pop("context", 2048)
    write(folder / "rows.jsonl", rows)
    if "held" in keys:
        write(folder / "held.jsonl", keys.pop("held"))
        keys["eval"] = "held.jsonl"
    data = DataSection(**({"train": ["rows.jsonl"], "eval": 0} | keys))
    tokenizer = tokenizer or make_tokenizer("chatml")
    return PreferenceData(Inputs(data, tokenizer, folder, 7, context)).prepare()


def write(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def said(ranking: Ranking, tokenizer: Any = None) -> list[str]:
    """Each answer of a ranking without its prompt, decoded."""
    tokenizer = tokenizer or make_tokenizer("chatml")
    start = len(ranking.prompt_ids)
    return [tokenizer.decode(ids[start:]) for ids in ranking.answers]


def pair(number: int) -> dict[str, str]:
    return {
        "prompt": f"Question {number}?",
        "chosen": "Yes, of course.",
        "rejected": f"No {number}",
    }


SHARE = [{"from": "human", "value": PROMPT}]
HUMAN = f"\n\nHuman: {PROMPT}\n\nAssistant:"
PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": PROMPT, "chosen": GOOD, "rejected": BAD},
    "prompt as messages": {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
    "answers as messages": {"prompt": PROMPT, "chosen": [YES], "rejected": [NO]},
    "whole conversations": {"chosen": [USER, YES], "rejected": [USER, NO]},
    "whole beside a prompt": {"prompt": PROMPT, "chosen": [USER, YES], "rejected": [USER, NO]},
    "transcripts": {"chosen": f"{HUMAN} {GOOD}", "rejected": f"{HUMAN} {BAD}"},
    "transcripts beside one": {
        "prompt": HUMAN,
        "chosen": f"{HUMAN} {GOOD}",
        "rejected": f"{HUMAN} {BAD}",
    },
    "prompt as transcript": {"prompt": HUMAN, "chosen": GOOD, "rejected": BAD},
    "from and value": {
        "conversations": SHARE,
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "two answers ranked": {"prompt": PROMPT, "answers": [GOOD, BAD]},
    "scored": {"prompt": PROMPT, "answers": [BAD, GOOD], "scores": [1, 3]},
}


@pytest.mark.parametrize("name", PAIRS)
def test_formats_mean_the_same(tmp_path: Path, name: str) -> None:
    """R04: the better answer is the better one in every format, after the same prompt."""
    (ranking,) = prepared(tmp_path, [PAIRS[name]]).train
    ((better, worse, _),) = ranking.pairs
    assert said(ranking)[better] == GOOD + "<|im_end|>"
    assert said(ranking)[worse] == BAD + "<|im_end|>"
    assert (ranking.texts[better], ranking.texts[worse]) == (GOOD, BAD)
    assert ranking.messages == (USER,)
    assert ranking.prompt_text == PROMPT
    assert ranking.prompt_ids == Prompts(make_tokenizer("chatml"), []).ids([USER])


def test_thumbs_pair_within_a_prompt(tmp_path: Path) -> None:
    """Every liked answer with every disliked one; what has no partner is counted."""
    rows: list[dict[str, Any]] = [
        {"prompt": PROMPT, "completion": text, "label": label}
        for text, label in (("a", True), ("b", False), ("c", True), ("a", True), ("d", True))
    ]
    rows += [{"prompt": PROMPT, "completion": "d", "label": False}]
    rows += [{"prompt": "Alone?", "completion": "x", "label": True}]
    result = prepared(tmp_path, rows)
    assert result.template == "thumbs"
    (ranking,) = result.train
    assert {(ranking.texts[b], ranking.texts[w]) for b, w, _ in ranking.pairs} == {
        ("a", "b"),
        ("c", "b"),
    }
    assert result.report["unpaired_rows"] == 1
    assert result.report["identical_answers"] == 3
    assert "1 row left out: no better and worse" in " ".join(result.report["warnings"])
    as_messages = [
        {"messages": [USER, {"role": "assistant", "content": row["completion"]}], "label": label}
        for row, label in ((rows[0], 1), (rows[1], 0))
    ]
    (other,) = prepared(tmp_path, as_messages).train
    assert other.pairs == ((0, 1, 0.0),)
    with pytest.raises(DataError, match="none of its 2 rows can be paired") as caught:
        prepared(tmp_path, rows[2:4])
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("column", ["answers", "responses", "completions", "ranking"])
def test_rankings_make_all_pairs(tmp_path: Path, column: str) -> None:
    """Best first: K(K-1)/2 pairs of K answers, each answer encoded once."""
    result = prepared(tmp_path, [{"prompt": PROMPT, column: ["a", "bb", "ccc", "dddd"]}])
    (ranking,) = result.train
    assert result.template == "rankings"
    assert len(ranking.answers) == 4
    assert [(better, worse) for better, worse, _ in ranking.pairs] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (1, 3),
        (2, 3),
    ]
    assert result.report["pairs_train"] == 6
    assert ranking.num_targets == 1
    assert ranking.num_tokens == result.report["tokens"] == sum(map(len, ranking.answers))
    assert ranking.input_ids == max(ranking.answers, key=len)
    answered = ranking.num_tokens - 4 * len(ranking.prompt_ids)
    assert result.report["supervised_tokens"] == answered


def test_scores_become_margins(tmp_path: Path) -> None:
    """Differences of the scores over the largest in the file; equal scores make no pair."""
    rows = [
        {"prompt": "A?", "answers": ["x", "y", "z"], "scores": [2, 6, 2]},
        {"prompt": "B?", "answers": ["x", "y"], "scores": [9, 1]},
        {"prompt": "C?", "answers": ["x", "y"], "scores": [5, 5]},
    ]
    result = prepared(tmp_path, rows)
    assert result.template == "scores"
    assert [ranking.pairs for ranking in result.train] == [
        ((1, 0, 0.5), (1, 2, 0.5)),
        ((0, 1, 1.0),),
    ]
    assert result.report["unpaired_rows"] == 1
    beside = [
        {
            "prompt": row["prompt"],
            "answers": [
                {key: text, "score": score}
                for text, score in zip(row["answers"], row["scores"], strict=True)
            ],
        }
        for row, key in zip(rows, ("text", "content", "answer"), strict=True)
    ]
    again = prepared(tmp_path, beside)
    assert again.template == "scores"
    assert [ranking.answers for ranking in again.train] == [
        ranking.answers for ranking in result.train
    ]
    assert again.report["tokens_sha256"] == result.report["tokens_sha256"]


def test_margins_and_renamed_columns(tmp_path: Path) -> None:
    rows = [{"question": PROMPT, "good": GOOD, "bad": BAD, "gap": gap} for gap in (0, 2.5, None)]
    names = {"prompt": "question", "chosen": "good", "rejected": "bad", "margin": "gap"}
    result = prepared(tmp_path, rows, columns=names)
    assert [ranking.pairs[0][2] for ranking in result.train] == [0.0, 2.5, 0.0]
    swapped = prepared(tmp_path, rows, columns={**names, "chosen": "bad", "rejected": "good"})
    assert swapped.train[0].texts == (BAD, GOOD)
    del names["margin"]
    assert prepared(tmp_path, rows, columns=names).report["ignored_columns"] == ["gap"]


def test_turns_before_the_answers(tmp_path: Path) -> None:
    """A system turn and earlier answers belong to the prompt."""
    row = {"chosen": [*EARLIER, USER, YES], "rejected": [*EARLIER, USER, NO]}
    (ranking,) = prepared(tmp_path, [row]).train
    assert ranking.messages == (*EARLIER, USER)
    assert said(ranking) == [GOOD + "<|im_end|>", BAD + "<|im_end|>"]
    beside = {"system": "Be brief.", "prompt": [*EARLIER[1:], USER], "chosen": YES, "rejected": NO}
    (other,) = prepared(tmp_path, [beside]).train
    assert other.answers == ranking.answers


FIRST = (
    "the assistant speaks first (there is no prompt: leave that turn out, or make it one of the "
    "system)"
)
UNFIT: dict[str, dict[str, Any]] = {
    "chosen is empty": {"prompt": PROMPT, "chosen": " \n", "rejected": BAD},
    "rejected is empty": {"prompt": PROMPT, "chosen": GOOD, "rejected": ""},
    "the column 'rejected' is null": {"prompt": PROMPT, "chosen": GOOD, "rejected": None},
    "chosen and rejected are the same": {"prompt": PROMPT, "chosen": GOOD, "rejected": GOOD + "\n"},
    "there is no prompt: no column, no transcript, and chosen and rejected do not begin alike": {
        "chosen": GOOD,
        "rejected": BAD,
    },
    "the prompts of chosen and rejected differ": {
        "chosen": [USER, YES],
        "rejected": [{"role": "user", "content": "Else?"}, NO],
    },
    "chosen does not begin with the prompt": {
        "prompt": "Else?",
        "chosen": [USER, YES],
        "rejected": [USER, NO],
    },
    "the turns are out of order: two user turns follow each other": {
        "prompt": [USER, USER],
        "chosen": GOOD,
        "rejected": BAD,
    },
    "the turns are out of order: two assistant turns follow each other": {
        "chosen": [USER, YES, NO],
        "rejected": [USER, YES, YES],
    },
    "chosen does not end with an answer": {"chosen": [USER, YES, USER], "rejected": [USER, NO]},
    FIRST: {
        "prompt": [EARLIER[0]],
        "chosen": GOOD,
        "rejected": BAD,
    },
    "margin is negative": {"prompt": PROMPT, "chosen": GOOD, "rejected": BAD, "margin": -1},
    "margin is not a number": {"prompt": PROMPT, "chosen": GOOD, "rejected": BAD, "margin": "big"},
    "chosen is neither text nor turns": {"prompt": PROMPT, "chosen": 3, "rejected": BAD},
}
UNFIT_GROUPS: dict[str, dict[str, Any]] = {
    "there are fewer than two answers": {"answers": ["x"]},
    "two answers of a ranking are the same": {"answers": ["x", "y", " x"]},
    "answers is not a list": {"answers": "x"},
    "an answer is not text": {"answers": ["x", 3]},
    "the number of scores is not the number of answers": {"answers": ["x", "y"], "scores": [1]},
    "a score is not a number": {"answers": ["x", "y"], "scores": [1, True]},
    "one answer has two scores": {"answers": ["x", "x"], "scores": [1, 2]},
    "there are answers without a score": {"answers": ["x", {"text": "y", "score": 1}]},
    "the label says neither liked nor disliked (true or false, 1 or 0, good or bad; other "
    "words by data.label_names: {great: good, poor: bad})": {"completion": "x", "label": "maybe"},
}


@pytest.mark.parametrize("reason", [*UNFIT, *UNFIT_GROUPS])
def test_unfit_preferences_are_listed_by_class(tmp_path: Path, reason: str) -> None:
    """D12: the rows of each class; left out and counted where the recipe allows it."""
    if reason in UNFIT:
        good, bad = PAIRS["texts"], UNFIT[reason]
    else:
        bad = {"prompt": PROMPT, **UNFIT_GROUPS[reason]}
        good = {"prompt": "B?", "answers": ["x", "y"]}
        if "scores" in bad or "without" in reason:
            good["answers"] = [{"text": "x", "score": 1}, {"text": "y", "score": 2}]
        if "label" in bad:
            good = {"prompt": "B?", "completion": "x", "label": True}
    goods = [good, {**good, "label": False, "completion": "z"}] if "label" in good else [good]
    with pytest.raises(DataError, match="2 rows cannot be used for training") as caught:
        prepared(tmp_path, [*goods, bad, bad])
    line = len(goods) + 1
    assert caught.value.problems == [f"{reason}: rows.jsonl:{line}, rows.jsonl:{line + 1}"]
    result = prepared(tmp_path, [*goods, bad, bad], max_bad_rows=2)
    assert len(result.train) == 1
    assert [item["reason"] for item in result.report["skipped"]] == [reason] * 2


def test_columns_that_fit_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [{"prompt": PROMPT, "long": GOOD, "short": BAD}])
    assert "found: prompt, long, short" in caught.value.problems
    assert "pairs expects: chosen, rejected" in caught.value.problems
    both = {**PAIRS["texts"], "answers": [GOOD, BAD]}
    with pytest.raises(DataError, match="more than one format"):
        prepared(tmp_path, [both])
    assert prepared(tmp_path, [both], template="rankings").template == "rankings"
    with pytest.raises(RecipeError, match="'pair' is not a format") as wrong:
        prepared(tmp_path, [both], template="pair")
    assert "pairs?" in wrong.value.fix
    with pytest.raises(RecipeError, match="no column of the format is called 'chossen'"):
        prepared(tmp_path, [both], template="pairs", columns={"chossen": "prompt"})


def test_no_side_is_cut(tmp_path: Path) -> None:
    """R04: a pair with a side that is too long is dropped whole and counted, never cut."""
    rows: list[dict[str, Any]] = [pair(number) for number in range(12)]
    rows[3]["rejected"] = "rent " * 200
    result = prepared(tmp_path, rows, max_length=64)
    assert [ranking.row for ranking in result.train] == [
        f"rows.jsonl:{line}" for line in range(1, 13) if line != 4
    ]
    assert result.report["dropped_too_long"] == 1
    assert result.report["truncated_rows"] == 0
    assert result.report["pairs_too_long"] == 1
    assert 0 < result.report["supervised_tokens_cut_share"] < 1
    ends = {ids[-1] for ranking in result.train for ids in ranking.answers}
    assert ends == {make_tokenizer("chatml").eos_token_id}
    rows[4]["chosen"] = "rent " * 300
    with pytest.raises(DataError, match="2 of 12 training rows") as caught:
        prepared(tmp_path, rows, max_length=64)
    length = int(caught.value.fix.split("max_length: ")[1].split()[0])
    assert prepared(tmp_path, rows, max_length=length).report["dropped_too_long"] == 0
    assert prepared(tmp_path, rows, max_length=length - 1).report["dropped_too_long"] == 1


def test_what_is_not_read_to_its_end_is_dropped(tmp_path: Path) -> None:
    """R04: a text far beyond the limit is cut while reading, and never learned."""
    rows = [pair(number) for number in range(20)]
    rows[3]["rejected"] = "rent " * 20_000
    result = prepared(tmp_path, rows, max_length=64)
    assert "rows.jsonl:4" not in {ranking.row for ranking in result.train}
    assert result.report["rows_cut_while_reading"] == ["rows.jsonl:4"]
    assert result.report["dropped_too_long"] == 1


def test_a_long_answer_leaves_the_rest_of_a_ranking(tmp_path: Path) -> None:
    """R04: the pairs of the answers that fit keep their order."""
    row = {"prompt": PROMPT, "answers": ["a", "rent " * 200, "c", "d"]}
    result = prepared(tmp_path, [row], max_length=64)
    (ranking,) = result.train
    assert ranking.texts == ("a", "c", "d")
    assert [pair[:2] for pair in ranking.pairs] == [(0, 1), (0, 2), (1, 2)]
    assert result.report["pairs_too_long"] == 3
    assert result.report["dropped_too_long"] == 0


@pytest.mark.parametrize("eval_rows", [0.25, 3, "file"])
def test_no_prompt_stands_on_both_sides(tmp_path: Path, eval_rows: float | str) -> None:
    """D11: held out by prompt, whatever the answers say, for a share, a number and a file."""
    rows = [{**pair(number % 6), "chosen": f"Yes {number}"} for number in range(12)]
    if eval_rows == "file":
        result = prepared(tmp_path, rows[2:], held=[pair(6), {**pair(3), "prompt": "QUESTION  3?"}])
        assert result.report["eval_rows_also_in_train"] == 1
        assert [ranking.row for ranking in result.eval] == ["held.jsonl:1"]
        with pytest.raises(DataError, match="eval split is empty"):
            prepared(tmp_path, rows, held=[pair(3)])
        return
    result = prepared(tmp_path, rows, eval=eval_rows)
    assert 0 < len(result.eval) <= 4
    assert len(result.train) + len(result.eval) == 12
    train = {ranking.prompt_text for ranking in result.train}
    assert not train & {ranking.prompt_text for ranking in result.eval}
    assert result.report["duplicates_in_train"] == len(result.train) - len(train)


@pytest.mark.parametrize("render", ["auto", "raw"])
@pytest.mark.parametrize("kind", ["plain", "eospad", "bos", "chatml"])
def test_one_bos_and_one_stop_token(tmp_path: Path, kind: str, render: str) -> None:
    """M03, M02: chosen and rejected begin with one BOS where there is one and end with one stop
    token; the prompt is how both begin."""
    templates = [None, BOS_TEMPLATE] if kind in ("plain", "bos") and render == "auto" else [None]
    for template in templates:
        tokenizer = make_tokenizer(kind)
        if template:
            tokenizer.chat_template = template
        (ranking,) = prepared(tmp_path, [PAIRS["texts"]], tokenizer, render=render).train
        eos = tokenizer.eos_token_id
        for ids, text in zip(ranking.answers, (GOOD, BAD), strict=True):
            assert ids[: len(ranking.prompt_ids)] == ranking.prompt_ids
            answer = ids[len(ranking.prompt_ids) :]
            assert answer[-1] == eos
            assert answer.count(eos) == 1
            assert tokenizer.decode(answer[:-1]).strip() == text
            if template or kind == "bos":
                assert ids[0] == tokenizer.bos_token_id
                assert ids.count(tokenizer.bos_token_id) == 1


def test_a_token_across_the_border_is_split(tmp_path: Path) -> None:
    """R04: the ids are those that the policy would write after the prompt, however texts merge."""
    tokenizer = make_tokenizer("chatml")
    row = {"prompt": "The foo", "chosen": "bar", "rejected": "tle"}
    merged = tokenizer("The foobar").input_ids
    assert merged[: len(tokenizer("The foo").input_ids)] != tokenizer("The foo").input_ids
    (ranking,) = prepared(tmp_path, [row], tokenizer, render="raw").train
    assert ranking.prompt_ids == tokenizer("The foo").input_ids
    assert said(ranking) == ["bar<|im_end|>", "tle<|im_end|>"]
    assert ranking.answers[0] == [*ranking.prompt_ids, *tokenizer("bar").input_ids, 2]


def test_an_empty_block_of_reasoning(tmp_path: Path) -> None:
    """M15: a block that the model is not asked with belongs to both answers, even if one has
    reasoning."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = THINK_TEMPLATE
    (ranking,) = prepared(tmp_path, [PAIRS["texts"]], tokenizer).train
    assert tokenizer.decode(ranking.prompt_ids).endswith("<|im_start|>assistant\n")
    block = "<think>\n\n</think>\n\n"
    assert said(ranking) == [f"{block}{GOOD}<|im_end|>", f"{block}{BAD}<|im_end|>"]
    row = {**PAIRS["texts"], "chosen": f"<think>\nhm\n</think>\n\n{GOOD}"}
    (ranking,) = prepared(tmp_path, [row], tokenizer).train
    other = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
    assert prepared(tmp_path, [other], tokenizer).train[0].answers == ranking.answers[::-1]
    assert tokenizer.decode(ranking.prompt_ids).endswith("<|im_start|>assistant\n")
    assert said(ranking) == [
        f"<think>\nhm\n</think>\n\n{GOOD}<|im_end|>",
        f"<think>\n\n</think>\n\n{BAD}<|im_end|>",
    ]


def test_special_tokens_in_answers(tmp_path: Path) -> None:
    """I11: a forged stop token stays text; the recipe can refuse it."""
    row = {**PAIRS["texts"], "rejected": "No.<|im_end|> Or yes"}
    result = prepared(tmp_path, [row])
    eos = make_tokenizer("chatml").eos_token_id
    start = len(result.train[0].prompt_ids)
    assert [ids[start:].count(eos) for ids in result.train[0].answers] == [1, 1]
    assert said(result.train[0])[1] == "No.<|im_end|> Or yes<|im_end|>"
    assert result.report["special_tokens_in_text"] == 1
    with pytest.raises(DataError, match="cannot be used for training"):
        prepared(tmp_path, [row], special_tokens_in_text="error")


def test_margins_change_the_fingerprint_of_the_data(tmp_path: Path) -> None:
    digests = {
        prepared(tmp_path, [{**pair(1), "margin": margin}]).report["tokens_sha256"]
        for margin in (0, 0, 1, 0.5)
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("name", "template", "rankings", "keys"),
    [
        pytest.param(HH, "pairs", 1192, {"max_bad_rows": 8}, marks=pytest.mark.slow),
        ("dpo-en/dpo_en_demo.jsonl", "pairs", 230, {}),
        ("kto-en/kto_en_demo.jsonl", "thumbs", 1, {}),
    ],
)
def test_real_preferences(
    test_data: Path, name: str, template: str, rankings: int, keys: dict[str, Any]
) -> None:
    """Public files load as they are; every answer goes on from its prompt to a stop token."""
    tokenizer = make_tokenizer("chatml")
    data = DataSection(**({"train": (name,), "eval": 0} | keys))
    inputs = Inputs(data, tokenizer, test_data, 3, 65_536)
    result = PreferenceData(inputs).prepare()
    assert (result.template, len(result.train)) == (template, rankings)
    assert len(result.report["skipped"]) == keys.get("max_bad_rows", 0)
    for ranking in result.train:
        assert len(ranking.answers) == 2
        for ids, text in zip(ranking.answers, ranking.texts, strict=True):
            assert ids[: len(ranking.prompt_ids)] == ranking.prompt_ids
            assert tokenizer.decode(ids[len(ranking.prompt_ids) : -1]).strip() == text.strip()
            assert ids[-1] == tokenizer.eos_token_id
    if template == "thumbs":
        assert result.report["unpaired_rows"] == 228
    if name.startswith("hh"):
        strict = replace(inputs, data=data.model_copy(update={"max_bad_rows": 7}))
        with pytest.raises(DataError, match="8 rows cannot be used for training"):
            PreferenceData(strict).prepare()


def test_rows_that_contradict_each_other_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [pair(n) for n in range(6)]
    swapped = {**rows[0], "chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    made = prepared(tmp_path, [*rows, swapped])
    assert made.report["contradicting_pairs"] == 2
    assert any("in the opposite order" in text for text in made.report["warnings"])
    assert made.report["pairs_train"] == 5


def test_whole_texts_share_their_beginning_as_the_prompt(tmp_path: Path) -> None:
    rows = [
        {"chosen": f"Film {n} was really a joy.", "rejected": f"Film {n} was really a bore."}
        for n in range(6)
    ]
    made = prepared(tmp_path, rows)
    assert made.train[0].prompt_text.endswith("was really a")
    assert made.train[0].texts == ("joy.", "bore.")


def test_rows_that_cannot_be_encoded_leave_no_train_split(tmp_path: Path) -> None:
    rows = [{**pair(n), "chosen": "yes<|im_end|>"} for n in range(3)]
    with pytest.raises(DataError, match="the train split is empty"):
        prepared(tmp_path, rows, special_tokens_in_text="error", max_bad_rows=3)
