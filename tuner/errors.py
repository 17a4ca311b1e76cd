"""Errors that a user can act on.

Every error has three parts: what happened, where and why, and what to do. The class sets the exit
code; `Console.error` prints the error, and the record of a run stores the same object.
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
    shown_already = False

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
        """Return the error as `run.json` and `--json` output have it."""
        return {
            "kind": self.kind,
            "exit_code": self.exit_code,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
            "problems": self.problems,
        }


class RecipeError(TunerError):
    """The recipe or the command line asks for what does not exist or contradicts itself."""

    exit_code = 2
    kind = "recipe"


class DataError(TunerError):
    """The data cannot be read, does not fit its template, or leaves nothing to train on."""

    exit_code = 3
    kind = "data"


class ModelError(TunerError):
    """A model, adapter, tokenizer or chat template is not available, or they do not match."""

    exit_code = 4
    kind = "model"


class TrainingError(TunerError):
    """Training stopped: a non-finite loss or gradient, or tensors that never changed."""

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


class HubError(TunerError):
    """The Hub refused an upload or cannot be reached, or there is no token for it."""

    exit_code = 9
    kind = "hub"


class Interrupted(TunerError):
    """Stopped by SIGINT (130) or SIGTERM (143); completed work is sealed."""

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
        HubError,
    )
}


def exit_codes() -> str:
    """Return what each exit code of the command means, in a sentence."""
    codes = {0: "done", **_KINDS, TunerError.exit_code: f"a {TunerError.kind} in tuner"}
    said = ", ".join(f"{code} {kind}" for code, kind in codes.items())
    return f"Exit codes: {said}, 128 + n stopped by signal n (130: Ctrl-C)."


def kind_of(exit_code: int) -> str:
    """Return the kind of error that a process with this exit code ended with."""
    if exit_code > 128:
        return Interrupted.kind
    return _KINDS.get(exit_code, TunerError.kind)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, or its class if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
