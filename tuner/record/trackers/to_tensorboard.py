"""TensorBoard: event files in the run folder, written without TensorFlow or torch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tuner.record.trackers.points import EVALUATION, TRAIN, Cursor, Point
from tuner.record.trackers.send import Labels

# In the run folder.
FOLDER = "tensorboard"
_FILES = "events.out.tfevents.*"


def open_run(folder: Path, place: str, key: str, labels: Labels) -> TensorBoard:
    """Open a new event file next to those of earlier starts."""
    return TensorBoard(folder / FOLDER, labels)


class TensorBoard:
    """The event files of a run.

    Args:
        place: their folder.
        labels: settings and tags become a text.
    """

    at_once = True

    def __init__(self, place: Path, labels: Labels) -> None:
        self.id, self.where = FOLDER, str(place)
        self._place = place
        new = not list(place.glob(_FILES))
        place.mkdir(exist_ok=True)
        self._writer = EventFileWriter(str(place))
        if new:
            shown = {**labels.settings, "tags": list(labels.tags)}
            lines = [f"    {key}: {json.dumps(value)}" for key, value in shown.items()]
            self._add(0, time.time(), Summary.Value(tag="settings", **_text("\n".join(lines))))
            self._writer.flush()

    def reached(self) -> Cursor:
        """Return the last step of each kind in the files."""
        last = {TRAIN: 0, EVALUATION: 0}
        for file in sorted(self._place.glob(_FILES)):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    kind = value.tag.partition("/")[0]
                    if kind in last:
                        last[kind] = max(last[kind], event.step)
        return Cursor(last[TRAIN], last[EVALUATION])

    def send(self, points: Sequence[Point]) -> None:
        """Write points; they are in the file when this returns."""
        for point in points:
            values = [_number(name, value) for name, value in point.figures.items()]
            self._add(point.step, point.time, *values)
        self._writer.flush()

    def close(self, status: str, scores: Mapping[str, float], step: int) -> None:
        """Write the scores before and after as scalars of their own, and close the file."""
        values = [_number(name, value) for name, value in scores.items()]
        if values:
            self._add(step, time.time(), *values)
        self._writer.close()

    def _add(self, step: int, at: float, *values: Summary.Value) -> None:
        self._writer.add_event(Event(step=step, wall_time=at, summary=Summary(value=values)))


def _number(name: str, value: float) -> Summary.Value:
    return Summary.Value(tag=name, simple_value=value)


def _text(text: str) -> dict[str, object]:
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    tensor = TensorProto(
        dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto()
    )
    return {"metadata": SummaryMetadata(plugin_data=plugin), "tensor": tensor}
