"""Adapters below an adapter: those that are folded into its base before it is put on.

A manifest lists them (`chain`), each with the sha256 of its files and where it is, from the folder
that the artefact is in and as an absolute path: a project can be moved as a whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError, ModelError
from tuner.methods.options import CONFIG
from tuner.record import manifest
from tuner.record.disk import sha256_file

# In a manifest: the adapters that a model comes from, the first one first.
CHAIN = "chain"
# Folders of a run that hold its artefacts as they were before it got more steps, by the last step.
EARLIER = "until-step-"
FOLDED, CONTINUED = "folded", "continued"
# peft's types whose update is a part of the base's weights once it is merged.
FOLDABLE = frozenset(
    {
        *("LORA", "ADALORA", "VERA", "IA3", "OFT", "BOFT", "LOKR", "LOHA", "LN_TUNING"),
        *("FOURIERFT", "TRAINABLE_TOKENS"),
    }
)


@dataclass(frozen=True)
class Folded:
    """An adapter that is folded into a base in memory.

    Attributes:
        name: as the user or the recipe named it.
        folder: its files.
        sha256: of these (see `digest`).
    """

    name: str
    folder: Path
    sha256: str

    @classmethod
    def of(cls, name: str, folder: Path) -> Folded:
        """Return an adapter as it is now."""
        return cls(name, folder, digest(folder))

    def refuse_changed(self) -> None:
        """Refuse an adapter that is not the one that was folded.

        Raises:
            IntegrityError: it has other weights or another configuration.
        """
        if (found := digest(self.folder)) != self.sha256:
            raise IntegrityError(
                f"the adapter '{self.name}', which is folded into the base, has changed",
                f"{self.folder} had sha256 {self.sha256[:12]}, now {found[:12]}",
                "restore its files, or use the merged model: tuner export RUN --format merged",
            )

    def job(self) -> dict[str, str]:
        """Return it as JSON for a fresh process."""
        return {"name": self.name, "folder": str(self.folder), "sha256": self.sha256}


def digest(folder: Path) -> str:
    """Return the sha256 over an adapter's weights and its configuration."""
    found = hashlib.sha256()
    for file in (folder / CONFIG, *sorted(folder.glob("*.safetensors"))):
        found.update(f"{file.name}\n{sha256_file(file)}\n".encode())
    return found.hexdigest()


def of_job(job: Mapping[str, Any]) -> tuple[Folded, ...]:
    """Return the adapters below the artefacts of a job (see `fresh_process.job_of`)."""
    return tuple(
        Folded(each["name"], Path(each["folder"]), each["sha256"]) for each in job.get("below", ())
    )


def chain(sealed: Mapping[str, Any], folder: Path, output: Path) -> list[dict[str, str]]:
    """Return the chain of an artefact, as artefacts of another folder have it.

    Args:
        sealed: `extra` of its manifest; empty without one.
        folder: of the artefact.
        output: the folder that those artefacts' folders are in.
    """
    found = []
    for each in sealed.get(CHAIN, ()):
        place = next(_there(each, folder), Path(each["folder"]))
        found.append(link(Folded(each["name"], place, each["sha256"]), each["how"], output))
    return found


def link(adapter: Folded, how: str, output: Path) -> dict[str, str]:
    """Return an entry of a chain.

    Args:
        adapter: what a model comes from.
        how: folded, or continued.
        output: the folder that the artefact's folder is in.
    """
    place = os.path.relpath(adapter.folder.resolve(), output.resolve())
    return {**adapter.job(), "from_here": place, "how": how}


def read(folder: Path, sealed: Mapping[str, Any] | None = None) -> tuple[Folded, ...]:
    """Return the adapters below the one in a folder, in the order in which they are folded.

    Args:
        folder: of the adapter.
        sealed: `extra` of its manifest; None: read it, if there is one.

    Raises:
        ModelError: one of them is nowhere to be found.
    """
    if sealed is None:
        known = manifest.is_sealed(folder)
        sealed = manifest.read_manifest(folder)["extra"] if known else {}
    below = [each for each in sealed.get(CHAIN, ()) if each["how"] == FOLDED]
    return tuple(Folded(each["name"], _place(each, folder), each["sha256"]) for each in below)


def _places(entry: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    here = os.path.abspath(folder.resolve().parent / entry["from_here"])
    return Path(here), Path(entry["folder"])


def _there(entry: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """Yield where an adapter of a chain may be: first the places with the same files."""
    places = [
        each
        for place in _places(entry, folder)
        for each in (place, *sorted(place.parent.glob(f"{EARLIER}*/{place.name}")))
        if (each / CONFIG).is_file()
    ]
    yield from (place for place in places if digest(place) == entry["sha256"])
    yield from places


def _place(entry: Mapping[str, Any], folder: Path) -> Path:
    place = next(_there(entry, folder), None)
    if place is None:
        places = dict.fromkeys(map(str, _places(entry, folder)))
        raise ModelError(
            f"{folder} needs the adapter '{entry['name']}' below it, which is gone",
            f"looked in {' and '.join(places)}",
            "put it back there, or use the merged model of the run",
        )
    return place
