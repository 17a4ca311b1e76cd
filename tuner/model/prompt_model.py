"""Models with learned tokens before every row, whose rows may be packed into one sequence.

A saved adapter is peft's own, and single rows take peft's code path. Packed rows take another one
with the same result: each row gets the prefix before its own first token. Nothing is cached, so
activations may be recomputed, which is not possible with the cache that peft uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModelForCausalLM, PeftModelForSequenceClassification
from peft.utils import PeftType


class PromptModel(PeftModelForCausalLM):
    """peft's causal language model with virtual tokens, packed rows included."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run as peft does; with `cu_seq_lens_q` each row of a packed sequence gets the prompt.

        Further arguments are those of `tuner.model.kernels.attention`: position_ids (1, tokens)
        restarting with each row, row_lengths, logits_to_keep, row_masks; and task_ids (rows,) for a
        multitask prompt.
        """
        boundaries = kwargs.get("cu_seq_lens_q")
        deep = self.active_peft_config.peft_type == PeftType.PREFIX_TUNING
        if boundaries is None:
            # peft puts the prompt before the row, but does not shift the positions to keep.
            if not deep and isinstance(kwargs.get("logits_to_keep"), torch.Tensor):
                kwargs["logits_to_keep"] = kwargs["logits_to_keep"] + self.num_virtual_tokens
            return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]
        kwargs["position_ids"] = kwargs["position_ids"] + self.num_virtual_tokens
        task_ids = kwargs.pop("task_ids", None)
        if deep:
            kwargs["row_prefix"] = [layer[:2] for layer in self.get_prompt(batch_size=1)]
            return self.base_model(*args, **kwargs)
        rows = len(boundaries) - 1
        before = self.get_prompt(batch_size=rows, task_ids=task_ids)
        return self.base_model(**self._with_prompts(before, **kwargs))

    @property
    def num_virtual_tokens(self) -> int:
        """Learned tokens before a row."""
        return int(self.active_peft_config.num_virtual_tokens)

    def _with_prompts(
        self,
        before: torch.Tensor,
        *,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        row_lengths: list[int],
        row_masks: Sequence[torch.Tensor] | None = None,
        logits_to_keep: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return arguments of a packed call whose rows begin with `before` (rows, tokens, size)."""
        count, device = self.num_virtual_tokens, input_ids.device
        boundaries = kwargs["cu_seq_lens_q"]
        embed: Any = self.word_embeddings
        embeddings = embed(input_ids)[0].split(row_lengths)
        first = torch.arange(count, device=device)
        parts = zip(before.to(embeddings[0].dtype), embeddings, strict=True)
        places = [torch.cat([first, row]) for row in position_ids[0].split(row_lengths)]
        kwargs["inputs_embeds"] = torch.cat([each for pair in parts for each in pair])[None]
        kwargs["position_ids"] = torch.cat(places)[None]
        shift = count * torch.arange(len(boundaries), device=device, dtype=boundaries.dtype)
        kwargs["cu_seq_lens_q"] = boundaries + shift
        kwargs["row_lengths"] = [count + length for length in row_lengths]
        if row_masks is not None:
            kwargs["row_masks"] = [_behind(mask, count) for mask in row_masks]
        if logits_to_keep is not None:
            borders = boundaries.to(logits_to_keep.dtype)
            row = torch.searchsorted(borders, logits_to_keep, right=True)
            kwargs["logits_to_keep"] = logits_to_keep + count * row
        return kwargs

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, *args: Any, task_ids: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Prepare as peft does, with positions that do not count padding.

        peft drops the positions of a prompt before padded rows, so that an answer would depend on
        what else is in the batch.
        """
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            *args, task_ids=task_ids, **kwargs
        )
        mask = inputs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.dim() == 2:
            given = inputs.get("inputs_embeds")
            length = (inputs["input_ids"] if given is None else given).shape[1]
            inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        return inputs


class PromptClassifier(PeftModelForSequenceClassification):
    """peft's classifier with virtual tokens on a decoder, whose padded rows do not see the padding.

    A decoder's head reads the last position of a row that begins with embeddings, padding or not.
    So rows are moved to the right here, and positions count only tokens: a row has the same scores
    as on its own.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run as peft does; input_ids and attention_mask may be padded on either side."""
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if ids is None or mask is None:
            return super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]
        # A stable sort by "is a token" moves the padding to the left.
        order = mask.argsort(dim=1, stable=True)
        embed: Any = self.word_embeddings
        embeddings = embed(ids.gather(1, order))
        before = self.get_prompt(batch_size=len(ids), task_ids=kwargs.pop("task_ids", None))
        mask = torch.cat([mask.new_ones(before.shape[:2]), mask.gather(1, order)], dim=1)
        return self.base_model(
            inputs_embeds=torch.cat([before.to(embeddings.dtype), embeddings], dim=1),
            attention_mask=mask,
            position_ids=(mask.long().cumsum(1) - 1).clamp(min=0),
        )


def _behind(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Return a row's mask (tokens, tokens) with `count` tokens before it that all others see."""
    size = len(mask) + count
    whole = torch.ones(size, size, dtype=torch.bool, device=mask.device).tril()
    whole[count:, count:] = mask
    return whole
