"""Tests on the fake GPU: each runs in a fork of one process that has imported the libraries on it.

    @on_fake(devices=2, memory=1 << 30)
    @pytest.mark.parametrize("name", ["lora", "full"])
    def test_it(gpu: Fake, tmp_path: Path, name: str) -> None:
        ...                               # in the fork, within `gpu.on()`; tuner finds the devices

A test may have `gpu`, `tmp_path` and parameters of plain values, no other fixture.
tests/gpu/runs.py writes recipes and trains by them. Run as a module, this is the process.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tests.unflushed  # noqa: F401

ROOT = Path(__file__).parents[2]
OPTIONS = ("devices", "capability", "memory")


def on_fake(**options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test to run on the fake GPU.

    Args:
        options: `devices`, `capability` and `memory`, as `fake.install` takes them, and
            `real_children`, as `child.prepare` does.
    """

    def mark(body: Callable[..., None]) -> Callable[..., None]:
        wanted = [each for each in inspect.signature(body).parameters if each != "gpu"]

        @functools.wraps(body)
        def test(fake_gpu: Process, **given: Any) -> None:
            fake_gpu.run(body.__module__, body.__name__, options, given)

        kinds = [inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY) for each in wanted]
        first = inspect.Parameter("fake_gpu", inspect.Parameter.KEYWORD_ONLY)
        test.__signature__ = inspect.Signature([first, *kinds])  # type: ignore[attr-defined]
        test.body, test.options = body, options  # type: ignore[attr-defined]
        del test.__wrapped__  # type: ignore[attr-defined]
        return test

    return mark


class Process:
    """The process with the libraries; `run` has it fork for a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                # The speed of a fake GPU is no rate to plan with.
                "TUNER_CACHE": str(folder / "cache"),
                "TUNER_FAKE_BASES": str(folder / "bases"),
            },
        )

    def run(self, module: str, name: str, options: Any, given: dict[str, Any]) -> None:
        """Run a test's body; its failure or skip becomes that of this test."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        log = self.folder / "log"
        pickle.dump((module, name, options, given, str(log)), self.process.stdin)
        self.process.stdin.flush()
        outcome, text = pickle.load(self.process.stdout)
        said = log.read_text("utf-8", errors="replace")
        if outcome == "skipped":
            pytest.skip(text)
        if outcome != "passed":
            pytest.fail(f"{text}\n{said[-4000:]}", pytrace=False)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def base(kind: str) -> Path:
    """Return the folder of a tiny model (see tests/tiny.py), made once."""
    from tests.tiny import make_model

    folder = Path(os.environ["TUNER_FAKE_BASES"]) / kind
    if not folder.exists():
        # torch keeps its random numbers for what the test makes of them.
        import torch

        with torch.random.fork_rng(devices=[]):
            make_model(kind, folder.with_suffix(".part"))
        folder.with_suffix(".part").rename(folder)
    return folder


def _child(request: Any) -> tuple[str, str]:
    """Carry out a request in this process, which is a fork."""
    from tests.gpu import child, fake

    module, name, options, given, log = request
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    own_pool()
    try:
        body = getattr(importlib.import_module(module), name).body
        gpu = fake.install(**{key: options[key] for key in OPTIONS if key in options})
        child.prepare(gpu, options.get("real_children", False))
        if "gpu" in inspect.signature(body).parameters:
            given = {**given, "gpu": gpu}
        with gpu.on():
            body(**given)
    except pytest.skip.Exception as skip:
        return "skipped", str(skip)
    except BaseException as error:
        return "failed", traceback.format_exc() + _values(error)
    return "passed", ""


def own_pool() -> None:
    """Have torch make the pool of threads that a fork lacks; the threads of a backward pass, one
    for each device, would make it at the same time, which torch does not survive."""
    import torch

    torch.set_num_threads(1)


def _values(error: BaseException) -> str:
    """Return the variables where an assertion failed; pytest rewrites no assertion in a fork."""
    if not isinstance(error, AssertionError) or error.__traceback__ is None:
        return ""
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    found = place.tb_frame.f_locals.items()
    return "".join(f"\n  {key} = {str(item)[:300]}" for key, item in found)


def main() -> None:
    """Import the libraries on the fake GPU, then fork for each request on stdin."""
    from tests.gpu import fake

    fake.install()
    import torch
    import transformers.models.llama.modeling_llama
    import transformers.trainer  # noqa: F401

    from tuner import cli  # noqa: F401
    from tuner.run import build, spine  # noqa: F401

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "wb")
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            result = _child(request)
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(result, pipe)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        result = pickle.loads(said) if said else ("failed", f"the process ended with {status}")
        pickle.dump(result, answers)
        answers.flush()


if __name__ == "__main__":
    main()
