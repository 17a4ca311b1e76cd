"""What a recipe takes from an earlier run: the adapter it starts from, the reward models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import IntegrityError, ModelError, RecipeError
from tuner.methods.options import CONFIG, MethodOptions
from tuner.model import base as bases
from tuner.model.base import Base
from tuner.recipe.schema import ModelSection
from tuner.recipe.source import LOCK
from tuner.record import manifest, run_json
from tuner.record.disk import sha256_file

if TYPE_CHECKING:
    from tuner.recipe.load import LoadedRecipe

RECIPES = (".yaml", ".yml")


# The folders of a run that hold what it trained; the first one counts.
TRAINED = ("adapter", "merged")


@dataclass(frozen=True)
class Source:
    """An adapter or a whole model, written by an earlier run or made elsewhere.

    Attributes:
        name: as the recipe names it.
        folder: of the adapter or the model; where it will be, if `planned`.
        section: its base, as in a recipe; None if unknown.
        start: the folder that a relative path of that base starts from.
        method: the method of its run, where it comes from a run.
        whole: whether it is a whole model, not an adapter.
        planned: an earlier stage of the same command will write it.
    """

    name: str
    folder: Path
    section: ModelSection | None = None
    start: Path = Path()
    method: MethodOptions | None = None
    whole: bool = False
    planned: bool = False

    def fingerprint(self) -> str | None:
        """Return the sha256 of the weights of the base it was made for, by its manifest.

        Raises:
            IntegrityError: a file is not the one that was sealed.
        """
        if not (self.folder / manifest.MANIFEST).exists():
            return None
        found = manifest.verify(self.folder)["extra"].get("base_fingerprint")
        return str(found) if found else None

    def digest(self) -> str:
        """Return the sha256 over its weights and their names."""
        digest = hashlib.sha256()
        for file in sorted(self.folder.glob("*.safetensors")):
            digest.update(f"{file.name}\n{sha256_file(file)}\n".encode())
        return digest.hexdigest()

    def base(self, other: Base) -> Base:
        """Return its base; `other` if its base is unknown.

        Raises:
            ModelError: the base was not found.
        """
        if self.whole:
            trusted = self.section is not None and self.section.trust_remote_code
            own = ModelSection(base=str(self.folder), trust_remote_code=trusted)
            return bases.resolve(own, Path(), lambda text: None)
        if self.section is None:
            return other
        return bases.resolve(self.section, self.start, lambda text: None)


def find(name: str, folder: Path, key: str) -> Source:
    """Find the run, adapter or model with this name.

    Args:
        name: a path.
        folder: the folder to look in before the current directory.
        key: the recipe's key, for messages.

    Raises:
        RecipeError: nothing was found, or it is an unfinished run.
    """
    places = dict.fromkeys(
        path.resolve() for path in (folder / Path(name).expanduser(), Path(name).expanduser())
    )
    for path in places:
        if (path / run_json.RUN).is_file():
            return _of_run(path, name, key)
        if (path / CONFIG).is_file():
            # The adapter of a run, named by its own folder.
            if (path.parent / run_json.RUN).is_file():
                return replace(_of_run(path.parent, name, key), folder=path)
            return Source(name, path)
        if (path / "config.json").is_file():
            return Source(name, path, whole=True)
    recipe = ", or a recipe (.yaml), which is run first" if "." in key else ""
    raise RecipeError(
        f"{key}: there is no run, adapter or model {name}",
        f"looked in {' and '.join(map(str, places))}",
        f"use a run folder, or the folder of an adapter or a model{recipe}",
    )


def planned(name: str, stage: LoadedRecipe, output: Path) -> Source:
    """Return what a stage that is not finished yet will write."""
    recipe = stage.recipe
    return Source(
        name,
        output / "adapter",
        recipe.model,
        stage.folder,
        recipe.method,
        planned=True,
    )


def _of_run(path: Path, name: str, key: str) -> Source:
    from tuner.recipe import load as recipe_load

    found = run_json.read_record(path)
    status = found["status"]
    if status != "done":
        raise RecipeError(
            f"{key}: the run {name} is not finished",
            f"{path}: its status is {status}",
            "finish it with --resume, or name its recipe (.yaml), which is then finished first",
        )
    try:
        loaded = recipe_load.load(path / LOCK, (), None)
    except RecipeError as error:
        raise IntegrityError(
            f"{key}: the recipe of the run {name} cannot be read",
            f"{path / LOCK}: {error.why or error.problems}",
            "name the adapter's own folder instead",
        ) from error
    section, method = loaded.recipe.model, loaded.recipe.method
    for kind in TRAINED:
        if (path / kind).is_dir():
            whole = kind == "merged"
            folder = (path / kind).resolve()
            return Source(name, folder, section, path, method, whole)
    raise ModelError(
        f"{key}: the run {name} wrote no model",
        f"{path} has neither adapter/ nor merged/",
        "run it again with export.formats: adapter",
    )
