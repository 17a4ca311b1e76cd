"""`train.trl`: the fields of the trainer's config that no section of the recipe has a key for.

Only fields that this program honours may stand there. A field that transformers knows and that
would turn nothing here, because optimizer, batches, logging and saving are ours, is refused by
name. (Worker processes for batches would save microseconds, and a signal to the process group would
end them within a step.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from tuner.did_you_mean import suggestion
from tuner.errors import RecipeError
from tuner.fields import Positive, Section, Share


class Hatch(Section):
    """The fields of `transformers.TrainingArguments` that `train.trl` may set."""

    adam_beta1: Annotated[Share, Field(description="AdamW: decay of the first moment")] = 0.9
    adam_beta2: Annotated[Share, Field(description="AdamW: decay of the second moment")] = 0.999
    adam_epsilon: Annotated[Positive, Field(description="AdamW: added to the root")] = 1e-8


# Fields that a section of the recipe or the run itself decides.
_OWNED = {
    "output_dir": "run.output",
    "per_device_train_batch_size": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size",
    "max_steps": "train.max_steps",
    "num_train_epochs": "train.epochs",
    "learning_rate": "train.learning_rate",
    "lr_scheduler_type": "train.scheduler",
    "lr_scheduler_kwargs": "train.scheduler",
    "warmup_steps": "train.warmup",
    "warmup_ratio": "train.warmup",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_grad_norm",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "save_steps": "train.save_steps",
    "save_strategy": "train.save_steps",
    "logging_steps": "train.logging_steps",
    "logging_strategy": "train.logging_steps",
    "seed": "run.seed",
    "data_seed": "run.seed",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "use_cpu": "run.device",
    "remove_unused_columns": "data.columns",
    "train_sampling_strategy": "run.seed",
    "eval_strategy": "eval.enabled",
    "resume_from_checkpoint": "--resume",
}


def read(fields: Mapping[str, Any]) -> Hatch:
    """The honoured fields with their values.

    Raises:
        RecipeError: names every field that cannot stand in `train.trl`, and why.
    """
    try:
        return Hatch.model_validate(dict(fields))
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors(include_url=False)]
    raise RecipeError(
        "train.trl holds fields that cannot stand there",
        problems=problems,
        fix="remove or correct them",
    )


def _problem(item: Any) -> str:
    name = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        return f"train.trl.{name}: {item['msg'].removeprefix('Value error, ')}"
    if name in _OWNED:
        return f"train.trl.{name}: {_OWNED[name]} decides this"
    return f"train.trl.{name}: would turn nothing here; {suggestion(name, Hatch.model_fields)}"
