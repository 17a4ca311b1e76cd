"""What trackers are sent of a run: each line once, whatever happens in between."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tuner.record.disk import write_json
from tuner.record.trackers import state as states
from tuner.record.trackers import table
from tuner.record.trackers.points import Cursor, Point, Points
from tuner.record.trackers.send import Labels, Sender
from tuner.run.track import child

LABELS = Labels("first", "letters", ("tiny",), {"method.name": "lora", "method.r": 4}, 1000.0)
PLACE = "https://tracker.example"


def line(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step, "seconds": 2.0, **more}


def write(
    folder: Path,
    lines: Sequence[Mapping[str, Any]],
    status: str = "running",
    plan: Mapping[str, Any] | None = None,
) -> None:
    text = "".join(json.dumps(each) + "\n" for each in lines)
    (folder / "metrics.jsonl").write_text(text, "utf-8")
    head = {"format": 1, "tuner": "0.1.0", "status": status, "started": "2026-11-28T10:00:00+00:00"}
    scores = {"scores": {"before": {"loss": 3.0}, "after": {"loss": 1.0, "note": "none"}}}
    write_json(folder / "run.json", {**head, **scores, "plan": plan or {}})


class Server:
    """A tracker in memory, which can fail in the midst of a batch and forgets nothing."""

    def __init__(self, *, at_once: bool = True, knows: bool = True) -> None:
        self.taken: list[tuple[str, int]] = []
        self.values: list[dict[str, float]] = []
        self.fails_after: int | None = None
        self.ended: list[tuple[str, dict[str, float], int]] = []
        self.at_once, self.knows = at_once, knows
        self.keys: list[str] = []

    def __call__(self, folder: Path, place: str, key: str, labels: Labels) -> Any:
        self.keys.append(key)
        self.id = self.where = f"run {key}"
        return self

    def reached(self) -> Cursor | None:
        if not self.knows:
            return None
        found = {
            kind: [at for name, at in self.taken if name == kind] for kind in ("train", "eval")
        }
        return Cursor(max(found["train"], default=0), max(found["eval"], default=0))

    def send(self, points: Sequence[Point]) -> None:
        for point in points:
            if self.fails_after == 0:
                raise ConnectionError("the network is gone\nfor good")
            if self.fails_after is not None:
                self.fails_after -= 1
            self.taken.append((point.kind, point.step))
            self.values.append(dict(point.figures))

    def close(self, status: str, scores: Mapping[str, float], step: int) -> None:
        self.ended.append((status, dict(scores), step))


def sender(folder: Path, server: Server, place: str = PLACE) -> Sender:
    return Sender(folder, "mlflow", place, server, LABELS)


def test_a_point_has_the_numbers_of_its_line_and_a_time_of_its_own(tmp_path: Path) -> None:
    odd = {"parts": {"rule length": 0.5}, "note": "text", "ended": True, "kl": "nan", "β": 1}
    evaluated = {"step": 1, "eval_loss": 3.5, "eval_seconds": 5.0, "eval_best": True}
    write(tmp_path, [line(1, **odd), evaluated, line(2)])
    points = Points(tmp_path, 1000.0).read()
    assert points == [
        Point(
            "train", 1, 1002.0,
            {"train/loss": 1.0, "train/seconds": 2.0, "train/parts/rule length": 0.5,
             "train/_": 1.0},
        ),
        Point("eval", 1, 1007.0, {"eval/loss": 3.5, "eval/seconds": 5.0}),
        Point("train", 2, 1009.0, {"train/loss": 0.5, "train/seconds": 2.0}),
    ]  # fmt: skip


def test_a_line_is_read_once_it_is_complete(tmp_path: Path) -> None:
    write(tmp_path, [line(1)])
    points = Points(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
        file.flush()
        assert [point.step for point in points.read()] == [1]
        file.write('ss": 0.5}\n')
        file.flush()
    assert [point.step for point in points.read()] == [1, 2]


def test_a_file_that_was_cut_is_read_anew(tmp_path: Path) -> None:
    write(tmp_path, [line(1), line(2), line(3)])
    points = Points(tmp_path, 1000.0)
    assert len(points.read()) == 3
    write(tmp_path, [line(1)])
    assert [(point.step, point.time) for point in points.read()] == [(1, 1002.0)]


def test_each_line_is_sent_once_as_the_file_grows_and_the_end_is_told(tmp_path: Path) -> None:
    server = Server()
    write(tmp_path, [line(1)])
    sends = sender(tmp_path, server)
    sends.send()
    sends.send()
    write(tmp_path, [line(1), line(2), {"step": 2, "eval_loss": 3.0}], "done")
    sends.close()
    assert server.taken == [("train", 1), ("train", 2), ("eval", 2)]
    assert server.ended == [("done", {"before/loss": 3.0, "after/loss": 1.0}, 2)]
    assert not sender(tmp_path, server).left
    assert states.load(tmp_path, "mlflow", PLACE).closed == "done"


def test_scores_are_those_of_a_finished_run(tmp_path: Path) -> None:
    server = Server()
    write(tmp_path, [line(1)], "interrupted")
    sender(tmp_path, server).close()
    assert server.ended == [("interrupted", {}, 1)]


@pytest.mark.parametrize("kept", range(4))
def test_what_a_broken_batch_has_left_is_sent_once(tmp_path: Path, kept: int) -> None:
    """The sender dies after the tracker has taken some lines of a batch, and before it knows."""
    server = Server()
    write(tmp_path, [line(1), {"step": 1, "eval_loss": 3.0}, line(2), line(3)])
    server.fails_after = kept
    with pytest.raises(ConnectionError):
        sender(tmp_path, server).send()
    server.fails_after = None
    sender(tmp_path, server).send()
    assert server.taken == [("train", 1), ("eval", 1), ("train", 2), ("train", 3)]
    assert len(set(server.keys)) == 1


def test_a_tracker_that_sends_in_the_background_has_all_when_it_closes(
    tmp_path: Path,
) -> None:
    server = Server(at_once=False, knows=False)
    write(tmp_path, [line(1), line(2)])
    sends = sender(tmp_path, server)
    sends.send()
    assert len(sends.left) == 2
    sends.close()
    assert not sends.left
    assert server.taken == [("train", 1), ("train", 2)]


def test_a_resumed_run_sends_no_step_twice(tmp_path: Path) -> None:
    """Steps 3 and 4 were after the last checkpoint: they come again, a little slower."""
    server = Server()
    write(tmp_path, [line(1), line(2), line(3), line(4)])
    sender(tmp_path, server).send()
    again = [line(1), line(2), line(3) | {"seconds": 9.0}, line(4), line(5)]
    write(tmp_path, again, "done")
    sender(tmp_path, server).close()
    assert server.taken == [("train", step) for step in range(1, 6)]


def test_another_place_gets_the_whole_run(tmp_path: Path) -> None:
    first, other = Server(), Server()
    write(tmp_path, [line(1), line(2)], "done")
    sender(tmp_path, first).close()
    sender(tmp_path, other, "https://other.example").close()
    sender(tmp_path, first).close()
    assert first.taken == other.taken == [("train", 1), ("train", 2)]


def test_a_run_that_the_tracker_has_lost_is_sent_again(tmp_path: Path) -> None:
    server = Server()
    write(tmp_path, [line(1)], "done")
    sender(tmp_path, server).close()
    file = states.file_of(tmp_path, "mlflow")
    known = json.loads(file.read_text())
    known["places"][0]["id"] = "of a database that was deleted"
    file.write_text(json.dumps(known))
    server.taken.clear()
    sender(tmp_path, server).send()
    assert server.taken == [("train", 1)]


def test_a_failure_is_noted_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, over = Server(), threading.Event()
    monkeypatch.setattr(child, "PAUSE", 0.01)
    write(tmp_path, [line(1), line(2)], "done")
    server.fails_after = 1
    seen = []

    class Noted(Sender):
        def failed(self, problem: str) -> None:
            super().failed(problem)
            seen.append(states.load(tmp_path, "mlflow", PLACE).problem)
            if len(seen) == 2:
                # The network is back just as the run ends.
                server.fails_after = None
                over.set()

    child.follow(Noted(tmp_path, "mlflow", PLACE, server, LABELS), over)
    assert seen == ["ConnectionError: the network is gone"] * 2
    assert server.taken == [("train", 1), ("train", 2)]
    assert states.load(tmp_path, "mlflow", PLACE).problem == ""


def figures(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of event files, read by its own reader."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder))
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_tensorboard_reads_each_step_once_after_a_resumption(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tuner.record.trackers.to_tensorboard import open_run

    def sends() -> Sender:
        return Sender(tmp_path, "tensorboard", "RUN/tensorboard", open_run, LABELS)

    write(tmp_path, [line(1), {"step": 1, "eval_loss": 3.0}, line(2)])
    sends().send()
    # As if the sender had died before it knew that these lines were written.
    state = states.load(tmp_path, "tensorboard", "RUN/tensorboard")
    states.save(tmp_path, "tensorboard", states.changed(state, sent=Cursor()))
    write(tmp_path, [line(1), {"step": 1, "eval_loss": 3.0}, line(2), line(4)], "done")
    sends().close()
    assert figures(tmp_path / "tensorboard") == {
        "train/loss": [(1, 1.0), (2, 0.5), (4, 0.25)],
        "train/seconds": [(1, 2.0), (2, 2.0), (4, 2.0)],
        "eval/loss": [(1, 3.0)],
        "before/loss": [(4, 3.0)],
        "after/loss": [(4, 1.0)],
    }


@pytest.mark.slow
def test_mlflow_has_each_step_once_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a local SQLite file; the second start goes on with the run of the first."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
    from tuner.record.trackers.to_mlflow import open_run

    monkeypatch.chdir(tmp_path)
    place = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def sends() -> Sender:
        return Sender(tmp_path, "mlflow", place, open_run, LABELS)

    write(tmp_path, [line(1), {"step": 1, "eval_loss": 3.0}, line(2)])
    sends().send()
    state = states.load(tmp_path, "mlflow", place)
    states.save(tmp_path, "mlflow", states.changed(state, sent=Cursor()))
    write(tmp_path, [line(1), {"step": 1, "eval_loss": 3.0}, line(2), line(4)], "done")
    sends().close()
    client = mlflow.MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name("letters")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params == {"method.name": "lora", "method.r": "4"}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.5), (4, 0.25)]
    assert [each.timestamp for each in history] == [1002000, 1004000, 1006000]
    assert len(client.get_metric_history(run.info.run_id, "eval/loss")) == 1
    assert run.data.metrics["after/loss"] == 1.0
    # Of user and machine, nothing.
    assert set(run.data.tags) == {"tuner.run", "tuner.tags", "mlflow.runName"}
    assert run.info.user_id in ("", "unknown")


def test_trackio_takes_no_line_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio import sqlite_storage

    from tuner.record.trackers.to_trackio import open_run

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")

    def sends() -> Sender:
        return Sender(tmp_path, "trackio", str(tmp_path / "trackio"), open_run, LABELS)

    write(tmp_path, [line(1), {"step": 1, "eval_loss": 3.0}])
    sends().send()
    state = states.load(tmp_path, "trackio", str(tmp_path / "trackio"))
    states.save(tmp_path, "trackio", states.changed(state, sent=Cursor(), tried=Cursor()))
    write(tmp_path, [line(1), {"step": 1, "eval_loss": 3.0}, line(2)], "done")
    sends().close()
    logs = sqlite_storage.SQLiteStorage.get_logs("letters", "first")
    losses = [(log["step"], log["train/loss"]) for log in logs if "train/loss" in log]
    assert losses == [(1, 1.0), (2, 0.5)]
    assert len(logs) == 4


@pytest.mark.parametrize(
    ("tracker", "environment", "lacks"),
    [
        ("wandb", {}, "WANDB_API_KEY"),
        ("wandb", {"WANDB_MODE": "disabled"}, "WANDB_MODE is disabled"),
        ("wandb", {"WANDB_MODE": "offline"}, ""),
        ("wandb", {"WANDB_API_KEY": "k"}, ""),
        ("wandb", {"NETRC": "with"}, ""),
        ("wandb", {"NETRC": "with", "WANDB_BASE_URL": "https://own.example"}, "WANDB_API_KEY"),
        ("swanlab", {}, "SWANLAB_API_KEY"),
        ("swanlab", {"SWANLAB_MODE": "offline"}, ""),
        ("tensorboard", {}, ""),
        ("trackio", {}, ""),
    ],
)
def test_credentials_are_looked_for_where_the_tracker_does(
    tracker: str,
    environment: dict[str, str],
    lacks: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "with").write_text("machine api.wandb.ai login user password key\n")
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: object())
    said = table.TRACKERS[tracker].missing(environment)
    assert (lacks in said) if lacks else said == ""


def test_an_address_is_shown_without_its_password(tmp_path: Path) -> None:
    shown = table.shown("https://user:secret@host:5000/api?x=1", tmp_path)
    assert shown == "https://host:5000/api?x=1"
    assert table.shown("RUN/tensorboard", tmp_path) == str(tmp_path / "tensorboard")
