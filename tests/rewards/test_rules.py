"""The rules: each by values computed by hand."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rewards.responses import REFERENCE, read, response
from tuner.errors import DataError, TrainingError
from tuner.rewards import rules
from tuner.rewards.rules import MOST_CHARACTERS, RULES, num_words


def rule(entry: str, *texts: str, reference: str = "") -> list[float]:
    """The scores of texts by an entry of the recipe."""
    (part,) = read(entry)
    return part.scorer()([response(text, reference) for text in texts])


def test_every_rule_is_called_as_its_options_say() -> None:
    for name, options in RULES.items():
        assert get_args(options.model_fields["rule"].annotation) == (name,)


def test_length_falls_linearly_to_0_at_no_words_and_at_twice_the_most() -> None:
    texts = [" ".join(["word"] * count) for count in (0, 1, 4, 5, 20, 25, 30, 50, 51, 500)]
    expected = [0, 0.2, 0.8, 1, 1, 1, 0.8, 0, 0, 0]
    assert rule("{rule: length, min: 5, max: 25}", *texts) == pytest.approx(expected)
    assert rule("{rule: length, max: 25}", *texts)[:2] == [0, 1]
    assert rule("{rule: length, min: 0, max: 25}", "") == [1]


def test_length_counts_tokens_on_request() -> None:
    (part,) = read("{rule: length, min: 4, max: 8, unit: tokens}")
    sizes = [response("one word", num_tokens=size) for size in (1, 4, 8, 12, 16)]
    assert part.scorer()(sizes) == [0.25, 1, 1, 0.5, 0]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("A well-made film, isn't it?", 5),
        (" - ... !\n", 0),
        ("这部电影很好看。", 7),
        ("我爱 Python 语言", 5),
        ("映画を見る", 5),
        ("좋은 영화", 2),
    ],
)
def test_words_are_counted_in_scripts_with_and_without_spaces(text: str, count: int) -> None:
    assert num_words(text) == count


def test_format_matches_the_whole_text() -> None:
    entry = r"{rule: format, pattern: '<think>.*</think>\s*\d+'}"
    texts = ["<think>a\nb</think>\n42", "<think>a</think>42 ", "x<think>a</think>42", ""]
    assert rule(entry, *texts) == [1, 0, 0, 0]
    assert rule("{rule: format, pattern: 'a*'}", "a" * MOST_CHARACTERS) == [1]
    assert rule("{rule: format, pattern: 'a*'}", "a" * (MOST_CHARACTERS + 1)) == [0]


def test_a_pattern_that_would_never_end_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limit this match takes longer than the machine will last."""
    monkeypatch.setattr(rules, "MOST_SECONDS", 0.2)
    started = time.perf_counter()
    with pytest.raises(TrainingError, match=r"'format' took more than 0\.2 s for row r") as error:
        rule("{rule: format, pattern: '(a|aa)+b'}", "a" * 90 + "c")
    assert time.perf_counter() - started < 20
    assert error.value.exit_code == 5
    assert "(a|aa)+b" in error.value.why


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        ("[bad]", "This is bad.", True),
        ("[bad]", "BAD", True),
        ("[bad]", "a badger and a forbad_e", False),
        ("[bad]", "这部电影bad极了", True),
        ("[差]", "这部电影太差了", True),
        ("[差]", "it is so差", True),
        ("[T恤]", "一件T恤衫", True),
        ("[T恤]", "ST恤", False),
        ("[C++]", "I write C++11", True),
        ("[no way]", "No\nway!", True),
        ("[no way]", "no wayward", False),
        ("[a.c]", "abc", False),
        ("[café]", "cafe\u0301", True),
        ("[café]", "cafés", False),
        ("[bad, worse]", "It got worse", True),
        ("[bad, worse]", "", False),
    ],
)
def test_forbidden_words_cost_1(words: str, text: str, found: bool) -> None:
    assert rule(f"{{rule: forbidden, words: {words}}}", text) == [-1.0 if found else 0.0]


def test_forbidden_words_may_mind_capitals() -> None:
    entry = "{rule: forbidden, words: bad, ignore_case: false}"
    assert rule(entry, "bad", "Bad", "bad bad bad") == [-1, 0, -1]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("48", True),
        ("so 12 + 36 = 48.", True),
        ("#### 48", True),
        ("#### 48 of 50", True),
        ("#### $48.00\nand 7 more", True),
        ("\\boxed{48} of 50", True),
        ("\\boxed{\\frac{96}{2}}", True),
        ("48\n#### 47", False),
        ("\\boxed{47} 48", False),
        ("the answer is -48", False),
        ("96-48", True),
        ("答案是４８", True),
        ("48 of 50", False),
        ("#### ", False),
        ("forty-eight", False),
        ("", False),
        ("9" * 5000, False),
        ("1/0", False),
    ],
)
def test_the_final_answer_is_compared_as_a_number(text: str, right: bool) -> None:
    assert rule("{rule: exact_answer}", text, reference=REFERENCE) == [float(right)]


