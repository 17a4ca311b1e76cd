"""The runs of an experiment under Ray Tune: Ray alone decides which runs when, on which machine."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import Interrupted, ResourceError, first_line
from tuner.machine import child, processes, threads
from tuner.machine.signals import StopRequest
from tuner.record import runs
from tuner.record.run_json import RUN
from tuner.run.experiment.trial import Share, Trial

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.run.experiment.trial import Outcome

# No usage statistics, no files that nobody reads, our own handling of Ctrl-C, trials keep their
# working directory, and end by SIGTERM with the worker: they seal a checkpoint.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_kill_child_processes_on_worker_exit": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

import ray
from ray import tune

# Ray's object store; trials pass nothing through it.
_STORE_BYTES = 1 << 27
# After a lost machine or a killed worker, the trial continues elsewhere.
_TRIES = 3
# Seconds for runs to finish a step and seal it.
_PATIENCE = 60.0


def run(
    trials: Sequence[Trial], storage: Path, share: Share, stop: StopRequest, console: Console
) -> dict[str, Outcome]:
    """Carry out runs, as many at the same time as the machines have room for.

    Args:
        trials: the runs.
        storage: a folder for Ray's own files; on a cluster one that all machines share.
        share: the resources of a run.
        stop: the handling of signals.
        console: shows what starts and ends.

    Returns:
        Exit code and error of each, by name.

    Raises:
        Interrupted: by a signal; what was running has sealed its checkpoint.
        ResourceError: the cluster cannot be reached, or no machine has the resources of a run.
    """
    try:
        return _carry_out({trial.name: trial for trial in trials}, share, storage, console)
    except (Interrupted, SystemError):
        if stop.requested is not None:
            _settle(trials)
        # Ray's C code makes a SystemError of what a signal handler raises.
        stop.check()
        raise


def _carry_out(
    trials: Mapping[str, Trial], share: Share, storage: Path, console: Console
) -> dict[str, Outcome]:
    # Ray's workers import from the folder that it was started in.
    with contextlib.chdir(storage):
        _start(share)
    try:
        _refuse_too_small(share)
        names = list(trials)
        tuner = tune.Tuner(
            tune.with_resources(_run, {"CPU": share.cpus, "GPU": share.gpus}),
            param_space={
                "name": tune.grid_search(names),
                "trials": dict(trials),
                "cwd": os.getcwd(),
            },
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(storage),
                verbose=0,
                callbacks=[_Told(console, len(names))],
                failure_config=tune.FailureConfig(max_failures=_TRIES),
            ),
        )
        found: dict[str, Outcome] = {}
        for result in tuner.fit():
            name, ended = result.config["name"], result.metrics or {}
            if "exit_code" in ended:
                found[name] = int(ended["exit_code"]), ended.get("error")
            else:
                reason = first_line(result.error) if result.error else "it did not end"
                found[name] = 70, {"what": reason, "why": f"see {trials[name].log}"}
        return found
    finally:
        ray.shutdown()


def _run(config: dict[str, Any]) -> dict[str, Any]:
    """Carry out a run wherever Ray has put it."""
    trial: Trial = config["trials"][config["name"]]
    with open(trial.log, "ab") as log:
        code = processes.run_of_ours([*trial.arguments(), "--json"], log, config["cwd"]).wait()
    lines = trial.log.read_text("utf-8", errors="replace").splitlines()
    errors = (child.event_in(line).get("error") for line in reversed(lines))
    code, error = child.ended(code, next(filter(None, errors), None))
    return {"exit_code": code, "error": error if code else None}


def _settle(trials: Sequence[Trial]) -> None:
    """Wait a short time until stopped runs have sealed their checkpoints."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and any(
        # A run whose process is gone has a note saying so.
        (found := runs.read_run(each.folder)).status == "running" and not found.note
        for each in trials
        if (each.folder / RUN).is_file()
    ):
        time.sleep(0.2)


class _Told(tune.Callback):
    """Shows which trial starts and ends."""

    def __init__(self, console: Console, count: int) -> None:
        self.console, self.count, self.done = console, count, 0

    def __getstate__(self) -> dict[str, Any]:
        # Ray stores its callbacks; a console cannot be stored.
        return {}

    def on_trial_start(
        self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any
    ) -> None:
        """Show that a trial starts."""
        self.console.note(f"{trial.config['name']} started")

    def on_trial_complete(
        self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any
    ) -> None:
        """Show that a trial has ended, successfully or not."""
        self.done += 1
        code = int((trial.last_result or {}).get("exit_code", 0))
        how = f"failed with exit code {code}" if code else "is done"
        self.console.note(f"{trial.config['name']} {how} ({self.done} of {self.count})")

    def on_trial_error(
        self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any
    ) -> None:
        """Show that Ray could not run a trial, after all its tries."""
        self.done += 1
        self.console.note(f"{trial.config['name']} was lost ({self.done} of {self.count})")


def _start(share: Share) -> None:
    # Ray gives each trial as many threads as it has processors.
    threads.leave_count_open()
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if share.address:
        how["address"] = share.address
    else:
        processors = max(share.cpus, threads.processors())
        how |= {"address": "local", "num_cpus": processors, "include_dashboard": False}
        how["object_store_memory"] = _STORE_BYTES
    try:
        ray.init(**how)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        where = share.address or "this machine"
        raise ResourceError(
            f"Ray cannot be used on {where}",
            first_line(error),
            "start it on the first machine with `ray start --head`, on the others with `ray start "
            "--address=HOST:PORT`, and give that address"
            if share.address
            else "check whether `ray start --head` works here",
        ) from error


def _refuse_too_small(share: Share) -> None:
    """Refuse trials that would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(
        each.get("CPU", 0) >= share.cpus and each.get("GPU", 0) >= share.gpus for each in machines
    ):
        return
    have = "; ".join(f"{each.get('CPU', 0):g} and {each.get('GPU', 0):g}" for each in machines)
    raise ResourceError(
        f"no machine has {share.cpus} processors and {share.gpus} GPUs for a trial",
        f"the machines in Ray have {have}",
        "lower --cpus and --gpus",
    )
