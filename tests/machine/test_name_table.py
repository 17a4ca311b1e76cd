"""The table of transformers' names that is kept between starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tuner.machine import name_table

TABLE = {
    frozenset[str](): {"llama.configuration_llama": {"LlamaConfig"}},
    frozenset({"torch", "vision"}): {"llama.modeling_llama": {"LlamaModel", "LlamaForCausalLM"}},
}


class Reads:
    """Reads a table, and counts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, path: Any, prefix: str | None = None) -> name_table.Table:
        self.asked.append((str(path), prefix))
        return {needs: {k: set(v) for k, v in each.items()} for needs, each in TABLE.items()}


def test_the_table_is_read_once_for_all_starts(tmp_path: Path) -> None:
    """transformers asks by the folder with a prefix, and by a file in it without one."""
    models, file = tmp_path / "models", tmp_path / "cache" / "names" / "table.json"
    reads = Reads()
    for _ in range(2):
        table = name_table.kept(reads, models, file)
        found = table(models, prefix="models")
        assert found[frozenset({"torch", "vision"})] == {
            "models.llama.modeling_llama": {"LlamaModel", "LlamaForCausalLM"}
        }
        found[frozenset()].clear()  # transformers adds its own names to what it was given.
        assert table(str(models / "__init__.py")) == TABLE
    assert reads.asked == [(str(models), None)]
    table(models / "llama" / "__init__.py")
    assert reads.asked[1:] == [(str(models / "llama" / "__init__.py"), None)]


@pytest.mark.parametrize("text", ["", "[[[", "{}", "[[1, 2]]", '[["torch"], {"a": 1}]'])
def test_a_damaged_table_is_read_again_and_replaced(tmp_path: Path, text: str) -> None:
    file, reads = tmp_path / "table.json", Reads()
    file.write_text(text)
    for _ in range(2):
        assert name_table.kept(reads, tmp_path, file)(tmp_path) == TABLE
    assert len(reads.asked) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["table.json"]


def test_without_a_cache_the_table_is_read_each_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    reads = Reads()
    for _ in range(2):
        table = name_table.kept(reads, tmp_path, tmp_path / "cache" / "names" / "table.json")
        assert table(tmp_path) == TABLE
    assert len(reads.asked) == 2


def test_every_installation_has_its_own_table_and_a_checkout_none(tmp_path: Path) -> None:
    package = tmp_path / "transformers"
    package.mkdir()
    assert name_table.table_file(package) is None
    record = tmp_path / "transformers-5.1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("a")
    first = name_table.table_file(package)
    assert first is not None
    assert first == name_table.table_file(package)
    os.utime(record, ns=(0, 0))
    assert name_table.table_file(package) not in (None, first)


@pytest.mark.slow
def test_transformers_has_the_same_names_with_and_without_the_table(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tuner.machine import name_table\n"
        "if sys.argv[1] == 'kept': name_table.keep()\n"
        "import transformers, transformers.models as models\n"
        "for each in transformers, models:\n"
        "    lacks = [(key, sorted(all)) for key, all in each._object_missing_backend.items()]\n"
        "    found = [*each._class_to_module.items(), *lacks]\n"
        "    print(sorted(map(str, found)), sorted(dir(each)))\n"
        "print(transformers.LlamaConfig().model_type)\n"
    )
    shown = []
    for how in ("read", "kept", "kept"):
        done = subprocess.run(
            [sys.executable, "-c", code, how],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "TUNER_CACHE": str(tmp_path)},
        )
        shown.append(done.stdout)
        assert len([*tmp_path.rglob("*.json")]) == (how == "kept")
    assert "LlamaForCausalLM" in shown[0]
    assert shown[0] == shown[1] == shown[2]
