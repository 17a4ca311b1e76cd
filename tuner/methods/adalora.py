"""AdaLoRA (Zhang et al. 2023): LoRA that moves rank to the modules that need it most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Hooks, Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Count, Positive, Share


class AdaloraOptions(TargetedOptions):
    """LoRA that moves rank to the modules that need it most."""

    name: Literal["adalora"] = "adalora"
    r: Annotated[Count, Field(description="average rank at the end of training")] = 8
    start_r: Annotated[Count, Field(description="initial rank of every module")] = 12
    alpha: Annotated[Positive, Field(description="scale of the update, divided by r")] = 32.0
    dropout: Annotated[Share, Field(description="dropout on the input of each adapter")] = 0.0
    orthogonality: Annotated[
        Positive, Field(description="weight of the penalty that keeps the factors orthogonal")
    ] = 0.5


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    options: AdaloraOptions = setting.options
    return peft.AdaLoraConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        target_r=options.r,
        init_r=options.start_r,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=options.dropout,
        orth_reg_weight=options.orthogonality,
        # Ranks fall between a tenth and seven tenths of the run, as in the paper.
        tinit=setting.steps // 10,
        tfinal=3 * setting.steps // 10,
        deltaT=max(1, setting.steps // 50),
        total_step=setting.steps,
        fan_in_fan_out=setting.transposed,
    )


class AdaloraHooks(Hooks):
    """The orthogonality penalty, and the reallocation of rank during training."""

    def penalty(self, model: Any, options: Any) -> Callable[[], Any] | None:
        """Return the penalty that keeps the factors orthogonal.

        peft adds it only to a loss that the model computes itself, which ours does not.
        """
        import torch

        factors = [
            p for name, p in model.named_parameters() if "lora_A" in name or "lora_B" in name
        ]

        def orthogonality() -> Any:
            parts = []
            for factor in factors:
                # A is (rank, inputs), B is (outputs, rank).
                tall = factor.shape[0] >= factor.shape[1]
                square = factor.T @ factor if tall else factor @ factor.T
                off = square - torch.eye(len(square), device=square.device)
                parts.append(torch.linalg.norm(off))
            return options.orthogonality * torch.stack(parts).mean()

        return orthogonality

    def after_update(self, model: Any, step: int) -> None:
        """Reduce the rank of some modules after update number `step`."""
        if step == model.active_peft_config.total_step == 1:
            return  # nothing is known of their importance yet
        model.base_model.update_and_allocate(step)

    def finish(self, model: Any) -> None:
        """Remove the pruned ranks.

        peft keeps them as rows of zeros until it saves. They add nothing, but a product over fewer
        rows is rounded in a different order, and the last bit of a weight may move a logit by 1e-4.
        """
        import torch

        modules = dict(model.get_base_model().named_modules())
        for name, kept in (model.active_peft_config.rank_pattern or {}).items():
            path, _, adapter = name.rpartition(".lora_E")
            module, adapter = modules[path], adapter.removeprefix(".") or model.active_adapter
            for factors, axis in ((module.lora_A, 0), (module.lora_E, 0), (module.lora_B, 1)):
                old = factors[adapter]
                places = torch.tensor(kept, device=old.device).nonzero().flatten()
                rows = old.index_select(axis, places)
                factors[adapter] = torch.nn.Parameter(rows, requires_grad=old.requires_grad)
            module.r[adapter] = sum(kept)

    def state(self, model: Any) -> dict[str, Any]:
        """Return the state of peft's rank allocator."""
        allocator = model.base_model.rankallocator
        return {
            "ipt": allocator.ipt,
            "exp_avg_ipt": allocator.exp_avg_ipt,
            "exp_avg_unc": allocator.exp_avg_unc,
            "rank_pattern": model.active_peft_config.rank_pattern,
        }

    def restore(self, model: Any, saved: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        allocator = model.base_model.rankallocator
        for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            # A checkpoint is read into main memory.
            there = {key: value.to(model.device) for key, value in saved[name].items()}
            setattr(allocator, name, there)
        model.active_peft_config.rank_pattern = saved["rank_pattern"]


METHOD = Method(
    "adalora",
    "sft",
    "LoRA that moves rank to the modules that need it most",
    AdaloraOptions,
    config,
    1e-3,
    mergeable=True,
    merges_classes=True,
    quantized=QUANTIZED,
    whole_at_any_step=False,
    hooks=AdaloraHooks(),
)
