"""`--step N|best|last`: a checkpoint of a finished run as an adapter, or as a whole model.

A checkpoint holds the trained tensors under their names in training. In the folder of what the run
wrote at its end they take the place of the last ones; the result is kept in the cache.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import ModelError, RecipeError
from tuner.machine.cache import cache_folder
from tuner.methods import METHODS, lora
from tuner.methods.options import WEIGHTS
from tuner.model import folded, known_files
from tuner.record import manifest, seal
from tuner.record.checkpoint_folder import BEST, CHECKPOINTS, sealed_steps
from tuner.schema.suggest import listed

if TYPE_CHECKING:
    from tuner.model.adapters.saved_models import SavedModel

STEP = "step"
_CHECKPOINT = "model.safetensors"
# Of a critic, which is no part of the policy.
_ASIDE = ("value_head.",)
# Of a manifest, what holds for every step of a run.
_KEPT = ("kind", "base", "base_fingerprint", "facts")


def at_step(found: SavedModel, step: str) -> SavedModel:
    """Return what a run had trained after a step.

    Args:
        found: a finished run.
        step: a number, `best` or `last`.

    Raises:
        RecipeError: it is no run, or has no such checkpoint.
        ModelError: a checkpoint of its method is no finished result.
        IntegrityError: the checkpoint is damaged.
    """
    if found.run is None:
        raise RecipeError(
            f"--step {step}: {found.name} is not a run",
            f"{found.folder} is in no run folder, so there are no checkpoints",
            "name a run (tuner runs list), or leave out --step",
        )
    checkpoint = _checkpoint(found.run, step)
    _refuse_method(found, step)
    number = int(checkpoint.name.rpartition("-")[2])
    sealed = manifest.verify(checkpoint)
    source = manifest.verify(found.folder)
    key = "-".join(manifest.digest(each["files"])[:16] for each in (sealed, source))
    place = cache_folder() / "steps" / key / found.folder.name
    if not manifest.is_sealed(place):
        extra = {name: source["extra"].get(name) for name in _KEPT} | {STEP: number}
        if chain := folded.chain(source["extra"], found.folder, place.parent):
            extra[folded.CHAIN] = chain
        with seal.seal(place, extra=extra, keep_existing=True) as staging:
            _write(found, checkpoint / _CHECKPOINT, staging)
    name = f"{found.name.rstrip('/').rpartition('/')[2]}-step-{number}"
    return replace(found, name=name, folder=place, sealed={}).checked()


def _checkpoint(run: Path, step: str) -> Path:
    """Return the folder of a checkpoint.

    Raises:
        RecipeError: with those that there are.
    """
    regular, best = sealed_steps(run / CHECKPOINTS), sealed_steps(run / BEST)
    if step == "best" and best:
        return best[0][1]
    if step == "last" and regular:
        return regular[0][1]
    by_number = {str(number): path for number, path in (*best, *regular)}
    if step in by_number:
        return by_number[step]
    there = [*sorted(by_number, key=int), *(["last"] if regular else [])]
    there += ["best"] if best else []
    why = f"{run} has no such checkpoint"
    if step == "best":
        why = f"{run} kept no best one: eval.keep: best (or eval.stop) does"
    elif not step.isdigit() and step != "last":
        why = "it is a number, best or last"
    raise RecipeError(
        f"--step {step}",
        why,
        f"use --step with {listed(there, 'or')}; train.checkpoints says how many stay"
        if there
        else "leave out --step: no checkpoint is left",
    )


def _refuse_method(found: SavedModel, step: str) -> None:
    """Refuse checkpoints that only training can go on from.

    Raises:
        ModelError: says why.
    """
    options = found.method
    row = METHODS[options.name] if options else None
    if options is None or row is None:
        return
    why = ""
    if row.virtual_tokens:
        why = "it holds what the virtual tokens are made from, not the tokens"
    elif not row.whole_at_any_step:
        why = "its ranks are not final before the end"
    elif lora.moves_base(options):
        why = f"method.init has moved part of the base into it ({getattr(options, 'init', '')})"
    if why:
        raise ModelError(
            f"--step {step}: a checkpoint of {options.name} is no adapter",
            f"{found.run}: {why}",
            "leave out --step; eval.keep: best ends a run with its best weights",
        )


def _write(found: SavedModel, checkpoint: Path, folder: Path) -> None:
    """Write what the run left at its end, with the tensors of a checkpoint in it.

    Raises:
        ModelError: a tensor of the checkpoint has no place there.
    """
    from safetensors.torch import load_file, save_file

    tensors = {
        _saved_name(name, found.whole): tensor
        for name, tensor in load_file(checkpoint).items()
        if not name.startswith(_ASIDE)
    }
    files = sorted(found.folder.glob("*.safetensors")) if found.whole else [found.folder / WEIGHTS]
    placed: set[str] = set()
    for file in files:
        last = load_file(file)
        mine = {key: tensors[key].to(value.dtype) for key, value in last.items() if key in tensors}
        placed |= {name for name in mine if mine[name].shape == last[name].shape}
        save_file({**last, **mine}, folder / file.name, metadata={"format": "pt"})
    if lost := sorted(tensors.keys() - placed):
        raise ModelError(
            f"{checkpoint.parent.name} of {found.run} does not fit what the run wrote at its end",
            f"without a place: {', '.join(lost[:4])}",
            "leave out --step",
        )
    known_files.copy(found.folder, folder, _others(found.folder))


def _others(folder: Path) -> list[str]:
    """Return the names of the files next to the weights; the card is of the last step."""
    ends = (".json", ".jinja", ".txt", ".model", ".py")
    return sorted(
        file.name
        for file in folder.iterdir()
        if file.is_file() and file.suffix in ends and file.name != manifest.MANIFEST
    )


def _saved_name(name: str, whole: bool) -> str:
    """Return the name under which a tensor in training is saved: peft leaves its adapter's out."""
    if whole:
        return name
    name = name.replace(".modules_to_save.default.", ".")
    return ".".join(part for part in name.split(".") if part != "default")
