"""What an export works on: where the tuned model is, how to load it, what measures it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import ModelError
from tuner.export import origin as origins
from tuner.export.proof import rows
from tuner.export.proof.measure import ProbeRows
from tuner.export.proof.noise import ReadingDistance
from tuner.model import base as bases
from tuner.model import own_code
from tuner.model import tokenizer as model_tokenizer
from tuner.model.adapters import steps
from tuner.record.run_json import read_record

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.model.base import Base

# Logits of the whole vocabulary are kept for this many positions of the held-out rows.
PLACES = 512


@dataclass(frozen=True)
class Combination:
    """Adapters to combine: their weights, how, and the share that ties and dare keep."""

    origins: Sequence[SavedModel]
    weights: Sequence[float]
    kind: str
    density: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as manifests have it."""
        weights = zip(self.origins, self.weights, strict=True)
        return {
            "adapters": {origin.folder.parent.name: weight for origin, weight in weights},
            "how": self.kind,
            "density": self.density,
        }


@dataclass(frozen=True)
class Settings:
    """What the command line sets besides origin and formats.

    Attributes:
        output: the folder that takes the artefacts' folders.
        base: the base that the user names.
        opened: the base, if a run that is just ending has it open.
        force_base: use it even if the adapter was trained on another base.
        onto: which weights a quantized run's adapter is merged into: dequantized, original or auto.
        max_kl: limit in place of each format's own.
        limits: the same per format, which takes precedence.
        portable: write an rsLoRA as a plain LoRA.
        combination: further adapters that are added to the first.
        rehearsal: the model was trained for only a few steps, so an artefact may be farther from it
            than its base is; that is no error.
    """

    output: Path
    base: str | None = None
    opened: Base | None = None
    force_base: bool = False
    onto: str = "auto"
    max_kl: float | None = None
    portable: bool = False
    combination: Combination | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    rehearsal: bool = False


@dataclass
class Work:
    """A tuned model on its way into other formats.

    Attributes:
        origin: where it comes from.
        facts: how to load its artefacts, whoever loads them (see `fresh_process.facts_of`).
        job: how to load its artefacts here (see `fresh_process.job_of`).
        tokenizer: goes with every artefact.
        stops: ids that end an answer; None: it does not generate.
        name: of the base.
        held: rows that it is measured on; `random` are those of the witness.
        calibration: training rows, for formats that calibrate.
        context_length: longest sequence in tokens.
        portable: whether an rsLoRA is rewritten for runtimes that do not know its scale.
        vocabulary_rows: rows of a whole model's embeddings; 0 for an adapter.
        tuned: logits at their positions; `base` likewise, None if there is none to compare with.
        merged: folder of the merged model, once it exists.
        written: per format, the logits of the weights that an artefact is made from, at the
            positions of `both`, and their noise.
        proven: whether `merged` was compared with the formula of the method.
        prompts: of its run, to compare (`prompts.of_plan`).
        record: of its run; empty without one.
        notes: what the report has besides the figures.
    """

    origin: SavedModel
    facts: dict[str, Any]
    job: dict[str, Any]
    tokenizer: Any
    stops: tuple[int, ...] | None
    name: str
    fingerprint: str | None
    held: ProbeRows
    random: ProbeRows
    calibration: ProbeRows
    context_length: int
    portable: bool
    vocabulary_rows: int
    tuned: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    base: torch.Tensor | None = None
    merged: Path = Path()
    proven: bool = False
    written: dict[str, tuple[torch.Tensor, ReadingDistance]] = field(default_factory=dict)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def save_tokenizer(self, folder: Path) -> None:
        """Save tokenizer and chat template with an artefact."""
        self.tokenizer.save_pretrained(folder)

    @property
    def both(self) -> ProbeRows:
        """Return the held-out rows, then the random ones."""
        return ProbeRows(self.held.rows + self.random.rows, self.held.targets + self.random.targets)


