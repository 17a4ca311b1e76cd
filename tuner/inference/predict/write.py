"""Answers to many prompts at once, the same ones whatever else is in the batch.

Prompts of a batch are padded on the left. That, and other shapes of the same products, changes a
score in its last digits, and so an answer only where two tokens are all but equally likely: a row
that comes to such a place is answered again, alone.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tuner.data.tokens.collate import collate_prompts, placed
from tuner.errors import ResourceError, first_line
from tuner.inference.engine import Inference
from tuner.inference.sampling import Sampling, refuse_not_finite
from tuner.machine.hardware import Machine
from tuner.model.sizes import Sizes

# Of the scores of the two likeliest tokens. In float32 a batch changes them far less.
NEAR = 1e-3
_MOST = {"cpu": 16, "cuda": 128}
# Recurrent families without an attention mask: they would read the padding before a prompt.
_ONE_BY_ONE = frozenset({"rwkv", "xlstm"})


@dataclass(frozen=True)
class Prompt:
    """What is to be continued.

    Attributes:
        ids: its tokens.
        row: the number of its row.
        sample: the number of the answer among those of its row.
    """

    ids: list[int]
    row: int
    sample: int = 0


@dataclass(frozen=True)
class Written:
    """An answer.

    Attributes:
        text: without its stop token, and without spaces around it.
        stopped: eos, or length.
        ids: its tokens, without the stop token.
        logprobs: natural logarithms of the probabilities of these, by the model itself.
    """

    text: str
    stopped: str
    ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Writing:
    """How answers are written.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        sampling: how each token is chosen.
        seed: of the sampling.
    """

    max_new_tokens: int
    sampling: Sampling
    seed: int = 42

    def seed_of(self, prompt: Prompt) -> int:
        """Return the seed of one answer, which depends on no other one."""
        text = f"{self.seed}/{prompt.row}/{prompt.sample}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def batches(
    model: Inference, prompts: Sequence[Prompt], tokens: int, present: Machine, size: int | None
) -> Iterator[Sequence[Prompt]]:
    """Yield prompts in order, as many at once as fit into a share of the memory.

    The batches depend on the file and the machine alone, not on what is free.

    Args:
        model: what answers.
        prompts: all of them.
        tokens: longest answer.
        present: the machine.
        size: so many at once; None: by the memory.
    """
    network = model.bare.network
    config, kind = model.base.config, torch.device(network.device).type
    sizes, width = Sizes.of(config), torch.finfo(network.dtype).bits // 8
    of_token = 2 * sizes.keys * sizes.layers * width
    of_row = 16 * model.bare.rows
    room = present.gpu_memory() // 4 if kind == "cuda" else present.memory_bytes // 8
    most = 1 if config.get("model_type") in _ONE_BY_ONE else size or _MOST[kind]
    start, longest = 0, 0
    for number, prompt in enumerate(prompts):
        longest, count = max(longest, len(prompt.ids)), number - start + 1
        fits = size is not None or count * ((longest + tokens) * of_token + of_row) <= room
        if count > 1 and (count > most or not fits):
            yield prompts[start:number]
            start, longest = number, len(prompt.ids)
    if start < len(prompts):
        yield prompts[start:]


def answers(model: Inference, prompts: Sequence[Prompt], how: Writing) -> list[Written]:
    """Continue prompts until a stop token or the longest answer.

    Args:
        model: what answers, with its active adapter.
        prompts: of one batch.
        how: how they are written.

    Raises:
        ResourceError: one prompt alone does not fit into memory.
        ModelError: the model's scores are not finite.
    """
    try:
        found = _batch(model, prompts, how)
    except torch.OutOfMemoryError as error:
        if len(prompts) == 1:
            raise ResourceError(
                "an answer does not fit into memory",
                first_line(error),
                "ask for fewer new tokens (--max-new-tokens), or shorten the prompts",
            ) from error
        found = []
    if not found:
        half = len(prompts) // 2
        return answers(model, prompts[:half], how) + answers(model, prompts[half:], how)
    if len(prompts) == 1:
        return [found[0][0]]
    return [
        _batch(model, [prompt], how)[0][0] if near else written
        for prompt, (written, near) in zip(prompts, found, strict=True)
    ]


@torch.no_grad()
def _batch(model: Inference, prompts: Sequence[Prompt], how: Writing) -> list[tuple[Written, bool]]:
    """The answers of a batch, and of each whether it hung on the last digits of a score."""
    variant, bare = model.active, model.bare.network
    tokenizer = variant.tokenizer
    stops = sorted({*model.stops, tokenizer.eos_token_id})
    limits = [min(how.max_new_tokens, variant.room - len(prompt.ids)) for prompt in prompts]
    choice = Choice(how, prompts, bare)
    batch = collate_prompts([prompt.ids for prompt in prompts], tokenizer.pad_token_id)
    further = {
        name: value.expand(len(prompts), *value.shape[1:]) if torch.is_tensor(value) else value
        for name, value in variant.arguments.items()
    }
    try:
        with warnings.catch_warnings():
            # peft warns about positions that `PromptModel` sets correctly.
            warnings.simplefilter("ignore")
            generated = variant.network.generate(
                **placed(batch, bare.device),
                max_new_tokens=max(limits),
                num_beams=1,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([choice]),
                **further,
            )
    finally:
        # peft puts its own there, and does not remove it when interrupted.
        bare.__dict__.pop("prepare_inputs_for_generation", None)
    first = 1 if model.head.name == "sequence" else batch["input_ids"].shape[1]
    logprobs = torch.stack(choice.logprobs).cpu()
    margins = torch.stack(choice.margins).cpu()
    found = []
    for row, (ids, limit) in enumerate(zip(generated[:, first:].tolist(), limits, strict=True)):
        end = next((n for n, token in enumerate(ids[:limit]) if token in stops), None)
        own = ids[: limit if end is None else end]
        seen = len(own) + (end is not None)
        text = str(tokenizer.decode(own, skip_special_tokens=False)).strip()
        stopped = "length" if end is None else "eos"
        near = bool((margins[:seen, row] < NEAR).any())
        found.append((Written(text, stopped, own, logprobs[: len(own), row].tolist()), near))
    return found


@dataclass
class Choice:
    """A logits processor of transformers that chooses the tokens of a batch itself, each row for
    itself, and leaves only the chosen one.

    A token is sampled as the largest of the log-probabilities with Gumbel noise (Gumbel 1954),
    which comes from a generator per row: so a row is sampled alike in any batch.

    Args:
        how: how answers are written.
        prompts: of the batch.
        network: the bare base.

    Attributes:
        logprobs: of each step, (rows,): of the chosen tokens.
        margins: of each step, (rows,): by how much the chosen one leads.
    """

    how: Writing
    prompts: Sequence[Prompt]
    network: Any
    logprobs: list[torch.Tensor] = field(default_factory=list)
    margins: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        sampling = self.how.sampling
        self._warpers = LogitsProcessorList()
        self._generators: list[torch.Generator] = []
        if not sampling.temperature:
            return
        own = self.network.generation_config
        asked = {"top_k": own.top_k, "top_p": own.top_p, **sampling.arguments(own)}
        self._warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if top_k := asked["top_k"]:
            self._warpers.append(TopKLogitsWarper(top_k=top_k))
        if (top_p := asked["top_p"]) is not None and top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(top_p=top_p))
        self._generators = [
            torch.Generator().manual_seed(self.how.seed_of(prompt)) for prompt in self.prompts
        ]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return scores (rows, vocabulary) of which only the chosen token's is above minus
        infinity.

        Raises:
            ModelError: they are infinite or no numbers.
        """
        if not self.logprobs:
            refuse_not_finite(scores, self.network.dtype)
        plain = scores.float()
        wanted = plain
        if self._generators:
            noise = torch.stack(
                [
                    torch.empty(plain.shape[1]).exponential_(generator=generator)
                    for generator in self._generators
                ]
            )
            wanted = self._warpers(input_ids, plain).log_softmax(-1) - noise.log().to(plain.device)
        chosen = wanted.argmax(-1, keepdim=True)
        first, second = wanted.topk(2, dim=-1).values.unbind(-1)
        self.margins.append(first - second)
        self.logprobs.append(plain.log_softmax(-1).gather(1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)
