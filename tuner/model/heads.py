"""HEADS: the head on top of a base, by the task of the recipe and the family of the base.

A decoder (Llama, Qwen, GPT-2) or an encoder-decoder (T5, BART) generates text; any base with a new
head on top classifies text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tuner.errors import RecipeError

# Nothing in config.json marks encoders. All of these read a text both ways.
_ENCODERS = frozenset(
    {
        "albert",
        "bert",
        "big_bird",
        "camembert",
        "data2vec-text",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "megatron-bert",
        "modernbert",
        "rembert",
        "roberta",
        "roberta-prelayernorm",
        "roformer",
        "xlm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xlnet",
        "xmod",
    }
)


@dataclass(frozen=True)
class Head:
    """A head.

    Attributes:
        name: its name in the code.
        auto_class: transformers' class that loads base and head.
        task_type: its name in peft.
        noun: for messages.
        advice: which bases can have it.
        added: whether the base comes without it, so that it is new and trained in full.
    """

    name: str
    auto_class: str
    task_type: str
    noun: str
    advice: str
    added: bool = False


HEADS = {
    head.name: head
    for head in (
        Head(
            "language",
            "AutoModelForCausalLM",
            "CAUSAL_LM",
            "causal language model",
            "use a decoder-only base such as Llama, Qwen, Mistral or GPT-2",
        ),
        Head(
            "sequence",
            "AutoModelForSeq2SeqLM",
            "SEQ_2_SEQ_LM",
            "encoder-decoder",
            "use an encoder-decoder such as T5 or BART",
        ),
        Head(
            "classes",
            "AutoModelForSequenceClassification",
            "SEQ_CLS",
            "sequence classifier",
            "use a base such as BERT, RoBERTa, Llama or GPT-2",
            added=True,
        ),
        Head(
            "reward",
            "AutoModelForSequenceClassification",
            "SEQ_CLS",
            "reward model",
            "use a decoder-only base such as Llama, Qwen, Mistral or GPT-2",
            added=True,
        ),
    )
}

# `problem_type` of a config whose labels are told apart one by one.
MULTI_LABEL = "multi_label_classification"

# The class of a checkpoint that reads images or sound besides text: its own, so that no weight is
# lost and every name is the one that serving it expects.
_WITH_IMAGES = replace(HEADS["language"], auto_class="AutoModelForImageTextToText")

# peft itself trains and saves modules of the first two names with every classifier.
_NEW = re.compile(r"(?:^|\.)(score|classifier|classification_head|pooler|pre_classifier)(?=\.|$)")


def writer(config: Mapping[str, Any]) -> Head:
    """Return the head of a base that generates text."""
    if config.get("is_encoder_decoder"):
        return HEADS["sequence"]
    classes = config.get("architectures") or ()
    whole = any(str(name).endswith("ForConditionalGeneration") for name in classes)
    return _WITH_IMAGES if whole and "text_config" in config else HEADS["language"]


def named(head: str, config: Mapping[str, Any]) -> Head:
    """Return a head by its name, for a base."""
    return writer(config) if head == "language" else HEADS[head]


def is_new(name: str) -> bool:
    """Return whether a module or parameter belongs to a classification head, new on a base."""
    return _NEW.search(name) is not None


def new_modules(parameters: Iterable[str]) -> tuple[str, ...]:
    """Return the layers of such heads among parameter names, except those that peft handles."""
    found = ((name, _NEW.search(name)) for name in parameters)
    layers = [
        name.rpartition(".")[0]
        for name, match in found
        if match and match[1] not in ("score", "classifier")
    ]
    return tuple(dict.fromkeys(layers))


def family(config: Mapping[str, Any]) -> str:
    """Return decoder, encoder or encoder-decoder, by config.json."""
    if config.get("is_encoder_decoder"):
        return "encoder-decoder"
    encoder = config.get("model_type") in _ENCODERS and not config.get("is_decoder")
    return "encoder" if encoder else "decoder"


def head_for(task: str, config: Mapping[str, Any], verb: str = "sft") -> Head:
    """Return the head for `task` = auto, generation or classification on a base.

    Args:
        task: `model.task` of the recipe.
        config: the base's config.json.
        verb: what is optimised: sft, reward or rlhf.

    Raises:
        RecipeError: the base cannot have that head: an encoder does not generate text, and reward
            models and policies are decoders.
    """
    kind = family(config)
    if verb != "sft" and (kind != "decoder" or task == "classification"):
        raise RecipeError(
            f"`tuner {verb}` needs a decoder that generates text",
            f"model type {config.get('model_type')}, model.task: {task}",
            "use a decoder-only base such as Llama, Qwen, Mistral or GPT-2, and leave out "
            "model.task",
        )
    if verb == "reward":
        return HEADS["reward"]
    if task == "auto":
        task = "classification" if kind == "encoder" else "generation"
    if task == "classification" and kind == "encoder-decoder":
        raise RecipeError(
            "model.task: classification, but the base is an encoder-decoder",
            f"model type {config.get('model_type')} generates its answers",
            "leave out model.task: it then learns to generate the label",
        )
    if task == "classification":
        return HEADS["classes"]
    if kind == "encoder":
        raise RecipeError(
            "model.task: generation, but the base is an encoder",
            f"model type {config.get('model_type')} reads a text both ways: it cannot continue one",
            "set model.task: classification, or use a decoder or an encoder-decoder",
        )
    return writer(config)