@pytest.mark.parametrize("reference", ["#### 1,000", "1000", "\\boxed{1000.0}", "it is $1,000.00"])
def test_equal_numbers_are_equal_however_written(reference: str) -> None:
    texts = ["1000", "1,000", "1000.0", "#### 2000/2", "1,001", "10,00"]
    assert rule("{rule: exact_answer}", *texts, reference=reference) == [1, 1, 1, 1, 0, 0]


def test_an_answer_that_is_no_number_is_compared_as_text() -> None:
    texts = ["Paris", " PARIS. ", "#### paris", "it is \\boxed{Paris}", "It is Paris", "#### Rome"]
    for reference in ("Paris", "The capital.\n#### Paris"):
        scores = rule("{rule: exact_answer}", *texts, reference=reference)
        assert scores == [1, 1, 1, 1, 0, 0]
    as_text = "{rule: exact_answer, extract: text}"
    assert rule(as_text, "#### 1000", "#### 1,000", reference="#### 1,000") == [0, 1]
    as_number = "{rule: exact_answer, extract: number}"
    assert rule(as_number, "#### 12 apples", reference="#### 12 pears") == [1]


@pytest.mark.parametrize(
    ("extract", "reference"), [("auto", ""), ("number", "none"), ("text", " "), ("auto", "####")]
)
def test_a_row_without_an_answer_is_not_scored_0(extract: str, reference: str) -> None:
    with pytest.raises(DataError, match="row r has no answer for the reward 'exact_answer'"):
        rule(f"{{rule: exact_answer, extract: {extract}}}", "5", reference=reference)


@pytest.mark.skipif("TUNER_TEST_DATA" not in os.environ, reason="TUNER_TEST_DATA is not set")
def test_the_answers_of_gsm8k_are_right_by_themselves() -> None:
    file = Path(os.environ["TUNER_TEST_DATA"], "gsm8k", "train_sample.jsonl")
    answers = [json.loads(line)["answer"] for line in file.read_text("utf-8").splitlines()]
    (part,) = read("{rule: exact_answer}")
    score = part.scorer()
    finals = [answer.rpartition("#### ")[2] for answer in answers]
    assert len(answers) == 2500
    for texts in (answers, finals, [f"so it is ${final}.00" for final in finals]):
        pairs = zip(texts, answers, strict=True)
        assert sum(score([response(text, answer) for text, answer in pairs])) == 2500
    others = [response(final + "1", answer) for final, answer in zip(finals, answers, strict=True)]
    assert sum(score(others)) == 0


@pytest.mark.parametrize(
    ("text", "keys", "valid"),
    [
        ('{"a": 1, "b": [2]}', "[]", True),
        ('{"a": 1, "b": [2]}', "[a, b]", True),
        ('{"a": 1}', "[a, b]", False),
        ('["a"]', "[a]", False),
        ('["a"]', "[]", True),
        ('"a"', "[a]", False),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', "[a]", True),
        ('```\n{"a": 1}\n```', "[a]", False),
        ("```json\n{a: 1}\n```", "[]", False),
        ('{"a": NaN}', "[]", False),
        ('{"a": -Infinity}', "[]", False),
        ('{"a": 1', "[]", False),
        ("", "[]", False),
        ("[" * 100_000, "[]", False),
        ("9" * 5000, "[]", True),
    ],
)
def test_json(text: str, keys: str, valid: bool) -> None:
    assert rule(f"{{rule: json, keys: {keys}}}", text) == [float(valid)]


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet=st.sampled_from('#\\boxed{}0123456789,./-$ \n"[]:a好`json'), max_size=60)
)
def test_no_text_breaks_a_rule(text: str) -> None:
    """A model writes anything; each rule must give it a score in its range, and the same again."""
    entries = (
        "{rule: length, min: 2, max: 4}",
        "{rule: format, pattern: '[a-z]+'}",
        "{rule: forbidden, words: [a, 好, '[']}",
        "{rule: exact_answer}",
        "{rule: exact_answer, extract: text}",
        "{rule: json, keys: a}",
    )
    for entry in entries:
        (score,), lowest = rule(entry, text, reference="5"), -1.0 if "forbidden" in entry else 0.0
        assert lowest <= score <= lowest + 1
        assert rule(entry, "x", text, reference="5")[1] == score