def open_work(origin: SavedModel, settings: Settings, console: Console) -> tuple[Work, Base | None]:
    """Find what belongs to an origin: base, tokenizer, rows.

    Returns:
        The work, nothing measured yet, and the base; None if a whole model's is not available.

    Raises:
        ModelError: an adapter's base is not available or is another one.
        IntegrityError: a file is damaged.
    """
    base = _base(origin, settings, console)
    facts = origins.facts(origin, base)
    # Reading all of a large base takes minutes: do it once, and a run has done so.
    fingerprint = origin.sealed.get("base_fingerprint")
    if base is not None and settings.opened is None:
        fingerprint = base.fingerprint()
    if base is not None and not origin.whole:
        origin.check_base(base.name, lambda: str(fingerprint), console.warn, settings.force_base)
    tokenizer = _tokenizer(origin, base, facts)
    writes = facts["head"] == "language"
    start = None
    if facts["head"] == "sequence":
        config = base.config if base else json.loads((origin.folder / "config.json").read_text())
        start = config.get("decoder_start_token_id") or 0
    tasks = origin.config.get("peft_type") == "MULTITASK_PROMPT_TUNING"
    random = rows.random_rows(tokenizer, added=facts["num_labels"] > 0, start_id=start, tasks=tasks)
    known = rows.load(origin.run) if origin.run else None
    if known is None:
        console.warn(
            "no held-out rows are stored with this model: it is compared on random rows only"
        )
    job = facts | {
        "base": str(base.folder) if base else "",
        "below": [each.job() for each in base.folded] if base else [],
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }
    folders = [origin.folder] if base is None else [origin.folder, base.folder]
    stops = tuple(
        dict.fromkeys(stop for folder in folders for stop in model_tokenizer.stop_ids(folder))
    )
    own = _whole_model(origin)
    work = Work(
        origin=origin,
        facts=facts,
        job=job,
        tokenizer=tokenizer,
        stops=stops if writes else None,
        name=base.name if base else str(origin.sealed.get("base", origin.folder.name)),
        fingerprint=fingerprint,
        held=(known or ProbeRows([], [])).limited(PLACES),
        random=random,
        calibration=(origin.run and rows.load(origin.run, "calibration")) or ProbeRows([], []),
        context_length=(base or own).context_length,
        portable=settings.portable,
        prompts=rows.load_prompts(origin.run) if origin.run else [],
        record={} if settings.combination else _record(origin),
        vocabulary_rows=own.vocabulary_rows,
    )
    return work, base


def _record(origin: SavedModel) -> dict[str, Any]:
    """Return the record of its run; empty without one. The scores in it are of the last step."""
    record = read_record(origin.run) if origin.run else {}
    if steps.STEP in origin.sealed:
        record = {key: record[key] for key in record if key not in ("scores", "evaluation")}
    return record


def _tokenizer(origin: SavedModel, base: Base | None, facts: Mapping[str, Any]) -> Any:
    """Load the tokenizer of the origin; for an adapter without one, its base's."""
    has_tokenizer = (origin.folder / "tokenizer_config.json").is_file()
    where = origin.folder if has_tokenizer or base is None else base.folder
    trusted = facts["trust_remote_code"] and (base is None or own_code.same(where, base.folder))
    config = base.config if base else {}
    return model_tokenizer.load_tokenizer(
        bases.Base(origin.name, "folder", where, config, trusted=trusted)
    )


def _whole_model(origin: SavedModel) -> Base:
    """Return what config.json says about a whole model; nothing about an adapter."""
    file = origin.folder / "config.json"
    config = json.loads(file.read_text("utf-8")) if origin.whole else {}
    return bases.Base(origin.name, "folder", origin.folder, config)


def _base(origin: SavedModel, settings: Settings, console: Console) -> Base | None:
    try:
        return settings.opened or origin.trained_on(settings.base, console.note)
    except ModelError:
        if settings.base or not origin.whole:
            raise
        console.warn("the base of this model is not available: the model is not compared with it")
        return None
