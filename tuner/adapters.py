"""From a loaded base to the model that is trained, by the method of the plan."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, get_peft_model

from tuner import adapter_files, prompt_model, token_rows
from tuner.adapter_files import WHOLE
from tuner.errors import ModelError
from tuner.methods import full, fused_boft, fused_lora, fused_mlp, fused_norm, lora, qat_peft
from tuner.methods.lora import LoraOptions
from tuner.model import told

if TYPE_CHECKING:
    from tuner.data.prepare import Example
    from tuner.plan import Plan
    from tuner.sources import Source

log = logging.getLogger(__name__)


def build(base: Any, plan: Plan, examples: Sequence[Example]) -> Any:
    """Put the method on the base; what is not trained is frozen.

    Args:
        base: the loaded base model.
        plan: says the method and its options.
        examples: training rows, for starts that look at the data.
    """
    if plan.method.config is None:
        full.set_trainable(base, plan.stages[0].train)
        return base
    if plan.parties.policy is not None:
        return _adopted(base, plan.parties.policy, plan)
    config = plan.setting.with_head(plan.method.config(plan.setting))
    token_rows.train(base, config, plan.setting.new_token_ids)
    if not plan.qat:
        _fuse(config)
    if plan.method.virtual_tokens:
        model = _with_tokens(base, config, plan)
        _put_fused(model)
        prompt_model.start(model, plan, examples)
        return model
    quantized: list[str] = []
    if plan.qat:
        quantized = qat_peft.quantized_layers(base)
        qat_peft.register(config)
    model = get_peft_model(base, config)
    _freeze_divisors(model)
    _put_fused(model)
    if isinstance(plan.recipe.method, LoraOptions):
        lora.start(model, plan, examples)
    if plan.qat:
        qat_peft.start(model, quantized, plan.recipe.train.qat, plan.setting.group)
    return model


def _freeze_divisors(model: Any) -> None:
    """Keep AdaLoRA's divisors as they are: on a base in half precision peft makes them again, as if
    they were trained, and never saves them."""
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad_(False)


def _fuse(config: Any) -> None:
    """Have LoRA modules trained by one autograd function each, where that is possible."""
    if type(config) is LoraConfig:
        fused_lora.register(config)


def _put_fused(model: Any) -> None:
    """Have what surrounds the adapter keep less, where its modules are known and frozen."""
    fused_boft.put(model)
    fused_norm.put(model)
    # None is found in front of a layer that is not fused: quantized, or trained for one.
    fused_mlp.put(model)


def _adopted(base: Any, policy: Source, plan: Plan) -> Any:
    """The base with the adapter that a policy starts from, to be trained on.

    Raises:
        ModelError: it is none for this base or this method, or does not fit.
        IntegrityError: a file is not the one that was sealed.
    """
    config = adapter_files.read(policy.folder, policy.name)
    adapter_files.check_kind(config, plan.head, policy.folder, policy.name)
    wanted = plan.method.config(plan.setting) if plan.method.config else None
    if wanted is None or config.peft_type != wanted.peft_type:
        raise ModelError(
            f"rlhf.policy is no adapter of method.name: {plan.method.name}",
            f"{policy.folder}: peft_type {config.peft_type.value}",
            "name its method in the section method",
        )
    adapter_files.check_base(
        policy.folder,
        policy.name,
        plan.base.name,
        plan.base.fingerprint,
        force=False,
        warn=log.warning,
    )
    with told(f"the adapter '{policy.name}' cannot be loaded", policy.folder, WHOLE):
        _fuse(config)
        model = token_rows.put_on(base, policy.folder, config, is_trainable=True)
    adapter_files.check_tensors(model, policy.folder, policy.name)
    _put_fused(model)
    return model


def _with_tokens(base: Any, config: Any, plan: Plan) -> Any:
    if plan.head.name == "language":
        return prompt_model.PromptModel(base, config)
    if plan.head.added and plan.setting.decoder and not plan.method.deep_prompts:
        return prompt_model.PromptClassifier(base, config)
    return get_peft_model(base, config)
