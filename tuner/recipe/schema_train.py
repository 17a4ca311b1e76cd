"""The recipe's section `train`: optimizer, learning rate schedule, batches and the loss."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from tuner.schema.fields import (
    AutoCount,
    AutoFlag,
    AutoPositive,
    Count,
    NoneOrPositive,
    NotNegative,
    Positive,
    Section,
    Share,
    StepsOrShare,
)

Optimizer = Literal[
    "adamw",
    "adamw8bit",
    "paged_adamw8bit",
    "adafactor",
    "lion",
    "muon",
    "schedule_free",
    "sgd",
]
OPTIMIZER_NAMES: tuple[str, ...] = get_args(Optimizer)
# Keys of Adam's moments, and the optimizers that have none.
ADAM_KEYS, WITHOUT_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon"), ("adafactor", "lion", "sgd")
# Keys that one schedule alone reads.
OF_SCHEDULE = {"decay": "wsd", "power": "polynomial", "cycles": "cosine_restarts"}
Scheduler = Literal[
    "auto",
    "linear",
    "cosine",
    "constant",
    "wsd",
    "polynomial",
    "inverse_sqrt",
    "cosine_restarts",
]


class TrainSection(Section):
    """Optimizer, learning rate schedule and loss."""

    epochs: Annotated[Positive, Field(description="passes over the training rows")] = 3.0
    max_steps: Annotated[
        Count | None, Field(description="stop after this many optimizer steps")
    ] = None
    batch_size: Annotated[
        Count, Field(description="rows per optimizer step, across all devices")
    ] = 16
    micro_batch_size: Annotated[
        AutoCount, Field(description="rows per forward pass; auto: from the memory estimate")
    ] = "auto"
    optimizer: Annotated[
        Optimizer, Field(description="what turns gradients into updates (docs/optimizers.md)")
    ] = "adamw"
    learning_rate: Annotated[
        AutoPositive,
        Field(description="peak learning rate; auto: the method's default, for the optimizer"),
    ] = "auto"
    scheduler: Annotated[
        Scheduler,
        Field(
            description="learning rate schedule after the warmup; auto: linear, or constant for "
            "schedule_free"
        ),
    ] = "auto"
    warmup: Annotated[
        StepsOrShare,
        Field(description="warmup: a fraction of all steps, or a number of steps"),
    ] = 0.03
    floor: Annotated[
        Share, Field(description="share of the peak learning rate that the schedule falls to")
    ] = 0.0
    decay: Annotated[
        StepsOrShare,
        Field(description="wsd: the last steps, in which the rate falls; a fraction or a number"),
    ] = 0.2
    power: Annotated[Positive, Field(description="polynomial: exponent of the decay")] = 2.0
    cycles: Annotated[Count, Field(description="cosine_restarts: times the rate falls")] = 2
    weight_decay: Annotated[NotNegative, Field(description="weight decay of all matrices")] = 0.0
    max_grad_norm: Annotated[
        NoneOrPositive, Field(description="clip gradients to this norm; none: never")
    ] = 1.0
    embedding_noise: Annotated[
        NotNegative,
        Field(description="NEFTune: noise on the embeddings while training; 5 is usual, 0: none"),
    ] = 0.0
    label_smoothing: Annotated[
        Share, Field(description="share of each target's probability given to all tokens alike")
    ] = 0.0
    gradient_checkpointing: Annotated[
        AutoFlag, Field(description="recompute activations to save memory; auto: only if needed")
    ] = "auto"
    qat: Annotated[
        Literal["none", "int8", "int4"],
        Field(description="quantization-aware training of the merged weights (torchao)"),
    ] = "none"
    save_steps: Annotated[Count, Field(description="steps between sealed checkpoints")] = 50
    checkpoints: Annotated[
        Count, Field(description="checkpoints that stay; the best one of eval.keep comes on top")
    ] = 2
    logging_steps: Annotated[Count, Field(description="steps between metrics lines")] = 1
    adam_beta1: Annotated[Share, Field(description="AdamW: decay rate of the first moment")] = 0.9
    adam_beta2: Annotated[Share, Field(description="AdamW: decay rate of the second moment")] = (
        0.999
    )
    adam_epsilon: Annotated[
        Positive, Field(description="AdamW: added to the denominator for stability")
    ] = 1e-8
