"""Rows of a data set on the Hub, from a stand-in on loopback: found, pinned, read again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import Done, tuner
from tests.conftest import rows
from tests.stand_in_hub import Hub, reach, running

NAME = "some-lab/songs"


def lines(start: int, count: int = 12) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(count, start=start)).encode()


def parquet(start: int) -> bytes:
    arrow = pytest.importorskip("pyarrow")
    written = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(
        arrow.Table.from_pylist(rows(12, start=start)), written
    )
    return written.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub with songs: a Parquet file to train on, lines held out. Its caches are the test's."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    files = {"data/train-00000.parquet": parquet(0), "data/test.jsonl": lines(100, 4)}
    with running() as hub:
        reach(hub, monkeypatch)
        hub.add(NAME, files, "datasets")
        yield hub


Work = Callable[..., Done]


@pytest.fixture
def work(make_recipe: Callable[..., Path], tmp_path: Path) -> Work:
    def work(*arguments: str, train: Any = NAME, held: Any = NAME, output: str = "run") -> Done:
        data = {"train": train, "eval": held}
        train_section = {"max_steps": 2, "save_steps": 1}
        recipe = make_recipe(
            data=data, train=train_section, eval={"samples": 0}, export={"formats": ["adapter"]}
        )
        words = arguments or ("plan",)
        return tuner(words[0], str(recipe), "--json", *words[1:], cwd=tmp_path)

    return work


def read(done: Done) -> list[tuple[int, str]]:
    """Rows and commit of each file of a plan."""
    assert done.returncode == 0, done.stderr + done.stdout
    events = map(json.loads, done.stdout.splitlines())
    (plan,) = [event["plan"] for event in events if event["event"] == "plan"]
    return [(file["rows"], file["hub"]["revision"]) for file in plan["data"]["files"]]


def refused(done: Done) -> str:
    assert done.returncode == 3, done.stderr + done.stdout
    return done.stdout + done.stderr


def test_each_way_to_name_rows_reads_the_same(hub: Hub, work: Work) -> None:
    """By id, split, file, branch and commit."""
    commit = hub.repos["datasets", NAME].branches["main"]
    expected = [(12, commit), (4, commit)]
    assert read(work()) == expected
    assert read(work(train=f"{NAME}:train", held=f"{NAME}:test")) == expected
    file = {"source": NAME, "file": "data/train-00000.parquet", "revision": "main"}
    assert read(work(train=[file], held={"source": NAME, "split": "test"})) == expected
    assert read(work(train=[{"source": NAME, "revision": commit}])) == expected


def test_the_card_says_which_files_a_split_has(hub: Hub, work: Work) -> None:
    """`configs` before names: here names would say otherwise."""
    files = [{"split": "train", "path": "b/*.jsonl"}, {"split": "test", "path": ["c.jsonl"]}]
    configs = [{"config_name": "one", "data_files": files}, {"config_name": "two"}]
    card = f"---\n{yaml.safe_dump({'configs': configs})}---\n# Songs\n".encode()
    named = {"train.jsonl": lines(0, 5), "b/x.jsonl": lines(0, 9), "c.jsonl": lines(100, 3)}
    hub.add(NAME, {"README.md": card, **named}, "datasets")
    one = {"source": NAME, "config": "one"}
    assert [count for count, _ in read(work(train=[one], held={**one}))] == [9, 3]
    said = refused(work())
    assert "they are one, two" in said
    assert "config: one" in said


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_run_its_lock_and_its_resume_read_the_same_commit(
    hub: Hub, work: Work, tmp_path: Path, bases: Callable[[str], Path]
) -> None:
    """The branches of rows and base move on: only a new run of the recipe reads what is new."""
    first = hub.repos["datasets", NAME].branches["main"]
    model = {file.name: file.read_bytes() for file in bases("llama").iterdir()}
    pinned = hub.add("me/base", model)
    on_hub = ("--output", "run", "--set", "model.base=me/base")
    done = work("sft", *on_hub)
    assert done.returncode == 0, done.stderr
    moved = hub.add("me/base", model | {"README.md": b"another"})
    assert moved != pinned
    second = hub.add(
        NAME,
        {"data/train-00000.parquet": parquet(50), "data/test.jsonl": lines(300, 4)},
        "datasets",
    )
    assert first != second
    locked = yaml.safe_load((tmp_path / "run/recipe.lock.yaml").read_text())
    lock = locked["data"]
    assert (locked["model"]["base"], locked["model"]["revision"]) == ("me/base", pinned)
    assert lock["train"][0]["revision"] == lock["eval"]["revision"] == first
    assert lock["train"][0]["file"] == "data/train-00000.parquet"
    hub.log.clear()
    again = tuner("plan", "run/recipe.lock.yaml", "--json", cwd=tmp_path)
    assert read(again) == [(12, first), (4, first)]
    record = tmp_path / "run/run.json"
    record.write_text(record.read_text().replace('"status": "done"', '"status": "interrupted"'))
    (resumed,) = [work("sft", *on_hub, "--resume", "--dry-run")]
    assert read(resumed) == [(12, first), (4, first)]
    assert not hub.asked("GET /api/datasets")
    assert read(work()) == [(12, second), (4, second)]
    other = [{"source": NAME, "revision": second}]
    changed = work("sft", *on_hub, "--resume", "--dry-run", train=other)
    assert changed.returncode == 6, changed.stdout
    assert "the training rows differ" in changed.stdout


def test_without_a_network_the_cache_is_read(
    hub: Hub, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    known = read(work())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = work()
    assert read(offline) == known
    assert "from the cache because the Hub cannot be reached" in offline.stdout
    said = refused(work(train="some-lab/others"))
    assert "hf download some-lab/others --repo-type dataset" in said


def test_what_is_not_there_is_named(hub: Hub, work: Work) -> None:
    """A data set, a revision, a split, several files of one, a file; each fix as printed works."""
    assert "the Hub has no data set 'some-lab/others'" in refused(work(train="some-lab/others"))
    said = refused(work(train=[{"source": NAME, "revision": "v9"}]))
    assert "no data set 'some-lab/songs' at revision v9" in said
    said = refused(work(train=f"{NAME}:dev"))
    assert f"name one of its splits: data.train: {NAME}:train" in said
    assert "no file gone.csv" in refused(work(train=[{"source": NAME, "file": "gone.csv"}]))
    shards = {f"train-{n}.jsonl": lines(20 * n) for n in range(2)}
    hub.add("some-lab/many", shards, "datasets")
    said = refused(work(train="some-lab/many", held=0.25))
    fix = said.split("name the files: train: ")[1].split("]")[0] + "]"
    assert [count for count, _ in read(work(train=yaml.safe_load(fix), held=0.25))] == [12, 12]


def test_a_path_of_that_name_wins(hub: Hub, work: Work, tmp_path: Path) -> None:
    (tmp_path / "some-lab").mkdir()
    (tmp_path / NAME).write_bytes(lines(0, 7))
    hub.log.clear()
    for train in (NAME, [{"source": NAME, "split": "train"}]):
        assert "songs is not known\n  its name has no ending" in refused(work(train=train, held=0))
        assert not hub.log
    (tmp_path / NAME).rename(tmp_path / "some-lab/song")
    assert "did you mean" in refused(work())
