"""Facts of a plan besides its values: base, sizes, data, steps, what is adapted, warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuner.console.formatting import counted
from tuner.data.tokens.prepared import Prepared
from tuner.methods.lora import LoraOptions
from tuner.methods.options import TargetedOptions
from tuner.methods.targets import layers_of
from tuner.model import fused_experts, own_code, sizes
from tuner.plan import new_tokens, preferences, qat, start, start_fit
from tuner.recipe.history_rows import BEGUN
from tuner.schema.suggest import listed

if TYPE_CHECKING:
    from tuner.plan.decide import Decided
    from tuner.plan.footprint import Footprint
    from tuner.plan.ground import Adapted, RecipeAndBase


def _adapted(base: RecipeAndBase, parts: Adapted) -> dict[str, dict[str, Any]]:
    """Return which part of the base is adapted; empty for methods that name no modules."""
    skeleton, chosen, experts, model = base.layers, list(parts.targets), parts.experts, base.base
    if not chosen:
        return {}
    if taken := _taken(base, parts):
        chosen = [name for name in chosen if name not in taken]
        experts = tuple(skeleton.experts)
    weights = sum(skeleton.sizes.get(f"{name}.weight", 0) for name in chosen)
    weights += sum(skeleton.sizes[name] for name in experts)
    return {
        "adapted": {
            "modules": len(chosen) + len(experts),
            "in_layers": len(layers_of(chosen)),
            "of_layers": sizes.Sizes.of(model.config).layers,
            "weights_share": weights / (skeleton.total or 1),
        }
    }


def _taken(base: RecipeAndBase, parts: Adapted) -> list[str]:
    """The targets in whose place the fused experts are adapted."""
    lora = isinstance(base.recipe.method, LoraOptions)
    return fused_experts.taken(base.base.config, parts.targets) if lora else []


def warnings(
    base: RecipeAndBase, parts: Adapted, prepared: Prepared, footprint: Footprint
) -> list[str]:
    """Return what a run does otherwise than its user may expect."""
    recipe, skeleton, model = base.recipe, base.layers, base.base
    trainable = footprint.shape.trainable
    texts = [*start_fit.doubts(base.start)]
    texts += preferences.warnings(recipe, prepared.report, footprint.micro_batch_size)
    texts += [str(text) for text in prepared.report.get("warnings", [])]
    if recipe.model.trust_remote_code:
        texts.extend(
            f"model.trust_remote_code: code of {model.name} runs: {each}"
            for each in own_code.named(model.folder)
        )
    if skeleton.tied and recipe.method.name in ("last_layer", "staged"):
        texts.append("head and embeddings are tied: training the last layer trains both")
    if recipe.model.dtype in ("bfloat16", "float16") and trainable == skeleton.total:
        texts.append("full weights are trained in float32; model.dtype only sets the compute type")
    taken = _taken(base, parts)
    if taken:
        ends = listed(sorted({name.rpartition(".")[2] for name in taken}))
        instead = "the fused experts are adapted in their place" if skeleton.experts else "left out"
        texts.append(
            f"peft takes {ends} of {model.config.get('model_type')} for experts: "
            f"{counted(len(taken), 'layer')} of these names that are none: {instead}"
        )
    elif skeleton.experts and not getattr(
        recipe.method, "experts", not isinstance(recipe.method, TargetedOptions)
    ):
        texts.append("the fused expert weights are not adapted (set method.experts: true)")
    if recipe.model.revision is not None and model.kind != "hub":
        texts.append(f"model.revision has no effect: {model.name} is not a Hub model")
    date = base.loaded.origins.get("model.chat_date", "")
    if recipe.model.chat_date != "auto" and date != BEGUN and "chat_date" not in prepared.report:
        texts.append("model.chat_date has no effect: no chat template writes the date")
    if not prepared.eval and recipe.eval.enabled:
        texts.append("no held-out rows: there will be no scores before and after training")
    return texts + new_tokens.doubts(recipe, base.new_ids, model, prepared)


def facts(
    base: RecipeAndBase,
    parts: Adapted,
    prepared: Prepared,
    decided: Decided,
    footprint: Footprint,
    memory: dict[str, Any],
    space: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Return what a plan shows besides its values; `memory` and `space` are bytes by purpose."""
    model, skeleton, recipe, report = base.base, base.layers, base.recipe, prepared.report
    trainable, micro = footprint.shape.trainable, footprint.micro_batch_size
    stages, processes = decided.stages, decided.processes
    return {
        "model": {
            "name": model.name,
            "kind": model.kind,
            "folder": str(model.folder),
            "type": model.config.get("model_type"),
            "context_length": model.context_length,
            **({"code_sha256": code} if (code := model.code_sha256) else {}),
        },
        "parameters": {
            "total": skeleton.total,
            "trainable": trainable,
            "trainable_share": trainable / (skeleton.total or 1),
        },
        "data": {key: value for key, value in report.items() if key != "warnings"},
        "steps": {
            "total": stages[-1].stop,
            "rows_per_step": recipe.train.batch_size,
            **({"processes": processes.world} if processes.world > 1 else {}),
            "micro_batch_size": micro,
            "gradient_accumulation_steps": processes.accumulation(recipe.train.batch_size, micro),
            "stages": [
                {"train": s.train, "steps": s.steps, "learning_rate": s.learning_rate}
                for s in stages
            ],
        },
        "memory": memory,
        "gpus": footprint.on_gpus(),
        **_adapted(base, parts),
        **qat.facts(recipe.train.qat, decided.setting.group),
        **new_tokens.facts(recipe, base.new_ids, model),
        **start.facts(base.start),
        "disk": space,
    }
