"""The names of trackers, for help and schema."""

from __future__ import annotations

from typing import Literal, get_args

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab"]
TRACKER_NAMES: tuple[str, ...] = get_args(TrackerName)
