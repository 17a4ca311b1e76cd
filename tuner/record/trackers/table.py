"""TRACKERS: what each tracker needs, where its runs go, and what sends them.

The plan reads this table without importing a tracker's library.
"""

from __future__ import annotations

import importlib.util
import netrc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tuner.machine import packages
from tuner.record.trackers.state import FOLDER

Environment = Mapping[str, str]
_OFFLINE = ("offline", "dryrun")
# Begins a place in the run folder.
IN_RUN = "RUN"


def _no_need(environment: Environment) -> str:
    return ""


@dataclass(frozen=True)
class Tracker:
    """A row of the table.

    Attributes:
        name: of the tracker, and of its extra.
        module: that is imported, a key of `packages.NEEDED_BY`.
        place: called with the environment; returns where runs go (see `State`).
        lacks: called with the environment; returns which credentials are missing and what gives
            them; empty: none are.
        opens: `module:name` of the function that opens a run.
    """

    name: str
    module: str
    place: Callable[[Environment], str]
    opens: str
    lacks: Callable[[Environment], str] = _no_need

    def missing(self, environment: Environment) -> str:
        """Return what is missing to send runs, and how to add it; empty: nothing."""
        if importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not installed; add it with: {packages.add(self.module)}"
        return self.lacks(environment)


def _mlflow(environment: Environment) -> str:
    # The second is mlflow's own default, in the current folder.
    given = environment.get("MLFLOW_TRACKING_URI")
    return given or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def _trackio(environment: Environment) -> str:
    home = environment.get("HF_HOME") or Path.home() / ".cache/huggingface"
    return environment.get("TRACKIO_DIR") or str(Path(home) / "trackio")


def _wandb(environment: Environment) -> str:
    if environment.get("WANDB_MODE") in _OFFLINE:
        return f"{IN_RUN}/{FOLDER}/wandb"
    return environment.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def _mlflow_lacks(environment: Environment) -> str:
    local = _mlflow(environment).startswith("sqlite")
    if not local or importlib.util.find_spec("sqlalchemy") is not None:
        return ""
    return f"mlflow needs sqlalchemy for a SQLite file; add it with: {packages.add('mlflow')}"


def _wandb_lacks(environment: Environment) -> str:
    mode = environment.get("WANDB_MODE", "online")
    if mode == "disabled":
        return "WANDB_MODE is disabled; unset it, or set WANDB_MODE=offline"
    keys = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    if mode in _OFFLINE or any(environment.get(key) for key in keys):
        return ""
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    given = environment.get("NETRC")
    usual = [Path.home() / name for name in (".netrc", "_netrc")]
    if any(_in_netrc(file, host) for file in ([Path(given).expanduser()] if given else usual)):
        return ""
    return (
        "wandb has no key; set WANDB_API_KEY, or run: wandb login; WANDB_MODE=offline keeps it in "
        "the run folder"
    )


def _in_netrc(file: Path, host: str) -> bool:
    try:
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _swanlab(environment: Environment) -> str:
    if environment.get("SWANLAB_MODE") in ("local", "offline"):
        return f"{IN_RUN}/{FOLDER}/swanlab"
    return environment.get("SWANLAB_API_HOST") or "https://swanlab.cn"


def _swanlab_lacks(environment: Environment) -> str:
    mode = environment.get("SWANLAB_MODE", "cloud")
    if mode == "disabled":
        return "SWANLAB_MODE is disabled; unset it, or set SWANLAB_MODE=offline"
    own = environment.get("SWANLAB_ROOT") or environment.get("SWANLAB_SAVE_DIR")
    folders = (Path(".swanlab"), Path(own or Path.home() / ".swanlab"))
    known = environment.get("SWANLAB_API_KEY") or any((f / ".netrc").is_file() for f in folders)
    if mode in ("local", "offline") or known:
        return ""
    return (
        "swanlab has no key; set SWANLAB_API_KEY, or run: swanlab login; SWANLAB_MODE=offline "
        "keeps it in the run folder"
    )


_HERE = "tuner.record.trackers"
TRACKERS: dict[str, Tracker] = {
    row.name: row
    for row in (
        Tracker(
            "tensorboard",
            "tensorboard",
            lambda environment: f"{IN_RUN}/tensorboard",
            f"{_HERE}.to_tensorboard:open_run",
        ),
        Tracker("wandb", "wandb", _wandb, f"{_HERE}.to_wandb:open_run", _wandb_lacks),
        Tracker("mlflow", "mlflow", _mlflow, f"{_HERE}.to_mlflow:open_run", _mlflow_lacks),
        Tracker("trackio", "trackio", _trackio, f"{_HERE}.to_trackio:open_run"),
        Tracker("swanlab", "swanlab", _swanlab, f"{_HERE}.to_swanlab:open_run", _swanlab_lacks),
    )
}


def shown(place: str, folder: Path) -> str:
    """Return a place for people: without user and password, and with the run folder's name."""
    if place.startswith(f"{IN_RUN}/"):
        return str(folder / place.removeprefix(f"{IN_RUN}/"))
    parts = urlsplit(place)
    if "@" not in parts.netloc:
        return place
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
