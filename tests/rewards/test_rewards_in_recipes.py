"""The section `rlhf.reward` of a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.rewards.rules import Rewards, read
from tuner.errors import RecipeError
from tuner.recipe.dump import dump
from tuner.recipe.load import load
from tuner.rewards.options import OPTIONS, RewardPart, RewardParts, part_name


def problems(*entries: str) -> list[tuple[tuple[int | str, ...], str]]:
    """Where each problem of the entries is, without pydantic's tags, and what is said of it."""
    with pytest.raises(ValidationError) as error:
        read(*entries)
    found = error.value.errors()
    return [(tuple(x for x in item["loc"] if x not in OPTIONS), item["msg"]) for item in found]


def test_entries_are_read_by_their_key() -> None:
    parts = read(
        "{model: runs/reward}",
        "{rule: length, min: 5, max: 25, weight: 0.25}",
        "{rule: format, pattern: \\d+, weight: -1, name: digits}",
        "{rule: forbidden, words: bad}",
        "{function: code/mine.py:polite}",
        "{model: recipes/reward-v1.yaml}",
        "{model: runs/reward-v1.2/}",
    )
    names = ["reward", "length", "digits", "forbidden", "polite", "reward-v1", "reward-v1.2"]
    assert [part_name(part) for part in parts] == names
    assert [part.weight for part in parts] == [1, 0.25, -1, 1, 1, 1, 1]
    assert parts[3].words == ("bad",)
    dumped = json.loads(Rewards(reward=parts).model_dump_json())
    assert Rewards.model_validate(dumped).reward == parts


@pytest.mark.parametrize(
    ("entry", "key", "said"),
    [
        ("{rule: length, min: x, max: 9}", "min", "a whole number"),
        ("{rule: length, min: 5}", "max", "required"),
        ("{rule: length, min: 5, max: 4}", "max", "5 (min) or more, not 4"),
        ("{rule: length, max: 5, unit: letters}", "unit", "'words' or 'tokens'"),
        ("{rule: format, pattern: '(a'}", "pattern", "missing ) at position 2"),
        ("{rule: forbidden, words: []}", "words", "at least 1"),
        ("{rule: forbidden, words: [a, ' ']}", "words", "must not be blank"),
        ("{rule: json, kyes: [a]}", "kyes", "not permitted"),
        ("{rule: json, weight: 0}", "weight", "has no effect"),
        ("{rule: json, weight: .inf}", "weight", "a number"),
        ("{function: mine}", "function", "expected file.py:name, not 'mine'"),
        ("{function: 'mine.txt:f'}", "function", "expected file.py:name"),
        ("{rule: lenght}", None, "no rule 'lenght'; did you mean 'length'; known here: length, "),
        ("{rule: zzz}", None, "known here: length, format, forbidden, exact_answer, json"),
        ("{rule: [length]}", None, "no rule"),
        ("{weight: 2}", None, "one of the keys model, rule and function; it has none"),
        ("{model: null}", None, "it has none"),
        ("{}", None, "it has none"),
        ("{model: a, rule: json}", None, "it has model and rule"),
        ("{model: a, rule: json, function: a.py:f}", None, "it has model and rule and function"),
        ("length", None, "expected keys such as {rule: length, max: 25}, not 'length'"),
        ("[length]", None, "not a list"),
    ],
)
def test_a_wrong_entry_is_named_at_its_key(entry: str, key: str | None, said: str) -> None:
    """H01"""
    ((where, text),) = problems("{model: runs/reward}", entry)
    assert where == ("reward", 1, *([key] if key else []))
    assert said in text


def test_two_rewards_of_one_name_are_refused() -> None:
    reader: TypeAdapter[tuple[RewardPart, ...]] = TypeAdapter(RewardParts)
    one = {"rule": "length", "max": 5}
    with pytest.raises(ValidationError, match="2 are called 'length'; give each its own name"):
        reader.validate_python([one, one])
    assert len(reader.validate_python([one, {**one, "name": "short"}])) == 2


def test_the_json_schema_tells_the_entries_apart() -> None:
    schema = Rewards.model_json_schema()
    names = [
        each["$ref"].rpartition("/")[2] for each in schema["properties"]["reward"]["items"]["oneOf"]
    ]
    assert names == [options.__name__ for options in OPTIONS.values()]
    for name in names:
        model = schema["$defs"][name]
        assert {"model", "rule", "function"} & set(model["required"])
        assert all("description" in key for key in model["properties"].values())


def recipe_with(folder: Path, *entries: str) -> Path:
    file = folder / "recipe.yaml"
    lines = ["data: {train: a}", "rlhf:", "  reward:", *(f"    - {entry}" for entry in entries)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_recipe_s_wrong_rewards_are_named_with_their_lines(tmp_path: Path) -> None:
    """H01"""
    file = recipe_with(
        tmp_path,
        "{model: [a]}",
        "{rule: length, min: x, max: 9}",
        "{rule: length, min: 5}",
        "{rule: lenght}",
        "{rule: json, kyes: a}",
        "{rule: json, pattern: a}",
        "{weight: 2}",
        "{rule: forbidden, words: {a: 1}}",
        "{rule: forbidden, words: [a, [b]]}",
        "{rule: length, max: 5, unit: letters}",
        "{rule: format, pattern: '(a'}",
        "{model: a, weight: 0}",
        "[length]",
    )
    with pytest.raises(RecipeError) as error:
        load(file, verb=None)
    said = [text.removeprefix(f"{tmp_path}/recipe.yaml:") for text in error.value.problems]
    assert said == [
        "4: rlhf.reward.0.model: expected text, not a list",
        "5: rlhf.reward.1.min: expected a whole number, 0 or more, not 'x'",
        "6: rlhf.reward.2.max: is missing (longest response that scores 1)",
        "7: rlhf.reward.3.rule: no rule 'lenght'; did you mean 'length'; known here: length, "
        "format, forbidden, exact_answer, json",
        "8: rlhf.reward.4.kyes: unknown key; did you mean 'keys'",
        "9: rlhf.reward.5.pattern: rule json has no such key; rule format has it",
        "10: rlhf.reward.6: expected one of the keys model, rule and function; it has none",
        "11: rlhf.reward.7.words: expected a word or a list of words, not a mapping",
        "12: rlhf.reward.8.words.1: expected text, not a list",
        "13: rlhf.reward.9.unit: expected one of words, tokens, not 'letters'",
        "14: rlhf.reward.10.pattern: expected a regular expression: missing ) at position 2",
        "15: rlhf.reward.11.weight: a reward with weight 0 has no effect; remove it",
        "16: rlhf.reward.12: expected keys such as {rule: length, max: 25}, not a list",
    ]


def test_a_recipe_s_rewards_load_and_are_dumped(tmp_path: Path) -> None:
    """H10"""
    file = recipe_with(
        tmp_path, "{model: runs/reward}", r"{rule: format, pattern: \d+}", "{rule: json, keys: a}"
    )
    loaded = load(file, verb=None)
    (tmp_path / "lock.yaml").write_text(dump(loaded.recipe), encoding="utf-8")
    assert load(tmp_path / "lock.yaml", verb=None).recipe == loaded.recipe
    by_flag = load(file, ["rlhf.reward=[{rule: length, max: 7}]"], verb=None).recipe
    assert by_flag.rlhf is not None
    assert by_flag.rlhf.reward == read("{rule: length, max: 7}")
