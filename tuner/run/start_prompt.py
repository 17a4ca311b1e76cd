"""Initialisation of virtual tokens: from words, activations of real rows, or another run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from tuner.errors import ModelError
from tuner.methods import prompts
from tuner.model.adapters.saved_models import adapter_file

if TYPE_CHECKING:
    from tuner.data.tokens.example import Example
    from tuner.plan.plan import Plan


@torch.no_grad()
def start(model: Any, plan: Plan, examples: Sequence[Example]) -> None:
    """Set the initial values of the virtual tokens.

    Args:
        model: a new model with virtual tokens.
        plan: has the initialisation and the text.
        examples: training rows; their beginnings are the text if the recipe has none.
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
    """Return (virtual tokens,) token ids to start from, repeated or cut to their number."""
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
    """Return (tokens, layers x 2 x size): keys and values of a text, in peft's prefix layout."""
    network = model.get_base_model()
    training = network.training
    network.eval()
    cache = network(input_ids=ids[None], use_cache=True).past_key_values
    network.train(training)
    layers = [torch.stack([layer[0][0], layer[1][0]]) for layer in cache]
    # (layers x 2, heads, tokens, head size) to (tokens, layers x 2, heads, head size).
    return torch.cat(layers).permute(2, 0, 1, 3).reshape(len(ids), -1).float()


def _write(encoder: Any, wanted: torch.Tensor) -> None:
    """Make the encoder return `wanted` (tokens, size).

    If a network computes the prompt, its last layer is solved for it: there are at least as many
    inner activations as tokens, so the minimum-norm solution is exact.
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
    """Start from an earlier multitask prompt: its shared part, and the part of one of its data sets
    or their mean.

    Raises:
        ModelError: it is not such a prompt, or has another size.
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
                "method.source is not a multitask prompt",
                f"{file} has no {name.removesuffix('.weight')}",
                "give a run or an adapter of method.name: multitask_prompt",
            )
        if name != "embedding.weight":
            if task is not None and task >= len(tensor):
                raise ModelError(
                    f"method.source_task: {task}, but the source has {len(tensor)} data sets",
                    f"{file}; they are counted from 0",
                    "choose one of them, or leave out source_task",
                )
            tensor = tensor.mean(0, True) if task is None else tensor[task : task + 1]
        if tensor.shape[1:] != target.shape[1:] or len(tensor) not in (1, len(target)):
            raise ModelError(
                "method.source does not fit this recipe",
                f"{name} is {tuple(tensor.shape)} there and {tuple(target.shape)} here",
                "use its num_virtual_tokens and ranks, and the base it was trained on",
            )
        target.copy_(tensor.expand_as(target))


def _even(encoder: Any) -> None:
    """Start every data set of a multitask prompt with the shared prompt itself."""
    if hasattr(encoder, "prefix_task_cols"):
        encoder.prefix_task_cols[..., 0] = 1.0
        encoder.prefix_task_rows[:, 0] = 1.0
