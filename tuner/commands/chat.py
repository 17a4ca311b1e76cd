"""`chat`: a conversation with a run, or with a base and adapters."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import machine, record, runs
from tuner.chat import Chat, Prompts, Settings, free_name
from tuner.commands.train import RUNS
from tuner.console import Console
from tuner.errors import ModelError, RecipeError
from tuner.machine import Machine
from tuner.recipe import ModelSection

if TYPE_CHECKING:
    from tuner.inference import Inference


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    run: str | None = None
    base: str | None = None
    adapters: Sequence[str] = ()
    system: str = ""
    settings: Settings = field(default_factory=Settings)
    seed: int = 42
    force_base: bool = False


@dataclass(frozen=True)
class Source:
    """Where the model comes from: the base, and the folders that lie beside or in place of it."""

    section: ModelSection
    folder: Path
    device: str
    adapters: list[tuple[str, Path]]
    tokenizer: Path | None = None


def chat(request: Request, console: Console) -> None:
    """Open the model, then read turns until the input ends."""
    if not math.isfinite(request.settings.temperature):
        raise RecipeError("--temperature is not a number", "", "0 or more; 0 is the likeliest")
    source = _source(request, machine.detect())
    # What libraries print is not ours: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        model = _open(source, request, console)
        plain = model.head.name == "sequence"
        prompts = Prompts(model.tokenizer, model.stops, plain=plain)
    if console.interactive:
        speaker = model.active or model.base.name
        console.text(f"{speaker} answers; /help shows the commands, /exit ends")
    Chat(model, prompts, request.settings, console, request.system).run()


def _open(source: Source, request: Request, console: Console) -> Inference:
    import torch

    from tuner.inference import attach, open_base

    model = open_base(
        source.section,
        source.folder,
        source.device,
        tokenizer_folder=source.tokenizer,
        note=console.note if console.interactive else lambda text: None,
    )
    for name, folder in source.adapters:
        free = free_name(name, model.adapters)
        attach(model, folder, free, force_base=request.force_base, warn=console.warn)
    model.use(next(iter(model.adapters), None))
    torch.manual_seed(request.seed)
    return model


def _source(request: Request, present: Machine) -> Source:
    further = [_adapter(Path(path)) for path in request.adapters]
    if request.run is not None:
        return _of_run(_run_folder(request.run), request.base, present, further)
    if request.base is None:
        raise RecipeError(
            "there is nothing to chat with",
            "neither a run nor --base is given",
            "tuner chat RUN, or tuner chat --base smollm2-135m",
        )
    device, dtype = _place(present)
    section = ModelSection(base=request.base, dtype=dtype)
    return Source(section, Path(), device, further)


def _place(present: Machine) -> tuple[str, Any]:
    if present.gpus:
        return "cuda", "bfloat16" if "bfloat16" in present.dtypes else "float32"
    return "cpu", "float32"


def _adapter(path: Path) -> tuple[str, Path]:
    """Name and folder of an adapter, by its own folder or that of its run."""
    if (path / record.RUN).is_file():
        return path.resolve().name, path / "adapter"
    whole = path.resolve()
    return (whole.parent if whole.name == "adapter" else whole).name, path


def _run_folder(name: str) -> Path:
    path = Path(name)
    return path if path.is_dir() or not (RUNS / name).is_dir() else RUNS / name


def _of_run(
    path: Path, base: str | None, present: Machine, further: list[tuple[str, Path]]
) -> Source:
    """The base that a run was trained on with its adapter; or its merged model."""
    found = runs.read_run(path)
    if found.status == "damaged":
        record.read_record(path)
    adapter, merged = path / "adapter", path / "merged"
    values, facts = _plan_of(found.record, path)
    device, dtype = _place(present)
    if values.get("run.device") == device:
        dtype = values.get("model.dtype", dtype)
    if adapter.is_dir():
        keys = ("revision", "quantize", "trust_remote_code")
        section = {key: values[f"model.{key}"] for key in keys if f"model.{key}" in values}
        folder = Path(str(found.record["plan"].get("recipe", ""))).parent
        section["base"] = base or _base_of(facts, values)
        model = ModelSection(**section, dtype=dtype)
        name = path.resolve().name
        return Source(
            model, Path() if base else folder, device, [(name, adapter), *further], adapter
        )
    if merged.is_dir() and base is None:
        model = ModelSection(base=str(merged.resolve()), dtype=dtype)
        return Source(model, Path(), device, further)
    if merged.is_dir():
        raise RecipeError(
            "--base has no place here: the run is a whole model",
            f"{path} holds merged/ and no adapter/",
            "leave out --base",
        )
    raise ModelError(
        f"the run {path} has no model yet",
        f"its status is {found.status}; it holds neither adapter/ nor merged/",
        "finish it with --resume, or name another run: tuner runs list",
    )


def _plan_of(run: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a run's plan by key, and the facts about its base."""
    try:
        plan = run["plan"]
        return {key: item["value"] for key, item in plan["values"].items()}, plan["model"]
    except (KeyError, TypeError, AttributeError):
        raise ModelError(
            f"the record of the run {path} names no base",
            f"{record.RUN} holds no plan",
            f"name both: tuner chat --base BASE --adapter {path / 'adapter'}",
        ) from None


def _base_of(facts: dict[str, Any], values: dict[str, Any]) -> str:
    """Where the base lay; a path in the recipe starts at the recipe, which may be gone."""
    folder = str(facts.get("folder", ""))
    if facts.get("kind") in ("folder", "gguf") and Path(folder).is_dir():
        return folder
    return str(values["model.base"])
