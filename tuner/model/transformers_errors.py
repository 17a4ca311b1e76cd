"""Errors of transformers, peft and safetensors as errors for the user."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from tuner.errors import ModelError, ResourceError, first_line

_LOAD_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    ImportError,
    TypeError,
    AttributeError,
    ZeroDivisionError,
    SafetensorError,
    StrictDataclassError,
)


def quiet_libraries() -> None:
    """Keep transformers' progress bars and notices off the terminal; they are in run.log."""
    library = logging.getLogger("transformers")
    for handler in list(library.handlers):
        if type(handler) is logging.StreamHandler:
            library.removeHandler(handler)
    # Without any handler Python would print warnings to stderr itself.
    library.addHandler(logging.NullHandler())
    transformers_logging.disable_progress_bar()


@contextmanager
def as_model_error(what: str, place: Path, fix: str) -> Iterator[None]:
    """Raise load errors of a library as what failed, where, and what to do.

    Raises:
        ModelError: for what transformers, peft and safetensors raise.
        ResourceError: not enough memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            "the model does not fit into memory", str(error), "use a smaller base or a larger GPU"
        ) from error
    except _LOAD_ERRORS as error:
        raise ModelError(
            what, f"{place}: {type(error).__name__}: {first_line(error)}", fix
        ) from error
