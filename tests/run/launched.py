"""Runs started as forks of one process that has imported the libraries (tests/launcher.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tuner.methods import METHODS

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
At = tuple[str, int, int]


class Tuner:
    """Starts `tuner` and tells how it ended."""

    module = "tests.launcher"

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=ENVIRONMENT,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def __call__(
        self,
        recipe: Path,
        folder: Path,
        *options: str,
        at: At | None = None,
        resume: bool = False,
        verb: str = "",
    ) -> int:
        """The exit code, negative for a signal that ended it; the verb is the method's if empty."""
        args = command(recipe, folder, *options, resume=resume, verb=verb)
        code = self.ask(args=args, log=str(self.log), at=at)["code"]
        assert isinstance(code, int)
        return code

    def stopped(self, recipe: Path, folder: Path, at: At) -> int:
        """The id of a process that has stopped itself and still lives."""
        answer = self.ask(args=command(recipe, folder), log=str(self.log), at=at)
        assert answer["code"] is None
        return int(answer["pid"])

    def kill(self, pid: int) -> None:
        assert self.ask(kill=pid)["code"] == -signal.SIGKILL

    def said(self) -> str:
        """What the last command showed."""
        return self.log.read_text()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def command(
    recipe: Path, folder: Path, *options: str, resume: bool = False, verb: str = ""
) -> list[str]:
    verb = verb or METHODS[yaml.safe_load(recipe.read_text())["method"]["name"]].verb
    more = [*options, *(["--resume"] if resume else [])]
    return [verb, "--recipe", str(recipe), "--output", str(folder), *more]


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    known = [json.loads(line) for line in lines]
    return [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in known]


def assert_equal(folder: Path, reference: Path) -> None:
    """The same tensors, metrics, scores and answers, byte for byte; and nothing left over."""
    assert metrics(folder) == metrics(reference)
    mine, theirs = record(folder), record(reference)
    assert mine["status"] == theirs["status"] == "done"
    assert mine["error"] is None
    for key in ("scores", "samples", "unmoved_tensors"):
        assert mine[key] == theirs[key], key
    for one, other in zip(mine["artefacts"], theirs["artefacts"], strict=True):
        assert (one["kind"], one["sha256"]) == (other["kind"], other["sha256"])
        for file in Path(other["path"]).glob("*.safetensors"):
            assert (Path(one["path"]) / file.name).read_bytes() == file.read_bytes()
    names = [sorted(path.name for path in each.iterdir()) for each in (folder, reference)]
    assert names[0] == names[1]
