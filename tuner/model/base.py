"""Where the base model is, and what can be known about it without loading its weights.

A base is an alias (weights embedded in a Python package), a Hub id, a local folder or a .gguf file.
GGUF bases are converted once into safetensors in the cache (`TUNER_CACHE`, default
`~/.cache/tuner`), atomically, and read from there afterwards.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner.errors import ModelError, SafetyError, first_line
from tuner.machine import packages
from tuner.machine.cache import cache_folder
from tuner.model import hub, known_files, own_code, sizes
from tuner.model.folded import Folded
from tuner.recipe.aliases import ALIASES
from tuner.recipe.schema_model import ModelSection
from tuner.record import manifest
from tuner.record.disk import sha256_file

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?\Z")
_HUB_URL = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/([\w.-]+/[\w.-]+)"
)
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length")
_SIZE_KEYS = ("vocab_size", "hidden_size", "n_embd", "num_hidden_layers", "n_layer")


@dataclass(frozen=True)
class Base:
    """A base model on this machine: its folder, its name and its config.

    Attributes:
        name: its name.
        kind: alias, hub, folder or gguf.
        folder: its files.
        config: its config.json.
        trusted: whether Python code that comes with it may run.
        folded: adapters that are folded into it whenever it is loaded.
    """

    name: str
    kind: str
    folder: Path
    config: dict[str, Any]
    trusted: bool = False
    folded: tuple[Folded, ...] = ()

    @property
    def context_length(self) -> int:
        """Longest sequence the base was made for, in tokens."""
        text = sizes.of_text(self.config)
        return next(
            (int(text[key]) for key in _CONTEXT_KEYS if isinstance(text.get(key), int)), 2048
        )

    @property
    def vocabulary_rows(self) -> int:
        """Rows of the embedding matrix."""
        return int(sizes.of_text(self.config).get("vocab_size", 0))

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding matrix."""
        # GPT-2 ties by default and does not store the key.
        default = self.config.get("model_type") == "gpt2"
        return bool(self.config.get("tie_word_embeddings", default))

    def weight_files(self) -> list[Path]:
        """Return the safetensors files, sorted by name."""
        return sorted(self.folder.glob(hub.WEIGHTS))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every stored tensor, from the safetensors headers alone."""
        shapes: dict[str, tuple[int, ...]] = {}
        for file in self.weight_files():
            shapes.update(_header_shapes(file))
        return shapes

    @property
    def code_sha256(self) -> str | None:
        """sha256 of the Python code that comes with it and runs; None where none does."""
        return own_code.digest(self.folder) if self.trusted else None

    def fingerprint(self) -> str:
        """Return one sha256 over those of all weight files, from the manifest if there is one, and
        of the adapters that are folded into them."""
        sealed = manifest.is_sealed(self.folder)
        known = manifest.read_manifest(self.folder)["files"] if sealed else {}
        parts = [
            f"{file.name}:{known[file.name]['sha256'] if file.name in known else sha256_file(file)}"
            for file in self.weight_files()
        ]
        parts += [f"folded:{each.sha256}" for each in self.folded]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def resolve(section: ModelSection, folder: Path, note: Callable[[str], None]) -> Base:
    """Find the base, converting or downloading its small files where needed.

    Args:
        section: the recipe's `model` section.
        folder: the recipe's folder, for relative paths.
        note: called with a line about slow work.

    Raises:
        ModelError: not found, not reachable, or not a model.
        SafetyError: the model brings code or pickles.
    """
    name = section.base
    if name in ALIASES:
        base = _converted(name, "alias", _embedded_file(name), note)
    elif (local := _local_path(name, folder)) is not None:
        if local.suffix == ".gguf":
            base = _converted(local.stem, "gguf", local, note)
        else:
            base = _open(local.name, "folder", local)
    else:
        near = difflib.get_close_matches(name, ALIASES, 1, 0.6)
        hint = f"did you mean '{near[0]}'? " if near else ""
        wanted = hub.SMALL_FILES + ((hub.CODE,) if section.trust_remote_code else ())
        found = hub.folder(name, section.revision, wanted, note, hint)
        base = _open(name, "hub", found)
    if section.trust_remote_code:
        own_code.check(base.name, base.folder, section.code_sha256)
        return replace(base, trusted=True)
    _refuse_code(base)
    return base


def folder_of(name: str) -> Path:
    """Return the folder of an embedded base; it is written on first use.

    Raises:
        ModelError: no embedded base has this name, or its package is missing.
    """
    if name not in ALIASES:
        raise ModelError(
            f"there is no embedded base '{name}'",
            f"embedded bases: {', '.join(ALIASES)}",
            "use the folder or the Hub id of the model",
        )
    return resolve(ModelSection(base=name), Path(), lambda text: None).folder


def with_weights(base: Base, revision: str | None, note: Callable[[str], None]) -> Base:
    """Return the base with its weights in its folder; those of a Hub base may be downloaded.

    Raises:
        ModelError: the Hub cannot be reached.
        SafetyError: its code has changed since it was planned.
    """
    if base.kind != "hub":
        return base
    wanted = (*hub.SMALL_FILES, hub.WEIGHTS, *((hub.CODE,) if base.trusted else ()))
    folder = hub.folder(base.name, revision, wanted, note)
    if base.trusted:
        own_code.check(base.name, folder, base.code_sha256)
    return replace(base, folder=folder)


def _embedded_file(name: str) -> Path:
    embedded = ALIASES[name]
    spec = importlib.util.find_spec(embedded.package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        file = Path(root) / embedded.file
        if file.is_file():
            return file
    if _cache_entry(name).is_dir():
        return _cache_entry(name)
    raise ModelError(
        f"the base model '{name}' is not installed",
        f"its weights come with the Python package {embedded.requirement.split('==')[0]}",
        packages.install("--no-deps", embedded.requirement),
    )


def _cache_entry(name: str) -> Path:
    return cache_folder() / "bases" / name


def _local_path(name: str, folder: Path) -> Path | None:
    for candidate in (folder / Path(name).expanduser(), Path(name).expanduser()):
        if candidate.exists() and (candidate.suffix == ".gguf" or _is_model(candidate)):
            return candidate.resolve()
    path_like = (
        name.startswith((".", "/", "~")) or name.endswith(".gguf") or not _HUB_ID.match(name)
    )
    places = dict.fromkeys(
        (start / Path(name).expanduser()).resolve() for start in (folder, Path.cwd())
    )
    if path_like or any(place.exists() for place in places):
        found = [
            f"{place} {'has no config.json' if place.exists() else 'does not exist'}"
            for place in places
        ]
        raise ModelError(
            f"the base model '{name}' was not found",
            "; ".join(found),
            f"{_meant(name, places)}set model.base to an alias ({', '.join(ALIASES)}), a Hub id "
            "(ORGANISATION/NAME), a model folder or a .gguf file",
        )
    return None


def _meant(name: str, places: Iterable[Path]) -> str:
    """Return how the fix begins where something near the name is a model."""
    if url := _HUB_URL.match(name):
        return f"write the Hub id alone: model.base: {url[1]}; or "
    for place in places:
        # Of a run folder, its merged model.
        inner = [f"{name}/{each.name}" for each in place.glob("*") if _is_model(each)]
        beside = {each.name: each for each in place.parent.glob("*") if _is_model(each)}
        near = difflib.get_close_matches(place.name, beside, 1, 0.6)
        for found in (*inner, *(str(Path(name).parent / each) for each in near)):
            return f"did you mean {found}? else "
    return ""


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _converted(name: str, kind: str, gguf: Path, note: Callable[[str], None]) -> Base:
    if gguf.is_dir():
        return _open(name, kind, gguf)
    entry = _cache_entry(name if kind == "alias" else f"gguf-{sha256_file(gguf)[:16]}")
    if not manifest.is_sealed(entry):
        from tuner.model import gguf as model_gguf

        note(f"preparing the base model {name} once, in {entry} (about half a minute)")
        entry.parent.mkdir(parents=True, exist_ok=True)
        model_gguf.convert_gguf(gguf, entry)
    return _open(name, kind, entry)


def _open(name: str, kind: str, folder: Path) -> Base:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        _check_config(config)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"the base model '{name}' cannot be read",
            f"{folder / 'config.json'}: {first_line(error)}",
            "use a folder that transformers' save_pretrained wrote",
        ) from error
    known_files.refuse_index(folder)
    known_files.present(folder, known_files.TOKENIZER)
    pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    if kind != "hub" and pickles and not list(folder.glob(hub.WEIGHTS)):
        raise SafetyError(
            f"the base model '{name}' has only pickled weights",
            f"{pickles[0]}: a pickle can run any code when it is opened",
            "if you trust it, convert it to safetensors and use that folder",
        )
    return Base(name, kind, folder, config)


def _check_config(config: Any) -> None:
    if not isinstance(config, dict):
        raise ValueError("it is not a JSON object")
    if not isinstance(config.get("model_type", ""), str):
        raise ValueError(f"model_type is {config['model_type']!r}")
    for key in (*_CONTEXT_KEYS, *_SIZE_KEYS):
        if key in config and (type(config[key]) is not int or config[key] < 1):
            raise ValueError(f"{key} is {config[key]!r}")


def _refuse_code(base: Base) -> None:
    if "auto_map" not in base.config:
        return
    from transformers import CONFIG_MAPPING

    if base.config.get("model_type") not in CONFIG_MAPPING:
        raise own_code.refusal(base.name, base.folder)


def _header_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "a weight file is damaged", f"{file}: {first_line(error)}", "download the model again"
        ) from error
