"""Uploads to the Hugging Face Hub: one commit that has arrived as a whole, or not at all.

Weights go up first, each under its sha256, and the commit that names them last. Where a connection
breaks, the repository is as it was; the same command goes on, and the Hub says which files it has.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import HubError, RecipeError, first_line
from tuner.record.manifest import MANIFEST

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from tuner.console.console import Console

TOKEN = "HF_TOKEN"
_HUB = "https://huggingface.co"
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
# A new repository has this file already.
_OF_THE_HUB = ".gitattributes"


@dataclass(frozen=True)
class Target:
    """A repository on the Hub.

    Attributes:
        repo: ORG/NAME.
        public: whether everybody may read it.
        revision: branch; None for the main one.
    """

    repo: str
    public: bool = False
    revision: str | None = None

    @property
    def visibility(self) -> str:
        return "public" if self.public else "private"


@dataclass(frozen=True)
class File:
    """A file to send.

    Attributes:
        path: in the repository.
        source: the file on the disk, or its content.
        bytes: its size.
        sha256: of its content, as a manifest has it.
    """

    path: str
    source: Path | bytes
    bytes: int
    sha256: str


def of_text(path: str, text: bytes) -> File:
    """Return a file with this content."""
    return File(path, text, len(text), hashlib.sha256(text).hexdigest())


def target(repo: str, public: bool, revision: str | None) -> Target:
    """Return the repository that a command names.

    Raises:
        RecipeError: it is no ORG/NAME.
    """
    parts = repo.split("/")
    good = len(parts) == 2 and all(map(_NAME.fullmatch, parts)) and not repo.endswith(".git")
    if good and not re.search(r"--|\.\.", repo):
        return Target(repo, public, revision)
    short = re.sub(r"[^A-Za-z0-9_]+", "-", parts[-1]).strip("-") or "NAME"
    raise RecipeError(
        f"--to: '{repo}' is no name of a repository on the Hub",
        "expected ORG/NAME, where ORG is an organisation or your user name: letters, digits, "
        "single '-', '_' and '.', at most 96 in each",
        f"for example: --to my-org/{short}",
    )


def token() -> str:
    """Return the access token in the environment; a stored login is not used.

    Raises:
        HubError: there is none.
    """
    if found := os.environ.get(TOKEN, "").strip():
        return found
    raise HubError(
        "there is no access token for the Hub",
        f"{TOKEN} is not set, and a token is taken from nowhere else",
        f"make a token that may write ({_endpoint()}/settings/tokens) and set {TOKEN} to it; "
        "or see what would be sent: --dry-run",
    )


def send(target: Target, files: Sequence[File], token: str, console: Console) -> dict[str, Any]:
    """Commit files to a repository, which is made if there is none.

    Files that the Hub has already are not sent again. Afterwards the Hub's list of sizes and
    hashes is compared with what was sent.

    Args:
        target: the repository.
        files: what it holds afterwards, next to files that others put there.
        token: may write there.
        console: warns of other files in the repository.

    Returns:
        url, commit, and made (whether the repository is new).

    Raises:
        HubError: what the Hub refused, or where the connection broke.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=_endpoint(), token=token)
    doing = f"open {target.repo}"
    try:
        made = _open(api, target)
        doing = f"read {target.repo}"
        if target.revision:
            api.create_branch(target.repo, branch=target.revision, exist_ok=True)
        before = api.model_info(target.repo, revision=target.revision)
        _check(target, [each.rfilename for each in before.siblings or ()], files, console)
        doing = f"write to {target.repo}"
        oid = _commit(api, target, files, before.sha)
        doing = f"read back {target.repo}"
        there = api.model_info(target.repo, revision=oid, files_metadata=True)
    except HubError:
        raise
    except Exception as error:
        raise _refused(error, target, doing) from error
    _compare(target, files, {each.rfilename: each for each in there.siblings or ()})
    place = f"/tree/{target.revision}" if target.revision else ""
    return {"url": f"{_endpoint()}/{target.repo}{place}", "commit": oid, "made": made}


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", _HUB).rstrip("/")


