"""Bases of the hub: what is asked of it, and what happens when it has no answer: H12."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model.loading import resolve
from tuner.errors import ModelError
from tuner.model import hub


@pytest.mark.parametrize("name", ["./models/none", "models/none/", "none.gguf", "~/none-at-all"])
def test_a_missing_path_is_never_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H12"""
    monkeypatch.setattr(hub, "folder", lambda *_: pytest.fail("the Hub was asked"))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelError, match="was not found") as caught:
        resolve(name, tmp_path / "recipes")
    assert caught.value.exit_code == 4
    if not name.startswith("~"):
        assert f"{tmp_path / 'recipes' / name}".rstrip("/").replace("/./", "/") in caught.value.why
        assert f"{tmp_path / 'here' / name}".rstrip("/").replace("/./", "/") in caught.value.why


def test_a_hub_id_without_a_network(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        resolve("smollm2-135", tmp_path)
    assert time.monotonic() - started < 5
    assert caught.value.exit_code == 4
    assert "did you mean 'smollm2-135m'?" in caught.value.fix
    assert "hf download smollm2-135" in caught.value.fix
    with pytest.raises(ModelError) as caught:
        resolve("some-one/some-model", tmp_path)
    assert "did you mean" not in caught.value.fix


ASK_HUB = """
import sys, time
from pathlib import Path
from tuner.model import base
from tuner.recipe.schema_model import ModelSection
started = time.monotonic()
try:
    base.resolve(ModelSection(base="some-one/some-model", revision="v7"), Path("."), print)
except base.ModelError as error:
    print(f"{error.what}|{error.exit_code}|{time.monotonic() - started:.1f}")
"""


def ask_hub(port: int, tmp_path: Path) -> tuple[str, int, float]:
    """Resolve a Hub id where the Hub is this port; the message, the exit code, the seconds."""
    done = subprocess.run(
        [sys.executable, "-c", ASK_HUB],
        env=os.environ
        | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0"}
        | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    what, code, seconds = done.stdout.strip().splitlines()[-1].split("|")
    return what, int(code), float(seconds)


def test_a_hub_that_never_answers_takes_seconds(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        what, code, seconds = ask_hub(silent.getsockname()[1], tmp_path)
    assert ("cannot be reached" in what, code) == (True, 4)
    assert seconds < 15


@pytest.fixture
def hub_without_it() -> Iterator[tuple[int, list[str]]]:
    """A Hub that says of the model, or of its revision, that there is none."""
    codes = ["RepoNotFound"]

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", codes[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], codes
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("code", ["RepoNotFound", "RevisionNotFound"])
def test_a_model_that_the_hub_does_not_have(
    code: str, hub_without_it: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, codes = hub_without_it
    codes[0] = code
    what, exit_code, seconds = ask_hub(port, tmp_path)
    assert what == "the Hub has no model 'some-one/some-model' at revision v7"
    assert (exit_code, seconds < 15) == (4, True)
