"""`tuner export`: a finished run in other formats, each checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.options import ForceBase, Json, Quiet, Step, Verbose, console, quiet_libraries
from tuner.console import formatting
from tuner.errors import ModelError, RecipeError
from tuner.record import proof_limits

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.model.adapters.saved_models import SavedModel

_LIMITS = {"kl": "KL", "mean_logit_difference": "mean diff"}
ONTO = ("auto", "dequantized", "original")


def export(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Run folder.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="NAME", help="Format to write. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Output folder; default: the run folder."),
    ] = None,
    step: Step = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="BASE", help="Base model, if the run does not record it."),
    ] = None,
    force_base: ForceBase = False,
    onto: Annotated[
        str,
        typer.Option(
            "--onto", help="Base weights of a quantized run: auto, dequantized or original."
        ),
    ] = "auto",
    max_kl: Annotated[
        float | None,
        typer.Option("--max-kl", min=0.0, help="Largest mean KL, instead of the format's limit."),
    ] = None,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            help="Rewrite rsLoRA scaling as plain LoRA, for runtimes that ignore use_rslora.",
        ),
    ] = False,
    adapters: Annotated[
        str | None,
        typer.Option("--adapters", metavar="A,B", help="Runs whose adapters to combine."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="W,W", help="One weight per adapter; default: equal."),
    ] = None,
    combination: Annotated[
        str, typer.Option("--combination", help="How to combine: linear, ties, dare or svd.")
    ] = "linear",
    density: Annotated[
        float, typer.Option("--density", help="Fraction of values that ties and dare keep.")
    ] = 0.5,
    check: Annotated[
        str | None,
        typer.Option("--check", metavar="vllm", help="Check whether it can load the adapter."),
    ] = None,
    list_formats: Annotated[
        bool, typer.Option("--formats", help="List the formats and stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a finished run in other formats, each checked against the tuned model."""
    from tuner.export.origin import find, refuse
    from tuner.recipe.formats import known

    where = console(json, quiet, verbose)
    if list_formats:
        show_formats(where)
        return
    if onto not in ONTO:
        raise RecipeError(f"--onto: {onto} is unknown", "", f"use one of {', '.join(ONTO)}")
    names = _names(run, adapters, step)
    if check is not None:
        _check_elsewhere(names[0], check, where)
        return
    if not formats:
        raise RecipeError(
            "no format to export to",
            "--format is not given",
            "run: tuner export RUN --format merged; tuner export --formats lists them",
        )
    rows = known(formats)
    origins = [find(name, "export", step) for name in names]
    origin = origins[0]
    refuse(origin, [row.name for row in rows])
    place = output or _place(origins, step)
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


def _place(origins: Sequence[SavedModel], step: str | None) -> Path:
    """Return the folder that takes the artefacts by default: the run's, or a step's in it.

    Raises:
        RecipeError: there is none.
    """
    origin = origins[0]
    if origin.run is None or len(origins) > 1:
        what = f"{origin.name} is not a run, so there is"
        what = what if len(origins) == 1 else "a combination of adapters has"
        raise RecipeError(
            f"{what} no default output folder",
            "--output is not given",
            "give a folder with --output",
        )
    return origin.run if step is None else origin.run / f"step-{origin.sealed['step']}"


def _names(run: str | None, adapters: str | None, step: str | None) -> list[str]:
    """Return the run, or the adapters to combine."""
    if step is not None and adapters:
        raise RecipeError(
            "--step and --adapters cannot be combined",
            "they are of several runs",
            "export one run with --step",
        )
    several = [part.strip() for part in (adapters or "").split(",") if part.strip()]
    if run is None and not several:
        raise RecipeError(
            "no run to export", "RUN is not given", "run: tuner export RUN --format merged"
        )
    return [*([run] if run else []), *several]


def numbers(text: str | None, count: int) -> list[float]:
    """Return the weights, separated by commas; if none are given, equal ones that sum to 1."""
    if text is None:
        return [1.0 / count] * count
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(
            f"--weights: {text}",
            "expected numbers separated by commas",
            "for example: --weights 0.7,0.3",
        ) from None


def _check_elsewhere(name: str, runtime: str, console: Console) -> None:
    """Show whether another runtime can load an adapter, according to its documentation."""
    from tuner.export import vllm
    from tuner.export.origin import find

    if runtime != "vllm":
        raise RecipeError(f"--check: {runtime} is unknown", "", "use --check vllm")
    origin = find(name)
    if origin.whole:
        console.event("check", runtime=runtime, loads=True, against=[], say=[])
        console.text(f"{origin.folder}: a whole model, which vLLM loads like the base")
        return
    against, say = vllm.findings(origin.config)
    against += [f"the adapter {each.name} is folded into its base first" for each in origin.below]
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
    """Show the results of the parity check."""
    console.event("exported", artefacts=list(reports))
    console.table(
        (
            "format",
            "size",
            "max diff",
            "mean diff",
            "KL",
            "top-1",
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
            f"{kinds}: compared at {places} positions; perplexity of the tuned model "
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
    """Return how a GGUF file did in llama.cpp itself."""
    if not found:
        return "" if found is None else "  (not run in llama.cpp, which is not installed)"
    unsure = (
        f"; not counted: {', '.join(found['unsure'])} is unreliable there"
        if found["unsure"]
        else ""
    )
    return (
        f"  (llama.cpp {found['version']}: {found['same_answers']} of {found['answers']} greedy "
        f"answers match{unsure})"
    )


def show_formats(console: Console) -> None:
    """List the formats with their purpose."""
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
