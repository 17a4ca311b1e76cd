"""Recipes: every key known and typed, and every mistake named (rows H01, H10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.recipe.keys import (
    BASE,
    KEYS,
    OTHER,
    RUN_KEYS,
    file_line,
    method_section,
    problem,
    verb_of,
    with_key,
    write,
)
from tuner.methods import METHODS
from tuner.recipe import bundled, explain
from tuner.recipe.dump import dump
from tuner.recipe.json_schema import json_schema
from tuner.recipe.load import load
from tuner.recipe.schema import Recipe, keys_of, sections
from tuner.recipe.verbs import ALGORITHM_SECTIONS, VERBS


def test_the_walk_covers_the_schema() -> None:
    assert set(OTHER) == {f"{section}.{key}" for section, key in KEYS}
    assert set(sections()) == set(Recipe.model_fields)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_has_a_description(section: str, key: str) -> None:
    if (section, key) != ("method", "name"):
        assert keys_of(section)[key].description


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_misspelt_key_is_named_with_line_and_nearest_key(
    tmp_path: Path, section: str, key: str
) -> None:
    """H01: one letter changed, at every place of every key."""
    for index in range(len(key)):
        wrong = key[:index] + ("q" if key[index] != "q" else "z") + key[index + 1 :]
        tree = with_key(section, key, OTHER[f"{section}.{key}"])
        value = tree[section].pop(key)
        tree[section][wrong] = value
        error = problem(write(tmp_path, tree))
        line = next(text for text in error.problems if wrong in text)
        number = file_line(tmp_path, wrong)
        assert f"recipe.yaml:{number}: {section}.{wrong}: unknown key; " in line
        # Without its new letter the word may be another key: `deviceq` is `device` and one more.
        also = {wrong[:at] + wrong[at + 1 :] for at in range(len(wrong))} & set(keys_of(section))
        meant = line.partition("did you mean ")[2]
        near = any(f"'{one}'" in meant for one in {key, *also})
        assert near or (len(key) < 3 and f" {key}" in line)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_key_in_another_section_is_sent_home(tmp_path: Path, section: str, key: str) -> None:
    """H01"""
    homes = [name for name in sections() if key in keys_of(name)]
    for wrong in set(sections()) - set(homes):
        tree: dict[str, Any] = {name: dict(keys) for name, keys in BASE.items()}
        tree.setdefault(wrong, {})[key] = OTHER[f"{section}.{key}"]
        error = problem(write(tmp_path, tree))
        said = next(text for text in error.problems if f"{wrong}.{key}: unknown key" in text)
        assert all(home in said.partition("it belongs under")[2] for home in homes)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_key_outside_the_sections_is_sent_home(tmp_path: Path, section: str, key: str) -> None:
    """H01"""
    if key in sections():
        return
    file = tmp_path / "recipe.yaml"
    file.write_text(f"data: {{train: a}}\n{key}: {OTHER[f'{section}.{key}']}\n")
    (said,) = problem(file).problems
    assert said.startswith(f"{file}:2: {key}: unknown section; the key belongs under ")
    assert section in said


@pytest.mark.parametrize(("section", "key"), [pair for pair in KEYS if "_" in pair[1]])
def test_hyphens_are_told_from_underscores(tmp_path: Path, section: str, key: str) -> None:
    """H01"""
    wrong = key.replace("_", "-")
    tree = with_key(section, key, OTHER[f"{section}.{key}"])
    tree[section][wrong] = tree[section].pop(key)
    error = problem(write(tmp_path, tree))
    assert any(f"{section}.{wrong}: unknown key; did you mean '{key}'" in x for x in error.problems)


def _one_letter_away(wrong: str) -> list[str]:
    """Sections of the same length that differ in one letter: ppo, dpo and cpo do."""
    return [
        name
        for name in sections()
        if len(name) == len(wrong) and sum(map(str.__ne__, name, wrong)) == 1
    ]


@pytest.mark.parametrize("section", sections())
def test_a_misspelt_section_is_named(tmp_path: Path, section: str) -> None:
    """H01"""
    for index in range(len(section)):
        wrong = section[:index] + "q" + section[index + 1 :]
        error = problem(write(tmp_path, {**BASE, wrong: {"x": "1"}}))
        assert any(
            f":3: {wrong}: unknown section; did you mean '{near}'" in text
            for text in error.problems
            for near in _one_letter_away(wrong)
        )


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_value_of_the_wrong_type_is_named(tmp_path: Path, section: str, key: str) -> None:
    """H01: a list of mappings fits no key but `stages`, a nested list none at all."""
    error = problem(write(tmp_path, with_key(section, key, "[[[]]]")))
    where = f"recipe.yaml:{file_line(tmp_path, key)}: {section}.{key}"
    said = "no method" if (section, key) == ("method", "name") else "expected "
    assert any(where in text and said in text for text in error.problems)


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    """H01"""
    tree = {
        "modle": {"base": "x"},
        "data": {"train": "a", "eval": "-3"},
        "method": {"name": "full", "r": "8"},
        "train": {"epochs": "0", "batchsize": "4", "scheduler": "cosin"},
    }
    error = problem(write(tmp_path, tree), "train.max_steps=x", "eval.enable=true", verb="lora")
    said = [text.replace(f"{tmp_path}/", "") for text in error.problems]
    assert said == [
        "--set train.max_steps=x: train.max_steps: expected a whole number, 1 or more, or null, "
        "not 'x'",
        "--set eval.enable=true: eval.enable: unknown key; did you mean 'enabled'",
        "recipe.yaml:1: modle: unknown section; did you mean 'model'",
        "recipe.yaml:5: data.eval: expected a file, a fraction below 1 or a whole number of rows, "
        "not -3.0",
        "recipe.yaml:8: method.r: not an option of full; lora, rslora, dora, adalora, vera, "
        "lokr and loha have it",
        "recipe.yaml:10: train.epochs: expected a number, above 0, not '0'",
        "recipe.yaml:11: train.batchsize: unknown key; did you mean 'batch_size'",
        "recipe.yaml:12: train.scheduler: expected one of auto, linear, cosine, constant, wsd, "
        "polynomial, inverse_sqrt, cosine_restarts, not 'cosin'",
        "recipe.yaml:7: method.name: `tuner lora` does not train method 'full'; `tuner sft` does",
    ]
    assert "8 problems" not in error.what
    assert "9 problems" in error.what


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """H01"""
    assert "data: is missing" in str(problem(write(tmp_path, {"run": {"seed": "1"}})))
    assert "data.train: is missing" in str(problem(write(tmp_path, {"data": {"eval": "1"}})))
    tree = {**BASE, "method": {"name": "staged", "stages": "[{train: all}]"}}
    assert "method.stages.0.learning_rate: is missing" in str(problem(write(tmp_path, tree)))


@pytest.mark.parametrize("name", METHODS)
def test_a_dumped_recipe_loads_back_equal(tmp_path: Path, name: str) -> None:
    """H10: `recipe.lock.yaml` repeats the run."""
    file = write(tmp_path, {**BASE, "method": method_section(name)})
    values = {f"{s}.{k}": OTHER[f"{s}.{k}"] for s, k in RUN_KEYS if s != "method"}
    odd = ["1e-4", "no", "null", "合同", 'a"b\\c', " x ", "tab\tnew\nline\u2028", "😀"]
    labels = f"data.labels={json.dumps(odd, ensure_ascii=False)}"
    free = 'data.columns={a: "1e-4", b: "012", c: "true", d: "~"}'
    for verb, algorithm in (
        *(("sft", ""), ("reward", "")),
        *(("rlhf", algorithm) for algorithm in ALGORITHM_SECTIONS),
    ):
        others = {*ALGORITHM_SECTIONS} - {algorithm}
        keys = [
            f"{key}={value}"
            for key, value in values.items()
            if verb_of(key.partition(".")[0]) in ("sft", verb)
            and key != "rlhf.algorithm"
            and key.partition(".")[0] not in others
        ]
        chosen = [f"rlhf.algorithm={algorithm}"] if algorithm else []
        for overrides in (chosen, [*keys, *chosen, labels, free, 'data.eval="1e-4"']):
            loaded = load(file, overrides, verb)
            (tmp_path / "lock.yaml").write_text(dump(loaded.recipe), encoding="utf-8")
            assert load(tmp_path / "lock.yaml", (), verb).recipe == loaded.recipe


def test_a_dump_for_another_folder_keeps_the_data_files(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    loaded = load(write(tmp_path, BASE))
    away = tmp_path / "away"
    away.mkdir()
    (away / "lock.yaml").write_text(dump(loaded.recipe, loaded.folder), encoding="utf-8")
    assert load(away / "lock.yaml").recipe.data.train == (str(tmp_path / "rows.jsonl"),)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("method", METHODS)
def test_a_verb_takes_the_methods_of_its_family(tmp_path: Path, verb: str, method: str) -> None:
    file = write(tmp_path, {**BASE, "method": method_section(method)})
    if VERBS[verb].family in (None, METHODS[method].verb):
        assert load(file, verb=verb).recipe.method.name == method
        return
    error = problem(file, verb=verb)
    assert error.fix == f"run: tuner {METHODS[method].verb} --recipe {file}"
    assert f"`tuner {METHODS[method].verb}` does" in str(error)


def test_without_a_method_the_verb_decides(tmp_path: Path) -> None:
    file = write(tmp_path, BASE)
    for verb, origin in (("lora", "verb"), ("sft", "default")):
        loaded = load(file, verb=verb)
        assert (loaded.recipe.method.name, loaded.origins["method.name"]) == ("lora", origin)
        assert (loaded.verb, loaded.task) == (verb, "sft")
    assert load(file, ["method.r=4"], verb="lora").recipe.method.name == "lora"
    assert load(file, ["method.name=full"], verb=None).verb == "sft"
    assert load(file, ["method.name=dora"], verb=None).verb == "lora"


def test_an_unknown_method_gets_the_nearest(tmp_path: Path) -> None:
    (said,) = problem(write(tmp_path, {**BASE, "method": {"name": "loraa", "r": "x"}})).problems
    assert said.endswith("recipe.yaml:4: method.name: no method 'loraa'; did you mean 'lora'")
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {train: a}\nmethod: lora\n")
    assert "expected keys such as {name: lora}, not 'lora'" in str(problem(file))


def test_empty_sections_are_sections_left_out(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {train: a}\ntrain:\n  # epochs: 2\neval:\n")
    assert load(file).recipe == load(write(tmp_path, {"data": {"train": "a"}}, "b.yaml")).recipe


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"- a\n- b\n", "expected sections"),
        (b"word", "expected sections"),
        (b"data: {train: \xff}\n", "recipe.yaml:1: the text is not UTF-8"),
        ("data: {train: a}\n".encode("utf-16"), "the text is UTF-16"),
        (b"x" * (1 << 20) + b"x", "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    assert said in str(problem(file))


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in str(problem(tmp_path))
    assert "there is no such file" in str(problem(tmp_path / "none.yaml"))
    assert "not a regular file" in str(problem(Path("/dev/null")))


def test_a_bundled_recipe_answers_to_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, BASE, "contracts.yaml")
    monkeypatch.setattr(bundled, "folder", lambda kind: tmp_path)
    assert load(Path("contracts")).path == file
    assert load(Path("contracts")).name == "contracts"
    assert "bundled recipe 'contracts'" in str(problem(Path("contract.yaml")))


def test_the_json_schema_knows_every_key() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(sections())
    models = schema["$defs"].values()
    described = {name for model in models for name in model.get("properties", {})}
    assert {key for _, key in KEYS} <= described
    section = schema["$defs"]["DataSection"]["properties"]
    assert {"type": "string"} in section["train"]["anyOf"]
    assert all("description" in key for key in section.values())
    assert schema["$defs"]["DataSection"]["additionalProperties"] is False


def test_every_method_has_a_place_in_the_schema() -> None:
    """A new row in METHODS must be a tag of the method section, and say its own name."""
    names = {model.model_fields["name"].default for model in sections()["method"]}
    assert names == set(METHODS)
    for row in METHODS.values():
        assert get_args(row.options.model_fields["name"].annotation) == (row.name,)
        assert row.verb in VERBS


def test_ranges_are_said_in_words() -> None:
    said = {
        "train.epochs": "a number, above 0",
        "train.batch_size": "a whole number, 1 or more",
        "method.dropout": "a number, 0 or more and below 1",
        "method.alpha": "a number, above 0, or auto",
        "method.rank_pattern": "a mapping",
        "data.train": "a word, a mapping or a list of these",
        "model.revision": "text, or null",
        "eval.enabled": "true or false",
        "method.stages": "a list",
        "data.columns": "a mapping",
    }
    for name, text in said.items():
        section, key = name.split(".")
        field = keys_of(section, "staged" if key == "stages" else "lora")[key]
        assert explain.describe(field.annotation, field.metadata) == text
