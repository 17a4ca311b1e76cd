"""How the heavy libraries are imported."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.machine.imports import importing

ROOT = Path(__file__).resolve().parents[2]


def test_the_compiler_is_off_only_while_libraries_are_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "TORCHDYNAMO_DISABLE"
    for own in (None, "0"):
        monkeypatch.delenv(name, raising=False)
        if own is not None:
            monkeypatch.setenv(name, own)
        with contextlib.suppress(ImportError), importing():
            assert (os.environ[name], gc.isenabled()) == (own or "1", False)
            raise ImportError
        assert (os.environ.get(name), gc.isenabled()) == (own, True)


@pytest.mark.slow
def test_what_chat_imports_leaves_the_compiler_out() -> None:
    """`torch._inductor.compile_fx` takes a second of processor time."""
    code = (
        "import sys\n"
        "from tuner.machine.imports import importing\n"
        "with importing():\n"
        "    import tuner.inference.load, tuner.inference.chat\n"
        "assert 'bitsandbytes' in sys.modules\n"
        "assert 'torch._inductor.compile_fx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plan_leaves_torch_and_peft_out() -> None:
    """They take seconds of processor time, and no model is loaded for a plan."""
    code = (
        "import contextlib, sys\n"
        "from tuner.__main__ import main\n"
        "sys.argv = ['tuner', 'plan', '--recipe', 'recipes/legal.yaml']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "assert 'tuner.plan.make' in sys.modules\n"
        "assert not {'torch', 'peft', 'bitsandbytes'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
