"""`tuner predict`: the rows of a file, answered with a run, or with a base and adapters."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.answering import (
    Adapters,
    ChatArguments,
    Generate,
    MaxNewTokens,
    Seed,
    System,
    Temperature,
    TopK,
    TopP,
    sampling_of,
    template_arguments,
)
from tuner.cli.options import AnyBase, ForceBase, Json, Quiet, console
from tuner.errors import RecipeError


def predict(
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="The rows to answer.")],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="New file: one JSON line per row.")
    ],
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Run folder.")] = None,
    base: AnyBase = None,
    adapter: Adapters = None,
    template: Annotated[
        str | None,
        typer.Option("--template", metavar="NAME", help="Data template; default: the run's."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME=COLUMN",
            help="Column of the file that holds a column of the template. Repeatable.",
        ),
    ] = None,
    keep: Annotated[
        str, typer.Option("--keep", metavar="NAMES", help="Columns to write, too: id,text.")
    ] = "",
    prompt: Annotated[bool, typer.Option("--prompt", help="Write the prompts, too.")] = False,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=1, help="Answers per row.")
    ] = 1,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Write the log-probability of each token.")
    ] = False,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 42,
    system: System = "",
    chat_arguments: ChatArguments = None,
    generate: Generate = False,
    max_bad_rows: Annotated[
        int,
        typer.Option(
            "--max-bad-rows", metavar="N", min=0, help="Rows that may stay without an answer."
        ),
    ] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="N", min=1, help="Rows at once; default: by memory."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue behind the last whole line of the output.")
    ] = False,
    force_base: ForceBase = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer the rows of a file: with text, labels and probabilities, or scores.

    The output has a line for every row, in the order of the file. Rows need no answer.
    """
    from tuner.data.reading import find
    from tuner.inference import open_model
    from tuner.inference.predict.lines import taken
    from tuner.inference.predict.request import Request
    from tuner.machine import hardware, imports

    where = console(json, quiet)
    sampling = sampling_of(temperature, top_k, top_p, where)
    if samples > 1 and not temperature:
        raise RecipeError(
            f"--samples {samples}, but every answer would be the same",
            "at temperature 0 the likeliest token is taken each time",
            "add --temperature 0.7, or leave out --samples",
        )
    if output.exists() and not resume:
        raise taken(output)
    request = Request(
        data=find.find(str(data), Path.cwd(), "--data"),
        output=output,
        resume=resume,
        template=template,
        columns=_columns(column or ()),
        keep=[name for name in keep.split(",") if name],
        prompt=prompt,
        samples=samples,
        logprobs=logprobs,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        system=system,
        generate=generate,
        max_bad_rows=max_bad_rows,
        batch=batch_size,
    )

    present = hardware.detect()
    words = shlex.join(["predict", "--data", str(data), "--output", str(output)])
    source = open_model.model_to_open(run, base, adapter or (), present, words)
    # Libraries print to stderr: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        with imports.importing():
            from tuner.inference.predict import carry_out, opening

        request = opening.as_run(request, run)
        work, about = opening.prepare(
            request,
            source,
            lambda template: template_arguments(chat_arguments or (), template),
            present,
            where,
            force_base=force_base,
        )
        done = carry_out.carry_out(request, work, about, where)
    where.event("predicted", **done)
    left = f", {done['bad_rows']:,} without an answer" if done["bad_rows"] else ""
    where.closing(f"{done['answered']:,} rows answered{left}: {output}")


def _columns(texts: Sequence[str]) -> dict[str, str]:
    """Return the names of columns in the file, by those of the template.

    Raises:
        RecipeError: one has no name.
    """
    found = {}
    for text in texts:
        name, _, column = text.partition("=")
        if not name or not column:
            raise RecipeError(
                f"--column {text}", "it is not NAME=COLUMN", "write it as NAME=COLUMN"
            )
        found[name.strip()] = column.strip()
    return found
