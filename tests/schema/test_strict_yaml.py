"""YAML as a recipe reads it: rows H02 to H05 and I04 of the reliability table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import RecipeError
from tuner.recipe.load import load
from tuner.recipe.schema import Recipe
from tuner.schema import strict_yaml
from tuner.schema.strict_yaml import Plain, YamlProblem, parse

DATA = "data: {train: rows.jsonl}\n"


def recipe(folder: Path, text: str) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file).recipe


def problem(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as error:
        recipe(folder, text)
    return str(error.value)


@pytest.mark.parametrize("written", ["1e-4", "1E-4", ".0001", "1.e-4", "0.0001", '"1e-4"', "+1e-4"])
def test_every_way_to_write_a_float_is_that_float(tmp_path: Path, written: str) -> None:
    """H02"""
    assert (
        recipe(tmp_path, f"{DATA}train: {{learning_rate: {written}}}\n").train.learning_rate == 1e-4
    )


@pytest.mark.parametrize(
    "written", ["1e-4x", "nan", ".nan", "inf", ".inf", "-1", "0", "1e999", "on"]
)
def test_what_is_no_positive_number_is_refused(tmp_path: Path, written: str) -> None:
    """H02"""
    said = problem(tmp_path, f"{DATA}train:\n  learning_rate: {written}\n")
    assert "recipe.yaml:3: train.learning_rate: expected a number, above 0" in said


@pytest.mark.parametrize(
    "written", ["1e999", "1.5", "0x10", "0o17", "1_000", "true", "1:30", "nan"]
)
def test_what_is_no_whole_number_is_refused(tmp_path: Path, written: str) -> None:
    """H02, H03"""
    assert "expected a whole number" in problem(
        tmp_path, f"{DATA}train: {{save_steps: {written}}}\n"
    )


def test_a_long_whole_number_keeps_every_digit(tmp_path: Path) -> None:
    """H02: a float in between would round it."""
    assert recipe(tmp_path, f"{DATA}run: {{seed: 9007199254740993}}\n").run.seed == 9007199254740993
    assert recipe(tmp_path, f"{DATA}run: {{seed: 012}}\n").run.seed == 12


@pytest.mark.parametrize(
    "word", ["no", "off", "on", "yes", "012", "12:30", "2026-01-01", "true", "1e3"]
)
def test_words_stay_words(tmp_path: Path, word: str) -> None:
    """H03"""
    read = recipe(
        tmp_path, f"data: {{train: {word}, labels: [{word}, b]}}\nrun: {{output: {word}}}\n"
    )
    assert (read.data.train, read.data.labels, read.run.output) == ((word,), (word, "b"), word)


@pytest.mark.parametrize("word", ["no", "off", "on", "yes", "True", "1", '"true"'])
def test_a_flag_takes_true_and_false_only(tmp_path: Path, word: str) -> None:
    """H03"""
    assert "expected true or false" in problem(tmp_path, f"{DATA}eval: {{enabled: {word}}}\n")


def test_the_free_mapping_follows_yaml_1_2(tmp_path: Path) -> None:
    """H03"""
    text = "{a: no, b: 1e-4, c: true, d: 012, e: '1', f: [off, 2]}"
    (tmp_path / "r.yaml").write_text(f"{DATA}compare: {{methods: [{text}]}}\n")
    compare = load(tmp_path / "r.yaml", verb=None).recipe.compare
    assert compare is not None
    assert compare.methods[0] == {
        "a": "no",
        "b": 1e-4,
        "c": True,
        "d": 12,
        "e": "1",
        "f": ["off", 2],
    }


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("data: {train: a}\nmodel: {base: x}\ndata: {train: b}\n", 1, 3),
        ("data:\n  train: a\n  eval: 1\n  train: b\n", 2, 4),
        ('data:\n  train: a\n  "train": b\n', 2, 3),
    ],
)
def test_a_key_that_stands_twice_is_refused(
    tmp_path: Path, text: str, first: int, second: int
) -> None:
    """H04"""
    said = problem(tmp_path, text)
    assert f"line {first} and line {second}" in said
    assert f"recipe.yaml:{second}:" in said


def test_a_tab_is_refused_with_its_place(tmp_path: Path) -> None:
    """H05"""
    said = problem(tmp_path, "data:\n\ttrain: a\n")
    assert "recipe.yaml:2:1" in said
    assert "a tab is used where YAML needs spaces" in said


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("data:\n  train: a\n model: {}\n", ":3:", "expected"),
        ("data: &a {train: x}\n", ":1:", "anchors"),
        ("data: {train: x}\nmodel: *a\n", ":2:", "anchors"),
        ("data:\n  <<: {a: b}\n", ":2:", "merge keys"),
        ("data: !foo {train: x}\n", ":1:", "tags"),
        ("data: [", ":1:", ""),
        ("? [a, b]\n: c\n", ":1:", "a key must be a word"),
        ("a: 1\n---\nb: 2\n", ":2:", "document"),
        ("a: \x00\n", ":1:", "special characters"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_place(
    tmp_path: Path, text: str, place: str, what: str
) -> None:
    """H05"""
    said = problem(tmp_path, text)
    assert f"recipe.yaml{place}" in said
    assert what in said


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    """H05: in less than a second and 200 MB."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))
    # VmHWM and not ru_maxrss: that one still holds the parent's memory from before the exec.
    code = (
        "import re, sys, time; from pathlib import Path\n"
        "from tuner.recipe.load import load; from tuner.errors import RecipeError\n"
        "start = time.monotonic()\n"
        "try: load(Path(sys.argv[1]))\n"
        "except RecipeError as error: print(error)\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(time.monotonic() - start, re.search(r'VmHWM:\\s*(\\d+) kB', status)[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert "anchors" in done.stdout
    seconds, kibibytes = done.stdout.splitlines()[-1].split()
    assert float(seconds) < 1
    assert int(kibibytes) < 200_000


@pytest.mark.parametrize("depth", [33, 5_000, 500_000])
def test_deep_nesting_is_refused(tmp_path: Path, depth: int) -> None:
    """H05"""
    assert "nested too deeply" in problem(tmp_path, "a: " + "[" * depth + "]" * depth)


@pytest.mark.parametrize(
    "payload",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "!!python/object/new:os.system ['touch canary']",
        "!!python/name:os.system",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch canary']",
    ],
)
def test_python_tags_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str
) -> None:
    """I04"""
    monkeypatch.chdir(tmp_path)
    assert "tags are not accepted" in problem(tmp_path, f"data: {payload}\n")
    with pytest.raises(RecipeError) as error:
        load(_good(tmp_path), [f"data.train={payload}"])
    assert "tags are not accepted" in str(error.value)
    assert not (tmp_path / "canary").exists()


