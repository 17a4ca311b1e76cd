"""The README.md of an artefact: what it is, what it was trained on, how to load it.

Names and counts only: no path, no user name and no text of the rows goes into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner import __version__
from tuner.console import formatting
from tuner.recipe.aliases import ALIASES
from tuner.recipe.formats import FORMATS

FILE = "README.md"
FOLDER_OF_BASE = "PATH OF THE BASE"
_OPTIONS = ("r", "alpha", "num_virtual_tokens")


def write(folder: Path, kind: str, base: str, facts: Mapping[str, Any], run: Any) -> None:
    """Write the card of an artefact.

    Args:
        folder: of the artefact.
        kind: adapter, merged or a quantized format that transformers reads.
        base: name of its base.
        facts: how to load it (see `fresh_process.facts_of`).
        run: `plan` and `scores` of the record of its run; empty without one.
    """
    (folder / FILE).write_text("\n".join(_lines(kind, base, facts, run)) + "\n", "utf-8")


def _lines(kind: str, base: str, facts: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    plan = run.get("plan") or {}
    adapter = kind == "adapter"
    yield "---"
    yield f"library_name: {'peft' if adapter else 'transformers'}"
    if (plan.get("model") or {}).get("kind") == "hub":
        yield f"base_model: {base}"
    yield "---"
    yield ""
    what = FORMATS[kind].what
    form = f", in {kind} ({what})" if FORMATS[kind].bits else ""
    yield f"# An adapter for {base}" if adapter else f"# {base}, fine-tuned{form}"
    yield ""
    yield f"Written by tuner {__version__}; `{'adapter_config' if adapter else 'config'}.json` and"
    yield "`MANIFEST.json` (versions, sha256 of every file and of the base's weights) have more."
    yield ""
    yield from _training(base, facts, plan)
    yield from _scores(run.get("scores") or {})
    yield "## Loading it"
    yield ""
    yield "In the folder of this file:"
    yield ""
    yield from _with_libraries(adapter, base, facts, plan)
    yield from _with_tuner(adapter, base, facts, chat=not FORMATS[kind].bits)


def _training(base: str, facts: Mapping[str, Any], plan: Mapping[str, Any]) -> Iterator[str]:
    yield f"- base: {base}" + _quantized(facts)
    if not plan:
        yield ""
        return
    values = {key: item["value"] for key, item in plan["values"].items()}
    options = [
        f"{name} {formatting.value(values[f'method.{name}'])}"
        for name in _OPTIONS
        if f"method.{name}" in values
    ]
    yield f"- trained with: `tuner {plan['verb']}`, {', '.join([values['method.name'], *options])}"
    size = plan["parameters"]
    yield f"- trainable parameters: {size['trainable']:,} of {size['total']:,}"
    data = plan["data"]
    held = f", {data['rows_eval']:,} held out" if data.get("rows_eval") else ""
    if "rows_train" in data:
        yield f"- rows: {data['rows_train']:,} for training{held}"
    yield f"- steps: {plan['steps']['total']:,}, {plan['steps']['rows_per_step']:,} rows per step"
    if "vocabulary" in plan:
        words = values["model.new_tokens"]
        known = (f"`{word}` ({plan['vocabulary'][word]})" for word in words)
        yield f"- tokens added to the base's vocabulary: {', '.join(known)}"
    yield ""


def _quantized(facts: Mapping[str, Any]) -> str:
    kind = facts.get("quantize", "none")
    return "" if kind == "none" else f", quantized to {kind} for training (bitsandbytes)"


def _scores(scores: Mapping[str, Any]) -> Iterator[str]:
    before, after = (scores.get(when) or {} for when in ("before", "after"))
    if not after:
        return
    yield "| held-out rows | before | after |"
    yield "|---|---|---|"
    for name in dict.fromkeys((*before, *after)):
        cells = (formatting.value(part.get(name)) for part in (before, after))
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def _where(base: str, plan: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return where the base is: an import, the argument of `from_pretrained`, and a sentence."""
    if base in ALIASES:
        about = (
            f"`{base}` comes with tuner: {ALIASES[base].original} in a four-bit file, dequantized "
            "when loaded. The weights on the Hub differ by that rounding, and so would the answers."
        )
        return "from tuner.model.base import folder_of", f'folder_of("{base}")', about
    if (plan.get("model") or {}).get("kind") == "hub":
        revision = plan["values"]["model.revision"]["value"]
        return "", f'"{base}"' + (f', revision="{revision}"' if revision else ""), ""
    about = f"The base, {base}, was a local folder or file where this was trained: give its path."
    return "", f'"{FOLDER_OF_BASE}"', about


def _with_libraries(
    adapter: bool, base: str, facts: Mapping[str, Any], plan: Mapping[str, Any]
) -> Iterator[str]:
    needed, where, about = _where(base, plan)
    name = facts["auto_class"]
    labels = f", num_labels={facts['num_labels']}" if facts.get("num_labels") else ""
    words = plan.get("vocabulary") or {}
    code = ", trust_remote_code=True" if facts.get("trust_remote_code") else ""
    yield "```python"
    if adapter:
        yield "from peft import PeftModel"
    yield f"from transformers import {name}, AutoTokenizer"
    if adapter and plan and plan["values"]["method.name"]["value"] == "bottleneck":
        yield "from tuner.methods import bottleneck_layers  # makes peft know the method"
    if adapter and needed:
        yield needed
    yield ""
    yield f'tokenizer = AutoTokenizer.from_pretrained("."{code})'
    if adapter:
        yield f"base = {name}.from_pretrained({where}{labels}{code})"
        if words.get("rows", 0) > words.get("rows_of_the_base", 0):
            yield f"base.resize_token_embeddings({words['rows']}, mean_resizing=False)"
        yield 'model = PeftModel.from_pretrained(base, ".")'
    else:
        yield f'model = {name}.from_pretrained("."{code})'
    yield "```"
    yield ""
    if adapter and about:
        yield about
        yield ""


def _with_tuner(adapter: bool, base: str, facts: Mapping[str, Any], *, chat: bool) -> Iterator[str]:
    further = f" --base {base}" if adapter else ""
    yield "```sh"
    if chat and not facts.get("num_labels"):
        yield f"tuner chat --base {base} --adapter FOLDER" if adapter else "tuner chat FOLDER"
    yield f"tuner verify FOLDER{further}"
    yield "```"
