"""What `tuner export` starts from: a sealed adapter or model of a run, or one from elsewhere."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import ModelError, RecipeError
from tuner.methods.options import CONFIG
from tuner.model import base as bases
from tuner.model import known_files, own_code
from tuner.model.adapters import sources
from tuner.model.base import Base
from tuner.model.heads import HEADS, family
from tuner.model.tokenizer import TRAINED
from tuner.recipe import load as recipe_load
from tuner.recipe.formats import FORMATS
from tuner.recipe.schema import ModelSection
from tuner.recipe.source import LOCK
from tuner.record import manifest, run_json
from tuner.record.runs import RUNS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuner.model.adapters.sources import Source
    from tuner.plan.plan import Plan

# peft's methods with virtual tokens before the prompt: there is nothing to merge.
UNMERGEABLE = (
    "ADAPTION_PROMPT",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
)


@dataclass(frozen=True)
class Origin:
    """A trained model on the disk.

    Attributes:
        name: as the user named it.
        folder: of the adapter or the whole model.
        run: the run folder it is in; None if it is elsewhere.
        source: what it is, and which base it is for.
        sealed: `extra` of its manifest; empty without one.
        config: peft's configuration of an adapter; empty for a whole model.
        found: its base, if it is open already.
    """

    name: str
    folder: Path
    run: Path | None
    source: Source
    sealed: dict[str, Any]
    config: dict[str, Any]
    found: Base | None = None

    @property
    def adapter(self) -> bool:
        """Return whether it is an adapter, not a whole model."""
        return not self.source.whole

    def base(self, named: str | None, note: Callable[[str], None]) -> Base:
        """Resolve the base it was trained on.

        Args:
            named: the base the user names instead, if any.
            note: called with a text before work that takes long.

        Raises:
            ModelError: it is not available, or not recorded.
        """
        if self.found is not None and not named:
            return self.found
        section = self.source.section
        if named:
            keys = {"trust_remote_code", "code_sha256"}
            kept = section.model_dump(include=keys) if section else {}
            section = ModelSection(base=named, **kept)
        if section is None:
            known = self.sealed.get("base") or self.config.get("base_model_name_or_path")
            if not known:
                raise ModelError(
                    f"it is not recorded which base {self.name} was trained on",
                    f"{self.folder} has no {manifest.MANIFEST}",
                    "name it with --base",
                )
            section = ModelSection(base=str(known))
        return bases.resolve(section, Path() if named else self.source.start, note)

    def facts(self, base: Base | None) -> dict[str, Any]:
        """Return how to load it (`fresh_process.facts_of`): by its manifest, else by its files."""
        if "facts" in self.sealed:
            known = {"qat": "none", **self.sealed["facts"]}
            if known["trust_remote_code"] and not self._trusted():
                raise own_code.refusal(self.name, self.folder, "model")
            return known
        config = base.config if base else json.loads((self.folder / "config.json").read_text())
        task = self.config.get("task_type")
        kind = "sequence" if family(config) == "encoder-decoder" else "language"
        heads = {"SEQ_CLS": "classes", "SEQ_2_SEQ_LM": "sequence"}
        if not self.adapter and "Classification" in str(config.get("architectures")):
            task = "SEQ_CLS"
        head = HEADS[heads.get(str(task), kind)]
        return {
            "auto_class": head.auto_class,
            "head": head.name,
            "num_labels": len(config.get("id2label") or (0,)) if head.added else 0,
            "pad_token_id": config.get("pad_token_id"),
            "dtype": "float32",
            "quantize": "none",
            "qat": "none",
            "trust_remote_code": self._trusted(),
        }

    def _trusted(self) -> bool:
        """Return whether the recipe of its run allows its code; the artefact's own word does not
        count."""
        section = self.source.section
        lock = self.folder.parent / LOCK
        if section is None and lock.is_file():
            with contextlib.suppress(RecipeError):
                section = recipe_load.load(lock, (), None).recipe.model
        return section is not None and section.trust_remote_code


def find(name: str, command: str = "export") -> Origin:
    """Find the run, adapter or model of this name; a bare name is also looked up among the runs.

    Raises:
        RecipeError: there is nothing, or the run is not finished.
        ModelError: the run left no model.
        IntegrityError: a manifest is damaged.
    """
    path = Path(name)
    if not path.exists() and (RUNS / name).is_dir():
        path = RUNS / name
    source = sources.find(str(path), Path(), command)
    folder = source.folder
    known_files.refuse_index(folder)
    known_files.present(folder)
    run = folder.parent if (folder.parent / run_json.RUN).is_file() else None
    sealed: dict[str, Any] = {}
    if (folder / manifest.MANIFEST).exists():
        sealed = manifest.verify(folder)["extra"]
    config: dict[str, Any] = {}
    if not source.whole:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    return Origin(name, folder, run, source, sealed, config)


def of_plan(plan: Plan) -> Origin:
    """Return what a run that is just ending has sealed: its adapter, or its model."""
    folder = (plan.output / ("adapter" if plan.method.adapter else "merged")).resolve()
    sealed = manifest.verify(folder)["extra"]
    config = json.loads((folder / CONFIG).read_text("utf-8")) if plan.method.adapter else {}
    source = sources.Source(str(folder), folder, plan.recipe.model, whole=not plan.method.adapter)
    return Origin(plan.output.name, folder, folder.parent, source, sealed, config, plan.base)


def find_artefact(name: str) -> Origin:
    """Find an artefact of any format by its folder; for a run, its adapter or merged model.

    Raises:
        RecipeError: there is nothing.
        ModelError: the run left no model.
        IntegrityError: a file was changed after it was sealed.
    """
    folder = Path(name)
    if (folder / run_json.RUN).is_file() or not (folder / manifest.MANIFEST).is_file():
        return find(name, "verify")
    known_files.refuse_index(folder)
    sealed = manifest.verify(folder)["extra"]
    whole = not (folder / CONFIG).is_file()
    config = {} if whole else json.loads((folder / CONFIG).read_text("utf-8"))
    source = sources.Source(name, folder.resolve(), whole=whole)
    if (folder.resolve().parent / run_json.RUN).is_file() and not whole:
        source = sources.find(name, Path(), "verify")
    return Origin(name, folder.resolve(), None, source, sealed, config)


def refuse(origin: Origin, formats: list[str]) -> None:
    """Refuse what this origin cannot become, before anything is loaded.

    Raises:
        ModelError: with what is possible instead.
        RecipeError: the format is written by the run itself.
    """
    kind = str(origin.config.get("peft_type", ""))
    whole = [name for name in formats if not FORMATS[name].of_adapter]
    if origin.adapter and whole and kind in UNMERGEABLE:
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
    if not origin.adapter and adapters:
        raise ModelError(
            f"{adapters[0]} needs an adapter, and {origin.name} is a whole model",
            f"{origin.folder} holds no {CONFIG}",
            "export merged, int8, nf4 or gguf",
        )
    if "gguf-adapter" in formats:
        _refuse_plain_lora(origin)


def _refuse_plain_lora(origin: Origin) -> None:
    why = None
    if origin.config.get("peft_type") != "LORA":
        why = f"peft_type {origin.config.get('peft_type')}"
    elif origin.config.get("use_dora"):
        why = "use_dora: a GGUF adapter cannot hold its magnitudes"
    elif origin.config.get("modules_to_save"):
        why = f"modules_to_save {origin.config['modules_to_save']}"
    elif origin.config.get("target_parameters"):
        why = "it adapts the fused experts"
    elif origin.config.get(TRAINED):
        why = f"{TRAINED}: it cannot hold the rows of added tokens"
    if why:
        raise ModelError(
            "a GGUF adapter can only hold a plain LoRA",
            f"{origin.folder / CONFIG}: {why}",
            "merge instead: tuner export RUN --format gguf",
        )
