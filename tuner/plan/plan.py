"""The plan: a recipe with nothing left to decide, checked and costed before anything runs.

`make` needs no weights: config.json, the safetensors headers, the tokenizer and the data are
enough. Every value has its origin; contradictions are collected and raised together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.data.tokens.collate import Collator
from tuner.data.tokens.prepared import Prepared
from tuner.methods.method import Method
from tuner.methods.options import Setting
from tuner.methods.prompts import MultitaskOptions
from tuner.model.base import Base
from tuner.model.heads import Head
from tuner.plan import decide
from tuner.plan.devices import Devices
from tuner.plan.evaluations import Evaluations
from tuner.plan.memory import estimate
from tuner.plan.rlhf import RlhfModels
from tuner.plan.start import Start
from tuner.plan.values import PlanValue, Stage
from tuner.recipe import formats as export_formats
from tuner.recipe.schema import Recipe
from tuner.recipe.schema_rlhf import PpoSection, RlhfSection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tuner.data.tokens.example import Example
    from tuner.recipe.load import LoadedRecipe

# Keys that may differ between a run and its resumption: they do not affect the updates. Base and
# data may have moved: their content is compared (`base_fingerprint` in the record,
# `tokens_sha256`).
MAY_CHANGE = (
    "train.save_steps",
    "train.checkpoints",
    "train.logging_steps",
    "eval.",
    "export.",
    "run.output",
    "run.devices",
    "run.nodes",
    "run.strategy",
    "run.timeout",
    "run.price_per_hour",
    *("run.track", "run.name", "run.project", "run.tags"),
    "model.base",
    "model.adapter",
    "model.revision",
    "model.code_sha256",
    "data.train",
    "data.eval",
    "data.long",
    *("data.cut", "data.draw", "data.split", "model.chat_date"),
    "data.disliked",
    "reward.unpaired",
)
_SEED_STRIDE = 1_000_003
# From here on a GPU gets no faster.
_MOST_TOKENS, _MOST_ANSWERS = 16_384, 128


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs, decided. Lengths are in tokens, memory in bytes.

    `start` is the adapter that a run starts from; `vocabulary_rows` are the embedding rows of the
    model that is trained; `sampled` are the steps after which held-out prompts are answered;
    `summary` is a sentence that says what the run will do.
    """

    verb: str
    task: str
    loaded: LoadedRecipe
    base: Base
    method: Method
    prepared: Prepared
    tokenizer: Any
    stop_ids: tuple[int, ...]
    output: Path
    dtype: str
    device: str
    packing: bool
    gradient_checkpointing: bool
    micro_batch_size: int
    max_length: int
    stages: tuple[Stage, ...]
    setting: Setting
    head: Head
    vocabulary_rows: int
    metrics: tuple[str, ...]
    formats: tuple[str, ...]
    shape: estimate.Workload
    values: Mapping[str, PlanValue]
    facts: Mapping[str, Mapping[str, Any]]
    warnings: Sequence[str] = ()
    start: Start | None = None
    parties: RlhfModels = field(default_factory=RlhfModels)
    ptx: Sequence[Example] = ()
    devices: Devices = field(default_factory=Devices)
    evaluations: Evaluations | None = None
    sampled: tuple[int, ...] = ()
    summary: str = ""

    @property
    def recipe(self) -> Recipe:
        """The recipe as the user gave it."""
        return self.loaded.recipe

    @property
    def rlhf(self) -> RlhfSection:
        """The section of a recipe whose task is rlhf."""
        return self.recipe.rlhf or RlhfSection()

    @property
    def beta(self) -> float:
        """What the plan has decided as `rlhf.kl_coefficient`."""
        return float(self.values["rlhf.kl_coefficient"].value)

    @property
    def ppo(self) -> PpoSection:
        """The section of a recipe whose algorithm is ppo."""
        return self.recipe.ppo or PpoSection()

    @property
    def draws(self) -> bool:
        """Whether a step samples answers, so that its tokens are not known in advance."""
        return self.task == "rlhf" and self.rlhf.draws

    @property
    def held(self) -> estimate.Workload:
        """What one process holds of the whole run."""
        return self.shape.share(self.devices.per_node) if self.devices.sharded else self.shape

    @property
    def live_formats(self) -> tuple[str, ...]:
        """The formats that are written from the live model."""
        return export_formats.live(self.formats, self.recipe.model.quantize)

    @property
    def made_formats(self) -> tuple[str, ...]:
        """The formats that are made from sealed ones, as `tuner export` makes them."""
        return export_formats.made(self.formats, self.recipe.model.quantize)

    @property
    def qat(self) -> bool:
        """Whether training computes with quantized weights."""
        return self.recipe.train.qat != "none"

    def step_seed(self, number: int) -> int:
        """Return the seed of everything random in step `number`, from 0."""
        return self.recipe.run.seed * _SEED_STRIDE + number

    def tokens_at_once(self, few: int) -> int:
        """Return how many tokens go through a forward pass without gradients.

        Args:
            few: enough for a CPU. A GPU takes as many as in a micro-batch of training, whose memory
                was estimated, activations included.
        """
        if self.device == "cpu":
            return few
        planned = self.shape.rows.cut(self.micro_batch_size)[0].max(initial=0)
        return max(few, min(int(planned), _MOST_TOKENS))

    def answers_at_once(self, few: int, prompts: Sequence[Sequence[int]], tokens: int) -> int:
        """Return how many answers are sampled at once.

        Args:
            few: enough for a CPU.
            prompts: what is answered, in token ids.
            tokens: most of an answer.
        """
        if self.device == "cpu":
            return few
        longest = max((len(ids) for ids in prompts), default=0) + tokens
        return max(few, min(self.tokens_at_once(0) // max(1, longest), _MOST_ANSWERS))

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches of a step in one process."""
        return self.devices.accumulation(self.recipe.train.batch_size, self.micro_batch_size)

    @property
    def collate(self) -> Collator:
        """How the rows of a micro-batch become tensors."""
        start = self.base.config.get("decoder_start_token_id")
        return Collator(
            self.packing,
            self.head.name,
            self.tokenizer.pad_token_id,
            self.tokenizer.pad_token_id if start is None else start,
            tasks=isinstance(self.recipe.method, MultitaskOptions),
        )

    @property
    def training_collate(self) -> Collator:
        """The same for training, where rows share the tokens they begin with if they may."""
        return replace(self.collate, share=decide.shares(self.recipe, self.method, self.base))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.stages[-1].stop

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a run to be resumed: all that affects the updates."""
        kept = {
            key: value.value for key, value in self.values.items() if not key.startswith(MAY_CHANGE)
        }
        kept["data.tokens_sha256"] = self.prepared.report["tokens_sha256"]
        kept |= self.parties.digests
        if self.start is not None:
            kept["model.adapter_sha256"] = self.start.own.sha256
        if code := self.facts["model"].get("code_sha256"):
            kept["model.code_sha256"] = code
        return kept

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as in `run.json` and in `--json` output."""
        return {
            "verb": self.verb,
            "task": self.task,
            "recipe": str(self.loaded.path),
            "recipe_sha256": self.loaded.sha256,
            "output": str(self.output),
            "summary": self.summary,
            "values": {
                key: {"value": item.value, "origin": item.origin}
                for key, item in self.values.items()
            },
            **self.facts,
            "warnings": list(self.warnings),
        }
