"""The recipe's section about where and how a run takes place, and which trackers follow it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from tuner.recipe.tracker_names import TRACKER_NAMES, TrackerName
from tuner.schema.fields import (
    AutoCount,
    Count,
    Flag,
    Integer,
    Positive,
    Section,
    Text,
    Words,
    own_words,
)
from tuner.schema.suggest import suggestion


def _trackers(value: Any) -> Any:
    """Read names of trackers, each once; `none` for no tracker."""
    names = list(value) if isinstance(value, list | tuple) else [value]
    for name in names:
        if not isinstance(name, str):
            raise own_words(f"expected names of trackers: {', '.join(TRACKER_NAMES)}")
        if name not in TRACKER_NAMES and (name != "none" or len(names) > 1):
            known = suggestion(name, TRACKER_NAMES)
            raise own_words(f"there is no tracker '{name}'; {known}")
    return tuple(dict.fromkeys(str(name) for name in names if name != "none"))


class RunSection(Section):
    """Where and how to run."""

    output: Annotated[
        Text | None, Field(description="the run folder; default: runs/<recipe name>")
    ] = None
    seed: Annotated[
        Integer, Field(ge=0, description="random seed for data order, new weights and dropout")
    ] = 42
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="device to train on")] = (
        "auto"
    )
    devices: Annotated[
        AutoCount, Field(description="processes per machine; auto: one per GPU, or one on a CPU")
    ] = "auto"
    nodes: Annotated[
        AutoCount, Field(description="number of machines; auto: as many as the launcher started on")
    ] = "auto"
    strategy: Annotated[
        Literal["auto", "ddp", "fsdp"],
        Field(description="ddp: every process holds the model; fsdp: shards the frozen base"),
    ] = "auto"
    timeout: Annotated[
        Count, Field(description="seconds to wait for the other processes before giving up")
    ] = 600
    deterministic: Annotated[
        Flag,
        Field(description="on a GPU: only kernels that repeat to the bit; slower"),
    ] = False
    price_per_hour: Annotated[
        Positive | None,
        Field(description="price of one machine per hour; adds a cost to time estimates"),
    ] = None
    track: Annotated[
        tuple[TrackerName, ...],
        BeforeValidator(_trackers),
        PlainSerializer(list, return_type=list[str]),
        Field(
            description="experiment trackers that follow the run: tensorboard, wandb, mlflow, "
            "trackio, swanlab; none unless named here"
        ),
    ] = ()
    name: Annotated[
        Text | None, Field(description="the run's name in trackers; default: the run folder's name")
    ] = None
    project: Annotated[Text, Field(description="project (experiment) of the run in trackers")] = (
        "tuner"
    )
    tags: Annotated[Words, Field(description="tags of the run in trackers")] = ()
