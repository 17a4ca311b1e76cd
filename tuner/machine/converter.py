"""llama.cpp's converter from transformers to GGUF: its place in the cache, and its download.

It is part of llama.cpp's sources, which llama-cpp-python has in its source distribution. `fetch`
downloads that with pip, which checks its sha256, and keeps the converter's files in the cache: the
environment may be read-only.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from tuner.errors import IntegrityError, ModelError, ResourceError
from tuner.machine import processes
from tuner.machine.cache import cache_folder

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
ARCHIVE = f"llama_cpp_python-{VERSION}.tar.gz"
SCRIPT = "convert_hf_to_gguf.py"
_SOURCES = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
_KEPT = (SCRIPT, "conversion/", "gguf-py/", "LICENSE")


def folder() -> Path:
    """Return the folder of the converter, installed or not."""
    return cache_folder() / f"llama.cpp-{VERSION}"


def is_there() -> bool:
    """Return whether the converter is in the cache; only a complete one gets its name there."""
    return (folder() / SCRIPT).is_file()


def command(*arguments: str) -> str:
    """Return the command that installs it."""
    # Safe paths: a file in the current folder must not shadow one of our modules.
    return shlex.join([sys.executable, "-P", "-m", "tuner.cli.converter", *arguments])


def require() -> None:
    """Refuse to go on if the converter is not in the cache.

    Raises:
        ModelError: with the command that installs it.
    """
    if not is_there():
        raise ModelError(
            "a GGUF file needs llama.cpp's converter",
            f"it is not in {folder()}",
            f"{command()}   (downloads 76 MB, keeps 3 MB)",
        )


def knows(architecture: str) -> bool:
    """Return whether the converter supports models of this class, by its name in the sources; true
    if it is not installed."""
    files = list((folder() / "conversion").glob("*.py"))
    word = f'"{architecture}"'
    return not files or any(word in file.read_text("utf-8") for file in files)


def fetch(archive: Path | None = None) -> Path:
    """Put the converter into the cache, unless it is there, and return its folder.

    Args:
        archive: llama-cpp-python's source distribution, if already downloaded.

    Raises:
        ResourceError: pip cannot download it, or the cache cannot be written.
        IntegrityError: the archive is another one.
    """
    target = folder()
    if is_there():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".llama.cpp-") as aside:
            source = _download(Path(aside)) if archive is None else archive
            _check(source)
            _unpack(source, Path(aside) / "kept")
            shutil.rmtree(target, ignore_errors=True)
            os.replace(Path(aside) / "kept", target)
    except OSError as error:
        # Another process may have been faster.
        if not is_there():
            raise ResourceError(
                "llama.cpp's converter cannot be put into the cache",
                str(error),
                "free disk space, make the folder writable, or set TUNER_CACHE to another one",
            ) from error
    return target


def _download(place: Path) -> Path:
    """Download the source distribution with pip: from the user's index, through their proxy."""
    wanted = place / "requirements.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", "utf-8")
    done = processes.python(
        *("-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"),
        *("--no-binary", "llama-cpp-python"),
        *("--requirement", str(wanted), "--dest", str(place)),
    )
    if done.returncode:
        raise ResourceError(
            "llama.cpp's converter cannot be downloaded",
            (done.stderr.strip().splitlines() or ["pip gives no reason"])[-1],
            f"download {ARCHIVE} from your package index, then: {command(ARCHIVE)}",
        )
    return place / ARCHIVE


def _check(archive: Path) -> None:
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise IntegrityError(
            f"{archive} is not the archive that contains llama.cpp's converter",
            f"its sha256 is {found}, that of {ARCHIVE} is {SHA256}",
            f"download {ARCHIVE} from your package index again",
        )


def _unpack(archive: Path, place: Path) -> None:
    """Write the converter's own files; the archive is trusted by its sha256."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = member.name.removeprefix(_SOURCES)
            content = tar.extractfile(member) if name.startswith(_KEPT) else None
            if content is None:
                continue
            file = place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read())
