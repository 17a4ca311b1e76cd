"""Rewards: a user's functions, the weighted sum, and the guard against constant rewards."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.rewards.responses import response
from tuner.errors import RecipeError, SafetyError, TrainingError
from tuner.rewards import Term, code, compose
from tuner.rewards.constant import ConstantGuard
from tuner.rewards.response import Scores

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
        ("mime.py:f", "def f(r): ...", "does not exist", "did you mean 'mine.py:f'?"),
        ("mine.py:scoer", "def score(r): ...", "defines score", "did you mean 'mine.py:score'?"),
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
        ("[1.0]", "returned 1 number for 2 responses"),
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


def fixed(name: str, weight: float, *scores: float) -> Term:
    return Term(name, weight, lambda responses: list(scores))


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
        ((0.0,), "the reward 'bad' gave 1 score for 2 responses"),
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


def seen(*parts: Sequence[float]) -> Scores:
    names = {f"part {index}": list(part) for index, part in enumerate(parts)}
    return Scores([sum(each) for each in zip(*parts, strict=True)], names)


FLAT, OTHER, VARIED = [0.5] * 8, [0.75] * 8, [0.1 * index for index in range(8)]


def test_a_constant_reward_stops_after_five_steps() -> None:
    guard = ConstantGuard()
    for _ in range(4):
        assert guard.update(seen(FLAT, OTHER)) is None
    with pytest.raises(TrainingError) as error:
        guard.update(seen(FLAT, OTHER))
    assert error.value.exit_code == 5
    assert error.value.what == (
        "the reward 'part 0' was 0.5 and 'part 1' was 0.75 for every response in 5 steps"
    )


def test_a_constant_part_is_told_once_while_the_sum_varies() -> None:
    guard = ConstantGuard(steps=3)
    said = [guard.update(seen(FLAT, VARIED)) for _ in range(10)]
    assert [bool(text) for text in said] == [False, False, True, *[False] * 7]
    assert "the reward 'part 0' was 0.5 for every response in 3 steps" in str(said[2])
    guard.update(seen(VARIED, VARIED))
    assert [guard.update(seen(FLAT, VARIED)) for _ in range(5)] == [None] * 5


@pytest.mark.parametrize("between", [OTHER, VARIED, [0.75] * 2])
def test_another_value_starts_the_count_again(between: list[float]) -> None:
    guard = ConstantGuard(steps=3)
    for scores in [FLAT, FLAT, between, FLAT, FLAT]:
        assert guard.update(seen(scores)) is None
    with pytest.raises(TrainingError):
        guard.update(seen(FLAT))


def test_small_steps_count_for_their_share() -> None:
    """Of 2 responses, four steps are one of 8; a step of another value begins anew."""
    guard = ConstantGuard(steps=2)
    for scores in [FLAT[:2]] * 7 + [[0.1, 0.9]] + [FLAT[:2]] * 7 + [[]]:
        assert guard.update(seen(scores)) is None
    with pytest.raises(TrainingError, match="in 2 steps"):
        guard.update(seen(FLAT[:2]))


def test_rounding_is_no_variation_and_small_rewards_are_no_rounding() -> None:
    noise = [0.5 + 1e-8 * index for index in range(8)]
    with pytest.raises(TrainingError):
        ConstantGuard(steps=1).update(seen(noise))
    assert ConstantGuard(steps=1).update(seen([1e-8 * index for index in range(8)])) is None


def test_rewards_that_cancel_out_stop() -> None:
    with pytest.raises(TrainingError, match="cancel each other out"):
        ConstantGuard(steps=1).update(seen(VARIED, [-score for score in VARIED]))


@pytest.mark.parametrize("cut", range(5))
def test_a_restored_guard_goes_on_the_same(cut: int) -> None:
    """R14: the guard of a resumed run stops and warns where the uninterrupted one does."""
    steps = [seen(FLAT, VARIED), seen(FLAT, VARIED), *[seen(FLAT, OTHER)] * 3]
    guard, said = ConstantGuard(steps=3), []
    for number, scores in enumerate(steps):
        if number == cut:
            state = json.loads(json.dumps(guard.state()))
            guard = ConstantGuard(steps=3)
            guard.restore(state)
        try:
            said.append(guard.update(scores))
        except TrainingError:
            said.append("stopped")
    assert [bool(text) for text in said] == [False, False, True, False, True]
    assert said[4] == "stopped"
