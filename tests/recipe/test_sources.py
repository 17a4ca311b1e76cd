"""Sources of `data.train` that are mappings: problems, flags, locks, and what a run depends on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from tests.cli.command import tuner
from tests.conftest import write_rows
from tests.recipe.keys import problem, write
from tuner.cli.make_plan import as_begun
from tuner.data.columns.named import named
from tuner.errors import DataError
from tuner.machine import hardware
from tuner.plan import make
from tuner.recipe import dump, history, history_rows, load, paths
from tuner.recipe.schema import DataSection
from tuner.record import disk
from tuner.run import content

MIX: list[Any] = [
    "train.jsonl",
    {"source": "more/chats.jsonl", "template": "own.yaml", "rows": 3, "system": "Be brief."},
]
OWN = """
name: own
description: turns of a protocol
columns: {required: [protocol]}
conversation: {column: protocol, role: who, content: said, roles: {q: user, a: assistant}}
"""


@pytest.fixture
def mixed(make_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    """A recipe with two sources of different formats."""
    (tmp_path / "more").mkdir()
    turns = [
        {"protocol": [{"who": "q", "said": f"Go {n}?"}, {"who": "a", "said": f"Yes {n}."}]}
        for n in range(9)
    ]
    write_rows(tmp_path / "more/chats.jsonl", turns)
    (tmp_path / "own.yaml").write_text(OWN, "utf-8")
    return make_recipe(data={"train": MIX, "template": "auto", "eval": 3})


def test_the_plan_has_a_line_for_each_source(mixed: Path, tmp_path: Path) -> None:
    done = tuner("plan", "--recipe", "r.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [
        line.split("source", 1)[1].strip()
        for line in done.stdout.splitlines()
        if "source  " in line
    ]
    assert lines == [
        "train.jsonl: 16 rows; template instruction; columns instruction, output",
        "chats.jsonl: 3 rows of 9, drawn by seed; template own; columns protocol",
    ]
    shown = tuner("data", "preview", "--recipe", "r.yaml", "-n", "2", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "train.jsonl:1 (" in shown.stdout
    assert "Be brief." in shown.stdout.partition("chats.jsonl:")[2]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ([{"source": "a.jsonl", "sorce": "b"}], "0.sorce: unknown key; did you mean 'source'"),
        ([{"rows": 3}], "0.source: is missing (the file, or ORG/NAME"),
        (["a.jsonl", {"source": "b.jsonl", "rows": 0}], "1.rows: expected a whole number, 1 or"),
        (["a.jsonl", ["b.jsonl"]], "1: expected text, or a mapping, not a list"),
        ([], "train: must not be empty"),
    ],
)
def test_problems_name_the_key(tmp_path: Path, train: list[Any], said: str) -> None:
    assert said in str(problem(write(tmp_path, {"data": {"train": train}})))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"sorce": "b.jsonl"}, "eval.sorce: unknown key; did you mean 'source'"),
        ({"rows": 3}, "eval.source: is missing (the file, or ORG/NAME"),
        (["a.jsonl"], "eval: expected"),
        (1.5, "expected a file, a fraction below 1 or a whole number of rows, not 1.5"),
    ],
)
def test_problems_of_held_out_rows_name_the_key(tmp_path: Path, held: Any, said: str) -> None:
    found = str(problem(write(tmp_path, {"data": {"train": "a.jsonl", "eval": held}})))
    assert said in found, found


def test_held_out_rows_may_come_from_a_file_of_another_format(mixed: Path, tmp_path: Path) -> None:
    """As a source of training rows: its template, columns, system turn, some of its rows."""
    rows = [{"q": f"Which {n}?", "a": f"This {n}."} for n in range(9)]
    write_rows(tmp_path / "more/held.jsonl", rows)
    columns = {"instruction": "q", "output": "a"}
    held = {"source": "more/held.jsonl", "template": "instruction", "columns": columns, "rows": 4}
    recipe = yaml.safe_load(mixed.read_text())
    recipe["data"]["eval"] = {**held, "system": "Be exact."}
    mixed.write_text(yaml.safe_dump(recipe), "utf-8")
    loaded = load.load(mixed, (), "sft")
    lock = tmp_path / "elsewhere" / "recipe.lock.yaml"
    lock.parent.mkdir()
    lock.write_text(dump.dump(loaded.recipe, loaded.folder), "utf-8")
    made = [
        make.make(each, hardware.detect(), output=tmp_path / "run")
        for each in (loaded, load.load(lock, (), "sft"))
    ]
    assert made[0].identity() == made[1].identity()
    report = made[0].prepared.report
    assert (report["rows_eval"], report["files"][-1]["drawn_from"]) == (4, 9)
    assert report["files"][-1]["template"] == "instruction"
    assert {row.reference for row in made[0].prepared.eval} <= {row["a"] for row in rows}
    decode = AutoTokenizer.from_pretrained(loaded.recipe.model.base).decode
    assert all("Be exact." in decode(row.prompt_ids) for row in made[0].prepared.eval)
    before = content.content_sha256(loaded)
    write_rows(tmp_path / "more/held.jsonl", rows[:8])
    assert content.content_sha256(load.load(mixed, (), "sft")) != before
    flag = load.load(mixed, ["data.eval={source: train.jsonl, rows: 2}"], None).recipe.data.eval
    assert not isinstance(flag, str | int | float)
    assert (flag.source.endswith("train.jsonl"), flag.rows) == (True, 2)


def test_a_flag_takes_mappings(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its paths start where the command runs."""
    monkeypatch.chdir(mixed.parent / "more")
    flag = "data.train=[{source: chats.jsonl, template: chat, rows: 2}, train.jsonl]"
    first, second = load.load(mixed, [flag], None).recipe.data.train
    assert not isinstance(first, str)
    assert (first.source, first.rows) == (str(mixed.parent / "more/chats.jsonl"), 2)
    assert (first.template, second) == ("chat", "train.jsonl")
    (alone,) = load.load(mixed, ["data.train={source: chats.jsonl}"], None).recipe.data.train
    assert not isinstance(alone, str)


