"""What a name means: a run and what it trained, an adapter, or a whole model; and its base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import IntegrityError, ModelError, RecipeError
from tuner.methods.options import CONFIG, WEIGHTS, MethodOptions
from tuner.model import base as bases
from tuner.model import folded, known_files
from tuner.model.base import Base
from tuner.model.folded import Folded
from tuner.recipe.schema_model import ModelSection
from tuner.recipe.source import LOCK, to_finish
from tuner.record import manifest, run_json, runs
from tuner.record.disk import sha256_file

if TYPE_CHECKING:
    from tuner.recipe.load import LoadedRecipe
    from tuner.recipe.schema import Recipe

RECIPES = (".yaml", ".yml")
# The folders of a run that hold what it trained; the first one counts.
TRAINED = ("adapter", "merged")


@dataclass(frozen=True)
class SavedModel:
    """An adapter or a whole model on the disk, of a run or made elsewhere.

    Attributes:
        name: as the user or the recipe names it.
        folder: of the adapter or the model; where it will be, if `planned`.
        run: the run folder that it is in; None if it is elsewhere.
        whole: whether it is a whole model, not an adapter.
        section: its base, as in the recipe of its run; None if unknown.
        start: the folder that a relative path of that base starts from.
        method: the method of its run.
        sealed: `extra` of its manifest, if its files were `checked`; empty without one.
        planned: an earlier stage of the same command will write it.
    """

    name: str
    folder: Path
    run: Path | None = None
    whole: bool = False
    section: ModelSection | None = None
    start: Path = Path()
    method: MethodOptions | None = None
    sealed: dict[str, Any] = field(default_factory=dict)
    planned: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """peft's configuration of an adapter; empty for a whole model."""
        file = self.folder / CONFIG
        if self.whole or not file.is_file():
            return {}
        return dict(json.loads(file.read_text("utf-8")))

    def checked(self) -> SavedModel:
        """Return it with `sealed`, every file compared with the manifest if there is one.

        Raises:
            IntegrityError: a file is not the one that was sealed.
            SafetyError: its index of weights names a file outside its folder.
        """
        known_files.refuse_index(self.folder)
        return replace(self, sealed=self._verified())

    def _verified(self) -> dict[str, Any]:
        if not (self.folder / manifest.MANIFEST).exists():
            return {}
        return dict(manifest.verify(self.folder)["extra"])

    def check_base(
        self,
        base: str,
        fingerprint: Callable[[], str],
        warn: Callable[[str], None],
        force: bool = False,
    ) -> None:
        """Compare the base that an adapter was trained on with the one it is used on.

        Args:
            base: name of the one it is used on.
            fingerprint: returns the sha256 of its weights; called if there is one to compare with.
            warn: called with what may be wrong.
            force: only warn of another base.

        Raises:
            ModelError: another base.
            IntegrityError: a file is not the one that was sealed.
        """
        known = (self.sealed or self._verified()).get("base_fingerprint")
        if known is None:
            warn(
                f"the adapter '{self.name}' does not say which base it was trained on: not checked"
            )
            return
        found = fingerprint()
        if known != found:
            why = f"its base has sha256 {known[:12]}, '{base}' has {found[:12]}"
            if not force:
                raise ModelError(
                    f"the adapter '{self.name}' was trained on another base",
                    why,
                    "use that base, or --force-base if you know that they fit together",
                )
            warn(f"the adapter '{self.name}' was trained on another base: {why}")

    def digest(self) -> str:
        """Return the sha256 over its weights and their names."""
        digest = hashlib.sha256()
        for file in sorted(self.folder.glob("*.safetensors")):
            digest.update(f"{file.name}\n{sha256_file(file)}\n".encode())
        return digest.hexdigest()

    def opened_with(self, other: Base) -> Base:
        """Return the base that it is loaded on: itself, if it is whole; `other`, if unknown.

        Raises:
            ModelError: the base was not found.
        """
        if self.whole:
            trusted = self.section is not None and self.section.trust_remote_code
            own = ModelSection(base=str(self.folder), trust_remote_code=trusted)
            return bases.resolve(own, Path(), lambda text: None)
        if self.section is None:
            return other
        return self._resolved(self.section, self.start, lambda text: None)

    def _resolved(self, section: ModelSection, start: Path, note: Callable[[str], None]) -> Base:
        return replace(bases.resolve(section, start, note), folded=self.below)

    @property
    def below(self) -> tuple[Folded, ...]:
        """The adapters that are folded into the base first; `ModelError` if one is gone."""
        return () if self.whole else folded.read(self.folder, self.sealed or None)

    def trained_on(self, named: str | None, note: Callable[[str], None]) -> Base:
        """Return the base that it was trained on, by its run, its manifest or its configuration.

        Args:
            named: the base that the user names instead, if any.
            note: called with a text before work that takes long.

        Raises:
            ModelError: it is not available, or not recorded.
        """
        section = self.section
        if named:
            keys = {"trust_remote_code", "code_sha256"}
            kept = section.model_dump(include=keys) if section else {}
            section = ModelSection(base=named, **kept)
        if section is None:
            known = self.sealed.get("base") or self.config.get("base_model_name_or_path")
            if not known:
                raise ModelError(
                    f"it is not recorded which base {self.name} was trained on",
                    f"{self.folder} has no {manifest.MANIFEST}",
                    "name it with --base",
                )
            section = ModelSection(base=str(known))
        return self._resolved(section, Path() if named else self.start, note)


