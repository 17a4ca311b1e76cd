"""Contents of an adapter: method, parameters, norm and rank of its updates, unmoved tensors.

Only the adapter's own files are read, and of its base only the embedding matrix, one part at a
time. Nothing is written or downloaded.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError, ModelError, RecipeError, SafetyError, first_line
from tuner.methods.options import CONFIG, WEIGHTS
from tuner.model.adapters import nearest_tokens, saved_models
from tuner.model.adapters import norms as updates
from tuner.model.adapters.norms import ELSEWHERE, Pair, Tensor
from tuner.record import manifest, run_json, runs
from tuner.record.disk import sha256_file

_NUMBERS = ("r", "init_r", "lora_alpha", "alpha", "num_virtual_tokens", "num_layers")


def inspect(path: Path) -> dict[str, Any]:
    """Return everything known about an adapter, as in JSON.

    Args:
        path: a run folder, whose adapter/ is read, or an adapter's folder.

    Raises:
        RecipeError: it is not a folder.
        ModelError: it has no adapter, or one of a type that peft does not know.
        SafetyError: the adapter is a pickle.
        IntegrityError: a file of it is damaged.
    """
    folder, run = _locate(path)
    config = _read_config(folder)
    tensors, pairs = updates.measure(folder / WEIGHTS, config)
    digest = sha256_file(folder / WEIGHTS)
    sealed, warnings = _seal(folder, digest)
    warnings += _doubts(tensors, pairs, run, digest)
    base = nearest_tokens.find_base(str(config.get("base_model_name_or_path") or ""), run)
    planned = run.get("plan") or {}
    fingerprint = sealed.get("base_fingerprint") or run.get("base_fingerprint")
    virtual = config.get("num_virtual_tokens") or config.get("adapter_len")
    return {
        "folder": str(folder),
        "method": _method(config, planned),
        "peft_type": config["peft_type"],
        "task_type": config.get("task_type"),
        "base": {
            "name": config.get("base_model_name_or_path") or sealed.get("base"),
            "fingerprint": fingerprint or "unknown",
            "found": base is not None,
        },
        "rank": _distinct(pair.rank for pair in pairs) or config.get("r") or None,
        "alpha": config.get("lora_alpha", config.get("alpha")),
        "scaling": _distinct(pair.scaling for pair in pairs),
        "num_virtual_tokens": virtual,
        "modules": _modules(tensors, nearest_tokens.num_layers(base, config, planned)),
        "parameters": {
            "stored": sum(tensor.parameters for tensor in tensors),
            **(planned.get("parameters") or {}),
        },
        "update_norm": _root(pair.norm for pair in pairs) if pairs else None,
        "layers": _layers(folder / WEIGHTS, config, tensors, pairs),
        "pairs": [asdict(pair) for pair in pairs],
        **nearest_tokens.virtual_tokens(folder / WEIGHTS, config, base),
        "unmoved_tensors": [
            name.replace(".default", "") for name in run.get("unmoved_tensors") or []
        ],
        "zero_tensors": [tensor.name for tensor in tensors if tensor.zero],
        "non_finite_tensors": [tensor.name for tensor in tensors if not tensor.finite],
        "file": {
            "name": WEIGHTS,
            "bytes": (folder / WEIGHTS).stat().st_size,
            "sha256": digest,
            "dtypes": sorted({tensor.dtype for tensor in tensors}),
        },
        "warnings": warnings,
    }


def _locate(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the adapter's folder, and the record of the run that wrote it, or {}."""
    if not path.is_dir():
        raise RecipeError(
            f"{path} is not a folder" if path.exists() else f"{path} does not exist",
            f"an adapter is a folder with {CONFIG} and its weights",
            f"{runs.near(str(path))}use a run folder or an adapter's folder; see `tuner runs list`",
        )
    found = saved_models.at(path)
    folder, run = path, dict[str, Any]()
    if found is not None and found.run == path:
        folder, run = path / "adapter", run_json.read_record(path)
    elif found is not None and found.run and path.resolve().name == "adapter":
        # An unrelated file with this name next to the adapter must not prevent reading the adapter.
        with contextlib.suppress(IntegrityError):
            run = run_json.read_record(found.run)
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        return folder, run
    pickles = sorted(folder.glob("adapter_model*.bin"))
    if pickles:
        raise SafetyError(
            "the adapter is a pickle",
            f"{pickles[0]}: a pickle can run any code when it is opened",
            f"if you trust it, convert it to {WEIGHTS} and inspect that folder",
        )
    kinds = [str(item.get("kind")) for item in run.get("artefacts") or []]
    missing = CONFIG if not (folder / CONFIG).is_file() else WEIGHTS
    raise ModelError(
        f"{path} has no adapter",
        f"the run is {run['status']}, its artefacts are: {', '.join(kinds) or 'none'}"
        if run
        else f"{folder / missing} does not exist",
        "use a folder that save_pretrained wrote, or a run with adapter among its export.formats",
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        kind = config["peft_type"]
        if not isinstance(kind, str):
            raise ValueError(f"peft_type is {kind!r}")
        for key in _NUMBERS:
            if not isinstance(config.get(key), int | float | None):
                raise ValueError(f"{key} is {config[key]!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            "the adapter's configuration cannot be read",
            f"{folder / CONFIG}: {type(error).__name__}: {first_line(error)}",
            "restore it from a copy, or export the adapter again",
        ) from error
    if updates.prefix_of(kind) is None:
        raise ModelError(
            f"peft does not know the adapter's type '{kind}'",
            f"{folder / CONFIG}: peft_type",
            "update peft, or correct peft_type",
        )
    return dict(config)


def _seal(folder: Path, digest: str) -> tuple[dict[str, Any], list[str]]:
    """Return a sealed adapter's manifest entries, and what changed since it was sealed."""
    if not (folder / manifest.MANIFEST).is_file():
        return {}, []
    try:
        sealed = manifest.read_manifest(folder)
    except IntegrityError as error:
        return {}, [error.why]
    found = {WEIGHTS: digest, CONFIG: sha256_file(folder / CONFIG)}
    known = {name: (sealed["files"].get(name) or {}).get("sha256") for name in found}
    changed = [
        f"{name} was changed after it was sealed: sha256 {found[name][:12]}, "
        f"sealed with {str(known[name])[:12]}"
        for name in found
        if found[name] != known[name]
    ]
    return dict(sealed["extra"]), changed


def _doubts(
    tensors: Sequence[Tensor], pairs: Sequence[Pair], run: Mapping[str, Any], digest: str
) -> list[str]:
    doubts = []
    if broken := [tensor.name for tensor in tensors if not tensor.finite]:
        doubts.append(f"tensors with values that are not finite: {len(broken)}: {_some(broken)}")
    if single := updates.single_factors([tensor.name for tensor in tensors]):
        doubts.append(f"one factor of a low-rank update is missing: {_some(single)}")
    written = [item for item in run.get("artefacts") or [] if item.get("kind") == "adapter"]
    if written and written[0].get("sha256") != digest:
        doubts.append(f"{run_json.RUN} describes an adapter with another sha256")
    return doubts


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _method(config: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """Return its name in the run's recipe, else by the adapter's configuration."""
    named = ((planned.get("values") or {}).get("method.name") or {}).get("value")
    if named:
        return str(named)
    if config["peft_type"] == "LORA" and config.get("use_dora"):
        return "dora"
    if config["peft_type"] == "LORA" and config.get("use_rslora"):
        return "rslora"
    return str(config["peft_type"]).lower()


def _modules(tensors: Sequence[Tensor], num_layers: int | None) -> dict[str, Any]:
    """Return which modules the adapter changes."""
    names = sorted({tensor.module for tensor in tensors if tensor.module})
    layers = {_layer_of(name) for name in names} - {ELSEWHERE}
    return {
        "count": len(names),
        "by_ending": dict(Counter(name.rpartition(".")[2] for name in names).most_common()),
        "in_layers": len(layers),
        # Where numbering and count of the layers differ, give no count.
        "of_layers": num_layers if num_layers and num_layers >= len(layers) else None,
    }


def _layers(
    weights: Path, config: Mapping[str, Any], tensors: Sequence[Tensor], pairs: Sequence[Pair]
) -> list[dict[str, Any]]:
    """Return one row per layer, in order of number; what is in no layer comes last."""
    if config["peft_type"] == "PREFIX_TUNING":
        return updates.prefix_layers(weights, int(config.get("num_layers") or 0))
    factors = updates.factor_names([tensor.name for tensor in tensors])
    rows = []
    for layer in sorted({_layer_of(tensor.module) for tensor in tensors}, key=_order):
        here = [tensor for tensor in tensors if _layer_of(tensor.module) == layer]
        inside = [pair for pair in pairs if _layer_of(pair.module) == layer]
        others = [tensor.norm for tensor in here if tensor.name not in factors]
        rows.append(
            {
                "layer": layer,
                "modules": len({tensor.module for tensor in here} - {""}),
                "parameters": sum(tensor.parameters for tensor in here),
                "update_norm": _root(pair.norm for pair in inside) if inside else None,
                "effective_rank": _mean(pair.effective_rank for pair in inside),
                "other_norm": _root(others) if others else None,
            }
        )
    return rows


def _layer_of(module: str) -> str:
    """Return the part of a module's name that ends with the first number."""
    parts = module.split(".")
    places = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: places[0] + 1]) if places else ELSEWHERE


def _order(layer: str) -> tuple[bool, str, int]:
    stem, _, number = layer.rpartition(".")
    return layer == ELSEWHERE, stem, int(number) if number.isdigit() else 0


def _distinct(values: Iterable[float]) -> Any:
    """Return the distinct values: None, the one, or a sorted list."""
    found = sorted(set(values))
    return found if len(found) > 1 else found[0] if found else None


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _root(norms: Iterable[float]) -> float:
    """Return the norm of several tensors together."""
    return math.sqrt(sum(norm * norm for norm in norms))