def test_a_lock_means_the_same_anywhere(mixed: Path, tmp_path: Path) -> None:
    loaded = load.load(mixed, (), "sft")
    lock = tmp_path / "elsewhere" / "recipe.lock.yaml"
    lock.parent.mkdir()
    lock.write_text(dump.dump(loaded.recipe, loaded.folder), "utf-8")
    again = load.load(lock, (), "sft")
    for each in (loaded, again):
        found = [named.find(each.folder) for named in paths.named(each.recipe)]
        assert {tmp_path / "more/chats.jsonl", tmp_path / "own.yaml"} <= {*found}
    made = [make.make(each, hardware.detect(), output=tmp_path / "run") for each in (loaded, again)]
    assert made[0].identity() == made[1].identity()
    assert made[0].values["data.template"].value == "instruction, own"


@pytest.mark.parametrize("name", ["train.jsonl", "more/chats.jsonl", "own.yaml"])
def test_a_run_depends_on_every_file(mixed: Path, name: str) -> None:
    before = content.content_sha256(load.load(mixed, (), "sft"))
    file = mixed.parent / name
    file.write_text(file.read_text("utf-8") + "\n", "utf-8")
    assert content.content_sha256(load.load(mixed, (), "sft")) != before


def test_a_recipe_of_files_is_hashed_as_before(mixed: Path) -> None:
    """The new form of an item changes nothing for recipes without one."""
    loaded = load.load(mixed, ["data.train=[train.jsonl, b.jsonl]"], "sft")
    assert yaml.safe_load(dump.meaning(loaded).partition("\n")[2])["data"]["train"] == [
        "train.jsonl",
        "b.jsonl",
    ]


@pytest.mark.parametrize("column", ["system", "history"])
def test_a_run_of_an_earlier_version_reads_what_it_read(
    make_recipe: Callable[..., Path], tmp_path: Path, column: str
) -> None:
    """Columns that a template did not read then, and marks that were text."""
    pair = [{"role": "user", "content": "Go?"}, {"role": "assistant", "content": "Yes."}]
    whole: dict[str, Any] = {"messages": pair, "system": "Be brief."}
    if column == "history":
        asked = "<user>: Go? <bot>: Yes. <user>: Sure?"
        whole = {"prompt": asked, "completion": "Yes.", "history": [["a", "b"]]}
    keys = {"template": "auto", "eval": 0}
    recipe = make_recipe(data_rows=[whole] * 4, data=keys)
    loaded = load.load(recipe, verb="sft")
    now = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    template = now.values["data.template"].value
    then = {"template": template, "columns": {column: "none"}}
    old = load.load(make_recipe(data_rows=[whole] * 4, name="old.yaml", data={**keys, **then}))
    began = make.make(old, hardware.detect(), output=tmp_path / "run")
    assert began.identity() != now.identity()
    record = began.as_dict()
    record["values"]["data.columns"] = {"value": {}, "origin": "default"}
    record["data"]["ignored_columns"] = [column]
    for file in record["data"]["files"]:
        del file["template"]
    (tmp_path / "run").mkdir()
    for _ in range(2):
        head = {"format": 1, "tuner": "0.1.0", "status": "interrupted", "plan": record}
        disk.write_json(tmp_path / "run" / "run.json", head)
        again = as_begun(loaded, tmp_path / "run")
        resumed = make.make(again, hardware.detect(), output=tmp_path / "run")
        saved = {**began.identity(), "data.columns": {}}
        assert history.identity(saved, resumed.identity()) == resumed.identity()
        assert resumed.values["data.template"].origin == history.BEGUN
        record = resumed.as_dict()


