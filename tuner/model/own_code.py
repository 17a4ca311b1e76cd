"""Python code that comes with a base: what would run, its hash, when it is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError, SafetyError
from tuner.record import manifest, run_json
from tuner.record.disk import sha256_file

_FIX = "read that code, then set model.trust_remote_code: true in the recipe"


def named(folder: Path) -> list[str]:
    """Return the custom classes that a folder names: key, class and file of each."""
    return [
        f"{key}: {target} ({target.rpartition('--')[2].rpartition('.')[0].replace('.', '/')}.py)"
        for key, target in _targets(folder)
    ]


def digest(folder: Path) -> str | None:
    """Return one sha256 for all Python files of a folder that names custom code, else None."""
    if not named(folder):
        return None
    total = hashlib.sha256()
    for file in _files(folder):
        total.update(f"{file.relative_to(folder).as_posix()}:{sha256_file(file)}\n".encode())
    return total.hexdigest()


def refusal(name: str, folder: Path, part: str = "base model") -> SafetyError:
    """Return the error for a model whose code is not allowed to run."""
    return SafetyError(
        f"the {part} '{name}' wants to run its own Python code",
        f"{folder}: auto_map names {'; '.join(named(folder))}",
        _FIX,
    )


def check(name: str, folder: Path, known: str | None) -> None:
    """Refuse code that differs from the code that was allowed to run.

    Args:
        name: of the model, for messages.
        folder: its folder.
        known: sha256 of the code of the run that is resumed or used; None: no such run.

    Raises:
        SafetyError: it is other code, or is in another repository.
    """
    for key, target in _targets(folder):
        if "--" in target:
            raise SafetyError(
                f"the code of '{name}' is in another repository",
                f"{folder}: auto_map names {key}: {target}, whose content may change at any time",
                "put those files next to config.json, and remove the part before -- from auto_map",
            )
    found = digest(folder)
    if known is not None and found not in (None, known):
        raise SafetyError(
            f"the Python code of '{name}' is not the code that the run was made with",
            f"{folder}: its files had sha256 {known[:12]}, now {str(found)[:12]}",
            "restore those files; or read the new ones, and start a new run with another --output",
        )
    if found is not None and manifest.is_sealed(folder):
        sealed = manifest.read_manifest(folder)["files"]
        for file in _files(folder):
            entry = sealed.get(file.relative_to(folder).as_posix())
            if entry is None or entry["sha256"] != sha256_file(file):
                raise SafetyError(
                    f"the Python code of '{name}' is not the code that was sealed",
                    f"{file} was changed, or is not part of the artefact",
                    "restore the folder from a copy, or create it again",
                )


def same(folder: Path, base: Path) -> bool:
    """Return whether all Python files of a folder are files of the base, byte for byte."""
    return all(
        (base / file.relative_to(folder)).is_file()
        and sha256_file(base / file.relative_to(folder)) == sha256_file(file)
        for file in _files(folder)
    )


def of_run(folder: Path) -> str | None:
    """Return the sha256 of the code that the run in a folder was made with; None if it had none."""
    if not (folder / run_json.RUN).is_file():
        return None
    with contextlib.suppress(IntegrityError):
        model = (run_json.read_record(folder).get("plan") or {}).get("model") or {}
        known = model.get("code_sha256")
        return str(known) if known else None
    return None


def _targets(folder: Path) -> Iterator[tuple[str, str]]:
    for file in ("config.json", "tokenizer_config.json"):
        try:
            entries: Any = json.loads((folder / file).read_text("utf-8")).get("auto_map") or {}
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        # Old tokenizers have only the list.
        pairs = entries.items() if isinstance(entries, dict) else [("AutoTokenizer", entries)]
        for key, value in pairs:
            for target in value if isinstance(value, list) else [value]:
                if isinstance(target, str):
                    yield key, target


def _files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*.py")
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
