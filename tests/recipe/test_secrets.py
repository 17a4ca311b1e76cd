"""Secrets in recipes are refused and never echoed (row I08)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe.keys import BASE, problem, write
from tuner.console.redact import MASK, looks_secret, redact
from tuner.errors import RecipeError
from tuner.recipe.load import load

TOKENS = [
    "hf_CANARYcanary0123456789",
    "sk-CANARY0123456789abcdef",
    "ghp_CANARY0123456789abcdef",
    "AKIACANARY0123456789",
    "https://user:CANARYpw@host/data.jsonl",
    "https://CANARYtoken@host/data.jsonl",
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    "tree",
    [
        {"data": {"train": "{}"}},
        {"data": {"train": "[a, {}]"}},
        {"data": {"train": "a"}, "model": {"base": "{}"}},
        {"data": {"train": "a"}, "rlhf": {"reward": "[{{deep: [{{er: '{}'}}]}}]"}},
        {"data": {"train": "a", "'{}'": "1"}},
        {"data": {"train": "a"}, "'{}'": {"x": "1"}},
        {"data": {"train": "a"}, "run": {"seed": "{}"}},
    ],
)
def test_a_secret_in_a_recipe_is_refused_and_not_echoed(
    tmp_path: Path, token: str, tree: dict[str, dict[str, str]]
) -> None:
    """I08"""
    filled = {
        section.format(token): {k.format(token): v.format(token) for k, v in keys.items()}
        for section, keys in tree.items()
    }
    error = problem(write(tmp_path, filled))
    assert "must not hold secrets" in error.what
    assert "CANARY" not in str(error)
    assert all("looks like a secret" in line and "recipe.yaml:" in line for line in error.problems)


@pytest.mark.parametrize("token", TOKENS)
def test_a_secret_on_the_command_line_is_refused_and_not_echoed(tmp_path: Path, token: str) -> None:
    """I08"""
    file = write(tmp_path, BASE)
    for overrides in ([f"model.base={token}"], [f"{token}=1"], [f"data.columns={{a: '{token}'}}"]):
        assert "CANARY" not in str(problem(file, *overrides))
    with pytest.raises(RecipeError) as error:
        load(file, output=token)
    assert "CANARY" not in str(error.value)


def test_a_secret_of_the_environment_is_known_by_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I08: no shape gives a wandb key away."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    file = write(
        tmp_path, {**BASE, "model": {"revision": "0123456789abcdef0123456789abcdef01234567"}}
    )
    assert "must not hold secrets" in problem(file).what
    assert redact("key 0123456789abcdef0123456789abcdef01234567!") == f"key {MASK}!"


@pytest.mark.parametrize(
    "word",
    [
        "data/hf_conversations.jsonl",
        "hf_models",
        "HuggingFaceTB/SmolLM2-135M",
        "sk-learn-notes",
        "https://host/path?q=a@b",
        "s3://bucket/key",
        "user@host",
        "0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_ordinary_words_are_no_secrets(word: str) -> None:
    """I08: a guard that cries wolf gets switched off."""
    assert not looks_secret(word)
    assert redact(word) == word
