"""`export` and `verify`: artefacts in other formats, and whether one is still what was proven."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.console import formatting
from tuner.errors import ModelError, RecipeError
from tuner.machine import heap
from tuner.recipe.formats import known
from tuner.record import proof_limits

if TYPE_CHECKING:
    from tuner.console.console import Console

# Figures of an artefact that `tuner verify` repeats from its manifest.
_SAID = {
    "kl": "KL to the tuned model",
    "kl_base": "KL of the base",
    "top1_agreement": "share of the same first tokens",
    "perplexity": "perplexity",
    "perplexity_tuned": "of the tuned model",
}
_LIMITS = {"kl": "KL", "mean_logit_difference": "average"}
ONTO = ("auto", "dequantized", "original")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    name: str | None
    formats: Sequence[str]
    output: Path | None
    base: str | None
    force_base: bool
    onto: str
    max_kl: float | None
    portable: bool
    adapters: str | None
    weights: str | None
    combination: str
    density: float
    check: str | None


def export(request: Request, console: Console) -> None:
    """Write, prove and seal each format of a run; the table says how near each is."""
    from tuner.export.origin import find, refuse

    if request.onto not in ONTO:
        raise RecipeError(f"--onto: {request.onto} is unknown", "", f"one of {', '.join(ONTO)}")
    names = _names(request)
    if request.check is not None:
        _check_elsewhere(names[0], request.check, console)
        return
    if not request.formats:
        raise RecipeError(
            "nothing says what to export",
            "--format is not given",
            "tuner export RUN --format merged; tuner export --formats lists them",
        )
    rows = known(request.formats)
    origins = [find(name) for name in names]
    origin = origins[0]
    refuse(origin, [row.name for row in rows])
    output = request.output or origin.run or origin.folder.parent
    if len(origins) == 1 and origin.run is None and request.output is None:
        raise RecipeError(
            f"{origin.name} is no run, and nothing says where its artefacts go",
            "--output is not given",
            "name a folder with --output",
        )
    if len(origins) > 1 and request.output is None:
        raise RecipeError(
            "several adapters, and nothing says where their combination goes",
            "--output is not given",
            "name a folder with --output",
        )
    with _quiet():
        from tuner.export import combine, convert, job

        combination = None
        if len(origins) > 1:
            weights = _numbers(request.weights, len(origins))
            combination = job.Combination(origins, weights, request.combination, request.density)
            combine.check(combination)
        heap.keep_nothing()
        settings = job.Settings(
            output=output.resolve(),
            base=request.base,
            force_base=request.force_base,
            onto=request.onto,
            max_kl=request.max_kl,
            portable=request.portable,
            combination=combination,
        )
        reports = convert.export(origin, rows, settings, console)
    show(reports, console)


def _names(request: Request) -> list[str]:
    """The run, or the adapters that are combined."""
    several = [part.strip() for part in (request.adapters or "").split(",") if part.strip()]
    if request.name is None and not several:
        raise RecipeError(
            "nothing says what to export", "no RUN is given", "tuner export RUN --format merged"
        )
    return [*([request.name] if request.name else []), *several]


def _numbers(text: str | None, count: int) -> list[float]:
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What libraries print or warn of is not ours: stdout is the console's."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tuner.model import transformers_errors

        transformers_errors.quiet_libraries()
        yield


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


def list_formats(console: Console) -> None:
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


def verify(name: str, base: str | None, force_base: bool, console: Console) -> None:
    """Whether an artefact is still what was proven when it was written."""
    from tuner.export.origin import find_artefact

    origin = find_artefact(name)
    with _quiet():
        from tuner.export import verify as check

        found = check.check(origin, base, force_base, console)
    console.event("verified", **found)
    console.text(
        f"{found['kind']}  {found['path']}  {found['files']} files as written; "
        f"logits {found['drift']:.2g} on average from those when it was written, KL "
        f"{found['drift_kl']:.2g}; {proof_limits.verdict(found)}"
    )
    if then := found["then"]:
        known = (f"{_SAID[name]} {formatting.value(then[name])}" for name in _SAID if name in then)
        console.text(f"when it was written: {', '.join(known)}")