def at(path: Path, name: str = "") -> SavedModel | None:
    """Return the run, adapter or model at a path, by the files there; nothing is read.

    A run stands for its adapter, or else for its merged model; it may have neither yet.
    """
    if (path / run_json.RUN).is_file():
        kind = next((kind for kind in TRAINED if (path / kind).is_dir()), TRAINED[0])
        return SavedModel(name, path / kind, path, whole=kind == "merged")
    adapter = (path / CONFIG).is_file()
    if not adapter and not (path / "config.json").is_file():
        return None
    parent = path.resolve().parent
    run = parent if (parent / run_json.RUN).is_file() else None
    return SavedModel(name, path, run, whole=not adapter)


def find(name: str, folder: Path, key: str) -> SavedModel:
    """Find the finished run, the adapter or the model with this name.

    Args:
        name: a path.
        folder: the folder to look in before the current directory.
        key: the recipe's key or the command, for messages.

    Raises:
        RecipeError: nothing was found, or it is an unfinished run.
        ModelError: the run left no model.
        IntegrityError: the record or the recipe of the run cannot be read.
    """
    places = dict.fromkeys(path.resolve() for path in _places(name, folder))
    for path in places:
        found = at(path, name)
        if found is not None:
            # A model named by its own folder is loaded like one from elsewhere.
            alone = found.run is None or (found.whole and path != found.run)
            return found if alone else _of_run(found, found.run or path, key)
    recipe = ", or a recipe (.yaml), which is run first" if key.startswith("rlhf.") else ""
    raise RecipeError(
        f"{key}: there is no run, adapter or model {name}",
        f"looked in {' and '.join(map(str, places))}",
        f"{runs.near(name)}use a run folder (tuner runs list), or the folder of an adapter or a "
        f"model{recipe}",
    )


def adapter_file(source: str, folder: Path) -> Path:
    """Return the weights file of a run or adapter that `method.source` names.

    Args:
        source: a path.
        folder: the folder to look in before the current directory.

    Raises:
        RecipeError: there are none.
    """
    files = [
        place / inner / WEIGHTS for place in _places(source, folder) for inner in ("", "adapter")
    ]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise RecipeError(
            f"method.source: there is no adapter in '{source}'",
            f"looked for {', '.join(map(str, dict.fromkeys(files)))}",
            "name a finished run or an adapter folder",
        )
    return found


def planned(name: str, stage: LoadedRecipe, output: Path) -> SavedModel:
    """Return what a stage that is not finished yet will write."""
    recipe = stage.recipe
    return SavedModel(
        name,
        output / "adapter",
        section=recipe.model,
        start=stage.folder,
        method=recipe.method,
        planned=True,
    )


def _places(name: str, folder: Path) -> tuple[Path, Path]:
    path = Path(name).expanduser()
    return folder / path, Path.cwd() / path


def recipe_of(run: Path, name: str, key: str) -> Recipe:
    """Return the recipe that a run was carried out with; a relative path in it starts at the run.

    Args:
        run: the run folder.
        name: as the user named it.
        key: the recipe's key or the command, for messages.

    Raises:
        IntegrityError: it cannot be read.
    """
    from tuner.recipe import load as recipe_load

    try:
        return recipe_load.load(run / LOCK, (), None).recipe
    except RecipeError as error:
        raise IntegrityError(
            f"{key}: the recipe of the run {name} cannot be read",
            f"{run / LOCK}: {error.why or error.problems}",
            "name the adapter's own folder instead",
        ) from error


def _of_run(found: SavedModel, run: Path, key: str) -> SavedModel:
    """Return what a finished run trained, with what its recipe says about it."""
    record = run_json.read_record(run)
    if (status := record["status"]) != "done":
        raise RecipeError(
            f"{key}: the run {found.name} is not finished",
            f"{run}: its status is {status}",
            f"{to_finish(run, record)}; or name its recipe (.yaml), which is then finished first",
        )
    recipe = recipe_of(run, found.name, key)
    if not found.folder.is_dir():
        raise ModelError(
            f"{key}: the run {found.name} wrote no model",
            f"{run} has neither adapter/ nor merged/",
            "run it again with export.formats: adapter",
        )
    folder = found.folder.resolve()
    return replace(found, folder=folder, section=recipe.model, start=run, method=recipe.method)
