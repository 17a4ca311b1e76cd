"""`--set` and other values from the command line (row H06)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.recipe.keys import (
    BASE,
    OTHER,
    RUN_KEYS,
    file_line,
    problem,
    value_of,
    verb_of,
    with_key,
    write,
)
from tuner.errors import RecipeError
from tuner.recipe.dump import dump
from tuner.recipe.load import load
from tuner.recipe.schema import keys_of


@pytest.mark.parametrize(("section", "key"), RUN_KEYS)
def test_set_wins_over_the_file(tmp_path: Path, section: str, key: str) -> None:
    """H06: (file a, none) -> a; (file a, flag b) -> b; a flag that equals the default wins too."""
    name, other = f"{section}.{key}", OTHER[f"{section}.{key}"]
    tree = with_key(section, key, other)
    plain: dict[str, Any] = {name: dict(keys) for name, keys in tree.items()}
    required = keys_of(section)[key].is_required()
    if not required:
        del plain[section][key]
    verb = verb_of(section)
    default = load(write(tmp_path, plain, "plain.yaml"), verb=verb)
    file = write(tmp_path, tree)

    from_file = load(file, verb=verb)
    assert from_file.origins[name] == f"recipe line {file_line(tmp_path, f'{key}:')}"
    by_flag = load(tmp_path / "plain.yaml", [f"{name}={other}"], verb)
    assert value_of(by_flag, section, key) == value_of(from_file, section, key)
    assert by_flag.origins[name] == "--set"
    if not required:
        assert default.origins[name] == "default"
        assert value_of(from_file, section, key) != value_of(default, section, key)

    dumped = dump(default.recipe).splitlines()
    back = written_value(dumped, section, key)
    again = load(file, [f"{name}={back}"], verb)
    assert value_of(again, section, key) == value_of(default, section, key)
    assert again.origins[name] == "--set"


@pytest.mark.parametrize("key", keys_of("compare"))
def test_set_wins_over_the_file_in_a_comparison(tmp_path: Path, key: str) -> None:
    """H06"""
    name, other = f"compare.{key}", OTHER[f"compare.{key}"]
    first = {**BASE, "compare": {"methods": "[{name: rslora}]", "learning_rates": "{rslora: 0.1}"}}
    second: dict[str, Any] = {**first, "compare": {**first["compare"], key: other}}
    from_file = load(write(tmp_path, second, "second.yaml"), verb=None).recipe.compare
    by_flag = load(write(tmp_path, first), [f"{name}={other}"], verb=None).recipe.compare
    assert by_flag == from_file != load(write(tmp_path, first), verb=None).recipe.compare


def written_value(lines: list[str], section: str, key: str) -> str:
    """A key's value in a dumped recipe, as flow YAML."""
    inside = list(itertools.dropwhile(lambda text: text != f"{section}:", lines))
    at = next(i for i, text in enumerate(inside) if text.startswith(f"  {key}:"))
    if rest := inside[at].partition(":")[2].strip():
        return rest
    block = itertools.takewhile(lambda text: text.startswith(("  -", "    ")), inside[at + 1 :])
    items: list[str] = []
    for text in block:
        if text.startswith("  - "):
            items.append(text[4:])
        else:
            items[-1] += f", {text.strip()}"
    return "[" + ", ".join(f"{{{x}}}" if ": " in x else x for x in items) + "]"


def test_the_last_of_several_flags_wins_and_output_is_one(tmp_path: Path) -> None:
    """H06"""
    file = write(tmp_path, {**BASE, "run": {"output": "a"}})
    assert load(file, ["run.seed=1", "run.seed=2"]).recipe.run.seed == 2
    loaded = load(file, output="b")
    assert (loaded.recipe.run.output, loaded.origins["run.output"]) == ("b", "--output")
    with pytest.raises(RecipeError, match="keep one of them"):
        load(file, ["run.output=c"], output="b")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1", "write it as run.seed=value"),
        ("seed", "write it as section.key=value"),
        ("run.seed", "write it as section.key=value"),
        ("zzz=1", "write it as section.key=value"),
        ("runn.seed=1", "unknown section; did you mean 'run'"),
        ("run.seeed=1", "unknown key; did you mean 'seed'"),
        ("run.seed=x", "expected a whole number, 0 or more, not 'x'"),
        ("run.seed=[", "not a YAML value"),
        ("run.seed.deep=1", "expected a whole number"),
        ("run.output.deep=1", "expected text"),
        ("train.epochs=", "expected a number, above 0, not an empty value"),
    ],
)
def test_a_wrong_set_is_named(tmp_path: Path, override: str, said: str) -> None:
    """H01, H06"""
    file = write(tmp_path, BASE)
    assert f"--set {override}: " in str(problem(file, override))
    assert said in str(problem(file, override))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.trl.adam_beta1=0.8", "train.trl: unknown key; it is now train.adam_beta1"),
        ("train.trl={}", "it is now train.adam_beta1, train.adam_beta2 and train.adam_epsilon"),
        ("train.trl=x", "it is now train.adam_beta1, train.adam_beta2 and train.adam_epsilon"),
        ("run.strategy=deepspeed", "run.strategy: deepspeed is not supported; did you mean 'fsdp'"),
        ("run.strategy=fdsp", "run.strategy: expected one of auto, ddp, fsdp, not 'fdsp'"),
    ],
)
def test_an_old_key_is_answered_with_the_new_one(tmp_path: Path, override: str, said: str) -> None:
    assert said in str(problem(write(tmp_path, BASE), override))


def test_set_reaches_into_free_mappings(tmp_path: Path) -> None:
    data = {**BASE["data"], "columns": "{prompt: a, completion: b}"}
    loaded = load(write(tmp_path, {**BASE, "data": data}), ["data.columns.prompt=question"])
    assert loaded.recipe.data.columns == {"prompt": "question", "completion": "b"}
    assert loaded.origins["data.columns"] == "--set"


def test_a_data_file_on_the_command_line_is_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.jsonl").touch()
    monkeypatch.chdir(tmp_path / "here")
    loaded = load(write(tmp_path, BASE), ["data.train=mine.jsonl", "data.eval=other.jsonl"])
    assert loaded.recipe.data.train == (str(tmp_path / "here" / "mine.jsonl"),)
    assert loaded.recipe.data.eval == "other.jsonl"
