"""The guard (guard.cpp): compiled once per machine, loaded before torch."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")
COMPILER = "g++"


def torch_folder() -> Path:
    """Return the folder of torch, without importing it."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def unavailable() -> str:
    """Return why there is no fake GPU on this machine; empty where there can be one."""
    if list(torch_folder().glob("lib/libtorch_cuda.*")):
        return "this torch is built with CUDA; the fake GPU needs a build without"
    if sys.platform != "linux":
        return f"the fake GPU is compiled for Linux, not for {sys.platform}"
    if not shutil.which(COMPILER) and not _library().exists():
        return f"the fake GPU needs a C++ compiler, and there is no {COMPILER}"
    return ""


def _library() -> Path:
    made_of = (importlib.metadata.version("torch"), platform.machine(), SOURCE.read_text("utf-8"))
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tuner-tests" / f"guard-{name}.so"


def compiled() -> Path:
    """Return the library, compiled if this machine has none for this torch: about 15 seconds."""
    library = _library()
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return library
        folder = torch_folder()
        part = library.with_suffix(f".{os.getpid()}")
        command = [COMPILER, "-shared", "-fPIC", "-std=c++20", "-O0", "-o", str(part)]
        command += [f"-I{folder}/include", str(SOURCE)]
        command += [f"-L{folder}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{folder}/lib"]
        subprocess.run(command, check=True)
        part.rename(library)
    return library


def load() -> ctypes.CDLL:
    """Load the guard into this process, which has not imported torch yet."""
    assert "torch" not in sys.modules, "the guard must be loaded before torch is imported"
    return ctypes.CDLL(str(compiled()), mode=ctypes.RTLD_GLOBAL)
