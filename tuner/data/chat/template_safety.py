"""Chat templates that are refused: dangers, and where in a template an error is."""

from __future__ import annotations

import re
import traceback

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuner.errors import ModelError, SafetyError

_DUNDER = re.compile(r"__\w+__")
MAX_NUMBER = 1_000_000
LINE_SHOWN = 80


def refuse_dangers(source: str) -> None:
    """Refuse what no honest chat template has; the sandbox stays the real guard."""
    environment = ImmutableSandboxedEnvironment()
    try:
        tokens = list(environment.lex(source))
    except jinja2.TemplateSyntaxError as error:
        raise broken(syntax(error, source)) from None
    for _, kind, text in tokens:
        if kind in ("name", "string") and _DUNDER.search(text):
            raise unsafe(f"it uses {text}")
        if kind == "operator" and text == "**":
            raise unsafe("it computes powers")
        if kind == "integer" and int(text.replace("_", ""), 0) > MAX_NUMBER:
            raise unsafe(f"it uses the number {text}")


def syntax(error: jinja2.TemplateSyntaxError, source: str) -> str:
    """Return what is wrong with a template that cannot be parsed, and its line."""
    return f"{error.message}{_quoted(source, error.lineno)}"


def line_of(error: BaseException, source: str) -> str:
    """Return the line of a template in which it failed, as the end of a sentence."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "<template>"]
    return _quoted(source, lines[-1]) if lines else ""


def _quoted(source: str, line: int) -> str:
    text = source.splitlines()[line - 1 : line]
    shown = text[0].strip() if text else ""
    return f" (line {line}: {shown[:LINE_SHOWN]}{'...' if len(shown) > LINE_SHOWN else ''})"


def unsafe(why: str) -> SafetyError:
    """Return the error of a template that is not run."""
    return SafetyError(
        "the model's chat template is not safe to run",
        why,
        "use a base model from a source you trust, or remove its chat template",
    )


def broken(why: str) -> ModelError:
    """Return the error of a template that is none."""
    return ModelError(
        "the model's chat template is not valid", why, "correct the tokenizer's chat_template"
    )
