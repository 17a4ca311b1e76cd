"""The last gate between training and use: an artefact's own tokenizer writes the trained prompts.

What is compared with are prompts of the run's rows, as plain transformers writes them with the
tokenizer that was trained with; the plan has made sure that these are the trained ones.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.data.chat import template_clock
from tuner.data.tokens.conversation import Prompts, by_transformers
from tuner.errors import IntegrityError
from tuner.recipe.formats import FORMATS

if TYPE_CHECKING:
    from tuner.plan.plan import Plan

# A prompt as a job has it: row, what, messages, tools, arguments, written (when), ids, text.
Record = dict[str, Any]
_SHOWN_IDS = 40
REPORT = "please report it with the base model's name and versions"


def of_plan(plan: Plan) -> list[Record]:
    """Return a few prompts of a plan's rows, as JSON; those that are asked for with arguments of
    the chat template also as they are without."""
    if not plan.prepared.sent.trained:
        return []
    prompts = Prompts(plan.tokenizer, [*plan.stop_ids])
    written = plan.prepared.report.get("chat_date") or datetime.now().date().isoformat()
    records = []
    for each in plan.prepared.sent.trained:
        asked = [each.arguments, {}] if each.arguments else [{}]
        for arguments in asked:
            record: Record = {
                "row": each.row,
                "what": each.what if arguments == each.arguments else f"{each.what}, by default",
                "messages": prompts.native(each.turns),
                "tools": each.tools,
                "arguments": arguments,
                "written": written,
            }
            ids = by_transformers(plan.tokenizer, **_given(record), date=written)
            records.append(record | {"ids": ids, "text": str(plan.tokenizer.decode(ids))})
    return records


def _given(record: Record) -> dict[str, Any]:
    return {name: record[name] for name in ("messages", "tools", "arguments")}


def compared(job: Mapping[str, Any], kind: str, folder: Path) -> dict[str, Any]:
    """Return the prompts that an artefact writes differently: of each what it is, as it was
    trained, and as it is written now.

    Args:
        job: `prompts` to compare, and `trust_remote_code`.
        kind: the artefact's format.
        folder: where it is.
    """
    # Virtual tokens come without a tokenizer.
    if not job.get("prompts") or kind == "virtual_tokens":
        return {"different": []}
    row = FORMATS.get(kind)
    llama = row is not None and row.llama_type
    written = _by_file(next(folder.glob("*.gguf"))) if llama else _by_folder(job, folder)
    different = []
    for record in job["prompts"]:
        with template_clock.on(record["written"]):
            ids, text = written(record)
        if text != record["text"] or (ids is not None and ids != record["ids"]):
            same = text == record["text"]
            pair = (record["ids"], ids) if same else (record["text"], text)
            different.append([f"{record['row']}, {record['what']}", *map(_shown, pair)])
    return {"different": different}


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    return f"{str(value[:_SHOWN_IDS])[:-1]}{', ...' if len(value) > _SHOWN_IDS else ''}]"


Written = Callable[[Record], tuple[list[int] | None, str]]


def _by_folder(job: Mapping[str, Any], folder: Path) -> Written:
    """Return what writes a prompt with the tokenizer in a folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=job["trust_remote_code"])

    def written(record: Record) -> tuple[list[int], str]:
        ids = by_transformers(tokenizer, **_given(record))
        return ids, str(tokenizer.decode(ids))

    return written


def _by_file(file: Path) -> Written:
    """Return what writes a prompt with the template in a GGUF file; its tokens are llama.cpp's,
    None where that is not installed."""
    from gguf import GGUFReader
    from transformers.utils.chat_template_utils import render_jinja_template

    reader = GGUFReader(file)

    def field(name: str) -> Any:
        found = reader.get_field(f"tokenizer.{name}")
        return None if found is None else found.contents()

    template, tokens = field("chat_template"), field("ggml.tokens")
    words = {
        f"{name}_token": tokens[number]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
        if (number := field(f"ggml.{key}_token_id")) is not None
    }
    bos = words.get("bos_token", "") if field("ggml.add_bos_token") else ""
    ids_of = _llama_cpp(file) if importlib.util.find_spec("llama_cpp") else None

    def written(record: Record) -> tuple[list[int] | None, str]:
        rendered: Any = render_jinja_template(
            [record["messages"]],
            tools=record["tools"],
            chat_template=template,
            add_generation_prompt=True,
            **words,
            **record["arguments"],
        )
        # llama.cpp puts the first token before it by itself, and then takes the template's away.
        text = str(rendered[0][0]).removeprefix(bos)
        return ids_of and ids_of(text), bos + text

    return written


def _llama_cpp(file: Path) -> Callable[[str], list[int]]:
    import llama_cpp

    vocabulary = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    return lambda text: list(vocabulary.tokenize(text.encode(), add_bos=True, special=True))


def refuse(name: str, different: Sequence[Sequence[str]], fix: str) -> None:
    """Refuse an artefact that writes other prompts.

    Args:
        name: of its format, or where it is.
        different: what `compared` found.
        fix: what to do.

    Raises:
        IntegrityError: with both prompts.
    """
    if different:
        which, trained, sent = different[0]
        raise IntegrityError(
            f"the {name} artefact does not send the prompt that was trained",
            f"{which}:\n  trained  {trained}\n  artefact {sent}",
            fix,
        )