def _good(folder: Path) -> Path:
    file = folder / "good.yaml"
    file.write_text(DATA)
    return file


def test_a_byte_order_mark_and_crlf_change_nothing(tmp_path: Path) -> None:
    """D04, for recipes"""
    text = "data:\n  train: a\ntrain:\n  epochs: 2\n"
    plain = recipe(tmp_path, text)
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load(tmp_path / "bom.yaml").recipe == plain


@given(st.text(max_size=200))
def test_any_text_is_a_tree_or_a_problem(text: str) -> None:
    """H05: nothing but YamlProblem comes out of the parser."""
    try:
        tree, lines = parse(text)
    except YamlProblem as error:
        tree, lines = None, {(): min(error.line, error.column)}
    assert all(line >= 1 for line in lines.values())
    if isinstance(tree, dict):
        assert {path[0] for path in lines} == set(tree)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_as_itself(value: float) -> None:
    """H02"""
    assert strict_yaml.number(repr(value)) == value
    assert strict_yaml.resolve(Plain(repr(value))) == value


@pytest.mark.parametrize("text", ["null", "- a", "a ", "a  b", "2026-11-28", "true", "../a", "C++"])
def test_a_text_on_a_line_of_a_recipe_reads_back_as_itself(text: str) -> None:
    for item in (text, [text], {text: [text]}):
        tree = parse(f"key: {strict_yaml.flow(item)}")[0]
        assert strict_yaml.resolve(tree) == {"key": item}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_on_a_line_of_a_recipe_reads_back_as_itself(text: str) -> None:
    assert strict_yaml.resolve(parse(f"[{strict_yaml.flow(text)}]")[0]) == [text]