# By the rule of CSV these lines are one row, which is how an earlier version read them.
OVER_LINES = 'prompt\tcompletion\n1\t"Stop\n2\tgo"\n'


def test_a_run_reads_tables_as_it_began(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Of an earlier version: without what is seen in them now; of this one: as was seen then."""
    (tmp_path / "q.tsv").write_text(OVER_LINES)
    loaded = load.load(
        make_recipe(data={"train": "q.tsv", "template": "auto", "eval": 0}), verb=None
    )
    now = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    record = now.as_dict()
    (tmp_path / "run").mkdir()

    def rows() -> int:
        head = {"format": 1, "tuner": "0.1.0", "status": "interrupted", "plan": record}
        disk.write_json(tmp_path / "run" / "run.json", head)
        again = as_begun(loaded, tmp_path / "run")
        made = make.make(again, hardware.detect(), output=tmp_path / "run")
        assert made.as_dict()["data"]["files"][0]["read"]["quotes"] == quotes
        return len(made.prepared.train)

    quotes = "literal"
    (tmp_path / "q.tsv").write_text("prompt\tcompletion\n1\tStop\n2\tgo\n")
    assert rows() == 2
    (tmp_path / "q.tsv").write_text(OVER_LINES)
    assert rows() == 2
    quotes = "csv"
    del record["data"]["files"][0]["read"]
    assert rows() == 1


def test_the_lock_says_how_tables_and_lines_were_read() -> None:
    data = DataSection(
        train=("a.csv", {"source": "b.tsv", "header": False}, "c.txt", "d.jsonl"), eval="e.csv"
    )
    seen = {"encoding": "utf-8", "separator": ";", "header": True, "quotes": "csv"}
    files = [{"read": seen}, {"read": seen}, {"template": "text"}, {"template": "chat"}, {}]
    found = history_rows.as_read(files, data)
    train = [item if isinstance(item, str) else item.model_dump() for item in found["train"]]
    assert train == [
        {"source": "a.csv", **seen},
        {"source": "b.tsv", **seen, "header": False},
        {"source": "c.txt", "template": "text"},
        "d.jsonl",
    ]
    # A run of an earlier version has no such facts.
    then = {"source": "e.csv", "separator": ",", "header": True, "quotes": "csv"}
    assert found["eval"].model_dump() == then
    assert history_rows.as_read(files[:2], data) == {}


def test_a_run_that_has_begun_reads_on_as_it_began(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Neither another choice of template nor a column in question changes or stops it."""
    rows = [
        {"prompt": f"第{n}条是什么？", "response": f"第{n}条说明。", "hints": f"见第{n}页"}
        for n in range(4)
    ]
    keys = {"template": "auto", "eval": 0}
    recipe = make_recipe(data_rows=rows, data=keys)
    loaded = load.load(recipe, verb="sft")
    with pytest.raises(DataError, match="column 'hints' looks like part of the task"):
        make.make(loaded, hardware.detect(), output=tmp_path / "run")
    then = {**keys, "columns": {"hints": "none"}, "template": "prompt_completion"}
    old = load.load(make_recipe(data_rows=rows, name="old.yaml", data=then), verb="sft")
    began = make.make(old, hardware.detect(), output=tmp_path / "run")
    record = began.as_dict()
    record["values"]["data.columns"] = {"value": {}, "origin": "default"}
    (tmp_path / "run").mkdir()
    for mapping in (True, False):
        if not mapping:
            # Earlier versions did not record it.
            del record["data"]["files"][0]["mapping"]
        head = {"format": 1, "tuner": "0.1.0", "status": "interrupted", "plan": record}
        disk.write_json(tmp_path / "run" / "run.json", head)
        again = as_begun(loaded, tmp_path / "run")
        resumed = make.make(again, hardware.detect(), output=tmp_path / "run")
        assert resumed.identity() == {**began.identity(), "data.columns": {}}


def test_the_lock_names_the_template_that_was_found(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """H10: a run of the lock reads the same tokens, whatever is recognised by then."""
    rows = [{"Question": f"Where is saw {n}?", "Answer": f"In shed {n}."} for n in range(4)]
    loaded = load.load(make_recipe(data_rows=rows, data={"template": "auto", "eval": 0}))
    plan = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    section = named(plan.recipe.data, plan.prepared.report)
    assert section.template == "prompt_completion"
    assert section.columns == {"prompt": "Question", "completion": "Answer"}
    keys = {"template": section.template, "columns": section.columns, "eval": 0}
    lock = load.load(make_recipe(data_rows=rows, name="lock.yaml", data=keys))
    again = make.make(lock, hardware.detect(), output=tmp_path / "again")
    assert again.identity() == {**plan.identity(), "data.columns": section.columns}
