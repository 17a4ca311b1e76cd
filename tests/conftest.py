"""What the tests share: a cache of their own, no network, tiny bases made once."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes with two threads each would only wait for each other on two cores.
    os.environ["OMP_NUM_THREADS"] = "1"

import tests.unflushed  # noqa: F401
from tests.slow import pytest_addoption, pytest_collection_modifyitems  # noqa: F401 (hooks)
from tests.tiny import EVERY, make_model

# Assertions in these modules are reported as in tests.
pytest.register_assert_rewrite(
    "tests.model.loading",
    "tests.run.launched",
    "tests.tasks.fitting",
    "tests.tasks.policies",
    "tests.tasks.preferences",
)

from tests.gpu import guard  # noqa: E402
from tests.gpu.forked import Process  # noqa: E402
from tests.run.launched import Tuner  # noqa: E402 (rewritten)

WORDS = [
    "tenant",
    "rent",
    "month",
    "notice",
    "agreement",
    "party",
    "capital",
    "France",
    "clause",
    "liability",
    "supplier",
    "section",
    "question",
    "apples",
    "answer",
    "sentence",
    "film",
    "music",
    "great",
    "terrible",
    "text",
    "positive",
    "negative",
    "foo",
    "bar",
]


def rows(count: int, shortest: int = 2, longest: int = 12, start: int = 0) -> list[dict[str, str]]:
    """Instruction rows whose answers have different lengths, all different."""
    made = []
    for number in range(start, start + count):
        length = shortest + number * 7 % (longest - shortest + 1)
        answer = " ".join(WORDS[(number * 3 + k * 5) % len(WORDS)] for k in range(length))
        made.append({"instruction": f"Say number {number}.", "output": answer})
    return made


def write_rows(path: Path, items: list[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def libraries_are_no_garbage() -> None:
    """Each run collects garbage twice: without this, through all modules of torch and transformers,
    which takes two thirds of a second, as long as the rest of a tiny run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model by kind (see tests/tiny.py); each is made once."""
    root = tmp_path_factory.mktemp("bases")

    def base(kind: str, tokenizer: str = "chatml", seed: int = 0) -> Path:
        assert kind in EVERY
        folder = root / f"{kind}-{tokenizer}-{seed}"
        if not folder.exists():
            make_model(kind, folder, tokenizer, seed)
        return folder

    return base


@pytest.fixture(scope="session")
def tuner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuner]:
    """A process that has imported the libraries, and forks for each command."""
    started = Tuner(tmp_path_factory.mktemp("launcher"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def fake_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A process on the fake GPU that forks for each test; `on_fake` uses it."""
    why = guard.unavailable()
    if why:
        pytest.skip(why)
    started = Process(tmp_path_factory.mktemp("fake_gpu"))
    yield started
    started.close()


@pytest.fixture
def make_recipe(tmp_path: Path, bases: Callable[[str], Path]) -> Callable[..., Path]:
    """Write a recipe for a tiny base with 16 uneven rows and 4 held-out ones.

    Sections are given as dicts; `kind` chooses the base, `data_rows` replaces the rows.
    """
    import yaml

    def make(
        kind: str = "llama",
        name: str = "r.yaml",
        data_rows: list[dict[str, Any]] | None = None,
        tokenizer: str = "chatml",
        **sections: Any,
    ) -> Path:
        write_rows(tmp_path / "train.jsonl", rows(16) if data_rows is None else data_rows)
        write_rows(tmp_path / "eval.jsonl", rows(4, start=100))
        recipe: dict[str, Any] = {
            "model": {"base": str(bases(kind, tokenizer)), **sections.pop("model", {})},
            "data": {
                "train": "train.jsonl",
                "eval": "eval.jsonl",
                "template": "instruction",
                **sections.pop("data", {}),
            },
            "train": {
                "epochs": 1,
                "batch_size": 4,
                "learning_rate": 0.01,
                **sections.pop("train", {}),
            },
            **sections,
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
        return path

    return make


@pytest.fixture
def run_recipe(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a recipe in this process and return the record."""
    from tuner.console.console import Console
    from tuner.machine import hardware
    from tuner.plan import make as plan_make
    from tuner.recipe import load as recipe_load
    from tuner.run import spine

    def go(recipe: Path, out: str = "run", resume: bool = False, *, verb: str = "sft") -> Any:
        loaded = recipe_load.load(recipe, verb=verb)
        made = plan_make.make(loaded, hardware.detect(), output=tmp_path / out)
        return spine.run(made, resume=resume, console=Console(quiet=True))

    return go


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data, by TUNER_TEST_DATA."""
    folder = os.environ.get("TUNER_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TUNER_TEST_DATA names no folder of real data")
    return Path(folder)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the fresh processes here."""
    from tests import here
    from tuner.machine import processes

    monkeypatch.setattr(processes, "fresh", here.fresh)
