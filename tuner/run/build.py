"""From a plan to the model that is trained: base, method, start."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model

from tuner.errors import ModelError, TrainingError
from tuner.machine import ranks
from tuner.methods import full, lora, qat_layers
from tuner.methods.lora import LoraOptions
from tuner.model import base as bases
from tuner.model import embedding_rows, layers, prompt_model
from tuner.model.adapters import files
from tuner.model.adapters.files import WHOLE
from tuner.model.heads import MULTI_LABEL
from tuner.model.kernels import attention, fused_boft, fused_lora, fused_mlp, fused_norm
from tuner.model.transformers_errors import as_model_error, quiet_libraries
from tuner.model.weights import DTYPES, open_weights
from tuner.plan import optimizers
from tuner.plan.start import KEY
from tuner.run import start_lora, start_prompt
from tuner.tasks import TASKS, embedding_noise, sharding
from tuner.tasks.trained import Trained, trainable

if TYPE_CHECKING:
    from tuner.data.tokens.example import Example
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.plan.plan import Plan
    from tuner.plan.values import Stage

log = logging.getLogger(__name__)


def build(base: Any, plan: Plan, examples: Sequence[Example]) -> Any:
    """Put the method on the base, and freeze what is not trained.

    Args:
        base: the loaded base model.
        plan: has the method and its options.
        examples: training rows, for data-dependent initialisation.
    """
    if plan.method.config is None:
        full.set_trainable(base, plan.stages[0].train)
        return base
    if plan.parties.policy is not None:
        return _adopted(base, plan.parties.policy, plan, "rlhf.policy")
    if plan.start is not None and plan.start.continues:
        return _adopted(base, plan.start.adapter, plan, KEY)
    config = plan.setting.with_head(plan.method.config(plan.setting))
    embedding_rows.train(base, config, plan.setting.new_token_ids)
    if not plan.qat:
        _fuse(config)
    if plan.method.virtual_tokens:
        model = _with_tokens(base, config, plan)
        _put_fused(model)
        start_prompt.start(model, plan, examples)
        return model
    quantized: list[str] = []
    if plan.qat:
        quantized = qat_layers.quantized_layers(base)
        qat_layers.register(config)
    model = get_peft_model(base, config)
    _freeze_divisors(model)
    _put_fused(model)
    if isinstance(plan.recipe.method, LoraOptions):
        start_lora.start(model, plan, examples)
    if plan.qat:
        qat_layers.start(model, quantized, plan.recipe.train.qat, plan.setting.group)
    return model


def _freeze_divisors(model: Any) -> None:
    """Freeze AdaLoRA's divisors: on a base in half precision peft makes new ones that are
    trainable, and never saves them."""
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad_(False)


def _fuse(config: Any) -> None:
    """Train LoRA modules with one autograd function each, if possible."""
    if type(config) is LoraConfig:
        fused_lora.register(config)


def _put_fused(model: Any) -> None:
    """Save fewer activations around the adapter, if its modules are known and frozen."""
    fused_boft.put(model)
    fused_norm.put(model)
    # It skips layers that are not fused: quantized ones, or those trained for quantization.
    fused_mlp.put(model)


def _adopted(base: Any, policy: SavedModel, plan: Plan, key: str) -> Any:
    """Put the adapter that a run starts from on the base, to train it further.

    Raises:
        ModelError: it is not for this base or this method, or does not match.
        IntegrityError: a file was changed after it was sealed.
    """
    config = files.read(policy.folder, policy.name)
    files.check_kind(config, plan.head, policy.folder, policy.name)
    wanted = plan.method.config(plan.setting) if plan.method.config else None
    if wanted is None or config.peft_type != wanted.peft_type:
        raise ModelError(
            f"{key} is not an adapter of method.name: {plan.method.name}",
            f"{policy.folder}: peft_type {config.peft_type.value}",
            "set method.name to the method of this adapter",
        )
    if isinstance(config, LoraConfig) and key == KEY:
        config.lora_dropout = plan.recipe.method.dropout  # type: ignore[attr-defined]
    policy.check_base(plan.base.name, plan.base.fingerprint, log.warning)
    with as_model_error(f"the adapter '{policy.name}' cannot be loaded", policy.folder, WHOLE):
        _fuse(config)
        model = embedding_rows.load_adapter_onto(base, policy.folder, config, is_trainable=True)
    files.check_tensors(model, policy.folder, policy.name)
    _put_fused(model)
    return model


def _with_tokens(base: Any, config: Any, plan: Plan) -> Any:
    if plan.head.name == "language":
        return prompt_model.PromptModel(base, config)
    if plan.head.added and plan.setting.decoder and not plan.method.deep_prompts:
        return prompt_model.PromptClassifier(base, config)
    return get_peft_model(base, config)


def load(plan: Plan) -> Any:
    """Load the base model of a plan, on its device, in its dtype, in evaluation mode.

    Raises:
        ModelError: the weights are not available or do not match the config.
        ResourceError: not enough memory.
    """
    quiet_libraries()
    attention.register()
    section = plan.recipe.model
    found = bases.with_weights(plan.base, section.revision, log.info)
    kind = attention.ROWS if plan.packing else plan.values["model.attention"].value
    how: dict[str, Any] = {"attn_implementation": kind}
    configured: dict[str, Any] = {}
    if plan.head.name == "classes":
        labels = dict(enumerate(plan.prepared.labels))
        configured["id2label"] = labels
        configured["label2id"] = {label: number for number, label in labels.items()}
        if plan.recipe.data.multi_label:
            configured["problem_type"] = MULTI_LABEL
    if plan.head.name == "reward":
        configured["num_labels"] = 1
    # A new head starts the same in every process.
    torch.manual_seed(plan.recipe.run.seed)
    if plan.devices.sharded and not sharding.reads(plan):
        model = layers.empty(
            found, plan.head.name, 0, configured, dtype=DTYPES[plan.dtype], **how
        ).eval()
    else:
        # What is sharded across GPUs need not fit into one.
        device = "cpu" if plan.devices.sharded else plan.device
        how |= configured
        model = open_weights(found, section, plan.head, plan.dtype, device, **how)
    embedding_rows.grow(model, plan.vocabulary_rows)
    if plan.head.added:
        model.config.pad_token_id = plan.tokenizer.pad_token_id
    return model


def start(plan: Plan, base: Any) -> Trained:
    """Put the method on the base, seeded, so that every process starts from the same tensors."""
    if not plan.method.adapter:
        # In bfloat16 most updates of a weight would round to nothing; autocast computes in it.
        base.float()
    torch.manual_seed(plan.recipe.run.seed)
    model = build(base, plan, plan.prepared.train)
    judge = TASKS[plan.task].prepare(plan, model)
    model.config.use_cache = False
    if plan.gradient_checkpointing:
        model.enable_input_require_grads()
    if noise := plan.recipe.train.embedding_noise:
        embedding_noise.add(model, noise)
    if plan.devices.sharded:
        sharding.shard(plan, model)
    digests: dict[str, str] = {}
    for stage in plan.stages:
        set_stage(plan, model, stage)
        for name, parameter in trainable(model):
            digests.setdefault(name, ranks.digest(parameter))
    ranks.check_replicas(trainable(model), "at the start")
    set_stage(plan, model, plan.stages[0])
    state: dict[str, torch.Tensor] = {}
    if lora.moves_base(plan.recipe.method):
        from peft import get_peft_model_state_dict

        state = {k: v.detach().clone() for k, v in get_peft_model_state_dict(model).items()}
    return Trained(model, digests, state, judge=judge)


def gather(plan: Plan, trained: Trained) -> Plan:
    """Make a sharded model whole in rank 0's main memory, and return the plan to export it by."""
    if not (plan.devices.sharded and ranks.place().main):
        return plan
    alone = replace(plan, device="cpu")
    torch.manual_seed(plan.recipe.run.seed)
    model = build(load(alone), alone, plan.prepared.train)
    model.config.use_cache = False
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in trainable(trained.model):
            own[name].copy_(tensor)
    trained.model = model.eval()
    return alone


