"""Secrets: recognised, and kept out of everything that is shown or written."""

from __future__ import annotations

import os
import re

MASK = "[hidden]"

_EDGE = r"(?<![A-Za-z0-9])"
# Patterns of access tokens. They need a capital or a digit, so that hf_conversations stays a name.
_TOKENS = re.compile(
    "|".join(
        (
            _EDGE + r"hf_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,}",
            _EDGE + r"sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}",
            _EDGE + r"gh[pousr]_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{16,}",
            _EDGE + r"github_pat_\w{16,}",
            _EDGE + r"AKIA[A-Z0-9]{12,}",
            # One slash is enough: a URL taken for a path loses the other.
            r"(?<=:/)/?[^/\s@'\"]+(?=@)",
        )
    )
)
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY)(_ID)?\Z", re.I)
_SHORTEST = 8


def looks_secret(text: str) -> bool:
    """Return whether the text contains what looks like an access token, or a URL password."""
    return _TOKENS.search(text) is not None or any(value in text for value in _from_environment())


def redact(text: str) -> str:
    """Return the text with every token, URL password and secret of the environment masked."""
    for value in _from_environment():
        text = text.replace(value, MASK)
    return _TOKENS.sub(MASK, text)


def _from_environment() -> list[str]:
    values = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and not _is_path(value)
    }
    return sorted(values, key=len, reverse=True)


def _is_path(value: str) -> bool:
    """Return whether it is the path of a file with the secret, which is no secret itself."""
    return os.sep in value and os.path.exists(value)
