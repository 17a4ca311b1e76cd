"""What a run depends on, as one digest: by it chains and sweeps find a run that is done."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from tuner.data.reading import documents
from tuner.model.adapters.saved_models import TRAINED
from tuner.recipe import dump, paths
from tuner.recipe.load import LoadedRecipe
from tuner.record.disk import sha256_file
from tuner.record.manifest import MANIFEST

# An adapter or a model that was never sealed.
_FILES = ("*.json", "*.safetensors")


def content_sha256(loaded: LoadedRecipe) -> str:
    """Return a digest of all a run depends on: every key except where it runs, and its data.

    Paths count as written, and files and adapters also by their contents: so a project can be
    moved, and a run whose inputs have changed is not taken for done.
    """
    digest = hashlib.sha256(dump.meaning(loaded).encode())
    for part in _contents(loaded):
        digest.update(part)
    return digest.hexdigest()


def _contents(loaded: LoadedRecipe) -> Iterator[bytes]:
    """Yield a digest of everything named, except the base, whose weights a run records."""
    for each in paths.named(loaded.recipe):
        there = None if each.kind == "base" else each.find(loaded.folder)
        if there is None:
            continue
        if there.is_file() or each.kind == "file":
            yield bytes.fromhex(documents.sha256(there))
        else:
            yield _of_folder(there)


def _of_folder(folder: Path) -> bytes:
    """Return the digest of an adapter or a model, or of the run that trained it."""
    trained = next((folder / name for name in TRAINED if (folder / name).is_dir()), folder)
    sealed = trained / MANIFEST
    files = [sealed] if sealed.is_file() else sorted(f for p in _FILES for f in trained.glob(p))
    return hashlib.sha256(b"".join(map(_sha256, files))).digest()


def _sha256(file: Path) -> bytes:
    return bytes.fromhex(sha256_file(file))
