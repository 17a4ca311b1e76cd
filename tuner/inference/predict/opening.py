"""What a command line names, opened to answer rows: a model that writes, classifies or scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import RecipeError
from tuner.inference import labels, open_model
from tuner.inference.open_model import ModelToOpen
from tuner.inference.predict import carry_out
from tuner.inference.predict.judge import Scorer
from tuner.inference.scores import is_scorer, open_scorer
from tuner.model import base as bases
from tuner.model import tokenizer as model_tokenizer
from tuner.model.adapters import saved_models
from tuner.model.adapters.saved_models import SavedModel
from tuner.record import manifest, run_json, runs
from tuner.record.disk import sha256_file
from tuner.schema.suggest import listed

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.data.chat.chat_template import ChatTemplate
    from tuner.inference.predict.carry_out import Work
    from tuner.inference.predict.request import Request
    from tuner.machine.hardware import Machine

# Makes of what is given on the command line the arguments of a chat template.
Arguments = Callable[["ChatTemplate | None"], dict[str, Any]]
# Options that only a model that writes can follow, by their name in a request.
_WRITING = {"samples": 1, "logprobs": False, "system": ""}


def as_run(asked: Request, name: str | None) -> Request:
    """Return the request with how the rows of the run were read, if a run is named.

    Raises:
        IntegrityError: its recipe cannot be read.
    """
    if name is None:
        return asked
    path = runs.named(name).resolve()
    run = next(
        (each for each in (path, *path.parents[:2]) if (each / run_json.RUN).is_file()), None
    )
    if run is None:
        return asked
    recipe = saved_models.recipe_of(run, str(run), "predict")
    data = recipe.data
    compares = run_json.read_record(run).get("plan", {}).get("verb") == "reward"
    if compares or (recipe.rlhf is not None and not recipe.rlhf.draws):
        # Their rows have several answers, in formats of their own.
        data = data.model_copy(update={"template": "auto", "columns": {}})
    return replace(asked, run=data, folder=run)


def prepare(
    asked: Request,
    source: ModelToOpen,
    arguments: Arguments,
    present: Machine,
    console: Console,
    *,
    force_base: bool = False,
) -> tuple[Work, dict[str, Any]]:
    """Open a model, and return the work on the rows, and what the answers depend on.

    Args:
        asked: the request.
        source: what is opened.
        arguments: see `Arguments`.
        present: the machine.
        console: shows notes and warnings.
        force_base: use an adapter even if it was trained on another base.

    Raises:
        TunerError: the model does not open, or the file cannot be read.
    """
    folder = source.adapters[0][1] if source.adapters else None
    whole = source.folder / source.section.base
    if is_scorer(folder or whole):
        refuse_writing(asked, "is a reward model, which scores answers")
        scorer = _scorer(source, folder, console)
        work = carry_out.by_scores(asked, scorer)
        return work, _about(asked, source, "scores", {})
    model = open_model.load(source, console, force_base=force_base)
    labels.refuse_to_generate(asked.generate, model.head.name)
    classifier = None if asked.generate else model.classifiers.get(model.active.name)
    if classifier is not None:
        refuse_writing(asked, "answers with labels")
        work = carry_out.by_labels(asked, model, classifier)
        return work, _about(asked, source, "labels", {})
    given = arguments(model.prompts_of(model.active).template)
    work = carry_out.by_text(asked, model, given, present)
    return work, _about(asked, source, "text", given)


def refuse_writing(asked: Request, what: str) -> None:
    """Refuse options that only a model that writes can follow.

    Args:
        asked: the request.
        what: the model does instead.

    Raises:
        RecipeError: one of them is given.
    """
    given = [f"--{name}" for name, plain in _WRITING.items() if getattr(asked, name) != plain]
    given += ["--temperature"] if asked.sampling.temperature else []
    if given:
        raise RecipeError(
            f"{listed(given)} cannot be used here",
            f"this model {what}",
            f"leave out {listed(given)}",
        )


def _scorer(source: ModelToOpen, adapter: Path | None, console: Console) -> Scorer:
    section = source.section
    found = bases.resolve(section, source.folder, console.note)
    found = bases.with_weights(found, section.revision, console.note)
    name = source.adapters[0][0] if source.adapters else source.name or found.name
    saved = SavedModel(name, adapter or found.folder, whole=adapter is None)
    network = open_scorer(saved, found, section, section.dtype, source.device, console.warn)
    own = adapter if adapter and (adapter / "tokenizer_config.json").is_file() else found.folder
    tokenizer = model_tokenizer.tokenizer_at(found, own)
    network.config.pad_token_id = model_tokenizer.pad_for_scores(tokenizer, name)
    stops = model_tokenizer.stop_ids(found.folder)
    return Scorer(network, tokenizer, found.context_length, stops)


def _about(
    asked: Request, source: ModelToOpen, kind: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """What the answers depend on, by which a continued file is compared."""
    models = [folder for _, folder in source.adapters] or [source.folder / source.section.base]
    return {
        "base": Path(source.section.base).name,
        "model": source.adapters[0][0] if source.adapters else source.name,
        "model_sha256": [digest for folder in models if (digest := _digest(folder))],
        **asked.settings(kind, arguments),
    }


def _digest(folder: Path) -> str:
    """The sha256 of what is sealed, else of an adapter's weights; empty of another base."""
    if (folder / manifest.MANIFEST).is_file():
        return sha256_file(folder / manifest.MANIFEST)
    return SavedModel("", folder).digest() if (folder / "adapter_config.json").is_file() else ""
