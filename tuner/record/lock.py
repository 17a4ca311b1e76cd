"""Who works in a folder: a lock file that names its process.

The kernel holds the lock (`flock`) and drops it when the process dies, also by SIGKILL; process id,
host and start time in the file are for the message, and decide where a file system has no `flock`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from tuner.errors import RecipeError, ResourceError

NO_FLOCK = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


def _start_of(pid: int) -> str:
    """Boot and start tick of a process: a later process with the same id has another one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return f"{boot}:{fields[19]}"


@dataclass(frozen=True)
class Owner:
    """A process, identified so that a later one with the same id is not mistaken for it."""

    pid: int
    host: str
    start: str

    @classmethod
    def this(cls) -> Owner:
        """Return the calling process."""
        return cls(os.getpid(), socket.gethostname(), _start_of(os.getpid()))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner named in a lock file; None if the file is empty or torn."""
        try:
            value = json.loads(text)
            return cls(int(value["pid"]), str(value["host"]), str(value["start"]))
        except (ValueError, TypeError, KeyError):
            return None

    def encode(self) -> bytes:
        """Return the line to write in a lock file."""
        return (json.dumps(asdict(self)) + "\n").encode()

    def alive(self) -> bool | None:
        """Return whether the process still runs; None if it ran on another host."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not self.start or _start_of(self.pid) == self.start

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def try_flock(fd: int) -> bool | None:
    """Lock an open file without waiting; None where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_FLOCK:
            return None
        raise
    return True


def in_use(path: Path, owner: Owner | None) -> RecipeError:
    """Return the error for a folder whose lock file another process holds."""
    who = str(owner) if owner else "another process"
    return RecipeError(
        f"{path.parent} is in use by {who}",
        f"{path.name} is held, and two runs would overwrite each other",
        "wait for it, stop it, or choose another folder with --output",
    )


class FolderLock:
    """The lock of one folder, held until `release` or the end of the process.

    Attributes:
        taken_over: the dead owner whose lock file was found, or None.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            RecipeError: another process holds it.
            ResourceError: the lock file cannot be written.
        """
        self.path = path
        self.taken_over: Owner | None = None
        try:
            self._fd = self._take()
        except OSError as error:
            raise ResourceError(
                f"cannot write in {path.parent}",
                f"{path.name}: {error.strerror or error}",
                "choose a folder that you can write, with --output",
            ) from error

    def _take(self) -> int:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                if self._owned(fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _owned(self, fd: int) -> bool:
        """Whether `fd` is now ours; False when its file was removed meanwhile: open it again."""
        locked = try_flock(fd)
        previous = Owner.parse(os.pread(fd, 4096, 0).decode(errors="replace"))
        if locked is False:
            raise in_use(self.path, previous)
        if not self._is_current(fd):
            return False
        if previous is not None and previous != Owner.this():
            alive = previous.alive()
            # Without flock the owner on another host may be alive: only that host knows.
            if alive or (alive is None and locked is None):
                raise in_use(self.path, previous)
            self.taken_over = previous
        os.ftruncate(fd, 0)
        os.pwrite(fd, Owner.this().encode(), 0)
        os.fsync(fd)
        return True

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock and remove its file; a second call does nothing."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if self._is_current(self._fd):
                self.path.unlink()
        os.close(self._fd)
        self._fd = -1
