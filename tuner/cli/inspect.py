"""`tuner inspect`: the contents of an adapter."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.options import Json, Verbose, console
from tuner.console import formatting

if TYPE_CHECKING:
    from tuner.console.console import Console

_SHOWN = 20


def inspect(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_ADAPTER", help="Run or adapter folder.")],
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show an adapter: size and rank of its updates, and tensors that never changed."""
    from tuner.model.adapters import inspect as inspection

    where = console(json, False, verbose)
    # Libraries print to stderr: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        found = inspection.inspect(path)
    if where.json:
        where.event("adapter", **found)
        return
    for name, items in _facts(found).items():
        where.text(formatting.paragraph(name, items))
    where.text()
    head = ("layer", "modules", "parameters", "update norm", "effective rank", "other norm")
    keys = ("modules", "parameters", "update_norm", "effective_rank", "other_norm")
    where.table(
        head,
        [(row["layer"], *(formatting.value(row[key]) for key in keys)) for row in found["layers"]],
    )
    if where.verbose and found["pairs"]:
        parts = ("rank", "scaling", "norm", "effective_rank")
        where.text()
        where.table(
            ("low-rank update", "rank", "scaling", "norm", "effective rank"),
            [
                (pair["name"], *(formatting.value(pair[key]) for key in parts))
                for pair in found["pairs"]
            ],
        )
    if "virtual_tokens" in found:
        _show_tokens(found, where)
    for warning in found["warnings"]:
        where.warn(warning)


def _facts(found: Mapping[str, Any]) -> dict[str, list[str]]:
    base, modules, parameters, file = (
        found[key] for key in ("base", "modules", "parameters", "file")
    )
    fingerprint = str(base["fingerprint"])
    facts = {
        "adapter": [f"{found['method']} ({found['peft_type']});", f"task {found['task_type']};"],
        "base": [f"{base['name']};", f"fingerprint {fingerprint[:12]};"],
        "parameters": [f"stored {parameters['stored']:,};"],
    }
    for key in ("rank", "alpha", "scaling", "num_virtual_tokens"):
        if found[key] is not None:
            facts["adapter"].append(
                f"{key.replace('num_', '').replace('_', ' ')} {formatting.value(found[key])};"
            )
    if "trainable_share" in parameters:
        facts["parameters"] += [
            f"trained {parameters['trainable']:,} of {parameters['total']:,};",
            f"trainable_share {100 * parameters['trainable_share']:.3g} %;",
        ]
    if modules["count"]:
        of = "" if modules["of_layers"] is None else f" of {modules['of_layers']}"
        endings = (f"{name} {count};" for name, count in modules["by_ending"].items())
        facts["modules"] = [f"{modules['count']} in {modules['in_layers']}{of} layers;", *endings]
    facts["file"] = [
        f"{file['name']};",
        f"{formatting.size(file['bytes'])};",
        f"{', '.join(file['dtypes'])};",
        f"sha256 {file['sha256']};",
    ]
    for key, name in (("unmoved_tensors", "unchanged"), ("zero_tensors", "all zero")):
        if found[key]:
            facts[name] = [f"{item};" for item in found[key]]
    return facts


def _show_tokens(found: Mapping[str, Any], console: Console) -> None:
    tokens = found["virtual_tokens"]
    shown = tokens if console.verbose else tokens[:_SHOWN]
    console.text()
    console.table(
        ("virtual token", "norm", "nearest tokens by cosine similarity"),
        [
            (
                str(entry["token"]),
                formatting.value(entry["norm"]),
                "  ".join(
                    f"{near['id'] if near['text'] is None else repr(near['text'])}"
                    f" {near['similarity']:.2f}"
                    for near in entry["nearest"]
                ),
            )
            for entry in shown
        ],
    )
    if len(shown) < len(tokens):
        console.note(f"{len(tokens) - len(shown)} more with --verbose")
    if found["not_compared"]:
        console.note(f"no nearest tokens: {found['not_compared']}")
