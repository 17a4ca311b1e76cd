"""Models with learned tokens before every row, whose rows may be packed into one sequence.

A saved adapter is peft's own, and rows run alone take peft's own way. Packed rows take another to
the same result: each row gets the prefix by itself, before its own first token. Nothing is cached,
so activations may be recomputed, which peft's way through the cache forbids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModelForCausalLM, PeftModelForSequenceClassification
from peft.utils import PeftType
from safetensors.torch import load_file

from tuner.errors import ModelError
from tuner.methods import prompts
from tuner.methods.prompts import adapter_file

if TYPE_CHECKING:
    from tuner.data.prepare import Example
    from tuner.plan import Plan


class PromptModel(PeftModelForCausalLM):
    """peft's causal language model with virtual tokens, packed rows included."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As peft's; with `cu_seq_lens_q` the rows of a packed sequence each get the prompt.

        Further arguments are those of `tuner.attention`: position_ids (1, tokens) restarting with
        each row, logits_to_keep, row_masks; and task_ids (rows,) for a multitask prompt.
        """
        boundaries = kwargs.get("cu_seq_lens_q")
        deep = self.active_peft_config.peft_type == PeftType.PREFIX_TUNING
        if boundaries is None:
            # peft puts the prompt before the row, and leaves the positions to keep as they were.
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
        return self.base_model(**self._with_prompts(before, boundaries, **kwargs))

    @property
    def num_virtual_tokens(self) -> int:
        """Learned tokens before a row."""
        return int(self.active_peft_config.num_virtual_tokens)

    def _with_prompts(
        self,
        before: torch.Tensor,
        boundaries: torch.Tensor,
        *,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        row_masks: Sequence[torch.Tensor] | None = None,
        logits_to_keep: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of a packed call whose rows begin with `before` (rows, tokens, size)."""
        count, device = self.num_virtual_tokens, input_ids.device
        lengths = boundaries.diff().tolist()
        embed: Any = self.word_embeddings
        embeddings = embed(input_ids)[0].split(lengths)
        first = torch.arange(count, device=device)
        parts = zip(before.to(embeddings[0].dtype), embeddings, strict=True)
        places = [torch.cat([first, row]) for row in position_ids[0].split(lengths)]
        kwargs["inputs_embeds"] = torch.cat([each for pair in parts for each in pair])[None]
        kwargs["position_ids"] = torch.cat(places)[None]
        shift = count * torch.arange(len(boundaries), device=device, dtype=boundaries.dtype)
        kwargs["cu_seq_lens_q"] = boundaries + shift
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
        """As peft's, with positions that do not count padding.

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

    A decoder's head reads the last place of a row that begins with embeddings, whatever stands
    there. So rows are moved to the right here, and positions count tokens alone: a row's scores
    are those it has by itself.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As peft's; input_ids and attention_mask (rows, tokens) may be padded on either side."""
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
    """A row's mask (tokens, tokens) with `count` tokens before it, which all others see."""
    size = len(mask) + count
    whole = torch.ones(size, size, dtype=torch.bool, device=mask.device).tril()
    whole[count:, count:] = mask
    return whole


@torch.no_grad()
def start(model: Any, plan: Plan, examples: Sequence[Example]) -> None:
    """Put in the values that the virtual tokens start from.

    Args:
        model: a new model with virtual tokens.
        plan: says the start and the text.
        examples: training rows; their beginnings are the text where the recipe names none.
    """
    options: Any = plan.recipe.method
    encoder = model.prompt_encoder[model.active_adapter]
    if getattr(options, "source", None) is not None:
        _adopt(encoder, adapter_file(options.source, plan.loaded.folder), options.source_task)
        return
    deep = plan.method.deep_prompts
    kind = prompts.key_start(options, plan.setting.decoder) if deep else options.init
    if kind in ("random", "zero"):
        _even(encoder)
        return
    ids = _start_ids(model, plan, examples)
    wanted = _activations(model, ids) if deep else model.word_embeddings(ids).float()
    _write(encoder, wanted.to(encoder.embedding.weight.device))
    _even(encoder)


