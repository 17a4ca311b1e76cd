"""The runs of an experiment on this machine, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuner.machine.child import carry_out
from tuner.machine.signals import StopRequest

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.run.experiment.experiment import Experiment
    from tuner.run.experiment.trial import Outcome


def run(
    experiment: Experiment,
    outcomes: dict[str, Outcome],
    stop: StopRequest,
    *,
    console: Console,
) -> None:
    """Run what is not done; the results are written before the first run and after each.

    Args:
        experiment: has the runs.
        outcomes: gets the exit code and error of each.
        stop: a signal is passed on to the current run, which seals its checkpoint.
        console: shows what happens.
    """
    experiment.write(experiment.collect(outcomes, "running"))
    for number, trial in enumerate(experiment.trials, 1):
        if experiment.finished(trial):
            console.note(f"{trial.name} is done")
            continue
        console.phase(f"{trial.name}, {number} of {len(experiment.trials)}: {trial.about}")
        outcomes[trial.name] = carry_out(
            trial.arguments(), trial.log, trial.name, stop, console.relay
        )
        experiment.write(experiment.collect(outcomes, "running"))
