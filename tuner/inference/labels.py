"""Labels with their probabilities, by a classification head or by the likelihood of the words."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from tuner.console import formatting
from tuner.data.bad_rows import BadRow
from tuner.data.classifier import Asked, Classifier, Given, of_texts
from tuner.data.fields import several
from tuner.data.tokens.collate import Collator, placed
from tuner.data.tokens.example import IGNORED
from tuner.errors import DataError, IntegrityError, RecipeError, ResourceError, first_line
from tuner.inference.sampling import refuse_not_finite
from tuner.methods.options import CONFIG
from tuner.model.heads import HEADS, MULTI_LABEL
from tuner.record import manifest, run_json

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.data.tokens.example import Example
    from tuner.inference.engine import Inference, Variant

# Tokens in a forward pass, padding included.
_TOKENS = {"cpu": 1024, "cuda": 16_384}
_UNRECORDED = "it is not recorded how its prompts were made: the text is read as it is"


def kept_with(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return what an artefact keeps for classifying (see `classifier.record`), and a warning.

    What an earlier version or another program has saved keeps no prompts: a classification head
    then reads the text alone.

    Args:
        folder: of an adapter or a whole model.

    Returns:
        None for a model that generates text, or gives rewards.
    """
    try:
        facts = manifest.read_manifest(folder)["extra"].get("facts", {})
    except IntegrityError:
        facts = {}
    if "classifier" in facts:
        return dict(facts["classifier"]), ""
    labels = labels_of_head(folder) if facts.get("head", "classes") == "classes" else []
    multi = _read(folder / "config.json").get("problem_type") == MULTI_LABEL
    return (of_texts(labels, multi), _UNRECORDED) if len(labels) > 1 else (None, "")


def labels_of_head(folder: Path) -> list[str]:
    """Return the classes of a head in the order of its outputs; empty if there is none.

    Args:
        folder: of an adapter, or a whole model.
    """
    adapter, config = (_read(folder / name) for name in (CONFIG, "config.json"))
    if adapter:
        if adapter.get("task_type") != HEADS["classes"].task_type:
            return []
        values = _read(folder.resolve().parent / run_json.RUN).get("plan", {}).get("values", {})
        return list(values.get("data.labels", {}).get("value", ()))
    if not any("SequenceClassification" in name for name in config.get("architectures") or ()):
        return []
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [str(names[number]) for number in sorted(names, key=int)]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def shown(
    probabilities: Mapping[str, float], threshold: float | None = None, most: int = 10
) -> str:
    """Return labels with their shares, the likeliest first: `late 93.1 %, lost 6.9 %`; with a
    threshold those that reach it before the others: `late 93.1 %; below 50 %: lost 6.9 %`."""
    if threshold is not None:
        over = {label: each for label, each in probabilities.items() if each >= threshold}
        under = {label: each for label, each in probabilities.items() if label not in over}
        texts = [shown(over, most=most) or several.NONE] if over or under else []
        below = f"below {100 * threshold:g} %: {shown(under, most=most)}"
        return "; ".join([*texts, *([below] if under else [])])
    order = sorted(probabilities, key=lambda label: -probabilities[label])
    texts = [f"{label} {100 * probabilities[label]:.1f} %" for label in order[:most]]
    return ", ".join([*texts, *([f"and {len(order) - most} more"] if len(order) > most else [])])


def show_labels(
    model: Inference, classifier: Classifier, given: Sequence[Given], console: Console
) -> None:
    """Show the labels of inputs with their probabilities.

    Raises:
        DataError: an input cannot be read.
        ResourceError: not enough memory.
    """
    prepared = []
    for number, each in enumerate(given, 1):
        try:
            prepared.append(classifier.asked(each))
        except BadRow as problem:
            which = f"input {number}" if len(given) > 1 else "the input"
            raise DataError(
                f"{which} cannot be classified", str(problem), "correct it, and ask again"
            ) from None
    active = model.active
    # What libraries print is not ours: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        threshold = classifier.threshold
        found = list(probabilities(model, active, classifier.labels, prepared, threshold))
    for each, ready, shares in zip(given, prepared, found, strict=True):
        answer = answered(shares, threshold)
        if ready.truncated:
            console.warn("the end of the text was cut off, as in training")
        console.event(
            "answer",
            question=each,
            text=several.said(answer["labels"]) if "labels" in answer else answer["label"],
            **answer,
            probabilities=shares,
            adapter=active.name,
            truncated=ready.truncated,
        )
        console.text(formatting.clean(shown(shares, threshold)))


