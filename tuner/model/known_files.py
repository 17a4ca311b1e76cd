"""Which files of a model's folder are read and copied: known names only, and no links out of it.

A folder from elsewhere may have links to anything on this machine, and indexes that name files in
other folders; their content would end up in an artefact that is given away.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tuner.errors import SafetyError
from tuner.methods.options import CONFIG, WEIGHTS

# All that transformers' and mistral's tokenizers write, by the names that they give it.
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model"),
    *("spm.model", "spm_char.model", "source.spm", "target.spm", "prophetnet.tokenizer"),
    *("entity_vocab.json", "emoji.json", "dict.txt", "byte_maps.json"),
)
ADAPTER = (CONFIG, WEIGHTS, *TOKENIZER)
_INDEXES = "*.index.json"
# The Hub's cache: a snapshot's files are links to the blobs of the same repository.
_HUB_CACHE = re.compile(r"/(models|datasets|spaces)--[^/]+/(blobs|snapshots)/")


def copy(source: Path, folder: Path, names: Iterable[str] = ADAPTER) -> None:
    """Copy the files with these names that exist.

    Raises:
        SafetyError: one of them is a link out of the folder.
    """
    for name in present(source, names):
        shutil.copyfile(source / name, folder / name)


def present(folder: Path, names: Iterable[str] = ADAPTER) -> list[str]:
    """Return which of these files a folder has, and the code that its tokenizer names.

    Raises:
        SafetyError: one of them is a link out of the folder.
    """
    found = [name for name in names if (folder / name).is_file()]
    if "tokenizer_config.json" in found and "auto_map" in _object(folder / "tokenizer_config.json"):
        found += sorted(file.name for file in folder.glob("*.py") if file.is_file())
    for name in found:
        _refuse_link(folder / name, folder)
    return found


def refuse_index(folder: Path) -> None:
    """Refuse an index of weights that names a file outside its folder.

    Raises:
        SafetyError: names the index and the file.
    """
    for index in sorted(folder.glob(_INDEXES)):
        entries = _object(index).get("weight_map")
        named = {str(file) for file in entries.values()} if isinstance(entries, dict) else set()
        for name in sorted(named):
            path = PurePosixPath(name)
            outside = path.is_absolute() or ".." in path.parts or "\\" in name
            # A file may be a link, into a cache or to another disk; a folder on the way is not.
            inside = (folder / name).parent.resolve().is_relative_to(folder.resolve())
            if outside or not inside:
                raise SafetyError(
                    "a weight index names a file outside its folder",
                    f"{index}: {name}",
                    "download the model again, or copy the file into the folder and correct the "
                    "index",
                )


def _refuse_link(file: Path, folder: Path) -> None:
    real = file.resolve()
    if not real.is_relative_to(folder.resolve()) and not _HUB_CACHE.search(real.as_posix()):
        raise SafetyError(
            f"{file.name} is a link out of its folder",
            f"{file} points to {real}, whose content would be written into an artefact",
            "replace the link by the file itself",
        )


def _object(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
