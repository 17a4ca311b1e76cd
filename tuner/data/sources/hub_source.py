"""Rows on the Hugging Face Hub: `ORG/NAME` where a recipe names a file, pinned to a commit.

A split is found as the data set's card says (`configs`), else by the names of its files. Its file
is read as any other one, so errors have line numbers and the report counts every loss. `datasets`
is not used: it converts rows to types of its own, and would run a data set's script.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tuner.data.reading.read import READERS
from tuner.errors import DataError, first_line
from tuner.machine.cache import cache_folder
from tuner.recipe.schema_source import SourceSection
from tuner.record.disk import resource_error

_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<split>[\w.-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_KEYS = ("split", "config", "revision", "file")
# What splits are called in the names of files.
_WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev")}
_CARD = "README.md"
_LISTED = 5


@dataclass(frozen=True)
class HubFile:
    """A file of a data set on the Hub, on the disk.

    Attributes:
        path: in the cache of huggingface_hub.
        facts: asked (the recipe's keys), revision (the commit) and file, for the report.
        said: how it was found.
    """

    path: Path
    facts: dict[str, Any]
    said: str


def is_meant(item: SourceSection, folder: Path) -> bool:
    """Return whether a source is a data set on the Hub: no path has its name, or nearly its name.

    Args:
        item: the source.
        folder: where relative paths are looked up first.
    """
    match = _ID.fullmatch(item.source)
    if match is None or PurePosixPath(match["repo"]).suffix.lower() in READERS:
        return False
    places = [folder / item.source, Path(item.source)]
    if any(place.exists() for place in places):
        return False
    if match["split"] or any(getattr(item, key) is not None for key in _KEYS):
        return True
    return not any(
        get_close_matches(place.name, [other.name for other in place.parent.iterdir()])
        for place in places
        if place.parent.is_dir()
    )


def fetch(item: SourceSection, key: str) -> HubFile:
    """Return the file of a split, downloaded unless it is in the cache.

    The commit and the file that a branch led to are remembered: where the Hub cannot be reached
    they are used again, and `said` says so. A pinned file in the cache needs no network.

    Args:
        item: the source; with `revision` a commit and `file`, it is read just so.
        key: data.train or data.eval, for messages and the split by default.

    Raises:
        DataError: there is no such data set, revision, split or file, or it cannot be downloaded.
    """
    match = _ID.fullmatch(item.source)
    assert match is not None
    repo, asked = match["repo"], {name: getattr(item, name) for name in _KEYS}
    split, said = item.split or match["split"], ""
    memo = _memo(repo, split, key, asked)
    if item.file and item.revision and _COMMIT.fullmatch(item.revision):
        commit, file = item.revision, item.file
    else:
        try:
            commit, names = _listing(repo, item.revision)
        except DataError as error:
            if error.__cause__ is None or not memo.is_file() or not _unreachable(error.__cause__):
                raise
            known = json.loads(memo.read_text("utf-8"))
            commit, file = known["revision"], known["file"]
            said = ", from the cache because the Hub cannot be reached"
        else:
            file = item.file or _file_of(repo, commit, names, split, item.config, key)
    path = _download(repo, commit, file)
    _remember(memo, {"revision": commit, "file": file})
    facts = {"asked": asked, "revision": commit, "file": file}
    return HubFile(path, facts, f"{file} of {repo} at commit {commit}{said}")


def _memo(repo: str, split: str | None, key: str, asked: Mapping[str, Any]) -> Path:
    known = json.dumps([repo, split, key, asked], sort_keys=True)
    return cache_folder() / "hub-data" / f"{hashlib.sha256(known.encode()).hexdigest()}.json"


def _remember(memo: Path, known: Mapping[str, str]) -> None:
    # Each process of a run has a name of its own for it until it is whole.
    staged = memo.with_name(f".{memo.name}-{os.getpid()}")
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(known), "utf-8")
        os.replace(staged, memo)
    except OSError as error:
        raise resource_error(error, memo) from error


def _listing(repo: str, revision: str | None) -> tuple[str, list[str]]:
    """Return the commit that a revision is now, and the names of its files."""
    from huggingface_hub import HfApi, constants

    try:
        api = HfApi(endpoint=constants.ENDPOINT)
        found = api.dataset_info(repo, revision=revision, timeout=10)
    except Exception as error:
        raise _refusal(error, repo, revision) from error
    return str(found.sha), [each.rfilename for each in found.siblings or ()]


def _download(repo: str, commit: str, file: str) -> Path:
    from huggingface_hub import constants, hf_hub_download

    try:
        return Path(
            hf_hub_download(
                repo, file, repo_type="dataset", revision=commit, endpoint=constants.ENDPOINT
            )
        )
    except Exception as error:
        raise _refusal(error, repo, commit, file) from error


def _file_of(
    repo: str, commit: str, names: Sequence[str], split: str | None, config: str | None, key: str
) -> str:
    """Return the one file of a split."""
    held = [name for name in names if PurePosixPath(name).suffix.lower() in READERS]
    by_split = _by_card(repo, commit, names, held, config)
    if by_split is None:
        by_split = _by_name(held)
    wanted = [split] if split else ["train"] if key == "data.train" else ["validation", "test"]
    found = next((by_split[each] for each in wanted if by_split.get(each)), None)
    if found is None:
        known = [name for name in by_split if by_split[name]]
        has = ", ".join(known) or _some(held) or "no file of rows"
        fix = f"name one of its splits: {key}: {repo}:{known[0]}" if known else ""
        raise DataError(
            f"{key}: {repo} has no split {' or '.join(wanted)}",
            f"it has {has}",
            fix or _by_file(repo, held, key),
        )
    if len(found) > 1:
        raise DataError(
            f"{key}: {repo} has this split in {len(found)} files",
            _some(found),
            _by_file(repo, found, key),
        )
    return found[0]


def _by_file(repo: str, files: Sequence[str], key: str) -> str:
    if key != "data.train" and files:
        return f"name one file: {key}: {{source: {repo}, file: {files[0]}}}"
    items = ", ".join(f"{{source: {repo}, file: {file}}}" for file in files[:_LISTED])
    return f"name the files: train: [{items}]" if files else "choose another data set"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (" ..." if len(names) > _LISTED else "")


def _by_name(held: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of each split by the words of their paths; a lone file is for training."""
    if len(held) == 1:
        return {"train": list(held)}
    found: dict[str, list[str]] = {}
    for name in held:
        words = set(re.split(r"[^a-z0-9]+", name.lower()))
        for split in ("train", "validation", "test"):
            if words & set(_WORDS.get(split, (split,))):
                found.setdefault(split, []).append(name)
    return found


def _by_card(
    repo: str, commit: str, names: Sequence[str], held: Sequence[str], config: str | None
) -> dict[str, list[str]] | None:
    """Return the files of each split as the card's `configs` say; None: it says nothing."""
    if _CARD not in names:
        return None
    text = _download(repo, commit, _CARD).read_text("utf-8", "replace")
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        tree = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        tree = None
    configs = tree.get("configs") if isinstance(tree, dict) else None
    if not isinstance(configs, list) or not configs:
        return None
    known = {str(each.get("config_name")): each for each in configs if isinstance(each, dict)}
    name = config or ("default" if "default" in known else next(iter(known)))
    if name not in known or (config is None and len(known) > 1 and name != "default"):
        raise DataError(
            f"{repo} has several configurations" if not config else f"{repo} has no {config}",
            f"they are {', '.join(known)}",
            f"name one: {{source: {repo}, config: {next(iter(known))}}}",
        )
    found: dict[str, list[str]] = {}
    for split, patterns in _patterns(known[name].get("data_files")):
        found[split] = [file for file in held if any(fnmatch(file, each) for each in patterns)]
    return found


def _patterns(given: Any) -> list[tuple[str, list[str]]]:
    """Return the patterns of each split: `data_files` is one, a list of them, or of mappings."""
    items = given if isinstance(given, list) else [given]
    splits: dict[str, list[str]] = {}
    for item in items:
        paths = item.get("path") if isinstance(item, dict) else item
        split = str(item.get("split", "train")) if isinstance(item, dict) else "train"
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str):
                # A pattern's ** may be no folder at all.
                splits.setdefault(split, []).extend({path, path.replace("**/", "")})
    return list(splits.items())


def _unreachable(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError

    return not isinstance(error, HfHubHTTPError)


def _refusal(error: Exception, repo: str, revision: str | None, file: str = "") -> DataError:
    """Return the error for what the Hub did not give."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    at = f" at revision {revision}" if revision else ""
    why = f"no file has this name, and the Hub says: {first_line(error)}"
    if isinstance(error, GatedRepoError):
        return DataError(
            f"the data set '{repo}' on the Hub is gated",
            first_line(error),
            "accept its terms on the Hub and log in: hf auth login",
        )
    if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
        what = f"no file {file} in the data set" if file else "no data set"
        return DataError(
            f"the Hub has {what} '{repo}'{at}",
            why,
            "check path, name and revision; log in if it is private: hf auth login",
        )
    local = repo.rpartition("/")[2]
    return DataError(
        f"there is no file '{repo}', and the Hub cannot be asked for a data set of that name",
        f"{type(error).__name__}: {first_line(error)}",
        "check the path; or download it where there is a network and name a file of it: "
        f"hf download {repo} --repo-type dataset --local-dir {local}",
    )
