"""The gate between training and use: the prompt that is trained is the prompt that is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tuner.data.tokens.conversation import Prompts, by_transformers
from tuner.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection

    from tuner.data.chat.chat_template import ChatTemplate
    from tuner.data.tokens.prepared import PromptFormat


def refuse_other_prompts(
    tokenizer: Any, stop_ids: Collection[int], sent_by: PromptFormat, date: str | None = None
) -> None:
    """Refuse rows whose prompts `tuner chat`, `serve` and the artefacts would not send.

    Args:
        tokenizer: with the chat template that is saved.
        stop_ids: tokens that end an answer.
        sent_by: how prompts are sent, with some that are trained.
        date: that the trained ones show, if their template writes one.

    Raises:
        DataError: with both prompts.
    """
    if not sent_by.trained:
        return
    prompts = Prompts(tokenizer, [*stop_ids], date=date)
    for each in sent_by.trained:
        native = prompts.native(each.turns)
        sent = prompts.ids(each.turns, each.tools, each.arguments)
        elsewhere = by_transformers(tokenizer, native, each.tools, each.arguments, date)
        trained, *others = (str(tokenizer.decode(ids)) for ids in (each.ids, sent, elsewhere))
        for other in others:
            if trained == other:
                continue
            raise DataError(
                "the prompt that is trained is not the prompt that is sent",
                f"{each.row}, {each.what}:\n  trained {trained!r}\n  sent    {other!r}",
                "choose another template, such as model.chat_template: chatml",
            )


def refuse_no_header(chat: ChatTemplate) -> None:
    """Refuse a template that begins answers, and leaves that beginning out of their prompts.

    The model would learn to write the beginning of its own turn, and nobody reads it away.

    Raises:
        DataError: with both prompts, and what to add to the template.
    """
    header = chat.abilities.header
    if not header:
        return
    sent = chat.render([{"role": "user", "content": "..."}], generate=True)
    line = "{%- if add_generation_prompt -%}{{- " + json.dumps(header, ensure_ascii=False)
    raise DataError(
        "the prompt that is trained is not the prompt that is sent",
        "the chat template does not read add_generation_prompt: it writes the beginning of an "
        f"answer only next to one:\n  trained {sent + header!r}\n  sent    {sent!r}",
        "write the template into a file, with this at its end: "
        + line
        + " -}}{%- endif -%} and name the file in model.chat_template; or choose another one, such "
        "as model.chat_template: chatml",
    )