def _open(api: HfApi, target: Target) -> bool:
    """Make the repository if there is none; return whether it was made."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        known = api.model_info(target.repo)
    except RepositoryNotFoundError:
        api.create_repo(target.repo, private=not target.public)
        return True
    if known.private is not None and bool(known.private) == target.public:
        now = "private" if known.private else "public"
        raise HubError(
            f"{target.repo} is {now}, and would be pushed as {target.visibility}",
            "a push does not change who may read a repository",
            f"{'leave out' if target.public else 'add'} --public, or choose another name with --to",
        )
    return False


def _check(target: Target, there: list[str], files: Sequence[File], console: Console) -> None:
    """Refuse a repository that somebody filled by other means; warn of files that stay."""
    foreign = sorted({*there} - {_OF_THE_HUB})
    if foreign and MANIFEST not in there:
        raise HubError(
            f"{target.repo} already holds files that tuner did not push",
            f"for example {foreign[0]}; a push would mix with them",
            "choose another name with --to",
        )
    if others := sorted({*foreign} - {file.path for file in files}):
        console.warn(
            f"{target.repo} also holds files that are not part of this push, and keeps them: "
            f"{', '.join(others[:5])}{' ...' if len(others) > 5 else ''}"
        )


def _commit(api: HfApi, target: Target, files: Sequence[File], parent: str | None) -> str:
    from huggingface_hub import CommitOperationAdd

    adds = [CommitOperationAdd(file.path, file.source) for file in files]
    info = api.create_commit(
        target.repo,
        adds,
        commit_message="Push with tuner",
        revision=target.revision,
        # Another push meanwhile is not overwritten.
        parent_commit=parent,
    )
    return str(info.oid)


def _compare(target: Target, files: Sequence[File], there: dict[str, Any]) -> None:
    """Compare what the Hub lists with what was meant: by sha256, or by git's hash."""
    wrong = [file.path for file in files if not _same(file, there.get(file.path))]
    if wrong:
        raise HubError(
            f"{target.repo} does not hold what was sent",
            f"the Hub lists other hashes for {', '.join(wrong)}",
            "push again; if a file of the run was changed meanwhile, tuner verify RUN says so",
        )


def _same(file: File, listed: Any) -> bool:
    if listed is None:
        return False
    if listed.lfs:
        return bool(listed.lfs.sha256 == file.sha256)
    content = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return bool(listed.blob_id == digest.hexdigest())


def _refused(error: Exception, target: Target, doing: str) -> HubError:
    """Return the error for what the Hub, or the way to it, did not do."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    repo, tokens = target.repo, f"{_endpoint()}/settings/tokens"
    organisation = repo.partition("/")[0]
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(
            f"could not {doing}",
            "HF_HUB_OFFLINE is set, so nothing may use the network",
            "unset HF_HUB_OFFLINE; or see what would be sent: --dry-run",
        )
    if not isinstance(error, HfHubHTTPError):
        return HubError(
            f"could not {doing}",
            f"{type(error).__name__}: {first_line(error)}",
            "give the same command again: what has arrived is not sent again, and the repository "
            "changes only when everything has",
        )
    said = error.server_message or first_line(error)
    code = error.response.status_code
    fixes = {
        401: f"{TOKEN} is wrong or has expired: make a token that may write at {tokens}",
        403: f"use a token that may write to {organisation} ({tokens}), or push to a name of "
        "yours with --to",
        404: f"check the name: there must be a user or an organisation {organisation} on the Hub",
        409: f"{repo} is there, and this token cannot read it: use another token ({tokens}), or "
        "another name with --to",
        412: "somebody changed the repository meanwhile: look at it, then push again",
    }
    fix = fixes.get(code, "give the same command again later: what has arrived is not sent again")
    return HubError(f"could not {doing}: the Hub answered {code}", said, fix)
