"""What can go wrong, said so that the user can act on it.

Every error carries three lines: what happened, where and why, and what to do. The class fixes the
exit code; `Console.error` prints it, and the record of a run holds the same object.
"""

from __future__ import annotations


class TunerError(Exception):
    """Base of every error a user can act on.

    Args:
        what: what went wrong, one line.
        why: where it went wrong and why.
        fix: what to do about it.
        problems: when several were found at once, one line each; shown in place of `why`.
    """

    exit_code = 70
    kind = "bug"
    # Whether another process has shown it.
    told = False

    def __init__(
        self, what: str, why: str = "", fix: str = "", problems: list[str] | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.problems = problems or []

    def __str__(self) -> str:
        body = self.problems or ([self.why] if self.why else [])
        return "\n".join([self.what, *body, *([self.fix] if self.fix else [])])

    def as_dict(self) -> dict[str, object]:
        """The error as it stands in `run.json` and in `--json` output."""
        return {
            "kind": self.kind,
            "exit_code": self.exit_code,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
            "problems": self.problems,
        }


class RecipeError(TunerError):
    """The recipe or the command line asks for something that is not there or contradicts itself."""

    exit_code = 2
    kind = "recipe"


class DataError(TunerError):
    """The data cannot be read, does not fit its template, or leaves nothing to train on."""

    exit_code = 3
    kind = "data"


class ModelError(TunerError):
    """Model, adapter, tokenizer or chat template cannot be had or do not fit together."""

    exit_code = 4
    kind = "model"


class TrainingError(TunerError):
    """Training stopped: a non-finite loss or gradient, or tensors that never moved."""

    exit_code = 5
    kind = "training"


class IntegrityError(TunerError):
    """A checkpoint or artefact is damaged, or is not what was trained."""

    exit_code = 6
    kind = "integrity"


class ResourceError(TunerError):
    """Not enough memory or disk, or a folder that cannot be written."""

    exit_code = 7
    kind = "resources"


class SafetyError(TunerError):
    """Refused because it would run foreign code, read a pickle, or leave the run folder."""

    exit_code = 8
    kind = "safety"


class Interrupted(TunerError):
    """Stopped by SIGINT (130) or SIGTERM (143); what was complete before is sealed."""

    kind = "interrupted"

    def __init__(self, signal_number: int, what: str, fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.exit_code = 128 + signal_number


_KINDS = {
    each.exit_code: each.kind
    for each in (
        RecipeError,
        DataError,
        ModelError,
        TrainingError,
        IntegrityError,
        ResourceError,
        SafetyError,
    )
}


def kind_of(exit_code: int) -> str:
    """Return the kind of error that a process with this exit code has ended with."""
    if exit_code > 128:
        return Interrupted.kind
    return _KINDS.get(exit_code, TunerError.kind)


def first_line(error: BaseException) -> str:
    """The first line of what an error of a library says, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
