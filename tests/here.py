"""Proofs in this process: all that a fresh one adds is the seconds that imports take."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock


def fresh(module: str, argument: str) -> Any:
    """What `tuner.machine.processes.fresh` does, here."""
    from tuner.export.gguf import llama_cpp
    from tuner.export.proof import fresh_process

    main = {
        "tuner.export.proof.fresh_process": fresh_process.main,
        "tuner.export.gguf.llama_cpp": llama_cpp.main,
    }[module]
    try:
        with mock.patch.object(sys, "argv", [module, argument]):
            main()
    except (SystemExit, RuntimeError, ValueError) as error:
        return SimpleNamespace(returncode=1, stderr=str(error))
    return SimpleNamespace(returncode=0, stderr="")