def set_stage(plan: Plan, model: Any, stage: Stage) -> None:
    if not plan.method.adapter:
        full.set_trainable(model, stage.train)


def unmoved(plan: Plan, trained: Trained) -> list[str]:
    """Return the names of trainable tensors that still have their initial values.

    Raises:
        TrainingError: all of them do.
    """
    parameters = dict(trained.model.named_parameters())
    still = [
        name for name, digest in trained.start.items() if ranks.digest(parameters[name]) == digest
    ]
    if len(still) < len(trained.start):
        return still
    rate = plan.stages[-1].learning_rate
    usual, _ = optimizers.rate(plan.recipe.train, plan.method.learning_rate, plan.method.name)
    why = f"every trainable tensor still has its initial value after {plan.steps} steps"
    fix = f"set train.learning_rate: {usual:g} (it is {rate:g}), or train for more steps"
    if rate >= usual:
        fix = "train for more steps (train.epochs, train.max_steps)"
    if plan.draws:
        why += "; if all answers to a prompt get the same reward, there is nothing to learn from"
        fix = (
            f"see how reward differs in {plan.output / 'metrics.jsonl'}: set rlhf.reward to rules "
            "that tell answers apart, or train.max_steps to more steps"
        )
        if plan.recipe.grpo is not None and plan.recipe.grpo.mask_truncated:
            why += ", nor from answers that are cut off (grpo.mask_truncated)"
            fix += "; raise rlhf.max_new_tokens if `ended` is low there"
    raise TrainingError("nothing was learned", why, fix)
