"""A reward that does not vary is noticed."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from tuner.errors import TrainingError
from tuner.rewards.constant import ConstantGuard
from tuner.rewards.response import Scores


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
