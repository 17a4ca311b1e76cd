"""`tuner export`: a finished run in other formats, each proven."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.options import ForceBase, Json, Quiet, Verbose, console, quiet_libraries
from tuner.console import formatting
from tuner.errors import ModelError, RecipeError
from tuner.record import proof_limits

if TYPE_CHECKING:
    from tuner.console.console import Console

_LIMITS = {"kl": "KL", "mean_logit_difference": "average"}
ONTO = ("auto", "dequantized", "original")


def export(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's folder.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="NAME", help="What to write. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Default: the run's folder.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="If its record names none.")
    ] = None,
    force_base: ForceBase = False,
    onto: Annotated[
        str,
        typer.Option("--onto", help="Of a quantized run: auto, dequantized or original weights."),
    ] = "auto",
    max_kl: Annotated[
        float | None, typer.Option("--max-kl", min=0.0, help="In place of the format's limit.")
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="An rsLoRA as plain LoRA that all runtimes read.")
    ] = False,
    adapters: Annotated[
        str | None,
        typer.Option("--adapters", metavar="A,B", help="Runs whose adapters are combined."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="W,W", help="One for each; default: equal.")
    ] = None,
    combination: Annotated[
        str, typer.Option("--combination", help="linear, ties, dare or svd.")
    ] = "linear",
    density: Annotated[
        float, typer.Option("--density", help="Share that ties and dare keep.")
    ] = 0.5,
    check: Annotated[
        str | None, typer.Option("--check", metavar="vllm", help="Can it load the adapter?")
    ] = None,
    list_formats: Annotated[
        bool, typer.Option("--formats", help="Show what there is and stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a finished run in other formats, each proven equal before it is named."""
    from tuner.export.origin import find, refuse
    from tuner.recipe.formats import known

    where = console(json, quiet, verbose)
    if list_formats:
        show_formats(where)
        return
    if onto not in ONTO:
        raise RecipeError(f"--onto: {onto} is unknown", "", f"one of {', '.join(ONTO)}")
    names = _names(run, adapters)
    if check is not None:
        _check_elsewhere(names[0], check, where)
        return
    if not formats:
        raise RecipeError(
            "nothing says what to export",
            "--format is not given",
            "tuner export RUN --format merged; tuner export --formats lists them",
        )
    rows = known(formats)
    origins = [find(name) for name in names]
    origin = origins[0]
    refuse(origin, [row.name for row in rows])
    place = output or origin.run or origin.folder.parent
    if len(origins) == 1 and origin.run is None and output is None:
        raise RecipeError(
            f"{origin.name} is no run, and nothing says where its artefacts go",
            "--output is not given",
            "name a folder with --output",
        )
    if len(origins) > 1 and output is None:
        raise RecipeError(
            "several adapters, and nothing says where their combination goes",
            "--output is not given",
            "name a folder with --output",
        )
    with quiet_libraries():
        from tuner.export import combine, convert, job
        from tuner.machine import heap

        combined = None
        if len(origins) > 1:
            shares = numbers(weights, len(origins))
            combined = job.Combination(origins, shares, combination, density)
            combine.check(combined)
        heap.keep_nothing()
        settings = job.Settings(
            output=place.resolve(),
            base=base,
            force_base=force_base,
            onto=onto,
            max_kl=max_kl,
            portable=portable,
            combination=combined,
        )
        reports = convert.export(origin, rows, settings, where)
    show(reports, where)


def _names(run: str | None, adapters: str | None) -> list[str]:
    """The run, or the adapters that are combined."""
    several = [part.strip() for part in (adapters or "").split(",") if part.strip()]
    if run is None and not several:
        raise RecipeError(
            "nothing says what to export", "no RUN is given", "tuner export RUN --format merged"
        )
    return [*([run] if run else []), *several]


