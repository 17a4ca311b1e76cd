"""Chains in a folder, and the process that carries them out.

The commands are forks of a process that has imported the libraries, as in tests/launcher.py, and so
are their stages: `python -m tests.run.chains` is that process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from tests import launcher
from tests.conftest import WORDS, write_rows
from tests.run.launched import Tuner
from tuner import cli
from tuner.machine import processes
from tuner.record.run_folder import RunFolder

Sections = dict[str, Any]


class Forked:
    """What `tuner.machine.child` needs of a process, as a fork of this one."""

    def __init__(self, arguments: Sequence[str], log: Any, folder: None = None) -> None:
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(writing, 1)
            os.dup2(log.fileno(), 2)
            try:
                cli.main(list(arguments))
            except SystemExit as end:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(int(end.code or 0))
            finally:
                os._exit(99)
        os.close(writing)
        self.stdout = os.fdopen(reading, encoding="utf-8", errors="replace")

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> None:
        self.stdout.read()
        self.wait()

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def trap(run: str, step: int, send: int) -> None:
    """Send a signal to the command after a step of one of its runs, and wait until it has come
    down to the process of that run."""
    command = os.getpid()
    true = RunFolder.append_metrics

    def append(folder: RunFolder, values: Any) -> None:
        true(folder, values)
        if (folder.path.name, values["step"]) == (run, step):
            os.kill(command, send)
            asked = cast(Any, signal.getsignal(send)).__self__
            end = time.monotonic() + 60
            while asked.requested is None and time.monotonic() < end:
                time.sleep(0.01)

    RunFolder.append_metrics = append  # type: ignore[method-assign]


def main() -> None:
    processes.run_of_ours = Forked  # type: ignore[assignment]
    launcher.trap = trap
    launcher.main()


class Chain(Tuner):
    """Starts `tuner rlhf` on a recipe; its run and those of its stages lie under `runs` beside."""

    module = "tests.run.chains"

    def __call__(self, recipe: Path, *options: Any, **how: Any) -> int:
        output = recipe.parent / "runs" / recipe.stem
        args = ["rlhf", "--recipe", str(recipe), "--output", str(output), *options]
        return int(self.ask(args=args, log=str(self.log), at=how.get("at"))["code"])


def write_chain(folder: Path, base: Path) -> Path:
    """Recipes of three stages with their data; the one that names the others."""
    words = WORDS[:8]
    say = [(f"Say {one} {other}.", one, other) for one in words for other in words[:3]]
    write_rows(
        folder / "sft.jsonl",
        [{"prompt": prompt, "completion": f"{one} {other}"} for prompt, one, other in say],
    )
    write_rows(
        folder / "pairs.jsonl",
        [
            {"prompt": prompt, "chosen": f"{one} great {other}", "rejected": f"terrible {other}"}
            for prompt, one, other in say
        ],
    )
    write_rows(folder / "prompts.jsonl", [{"prompt": prompt} for prompt, _, _ in say])
    small = {"batch_size": 8, "learning_rate": 0.01, "save_steps": 2}
    method = {"method": {"name": "lora", "r": 4}}
    write(folder / "sft.yaml", base, "sft.jsonl", method, train=small | {"max_steps": 2})
    reward = {"reward": {"centering": 0.1}}
    write(folder / "reward.yaml", base, "pairs.jsonl", reward, train=small | {"max_steps": 3})
    rewards = [{"model": "reward.yaml"}, {"rule": "length", "min": 2, "max": 6, "weight": 0.5}]
    rlhf = {"policy": "sft.yaml", "reward": rewards, "max_new_tokens": 6}
    return write(
        folder / "rlhf.yaml", base, "prompts.jsonl", {"rlhf": rlhf}, train=small | {"max_steps": 2}
    )


def write(path: Path, base: Path, data: str, sections: Sections, train: Sections) -> Path:
    recipe = {
        "model": {"base": str(base)},
        "data": {"train": data, "eval": 4},
        "train": train | {"logging_steps": 1},
        "eval": {"samples": 1, "max_new_tokens": 4},
        "export": {"formats": ["adapter"]},
        **sections,
    }
    path.write_text(yaml.safe_dump(recipe))
    return path


def changed(recipe: Path, name: str, **sections: Sections) -> Path:
    """A copy of a recipe under another name, some keys of its sections changed."""
    tree = yaml.safe_load(recipe.read_text())
    for section, keys in sections.items():
        tree[section] = tree.get(section, {}) | keys
    path = recipe.with_name(name)
    path.write_text(yaml.safe_dump(tree))
    return path


if __name__ == "__main__":
    main()
