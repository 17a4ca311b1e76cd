"""Show what tuner makes of a chat template: `python -m tests.tools.check_template FILE [...]`.

For a few conversations: the end of the prompt that is sent, and the text that is learned. FILE is
a Jinja template, or a tokenizer's folder (its special tokens count then).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests.data.test_conversations import ROWS
from tests.tokenizers import make_tokenizer
from tuner.data import bundled_chats
from tuner.data.bad_rows import BadRow
from tuner.data.chat.chat_template import ChatTemplate
from tuner.data.chat.spans import SpanFinder
from tuner.data.rows.dialogue import Dialogue
from tuner.data.turns.reasoning import separated
from tuner.errors import TunerError
from tuner.model import conversation
from tuner.model import tokenizer as tokenizers

SHOWN = 60


def opened(path: Path) -> tuple[Any, list[int]]:
    """Return a tokenizer with the template of a file or folder, and its further stop tokens."""
    if path.is_dir():
        return AutoTokenizer.from_pretrained(path), list(tokenizers.stop_ids(path))
    tokenizer = make_tokenizer("bos")
    tokenizer.chat_template = path.read_text("utf-8")
    words = dict.fromkeys(bundled_chats.control_tokens(tokenizer.chat_template))
    tokenizer.add_special_tokens({"additional_special_tokens": list(words)})
    conversation.take_end(tokenizer)
    return tokenizer, []


def report(path: Path) -> None:
    """Print what the template can do and what is learned of each conversation."""
    sys.stdout.write(f"{path}" + "\n")
    try:
        tokenizer, stops = opened(path)
        chat = ChatTemplate(tokenizer, stops)
    except (BadRow, TunerError) as error:
        sys.stdout.write(f"  {error}" + "\n")
        return
    able = chat.abilities
    sys.stdout.write(
        f"  tools {able.tools}, calls {able.calls}, reasoning in {able.reasoning or 'nothing'}"
        + "\n"
    )
    sys.stdout.write(
        f"  turns reasoning off: {able.switch or '-'}; reads {', '.join(able.arguments) or '-'}"
        + "\n"
    )
    for name, row in ROWS.items():
        turns = tuple(separated(turn) for turn in row["messages"])
        answer = str(turns[-1].get("content") or "")
        try:
            found = SpanFinder(chat).render(
                Dialogue("row", turns, tools=row.get("tools"), answer=answer)
            )
        except BadRow as error:
            sys.stdout.write(f"  {name}: {error}" + "\n")
            continue
        except TunerError as error:
            sys.stdout.write(f"  {name}: {error.what}" + "\n")
            continue
        for text in found:
            learned = [text.text[start:end] for start, end in text.supervised]
            end = " + the tokenizer's end of sequence" if text.append_eos else ""
            sys.stdout.write(
                f"  {name}: ...{text.text[: text.prompt_end][-SHOWN:]!r} -> {learned}{end}" + "\n"
            )


if __name__ == "__main__":
    for given in sys.argv[1:]:
        report(Path(given))
