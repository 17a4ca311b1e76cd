"""What `tuner push` sends: artefacts that `tuner verify` accepts, and a card made of their run.

The first format is at the top of the repository, so that libraries find it by the repository's
name; each other one is in a folder of its name. The top's manifest is written again with the sha256
of the card: what is downloaded can be verified as it is here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import ModelError, RecipeError
from tuner.export import card, model_card, origin
from tuner.export import verify as verifying
from tuner.export.hub_upload import File, Target, of_text
from tuner.model.adapters import saved_models
from tuner.recipe.formats import FORMATS, canonical
from tuner.record import manifest, runs
from tuner.record.run_json import RUN
from tuner.schema.suggest import suggestion

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.model.adapters.saved_models import SavedModel

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Push:
    """What is sent where.

    Attributes:
        target: the repository.
        parts: the artefacts by format, their files compared with their manifests.
        files: all files, sorted by path.
        card: the text of README.md.
    """

    target: Target
    parts: dict[str, SavedModel]
    files: tuple[File, ...]
    card: str

    def as_dict(self) -> dict[str, Any]:
        """Return repository, visibility, revision, formats and files for `--json`."""
        return {
            "repo": self.target.repo,
            "visibility": self.target.visibility,
            "revision": self.target.revision,
            "formats": [*self.parts],
            "files": [
                {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
                for file in self.files
            ],
        }


def collect(run: str, formats: Sequence[str], target: Target, licence: str | None) -> Push:
    """Find the artefacts of a run and write their card; nothing is computed yet.

    Args:
        run: folder of a finished run, or of one artefact.
        formats: those to send, the first at the top; none: what the run trained.
        target: the repository.
        licence: for the card, as the Hub names it.

    Raises:
        RecipeError: there is no such run, or it has not been exported to a format.
        ModelError: a format that nothing can verify.
        IntegrityError: a file was changed after it was sealed.
    """
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise RecipeError(
            f"--licence: '{licence}' is no identifier of a licence",
            "the Hub names licences in lower case, without spaces",
            "for example: --licence apache-2.0; or other, for one that the Hub does not know",
        )
    folders = _folders(run, formats)
    parts = {kind: origin.find_artefact(str(folder)) for kind, folder in folders.items()}
    for kind, folder in folders.items():
        if not (folder / manifest.MANIFEST).is_file():
            raise verifying.unverifiable(folder, False, kind)
    first = next(iter(folders))
    text = model_card.text(target.repo, licence, parts, _record(folders[first]))
    files = [
        file for kind in folders for file in _files(folders[kind], "" if kind == first else kind)
    ]
    sealed = manifest.read_manifest(folders[first])
    body, top = text.encode(), [of_text(card.FILE, text.encode())]
    sealed["files"][card.FILE] = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    top.append(of_text(manifest.MANIFEST, manifest.encode(sealed)))
    kept = [file for file in files if file.path not in (card.FILE, manifest.MANIFEST)]
    return Push(target, parts, tuple(sorted([*kept, *top], key=lambda file: file.path)), text)


def verify(push: Push, base: str | None, force_base: bool, console: Console) -> None:
    """Verify every artefact of a push as `tuner verify` does.

    Args:
        push: what would be sent.
        base: of an adapter, if not the one in its manifest.
        force_base: use it even if the adapter was trained on another base.
        console: shows each verdict.

    Raises:
        IntegrityError: one no longer computes what it did when it was written.
        ModelError: one cannot be verified.
    """
    for kind, part in push.parts.items():
        console.note(f"verifying {kind}")
        found = verifying.check(part, base, force_base, console)
        console.event("verified", **found)


def _folders(run: str, formats: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each format, in the order given."""
    path = runs.named(run)
    names = list(dict.fromkeys(map(canonical, formats)))
    for name in names:
        if name not in FORMATS:
            raise RecipeError(
                f"there is no format '{name}'",
                suggestion(name, list(FORMATS)),
                f"choose one of {', '.join(FORMATS)}",
            )
    if not (path / RUN).is_file() and (path / manifest.MANIFEST).is_file():
        kind = manifest.read_manifest(path)["extra"].get("kind")
        if kind in FORMATS and names in ([], [kind]):
            return {kind: path}
    found = saved_models.find(str(path), Path(), "push")
    trained = found.folder.name if found.run else "merged" if found.whole else "adapter"
    if found.run is None:
        return {trained: found.folder}
    folders = {name: found.run / name for name in names or [trained]}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise RecipeError(
                f"{found.run} has no {name}",
                f"there is no folder {folder}",
                f"write it first: tuner export {run} --format {name}",
            )
        if name == "gguf-adapter":
            raise ModelError(
                "a GGUF adapter is not pushed",
                "it cannot be verified without the GGUF file of its base",
                "leave it out: tuner push sends adapter, or a whole model such as gguf",
            )
    return folders


def _files(folder: Path, place: str) -> list[File]:
    """Return what a manifest lists, and the manifest; other files in the folder are not sent."""
    listed = manifest.read_manifest(folder)["files"]
    prefix = f"{place}/" if place else ""
    known = [
        File(f"{prefix}{name}", folder / name, entry["bytes"], entry["sha256"])
        for name, entry in listed.items()
    ]
    whole = (folder / manifest.MANIFEST).read_bytes()
    return [*known, of_text(f"{prefix}{manifest.MANIFEST}", whole)]


def _record(folder: Path) -> dict[str, Any]:
    """Return the record of the run that an artefact is in; empty if it is elsewhere."""
    parent = folder.resolve().parent
    return runs.read_run(parent).record if (parent / RUN).is_file() else {}
