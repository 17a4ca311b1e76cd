"""Rewards: each by hand-computed values, functions, and their sum."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rewards.rules import read, response, rule
from tuner.errors import DataError, RecipeError, SafetyError, TrainingError
from tuner.rewards import Part, code, compose
from tuner.rewards.options import RULE_OPTIONS
from tuner.rewards.response import Scores
from tuner.rewards.rules import MOST_CHARACTERS, RULES, num_words

REFERENCE = "Half of 96 is 96/2 = <<96/2=48>>48.\n#### 48"


def test_every_rule_has_options() -> None:
    assert set(RULES) == set(RULE_OPTIONS)


def test_length_falls_linearly_to_0_at_no_words_and_at_twice_the_most() -> None:
    texts = [" ".join(["word"] * count) for count in (0, 1, 4, 5, 20, 25, 30, 50, 51, 500)]
    expected = [0, 0.2, 0.8, 1, 1, 1, 0.8, 0, 0, 0]
    assert rule("{rule: length, min: 5, max: 25}", *texts) == pytest.approx(expected)
    assert rule("{rule: length, max: 25}", *texts)[:2] == [0, 1]
    assert rule("{rule: length, min: 0, max: 25}", "") == [1]


def test_length_counts_tokens_on_request() -> None:
    (part,) = read("{rule: length, min: 4, max: 8, unit: tokens}")
    sizes = [response("one word", num_tokens=size) for size in (1, 4, 8, 12, 16)]
    assert RULES["length"](part)(sizes) == [0.25, 1, 1, 0.5, 0]


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


def test_a_pattern_that_would_never_end_stops_the_run() -> None:
    """Without the limit this match takes longer than the machine will last."""
    started = time.perf_counter()
    with pytest.raises(TrainingError, match="'format' took more than 2 s for row r") as error:
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
    score = RULES["exact_answer"](part)
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


# Python functions


def function_file(folder: Path, body: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(body, encoding="utf-8")
    return file


def test_a_function_scores_responses(tmp_path: Path) -> None:
    body = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Row:\n    size: int\n"
        "def sizes(responses):\n"
        "    return (Row(len(r.text) + len(r.reference)).size for r in responses)\n"
    )
    function_file(tmp_path, body)
    score = code.load("mine.py:sizes", tmp_path, allow_code=True)
    assert score([response("ab", "c"), response("")]) == [3.0, 0.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]
    other = tmp_path / "other"
    other.mkdir()
    function_file(other, "def sizes(responses):\n    return [True] * len(responses)\n")
    assert code.load("other/mine.py:sizes", tmp_path, True)([response("ab")]) == [1.0]
    assert score([response("ab")]) == [2.0]
    assert {str(tmp_path / "mine.py"), str(other / "mine.py")} <= set(sys.modules)
    function_file(tmp_path, "from math import *\n", "by_star.py")
    assert code.check("by_star.py:fsum", tmp_path, True) == tmp_path / "by_star.py"


def test_code_is_not_run_unless_allowed(tmp_path: Path) -> None:
    file = function_file(tmp_path, "open(__file__ + '.ran', 'w')\ndef f(r): return [0] * len(r)\n")
    ran = Path(f"{file}.ran")
    for call in (code.check, code.load):
        with pytest.raises(SafetyError, match=r"mine.py:f was not run") as refused:
            call("mine.py:f", tmp_path, False)
        assert refused.value.exit_code == 8
        assert "--set rlhf.allow_code=true" in refused.value.fix
    assert code.check("mine.py:f", tmp_path, True) == file
    assert not ran.exists()
    code.load("mine.py:f", tmp_path, True)
    assert ran.exists()


@pytest.mark.parametrize(
    ("function", "body", "said", "fix"),
    [
        ("mine.py:f", None, "does not exist", "name the file and the function"),
        ("mime.py:f", "def f(r): ...", "does not exist", "did you mean 'mine.py'?"),
        ("mine.py:scoer", "def score(r): ...", "defines score", "did you mean 'score'?"),
        ("mine.py:f", "if f := 0: ...\ndef f(\n", "mine.py:2: ", "correct the file"),
        ("mine.py:f", "import no_such\ndef f(r): ...", "mine.py:1: ModuleNotFoundError", "correct"),
        ("mine.py:f", "f = 3", "f is int", "name a function"),
        ("mine.py:g", "from math import *", "defines ", "name a function"),
        ("mine.py:f", "def f(r): ...\ndel f", "defines nothing", "name a function"),
    ],
)
def test_what_is_wrong_with_a_function_is_named(
    tmp_path: Path, function: str, body: str | None, said: str, fix: str
) -> None:
    if body is not None:
        function_file(tmp_path, body)
    with pytest.raises(RecipeError) as error:
        code.load(function, tmp_path, allow_code=True)
    assert error.value.exit_code == 2
    assert function in error.value.what or "3" in body  # type: ignore[operator]
    assert said in error.value.why
    assert fix in error.value.fix
    assert ("ModuleNotFoundError" in said) <= (str(tmp_path / "mine.py") not in sys.modules)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("[1.0]", "returned 1 numbers for 2 responses"),
        ("[1.0] * 3", "returned 3 numbers for 2 responses"),
        ("[1.0, None]", "returned None for row b"),
        ("[1.0, '1.0']", "returned '1.0' for row b"),
        ("[1.0, [1.0]]", "returned [1.0] for row b"),
        ("[1.0, 10 ** 400]", "for row b"),
        ("3", "failed"),
        ("[1 / 0, 1]", "failed"),
    ],
)
def test_what_a_function_returns_is_checked(tmp_path: Path, returned: str, said: str) -> None:
    file = function_file(tmp_path, f"def f(responses):\n    return {returned}\n")
    score = code.load("mine.py:f", tmp_path, allow_code=True)
    with pytest.raises(TrainingError) as error:
        score([response("x", row="a"), response("y", row="b")])
    assert error.value.exit_code == 5
    assert f"the reward function mine.py:f {said}" in error.value.what or said in error.value.what
    assert "mine.py:f" in error.value.what
    if returned.startswith("[1 / 0"):
        assert error.value.why == f"{file}:2: ZeroDivisionError: division by zero"


# Composition


def fixed(name: str, weight: float, *scores: float) -> Part:
    return Part(name, weight, lambda responses: list(scores))


def test_the_sum_is_weighted_and_the_parts_are_not() -> None:
    batch = [response("a"), response("b"), response("c")]
    scores = compose([fixed("model", 2.0, 1.5, -1.0, 0.0), fixed("length", -0.5, 1.0, 0.5, 0.0)])(
        batch
    )
    assert scores.total == [2.5, -2.25, 0.0]
    assert scores.parts == {"model": [1.5, -1.0, 0.0], "length": [1.0, 0.5, 0.0]}
    assert list(scores.parts) == ["model", "length"]
    assert compose([fixed("model", 1.0)])([]) == Scores([], {"model": []})


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.0, float("nan")), "the reward 'bad' is nan for row b"),
        ((float("-inf"), 0.0), "the reward 'bad' is -inf for row a"),
        ((0.0, 1e308), "the reward 'bad' is 10 * 1e+308 for row b"),
        ((0.0,), "the reward 'bad' gave 1 scores for 2 responses"),
    ],
)
def test_a_score_that_is_not_finite_stops_and_names_the_part(
    scores: tuple[float, ...], said: str
) -> None:
    """R16"""
    batch = [response("first\nanswer", row="a"), response("second " * 40, row="b")]
    with pytest.raises(TrainingError) as error:
        compose([fixed("good", 1.0, 1.0, 2.0), fixed("bad", 10.0, *scores)])(batch)
    assert error.value.what == said
    assert error.value.exit_code == 5
    if "row a" in said:
        assert error.value.why == r"the response begins with 'first\nanswer'"
    if "row b" in said:
        assert error.value.why.startswith("the response begins with 'second second ")
        assert len(error.value.why) < 100


def test_two_parts_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        compose([fixed("a", 1.0), fixed("a", 1.0)])