def answered(shares: Mapping[str, float], threshold: float | None = None) -> dict[str, Any]:
    """Return the answer that probabilities give, by the keys of its JSON.

    Args:
        shares: the probability of each label.
        threshold: of each of several labels.

    Returns:
        `label`, the likeliest, the first of equal ones; with a threshold `labels`, all that reach
        it, and `threshold`.
    """
    if threshold is None:
        return {"label": max(shares, key=lambda label: shares[label])}
    own = [label for label, share in shares.items() if share >= threshold]
    return {"labels": own, "threshold": threshold}


def refuse_to_generate(generate: bool, head: str) -> None:
    """Refuse `--generate` for a model that cannot write.

    Raises:
        RecipeError: it has a classification head.
    """
    if generate and head == "classes":
        raise RecipeError(
            "--generate: this model cannot write",
            "it has a classification head",
            "leave out --generate: it answers with a label",
        )


@torch.no_grad()
def probabilities(
    model: Inference,
    variant: Variant,
    labels: Sequence[str],
    inputs: Sequence[Asked],
    threshold: float | None = None,
) -> Iterator[dict[str, float]]:
    """Yield the probability of each label, for each input in order.

    Inputs share forward passes, and do not see each other.

    Args:
        model: the open base; uses `variant` from now on.
        variant: what classifies.
        labels: in the order of the examples of an input, or of the outputs of a head.
        inputs: what is classified.
        threshold: of each of several labels, whose probabilities do not hang on each other; None:
            one is right, and the probabilities add up to 1.

    Raises:
        ResourceError: not enough memory.
        ModelError: the model's scores are not finite.
    """
    model.use(variant.name)
    examples = [example for each in inputs for example in each.examples]
    scores: list[torch.Tensor] = []
    done = 0
    for batch in _batches(examples, _TOKENS[torch.device(model.bare.network.device).type]):
        try:
            scores += _scores(model, batch)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                "the input does not fit into memory", first_line(error), "send shorter texts"
            ) from error
        while done < len(inputs) and len(scores) >= len(inputs[done].examples):
            own = scores[: len(inputs[done].examples)]
            del scores[: len(own)]
            logits = own[0] if model.head.name == "classes" else torch.stack(own)
            scored = logits.double()
            shares = (scored.softmax(dim=-1) if threshold is None else scored.sigmoid()).tolist()
            yield dict(zip(labels, shares, strict=True))
            done += 1


def _batches(examples: Sequence[Example], most: int) -> Iterator[list[Example]]:
    batch: list[Example] = []
    longest = 0
    for example in examples:
        longest = max(longest, example.num_tokens)
        if batch and longest * (len(batch) + 1) > most:
            yield batch
            batch, longest = [], example.num_tokens
        batch.append(example)
    if batch:
        yield batch


def _scores(model: Inference, examples: Sequence[Example]) -> list[torch.Tensor]:
    """The logits (classes,) of a head, or the log-likelihood () of the written tokens."""
    variant, head = model.active, model.head.name
    config = model.bare.network.config
    start = getattr(config, "decoder_start_token_id", None)
    pad = variant.tokenizer.pad_token_id
    tasks = "task_ids" in variant.arguments
    batch = Collator(False, head, pad, pad if start is None else start, tasks)(examples)
    wanted = batch.pop("labels")[:, 1:]
    batch.pop("weights", None)
    logits = variant.network(**placed(batch, model.bare.network.device)).logits
    refuse_not_finite(logits, model.bare.network.dtype)
    logits = logits.float()
    if head == "classes":
        return list(logits)
    loss = functional.cross_entropy(
        logits.transpose(1, 2), wanted.to(logits.device), ignore_index=IGNORED, reduction="none"
    )
    return list(-loss.double().sum(dim=1))