def numbers(text: str | None, count: int) -> list[float]:
    """Weights separated by commas; equal ones that add up to 1 where none are given."""
    if text is None:
        return [1.0 / count] * count
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(
            f"--weights: {text}", "not numbers separated by commas", "--weights 0.7,0.3"
        ) from None


def _check_elsewhere(name: str, runtime: str, console: Console) -> None:
    """Whether another runtime can load an adapter, by what it documents."""
    from tuner.export import vllm
    from tuner.export.origin import find

    if runtime != "vllm":
        raise RecipeError(f"--check: {runtime} is unknown", "", "--check vllm")
    origin = find(name)
    if not origin.adapter:
        console.event("check", runtime=runtime, loads=True, against=[], say=[])
        console.text(f"{origin.folder}: a whole model, which vLLM loads as it loads its base")
        return
    against, say = vllm.findings(origin.config)
    console.event("check", runtime=runtime, loads=not against, against=against, say=say)
    if against:
        raise ModelError(
            "vLLM cannot load this adapter",
            against[0],
            "merge it: tuner export RUN --format merged",
            against if len(against) > 1 else None,
        )
    console.text(f"vLLM can load {origin.folder}: vllm serve BASE {' '.join(say)}")


def show(reports: Sequence[dict[str, Any]], console: Console) -> None:
    """The parity proof on screen, and as JSON."""
    console.event("exported", artefacts=list(reports))
    console.table(
        (
            "format",
            "size",
            "off by",
            "on average",
            "KL",
            "same first",
            "perplexity",
            "limit",
        ),
        [
            (
                report["kind"],
                formatting.size(report["bytes"]),
                formatting.value(report["max_logit_difference"]),
                formatting.value(report["mean_logit_difference"]),
                formatting.value(report["kl"]),
                f"{report['top1_agreement']:.1%}",
                formatting.value(report["perplexity"]),
                f"{_LIMITS[report['limit_of']]} {formatting.value(report['limit'])}",
            )
            for report in reports
        ],
    )
    for places in dict.fromkeys(report["places"] for report in reports):
        those = [report for report in reports if report["places"] == places]
        kinds = (
            ", ".join(report["kind"] for report in those) if len(those) < len(reports) else "all"
        )
        console.text(
            f"{kinds}: compared at {places} places, where the perplexity of the tuned model is "
            f"{formatting.value(those[0]['perplexity_tuned'])}, of the base "
            f"{formatting.value(those[0]['perplexity_base'])}; KL of the base "
            f"{formatting.value(those[0]['kl_base'])}"
        )
    for report in reports:
        if "kl_by_base_weights" in report:
            both = ", ".join(f"{k} {v:.3g}" for k, v in report["kl_by_base_weights"].items())
            console.text(f"merged onto the {report['merged_onto']} weights (KL: {both})")
            break
    for report in reports:
        words = proof_limits.verdict(report)
        console.text(
            f"{report['kind']}  {report['path']}  {words}{_llama(report.get('llama_cpp'))}"
        )


def _llama(found: dict[str, Any] | None) -> str:
    """What llama.cpp itself made of a GGUF file."""
    if not found:
        return "" if found is None else "  (llama.cpp is not installed: not run in it)"
    unsure = f"; {', '.join(found['unsure'])} do not count there" if found["unsure"] else ""
    return (
        f"  (llama.cpp {found['version']}: {found['same_answers']} of {found['answers']} greedy "
        f"answers the same{unsure})"
    )


def show_formats(console: Console) -> None:
    """Name and purpose of each format."""
    from tuner.machine.packages import NEEDED_BY
    from tuner.recipe.formats import FORMATS

    needs = {
        row.name: [text for module in row.packages for text in NEEDED_BY[module]]
        for row in FORMATS.values()
    }
    items = [
        {"name": row.name, "what": row.what, "needs": needs[row.name]} for row in FORMATS.values()
    ]
    console.event("formats", items=items)
    console.table(
        ("format", "", "needs"),
        [(row.name, row.what, ", ".join(needs[row.name])) for row in FORMATS.values()],
    )