def _start_ids(model: Any, plan: Plan, examples: Sequence[Example]) -> torch.Tensor:
    """(virtual tokens,) token ids to start from, repeated or cut to their number."""
    options: Any = plan.recipe.method
    count, device = len(model.prompt_tokens[model.active_adapter]), model.device
    if options.init == "vocabulary":
        rows = model.word_embeddings.num_embeddings
        return torch.randint(rows, (count,)).to(device)
    tokenizer = plan.tokenizer
    ids: list[int] = []
    if options.init == "labels":
        for label in plan.prepared.labels:
            ids += tokenizer(label, add_special_tokens=False)["input_ids"]
    elif options.init_text != "auto":
        ids = list(tokenizer(options.init_text, add_special_tokens=False)["input_ids"])
    else:
        for example in examples:
            ids += example.input_ids
            if len(ids) >= count:
                break
    repeated = ids * (count // len(ids) + 1)
    return torch.tensor(repeated[:count], device=device)


def _activations(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(tokens, layers x 2 x size): the keys and values of a text, as peft lays a prefix out."""
    network = model.get_base_model()
    training = network.training
    network.eval()
    cache = network(input_ids=ids[None], use_cache=True).past_key_values
    network.train(training)
    layers = [torch.stack([layer[0][0], layer[1][0]]) for layer in cache]
    # (layers x 2, heads, tokens, head size) to (tokens, layers x 2, heads, head size).
    return torch.cat(layers).permute(2, 0, 1, 3).reshape(len(ids), -1).float()


def _write(encoder: Any, wanted: torch.Tensor) -> None:
    """Make the encoder give `wanted` (tokens, size).

    Where a network writes the prompt, its last layer is solved for it: the inner activations are at
    least as many as the tokens, so that the smallest solution is exact.
    """
    last = next(
        (m for m in reversed(list(encoder.modules())) if isinstance(m, torch.nn.Linear)), None
    )
    if last is None:
        encoder.embedding.weight.copy_(wanted)
        return
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    training = encoder.training
    encoder.eval()
    places = torch.arange(len(wanted), device=wanted.device)[None]
    encoder(places)
    mean = wanted.mean(dim=0)
    inner = seen[0].reshape(len(wanted), -1).double()
    last.weight.copy_((torch.linalg.pinv(inner) @ (wanted - mean).double()).T)
    last.bias.copy_(mean)
    hook.remove()
    encoder.train(training)


def _adopt(encoder: Any, file: Path, task: int | None) -> None:
    """Start from a multitask prompt that was learned before: its shared part, and the part of one
    of its data sets or their mean.

    Raises:
        ModelError: it is no such prompt, or of another size.
    """
    saved = load_file(file)
    parts = {
        "embedding.weight": saved.get("prompt_embeddings"),
        "prefix_task_cols": saved.get("prefix_task_cols"),
        "prefix_task_rows": saved.get("prefix_task_rows"),
    }
    targets = dict(encoder.named_parameters())
    for name, tensor in parts.items():
        target = targets[name]
        if tensor is None:
            raise ModelError(
                "method.source is no multitask prompt",
                f"{file} has no {name.removesuffix('.weight')}",
                "name a run or an adapter of method.name: multitask_prompt",
            )
        if name != "embedding.weight":
            if task is not None and task >= len(tensor):
                raise ModelError(
                    f"method.source_task: {task}, and the source knows {len(tensor)} data sets",
                    f"{file}; they are counted from 0",
                    "name one of them, or leave source_task out",
                )
            tensor = tensor.mean(0, True) if task is None else tensor[task : task + 1]
        if tensor.shape[1:] != target.shape[1:] or len(tensor) not in (1, len(target)):
            raise ModelError(
                "method.source does not fit this recipe",
                f"{name} is {tuple(tensor.shape)} there and {tuple(target.shape)} here",
                "use its num_virtual_tokens and ranks, and the base it was learned on",
            )
        target.copy_(tensor.expand_as(target))


def _even(encoder: Any) -> None:
    """Let every data set of a multitask prompt start with the shared prompt itself."""
    if hasattr(encoder, "prefix_task_cols"):
        encoder.prefix_task_cols[..., 0] = 1.0
        encoder.prefix_task_rows[:, 0] = 1.0
