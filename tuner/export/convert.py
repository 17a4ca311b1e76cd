"""`tuner export`: a finished run in other formats, each proven before it gets its name.

The tuned model is opened the way a user opens it, its logits on the run's held-out rows are the
reference, and every artefact is loaded by a fresh process and compared with it and with the base.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import IntegrityError, RecipeError
from tuner.export import combine, exact, limits, merge, pipeline, qat_grid
from tuner.export.gguf import convert, llama_cpp, model, modelfile
from tuner.export.job import Settings, Work, open_work
from tuner.export.pipeline import About, Refusal
from tuner.export.proof import fresh_process, measure, prompts, same_adapter
from tuner.export.proof import rows as held
from tuner.machine.imports import function
from tuner.model import folded
from tuner.model.adapters import steps
from tuner.recipe.formats import FORMATS, ExportFormat
from tuner.record import disk, proof_limits, seal

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.model.base import Base

REPORT = "export.json"


def export(
    origin: SavedModel, rows: list[ExportFormat], settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """Write, prove and seal each format.

    Args:
        origin: from `origin.find`, which has refused what is impossible.
        rows: the formats.
        settings: what else was asked for.
        console: shows what happens.

    Returns:
        For each artefact: kind, path, bytes, limit, verdict and the figures of `measure.Measures`.

    Raises:
        IntegrityError: an artefact is not what was trained; nothing is left under its name.
        ModelError: the base is not available or is another one; a format does not suit this model.
        ResourceError: not enough memory or disk.
    """
    _refuse_existing(settings.output, rows)
    work, found_base = open_work(origin, settings, console)
    if settings.opened is None:
        # A run's plan has counted it more closely.
        disk.require_space(settings.output.parent, _needed(work, rows, found_base))
    if (
        origin.config.get("use_rslora")
        and not settings.portable
        and any(row.name == "adapter" for row in rows)
    ):
        console.warn(
            "rsLoRA: vLLM, SGLang, TensorRT-LLM and ExLlamaV2 have read its scale as alpha / r, "
            "which weakens the update; --portable writes a scale that all of them read alike"
        )
    reports: list[dict[str, Any]] = []
    refused: list[Refusal] = []
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(disk.no_empty_folder(settings.output))
        scratch = stack.enter_context(seal.scratch(settings.output))
        if settings.combination:
            console.phase(f"combining {len(settings.combination.origins)} adapters")
            work.origin = combine.combine(settings.combination, work.job, scratch)
        merge.measure_and_merge(work, rows, settings, scratch, found_base, console)
        learned = work.base is None or measure.noticeable(work.tuned, work.base)
        if not learned and not settings.rehearsal:
            raise IntegrityError(
                f"{work.origin.name} equals its base: there is nothing to export",
                "its logits and those of the base are the same",
                "check the values of --weights, or whether the run learned anything",
            )
        shared = time.perf_counter() - begun
        sealed = Sealed(work, settings)
        for row in rows:
            started = time.perf_counter()
            console.phase(f"writing {row.name} and reloading it in a fresh process")
            if against := pipeline.write_artefacts(sealed, [row], settings.output):
                refused += against
                continue
            seconds = {"seconds": time.perf_counter() - started, "shared_seconds": shared}
            path = str(settings.output / row.name)
            report = {"kind": row.name, "path": path, **sealed.reports[row.name]}
            reports.append(report | work.notes | seconds)
            _show(reports[-1], settings, console)
            _record(work.origin, settings.output, reports[-1])
        for other in refused[1:]:
            console.warn(f"{other.what}: {other.why}")
        if refused:
            raise refused[0]
    return reports


def _refuse_existing(output: Path, rows: list[ExportFormat]) -> None:
    for row in rows:
        if (output / row.name).exists():
            raise RecipeError(
                f"{output / row.name} already exists",
                "an artefact is never overwritten",
                "move it away, or name another folder with --output",
            )


class Sealed:
    """A tuned model from the disk, written in other formats (see `pipeline.Exporter`).

    Args:
        work: the model, measured and merged.
        settings: what was asked for.

    Attributes:
        reports: what was measured of each artefact, by format.
    """

    def __init__(self, work: Work, settings: Settings) -> None:
        self.work, self.settings = work, settings
        self.reports: dict[str, dict[str, Any]] = {}
        further: dict[str, Any] = {}
        if settings.combination:
            further["combined"] = settings.combination.as_dict()
        if step := work.origin.sealed.get(steps.STEP):
            further[steps.STEP] = step
        if chain := folded.chain(work.origin.sealed, work.origin.folder, settings.output):
            further[folded.CHAIN] = chain
        self.about = About(work.name, work.fingerprint, work.facts, work.record, further)

    def write(self, row: ExportFormat, folder: Path) -> None:
        """Write the files of a format."""
        function(row.write)(row, self.work, folder)

    def reload(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        """Return an artefact's logits at the compared positions, from a process that knows nothing
        but its files, and what that process found in its tensors and prompts."""
        return {
            name: _again(self.work, FORMATS[name], folder, self.settings.output)
            for name, folder in folders.items()
        }

    def judge(self, row: ExportFormat, folder: Path, found: Any) -> dict[str, Any]:
        """Return what was proven about an artefact, for its manifest.

        Raises:
            IntegrityError: it is not what was trained, or not near enough.
        """
        work, settings, (logits, proven, other_prompts) = self.work, self.settings, found
        prompts.refuse(row.name, other_prompts, prompts.REPORT)
        for_grid = qat_grid.wanted(work, row)
        tuned = qat_grid.logits(work) if for_grid else work.tuned
        figures = measure.compare(work.both, tuned, logits, work.base)
        limit = settings.limits.get(row.name, settings.max_kl)
        if for_grid:
            limit = qat_grid.LIMIT
        if settings.rehearsal:
            figures = replace(figures, kl_base=None, kept=None, answers_kept=None)
        if row.exact:
            copied = row.name == "adapter"
            problems = same_adapter.as_copied(work.origin.folder, folder) if copied else []
            report = exact.judge(row, figures, work, logits, proven, problems, limit)
        else:
            limits.check_merge(row, proven)
            report = limits.judge(row, figures, work, folder, limit)
        report |= {"bytes": limits.weight_bytes(folder)}
        if row.llama_type or row.name == "gguf-adapter":
            report |= {"no_modelfile": modelfile.problem(work.tokenizer)}
            report |= {"trained_tools": any(each.get("tools") for each in work.prompts)}
        if row.llama_type:
            (file,) = folder.glob("*.gguf")
            stops = list(dict.fromkeys([work.tokenizer.eos_token_id, *(work.stops or ())]))
            job = work.job | {"stops": stops}
            report |= {"llama_cpp": llama_cpp.check(file, job, work.both, settings.output)}
        self.reports[row.name] = report
        last = sum(map(len, work.random.targets))
        return {
            "verified": True,
            "max_logit_difference": figures.max_logit_difference,
            "figures": report,
            "witness": held.witness(work.random, tuned[-last:].float(), logits[-last:].float()),
        }


def _again(
    work: Work, row: ExportFormat, folder: Path, output: Path
) -> tuple[torch.Tensor, dict[str, Any] | None, list[list[str]]]:
    rows = work.both
    if row.name == "gguf-adapter":
        with seal.scratch(output) as aside:
            base = aside / "base.gguf"
            splitting = model.splits_like(work.tokenizer)
            convert.run(Path(work.job["base"]), base, "f32", splitting)
            (file,) = folder.glob("*.gguf")
            return llama_cpp.with_adapter(base, file, work.job, rows, aside), None, []
    proofs = {row.name: _how(work, folder)} if row.name == "merged" else {}
    if not (row.exact or work.origin.whole or work.proven):
        # What other formats are made from is proven with the first of them.
        proofs = {row.name: _how(work, work.merged)}
        work.proven = True
    job = work.job | {
        "rows": rows.rows,
        "targets": rows.targets,
        "artefacts": {row.name: str(folder)},
        "proofs": proofs,
        "prompts": work.prompts,
    }
    found = fresh_process.in_fresh_process(job, output)
    proven = fresh_process.unpack(found[f"{row.name}.proof"]) if proofs else None
    return found[row.name], proven, fresh_process.other_prompts(found, row.name)


def _how(work: Work, folder: Path) -> dict[str, Any]:
    """Return how to prove the tensors of a merged model (see `tensors.prove`)."""
    if work.origin.whole:
        return {"folder": str(folder), "like": str(work.origin.folder)}
    onto = work.notes.get("merged_onto", "dequantized")
    return {"folder": str(folder), "adapter": str(work.origin.folder), "onto": onto}


def _needed(work: Work, rows: list[ExportFormat], base: Base | None) -> int:
    """Return the bytes needed on disk, at most: each artefact as large as the base in float32."""
    folder = base.folder if base else work.origin.folder
    whole = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return whole * (1 + sum(not row.of_adapter for row in rows))


def _show(report: dict[str, Any], settings: Settings, console: Console) -> None:
    """Warn if an artefact loses much, or llama.cpp answers differently from transformers."""
    found = report.get("llama_cpp")
    if found and not found["unsure"] and found["same_answers"] < found["answers"]:
        console.warn(
            f"{report['kind']}: in llama.cpp {found['answers'] - found['same_answers']} of "
            f"{found['answers']} greedy answers differ from those of transformers; llama.cpp "
            f"also rounds activations (KL between the two {found['kl']:.2g})"
        )
    why, sends = report.get("no_modelfile"), ""
    if report["kind"] != "gguf-adapter" and (why or report.get("trained_tools")):
        (file,) = Path(report["path"]).glob("*.gguf")
        sends = f"; tuner serve {file} sends them"
    if why:
        console.warn(
            f"{report['kind']}: no Modelfile, because Ollama's templates cannot write the prompts "
            f"that were trained ({why}){sends}"
        )
    elif report.get("trained_tools"):
        console.warn(
            f"{report['kind']}: the Modelfile writes no prompts with tools, and rows were trained "
            f"with some{sends}"
        )
    losing = proof_limits.warning(report)
    if losing and settings.opened is None:
        # A run shows it with its list of artefacts.
        console.warn(losing)


def _record(origin: SavedModel, output: Path, report: dict[str, Any]) -> None:
    """Add to export.json, in the run folder or where the artefacts go."""
    folder = origin.run or output
    path = folder / REPORT
    artefacts = []
    if path.is_file():
        with contextlib.suppress(ValueError, OSError):
            artefacts = list(json.loads(path.read_text("utf-8"))["artefacts"])
    kept = [item for item in artefacts if item.get("path") != report["path"]]
    disk.write_json(path, {"artefacts": [*kept, report]})
