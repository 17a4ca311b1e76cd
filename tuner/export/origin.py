"""What an export starts from: a sealed adapter or model of a run, or one from elsewhere."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import ModelError, RecipeError
from tuner.methods.options import CONFIG
from tuner.model import known_files, own_code
from tuner.model.adapters import saved_models, steps
from tuner.model.adapters.norms import PROMPTS
from tuner.model.adapters.saved_models import SavedModel
from tuner.model.heads import named, writer
from tuner.model.tokenizer import TRAINED
from tuner.recipe import load as recipe_load
from tuner.recipe.formats import FORMATS
from tuner.recipe.source import LOCK
from tuner.record import manifest, run_json, runs

if TYPE_CHECKING:
    from tuner.model.base import Base
    from tuner.plan.plan import Plan

# peft's methods with virtual tokens before the prompt: there is nothing to merge.
UNMERGEABLE = ("ADAPTION_PROMPT", *PROMPTS)


def find(name: str, command: str = "export", step: str | None = None) -> SavedModel:
    """Find the run, adapter or model of this name, its files checked; a bare name may be a run's.

    Args:
        name: a path.
        command: for messages.
        step: which checkpoint of a run (see `steps.at_step`); None: what the run ended with.

    Raises:
        RecipeError: there is nothing, or the run is not finished.
        ModelError: the run left no model.
        IntegrityError: a file was changed after it was sealed.
    """
    origin = saved_models.find(str(runs.named(name)), Path(), command)
    if step is not None:
        return steps.at_step(origin, step)
    known_files.present(origin.folder)
    return replace(origin.checked(), name=name)


def find_artefact(name: str) -> SavedModel:
    """Find an artefact of any format by its folder; for a run, its adapter or merged model.

    Raises:
        RecipeError: there is nothing.
        ModelError: the run left no model.
        IntegrityError: a file was changed after it was sealed.
    """
    folder = Path(name)
    if (folder / run_json.RUN).is_file() or not (folder / manifest.MANIFEST).is_file():
        return find(name, "verify")
    # Virtual tokens and a GGUF file are no model of peft or transformers.
    found = (saved_models.at(folder, name) or SavedModel(name, folder, whole=True)).checked()
    if found.run is None or found.whole:
        return replace(found, folder=folder.resolve())
    return replace(saved_models.find(name, Path(), "verify"), sealed=found.sealed)


def of_plan(plan: Plan) -> SavedModel:
    """Return what a run that is just ending has sealed: its adapter, or its model."""
    whole = not plan.method.adapter
    folder = (plan.output / ("merged" if whole else "adapter")).resolve()
    origin = SavedModel(plan.output.name, folder, folder.parent, whole, plan.recipe.model)
    return origin.checked()


def facts(origin: SavedModel, base: Base | None) -> dict[str, Any]:
    """Return how to load a model (`fresh_process.facts_of`): by its manifest, else by its files."""
    if "facts" in origin.sealed:
        known = {"qat": "none", **origin.sealed["facts"]}
        if known["trust_remote_code"] and not _trusted(origin):
            raise own_code.refusal(origin.name, origin.folder, "model")
        return _with_labels(known, origin)
    config = base.config if base else json.loads((origin.folder / "config.json").read_text())
    task = origin.config.get("task_type")
    kind = writer(config).name
    heads = {"SEQ_CLS": "classes", "SEQ_2_SEQ_LM": "sequence"}
    if origin.whole and "Classification" in str(config.get("architectures")):
        task = "SEQ_CLS"
    head = named(heads.get(str(task), kind), config)
    found = {
        "auto_class": head.auto_class,
        "head": head.name,
        "num_labels": len(config.get("id2label") or (0,)) if head.added else 0,
        "pad_token_id": config.get("pad_token_id"),
        "dtype": "float32",
        "quantize": "none",
        "qat": "none",
        "trust_remote_code": _trusted(origin),
    }
    return _with_labels(found, origin)


def _with_labels(known: dict[str, Any], origin: SavedModel) -> dict[str, Any]:
    """Return facts with the names of the classes; what earlier versions saved has them only in the
    record of its run."""
    if known["head"] != "classes" or "classifier" in known or origin.whole:
        return known
    from tuner.inference.labels import labels_of_head

    return {**known, "labels": labels_of_head(origin.folder)}


def _trusted(origin: SavedModel) -> bool:
    """Return whether the recipe of its run allows its code; the artefact's own word does not
    count."""
    section = origin.section
    lock = origin.folder.parent / LOCK
    if section is None and lock.is_file():
        with contextlib.suppress(RecipeError):
            section = recipe_load.load(lock, (), None).recipe.model
    return section is not None and section.trust_remote_code


def refuse(origin: SavedModel, formats: list[str]) -> None:
    """Refuse what this origin cannot become, before anything is loaded.

    Raises:
        ModelError: with what is possible instead.
        RecipeError: the format is written by the run itself.
    """
    kind = str(origin.config.get("peft_type", ""))
    whole = [name for name in formats if not FORMATS[name].of_adapter]
    if whole and kind in UNMERGEABLE:
        raise ModelError(
            f"{whole[0]} needs a merged model, and {kind} cannot be merged",
            f"{origin.folder}: its virtual tokens come before every prompt; no weight holds them",
            "use the adapter with peft, tuner chat or tuner serve; virtual_tokens in the recipe's "
            "export.formats writes them as plain tensors",
        )
    if "virtual_tokens" in formats:
        raise RecipeError(
            "virtual_tokens is written by the run itself",
            "it is made from the model in memory",
            "set export.formats: [adapter, virtual_tokens] in the recipe",
        )
    adapters = [name for name in formats if FORMATS[name].of_adapter]
    if origin.whole and adapters:
        raise ModelError(
            f"{adapters[0]} needs an adapter, and {origin.name} is a whole model",
            f"{origin.folder} holds no {CONFIG}",
            "export merged, int8, nf4 or gguf",
        )
    if "gguf-adapter" in formats:
        _refuse_plain_lora(origin)


def _refuse_plain_lora(origin: SavedModel) -> None:
    why = None
    if origin.config.get("peft_type") != "LORA":
        why = f"peft_type {origin.config.get('peft_type')}"
    elif origin.config.get("use_dora"):
        why = "use_dora: a GGUF adapter cannot hold its magnitudes"
    elif origin.config.get("modules_to_save"):
        why = f"modules_to_save {origin.config['modules_to_save']}"
    elif origin.config.get("target_parameters"):
        why = "it adapts the fused experts"
    elif origin.below:
        why = f"another adapter, {origin.below[-1].name}, is folded into its base first"
    elif origin.config.get(TRAINED):
        why = f"{TRAINED}: it cannot hold the rows of added tokens"
    if why:
        raise ModelError(
            "a GGUF adapter can only hold a plain LoRA",
            f"{origin.folder / CONFIG}: {why}",
            "merge instead: tuner export RUN --format gguf",
        )
