"""The gate between training and use: the prompt that is trained is the prompt that is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuner.data.conversation import Prompts, by_transformers
from tuner.errors import DataError

if TYPE_CHECKING:
    from tuner.data.prepared import Prepared
    from tuner.plan.ground import RecipeAndBase


def refuse_other_prompts(ground: RecipeAndBase, prepared: Prepared) -> None:
    """Refuse rows whose prompts `tuner chat`, `serve` and the artefacts would not send.

    Raises:
        DataError: with both prompts.
    """
    if not prepared.sent.trained:
        return
    tokenizer = ground.tokenizer
    prompts = Prompts(tokenizer, [*ground.stop_ids])
    for each in prepared.sent.trained:
        native = prompts.native(each.turns)
        sent = prompts.ids(each.turns, each.tools, each.arguments)
        elsewhere = by_transformers(tokenizer, native, each.tools, each.arguments)
        trained, *others = (str(tokenizer.decode(ids)) for ids in (each.ids, sent, elsewhere))
        for other in others:
            if trained == other:
                continue
            raise DataError(
                "the prompt that is trained is not the prompt that is sent",
                f"{each.row}, {each.what}:\n  trained {trained!r}\n  sent    {other!r}",
                "choose another template, such as model.chat_template: chatml",
            )
