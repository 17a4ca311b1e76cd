"""From a command line to an open base with adapters.

A name may be a run, an artefact of a run (`adapter/`, `merged/`, a .gguf file), or an adapter that
peft wrote; a run under `runs/` is found by its name alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.console.console import Console
from tuner.errors import ModelError, RecipeError
from tuner.machine.hardware import Machine
from tuner.model.adapters import saved_models, steps
from tuner.model.adapters.saved_models import SavedModel
from tuner.model.heads import HEADS
from tuner.recipe.schema_model import ModelSection
from tuner.recipe.source import to_finish
from tuner.record import manifest, run_json, runs

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.inference.engine import Inference


@dataclass(frozen=True)
class ModelToOpen:
    """Where the model comes from.

    Attributes:
        section: the base, as in a recipe.
        folder: where a relative path of the base starts.
        device: cpu or cuda.
        adapters: name and folder of each.
        tokenizer: the folder of the tokenizer, if not the base's.
        name: of a whole model of a run; empty: the base's.
    """

    section: ModelSection
    folder: Path
    device: str
    adapters: list[tuple[str, Path]]
    tokenizer: Path | None = None
    name: str = ""


def model_to_open(
    name: str | None,
    base: str | None,
    adapters: Sequence[str],
    present: Machine,
    verb: str,
    step: str | None = None,
) -> ModelToOpen:
    """Find what the command line names.

    Args:
        name: a run or an artefact.
        base: a base model, in place of the run's own.
        adapters: further ones, each a folder or NAME=FOLDER.
        present: the machine to run on.
        verb: for messages.
        step: which checkpoint of a run (see `steps.at_step`); None: what the run ended with.

    Raises:
        RecipeError: nothing is named, it does not exist, or the names contradict each other.
        ModelError: the run has no model yet.
        IntegrityError: the run's record or its recipe is damaged.
    """
    further = [adapter(path) for path in adapters]
    if name is None and (base is None or step is not None):
        raise _nothing(verb, step)
    if name is None:
        return _of_base(str(base), present, further)
    path = runs.named(name)
    found = saved_models.at(path)
    if found is None and path.suffix != ".gguf":
        raise runs.no_run(path)
    if step is not None:
        source = steps.at_step(saved_models.find(str(path), Path(), verb), step)
        return _of_run(source, base, present, further)
    if found is not None and found.run == path:
        return _of_run(found, base, present, further)
    if found is None or found.whole:
        if base is not None:
            raise _whole(path, "a whole model")
        return replace(_of_base(str(path.resolve()), present, further), name=_run_of(path))
    if base is not None:
        return _of_base(base, present, [adapter(str(path)), *further])
    if found.run is None:
        raise RecipeError(
            f"{path} is an adapter, and its base is unknown",
            "it is not in a run folder",
            f"name its base: tuner {verb} --base BASE --adapter {path}",
        )
    return _of_run(replace(found, folder=path.resolve()), None, present, further)


def _nothing(verb: str, step: str | None) -> RecipeError:
    """Return the error for a command line without a model, or without the run of a step."""
    if step is not None:
        return RecipeError(
            f"--step {step}: no run is given",
            "a checkpoint is in the folder of its run",
            f"tuner {verb} RUN --step {step}",
        )
    return RecipeError(
        f"tuner {verb} needs a model",
        "neither a run nor --base is given",
        f"tuner {verb} RUN, or tuner {verb} --base smollm2-135m",
    )


def adapter(text: str) -> tuple[str, Path]:
    """Return name and folder of an adapter: NAME=FOLDER, or its own folder or that of its run."""
    path, given = Path(text), ""
    if not path.exists() and "=" in text:
        given, _, rest = text.partition("=")
        path = Path(rest)
    whole = path.resolve()
    if (path / run_json.RUN).is_file():
        return given or whole.name, path / "adapter"
    return given or (whole.parent if whole.name == "adapter" else whole).name, path


def load(source: ModelToOpen, console: Console, *, force_base: bool = False) -> Inference:
    """Open the base and put the adapters on it; the first of them answers.

    Args:
        source: what to load.
        console: shows notes and warnings.
        force_base: even if an adapter was trained on another base.

    Raises:
        TunerError: see `open_base` and `attach`.
    """
    from tuner.inference.labels import kept_with
    from tuner.inference.load import BaseNeeds, attach, open_base

    kept, _ = kept_with(source.adapters[0][1]) if source.adapters else (None, "")
    model = open_base(
        source.section,
        source.folder,
        source.device,
        tokenizer_folder=source.tokenizer,
        needs=BaseNeeds(
            kept["labels"] if kept and kept["head"] == "classes" else (),
            any(_of_text_half(adapter_folder) for _, adapter_folder in source.adapters),
            SavedModel(*source.adapters[0]).below if source.adapters else (),
        ),
        warn=console.warn,
        note=console.note if console.interactive else lambda text: None,
    )
    for name, folder in source.adapters:
        free = free_name(name, model.adapters)
        attach(model, folder, free, force_base=force_base, warn=console.warn)
    model.use(next(iter(model.adapters), None))
    return model


def _of_text_half(folder: Path) -> bool:
    """Return whether an adapter names its modules as the text half of a base does by itself.

    Earlier versions loaded only that half of a base that also reads images.
    """
    if not manifest.is_sealed(folder):
        return False
    facts = manifest.read_manifest(folder)["extra"].get("facts", {})
    return bool(facts.get("auto_class") == HEADS["language"].auto_class)


def _place(present: Machine) -> tuple[str, Any]:
    """Return the device, and the type of the base: on a GPU half precision, bfloat16 if it can."""
    if present.gpus:
        return "cuda", "bfloat16" if "bfloat16" in present.dtypes else "float16"
    return "cpu", "float32"


def _run_of(artefact: Path) -> str:
    """Return the name of the run that an artefact is in; empty: none."""
    parent = artefact.resolve().parent
    return parent.name if (parent / run_json.RUN).is_file() else ""


def _of_base(base: str, present: Machine, adapters: list[tuple[str, Path]]) -> ModelToOpen:
    device, dtype = _place(present)
    return ModelToOpen(ModelSection(base=base, dtype=dtype), Path(), device, adapters)


def _of_run(
    found: SavedModel, base: str | None, present: Machine, further: list[tuple[str, Path]]
) -> ModelToOpen:
    """Return the base that a run was trained on with its adapter; or its merged model."""
    path, own = found.run or found.folder, found.folder
    record = run_json.read_record(path)
    if record["status"] != "done":
        raise RecipeError(
            f"the run {path} is not finished",
            f"its status is {record['status']}",
            f"{to_finish(path, record)}; or choose another run (tuner runs list)",
        )
    if found.whole and base is not None:
        raise _whole(path, "merged/ and no adapter/")
    if not own.is_dir():
        raise ModelError(
            f"the run {path} has no model yet",
            "it has neither adapter/ nor merged/",
            "run it again with export.formats: adapter, or choose another run: tuner runs list",
        )
    recipe = saved_models.recipe_of(path, str(path), "chat")
    name = found.name if steps.STEP in found.sealed else path.resolve().name
    device, dtype = _place(present)
    values = record.get("plan", {}).get("values", {})
    if values.get("run.device", {}).get("value") == device:
        trained = values.get("model.dtype", {}).get("value", dtype)
        # A GPU that only emulates bfloat16 is several times slower in it.
        dtype = trained if device == "cpu" or trained in present.dtypes else dtype
    if found.whole:
        whole = _of_base(str(own.resolve()), present, further)
        kept = {"dtype": dtype, "trust_remote_code": recipe.model.trust_remote_code}
        return replace(whole, section=whole.section.model_copy(update=kept), name=name)
    keys = {"revision", "quantize", "trust_remote_code", "code_sha256"}
    kept = recipe.model.model_dump(include=keys) | {"base": base or recipe.model.base}
    model = ModelSection(**kept, dtype=dtype)
    return ModelToOpen(model, Path() if base else path, device, [(name, own), *further], own)


def _whole(path: Path, what: str) -> RecipeError:
    return RecipeError(
        f"--base cannot be used here: {path} is a whole model",
        f"{path} holds {what}",
        "leave out --base",
    )


def free_name(name: str, taken: dict[str, Any]) -> str:
    """Return `name`, with a number if it is taken.

    Raises:
        RecipeError: it cannot be written in a command.
    """
    if not name or name != name.strip() or "\n" in name:
        raise RecipeError(
            f"{name!r} cannot be the name of an adapter",
            "an adapter is named after its folder",
            "rename the folder",
        )
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
