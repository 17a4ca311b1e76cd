"""The commands of docs/sharing.md run, against a stand-in of the Hub."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import ROOT, tuner
from tests.stand_in_hub import TOKEN, reach, running

PAGE = (ROOT / "docs/sharing.md").read_text("utf-8")
LINES = re.findall(r"^tuner push .+$", PAGE, re.M)


@pytest.mark.usefixtures("in_process")
def test_the_commands_of_the_page_run(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    formats = {"export": {"formats": ["adapter", "merged"]}}
    short = {"train": {"max_steps": 1}, "eval": {"samples": 0}}
    run_recipe(make_recipe(**formats, **short), "runs/legal")
    assert len(LINES) == 4
    with running() as hub:
        reach(hub, monkeypatch)
        hub.writes.add("my-org")
        for line in LINES:
            done = tuner(*shlex.split(line)[1:], cwd=tmp_path, HF_TOKEN=TOKEN)
            assert done.returncode == 0, done.stderr
            assert bool(hub.repos) == (line != LINES[0])
        private = hub.repos["models", "my-org/legal"]
        public = hub.repos["models", "my-org/legal-open"]
    assert (private.private, public.private) == (True, False)
    assert {"main", "trial"} == {*public.branches}
    assert "merged/model.safetensors" in private.commits[private.branches["main"]]
