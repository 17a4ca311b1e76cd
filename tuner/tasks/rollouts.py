"""Rollouts: sampling answers, and their log-probabilities under policy and reference.

Values per token are kept flat: (tokens,) over the answers of a batch, one after the other, with no
padding between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from tuner.data.tokens.collate import collate_prompts, placed
from tuner.data.tokens.example import IGNORED, Example
from tuner.model.kernels.cross_entropy import cross_entropies, entropies
from tuner.rewards.response import Response
from tuner.tasks import precision

if TYPE_CHECKING:
    from tuner.data.prompts import Prompt
    from tuner.plan.plan import Plan
    from tuner.rewards.response import Scores

REFERENCE = "reference"


def stops(plan: Plan) -> list[int]:
    """Return the token ids that end an answer, sorted."""
    return sorted({plan.tokenizer.eos_token_id, *plan.stop_ids})


def draw(
    plan: Plan, model: Any, prompts: Sequence[Prompt], generator_seed: int, greedy: bool = False
) -> list[Response]:
    """Sample an answer to every prompt, from exactly the model's own distribution.

    Prompts are padded on the left; an answer ends with its first stop token. What a base's
    generation_config.json sets (top_k, repetition_penalty, ...) would sample from another
    distribution than the one whose probabilities are learned, so it is not used.

    Args:
        plan: the plan.
        model: in evaluation mode.
        prompts: one answer each; name a prompt several times for several answers.
        generator_seed: seed of the sampling.
        greedy: take the likeliest token each time.
    """
    ends, pad = stops(plan), plan.tokenizer.pad_token_id
    rlhf = plan.rlhf
    how: dict[str, Any] = {"do_sample": False}
    if not greedy:
        how = {"do_sample": True, "temperature": rlhf.temperature, "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(
        max_new_tokens=rlhf.max_new_tokens, eos_token_id=ends, pad_token_id=pad, **how
    )
    batch = collate_prompts([prompt.input_ids for prompt in prompts], pad)
    longest = batch["input_ids"].shape[1]
    torch.manual_seed(generator_seed)
    with torch.no_grad(), precision.as_trained(plan), _bare_generation(model):
        generated = model.generate(
            **placed(batch, model.device),
            generation_config=config,
        )
    return [
        response(plan, prompt, tail, ends)
        for prompt, tail in zip(prompts, generated[:, longest:].tolist(), strict=True)
    ]


@contextmanager
def _bare_generation(model: Any) -> Iterator[None]:
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = network.generation_config
    network.generation_config = GenerationConfig()
    try:
        yield
    finally:
        network.generation_config = own
        # peft puts its own there for methods with virtual tokens.
        network.__dict__.pop("prepare_inputs_for_generation", None)


def response(plan: Plan, prompt: Prompt, ids: Sequence[int], ends: Sequence[int]) -> Response:
    """Return the sampled answer, cut after its first stop token.

    Args:
        plan: has the tokenizer.
        prompt: the prompt it answers.
        ids: the sampled tokens, perhaps with padding after the stop token.
        ends: the stop tokens.
    """
    place = next((n for n, token in enumerate(ids) if token in ends), None)
    kept = tuple(ids if place is None else ids[: place + 1])
    words = kept if place is None else kept[:-1]
    return Response(
        row=prompt.row,
        prompt=prompt.text,
        text=str(plan.tokenizer.decode(list(words), skip_special_tokens=False)).strip(),
        reference=prompt.reference,
        num_tokens=len(words),
        ended=place is not None,
        prompt_ids=tuple(prompt.input_ids),
        response_ids=kept,
    )


def figures(answers: Sequence[Response], scores: Scores) -> dict[str, Any]:
    """Return the metrics of the sampled answers of a step."""
    count, tokens = len(answers), sum(len(answer.response_ids) for answer in answers)
    return {
        "reward": sum(scores.total) / count,
        **{f"reward_{name}": sum(values) / count for name, values in scores.parts.items()},
        "length": tokens / count,
        "ended": sum(answer.ended for answer in answers) / count,
        "tokens": tokens + sum(len(answer.prompt_ids) for answer in answers),
    }


def priced(plan: Plan, answers: Sequence[Response], scores: Sequence[float]) -> list[float]:
    """Return the scores of answers, less the penalty where one does not end."""
    penalty = plan.rlhf.missing_eos_penalty
    return [
        score - (0.0 if answer.ended else penalty)
        for score, answer in zip(scores, answers, strict=True)
    ]


def example(answer: Response) -> Example:
    """Return the answer as a training row with its own tokens as targets, stop token included."""
    prompt, own = list(answer.prompt_ids), list(answer.response_ids)
    flags = [False] * len(prompt) + [True] * len(own)
    return Example(answer.row, prompt + own, flags)


def token_scores(
    plan: Plan, model: Any, answers: Sequence[Response], entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score the tokens of some answers in one forward pass.

    Returns:
        (tokens,) log-probabilities at the sampling temperature; (tokens,) entropies of the
        distributions, zero unless asked for; (tokens, size) the hidden states before the head.
    """
    batch = plan.collate([example(answer) for answer in answers])
    labels = batch.pop("labels")[:, 1:].to(model.device)
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    seen: list[torch.Tensor] = []
    hook = network.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    try:
        with precision.as_trained(plan):
            outputs = model(**placed(batch, model.device))
    finally:
        hook.remove()
    real = labels.reshape(-1) != IGNORED
    logits, heat = outputs.logits.reshape(len(real), -1), plan.rlhf.temperature
    found = -cross_entropies(logits, labels.reshape(-1), heat)[real]
    spread = torch.zeros_like(found)
    if entropy:
        with torch.no_grad():
            spread = entropies(logits, heat)[real]
    return found, spread, seen[0].reshape(len(real), -1)[real]


@contextmanager
def reference(model: Any) -> Iterator[None]:
    """Switch to the reference policy: without an adapter, or with the one training started from."""
    if REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(REFERENCE, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter("default")
