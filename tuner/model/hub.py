"""Bases on the Hugging Face Hub: what is in the local cache, and what must be downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tuner.errors import ModelError, first_line

SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "tokenizer*")
WEIGHTS = "*.safetensors"
CODE = "*.py"


def folder(
    name: str,
    revision: str | None,
    patterns: tuple[str, ...],
    note: Callable[[str], None],
    hint: str = "",
) -> Path:
    """Return the folder of a Hub snapshot with the files that match; cached ones need no network.

    Args:
        name: the Hub id.
        revision: branch, tag or commit; None for the main branch.
        patterns: of the files that are needed.
        note: called with a line before a download.
        hint: how the fix begins if there is no such model.

    Raises:
        ModelError: the Hub cannot be reached within seconds, or has no such model.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = list(patterns)
    try:
        local = Path(
            snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=True)
        )
        whole = WEIGHTS not in patterns or list(local.glob(WEIGHTS))
        if (local / "config.json").is_file() and whole:
            return local
    except (LocalEntryNotFoundError, OSError, ValueError):
        pass
    try:
        HfApi().model_info(name, revision=revision, timeout=5)
        note(f"downloading {name} from the Hub")
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise ModelError(
            f"the Hub model '{name}' is gated",
            first_line(error),
            "accept its terms on the Hub and log in: hf auth login",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            f"the Hub has no model '{name}'" + (f" at revision {revision}" if revision else ""),
            first_line(error),
            f"{hint}set model.base to an id that https://huggingface.co/models?search="
            f"{name.rpartition('/')[2]} finds; or log in if it is private: hf auth login",
        ) from error
    except Exception as error:
        raise ModelError(
            f"the base model '{name}' is not in the local cache and the Hub cannot be reached",
            f"{type(error).__name__}: {first_line(error)}",
            f"{hint}use the embedded base (model.base: smollm2-135m), a local folder or a .gguf "
            f"file; or download it where there is a network: hf download {name}",
        ) from error
