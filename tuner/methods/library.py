"""What else peft has: one row, one class of options and one function a method.

(IA)3 (Liu et al. 2022), AdaLoRA (Zhang et al. 2023), VeRA (Kopiczko et al. 2023), OFT (Qiu et al.
2023), BOFT (Liu et al. 2023), LoKr and LoHa (Yeh et al. 2023, Hyeon-Woo et al. 2021), LN-tuning
(Zhao et al. 2023), FourierFT (Gao et al. 2024), LLaMA-Adapter (Zhang et al. 2023) and trainable
tokens. Rates follow these papers where they name one for language models of this size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.fields import Count, Positive, Share, Words
from tuner.methods.method import DECODER, QUANTIZED, Method
from tuner.methods.options import MethodOptions, Setting, TargetedOptions


class Ia3Options(TargetedOptions):
    """Learned scales on keys, values and the MLP's inner activations."""

    name: Literal["ia3"] = "ia3"
    target_modules: Annotated[
        Words, Field(description="modules whose output is scaled; auto: keys, values and MLP")
    ] = ("auto",)


def _ia3(setting: Setting) -> Any:
    import peft

    # Of the MLP's way down it is the input that is scaled.
    inner = [name for name in setting.targets if name.endswith(IA3_INNER)]
    return peft.IA3Config(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        feedforward_modules=inner,
        fan_in_fan_out=setting.transposed,
    )


IA3_INNER = ("down_proj", "mlp.c_proj", "fc2", "wo", "output.dense", "w2")
IA3_OUTER = ("k_proj", "v_proj", "c_attn", "attention.self.key", "attention.self.value", "k", "v")


class AdaloraOptions(TargetedOptions):
    """LoRA that moves its ranks to where they count."""

    name: Literal["adalora"] = "adalora"
    r: Annotated[Count, Field(description="mean rank at the end")] = 8
    start_r: Annotated[Count, Field(description="rank of every module at the start")] = 12
    alpha: Annotated[Positive, Field(description="scale of the update, divided by r")] = 32.0
    dropout: Annotated[Share, Field(description="dropout on the input of each adapter")] = 0.0
    orthogonality: Annotated[
        Positive, Field(description="weight of the penalty that keeps the factors orthogonal")
    ] = 0.5


def _adalora(setting: Setting) -> Any:
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
        # Ranks fall between a tenth and seven tenths of the run, as the paper has it.
        tinit=setting.steps // 10,
        tfinal=3 * setting.steps // 10,
        deltaT=max(1, setting.steps // 50),
        total_step=setting.steps,
        fan_in_fan_out=setting.transposed,
    )


class VeraOptions(TargetedOptions):
    """Frozen random factors shared by all layers, learned scales between them."""

    name: Literal["vera"] = "vera"
    r: Annotated[Count, Field(description="rank of the shared factors")] = 256
    dropout: Annotated[Share, Field(description="dropout on the input of each adapter")] = 0.0


def _vera(setting: Setting) -> Any:
    import peft

    return peft.VeraConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        r=setting.options.r,
        vera_dropout=setting.options.dropout,
        # Saved, so that the adapter does not hang on a random generator staying the same.
        save_projection=True,
        fan_in_fan_out=setting.transposed,
    )


class OftOptions(TargetedOptions):
    """Rotations of the outputs' inputs, block by block."""

    name: Literal["oft"] = "oft"
    block_size: Annotated[Count, Field(description="size of a rotated block")] = 32


def _oft(setting: Setting) -> Any:
    import peft

    return peft.OFTConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        r=0,
        oft_block_size=setting.options.block_size,
        fan_in_fan_out=setting.transposed,
    )


class BoftOptions(TargetedOptions):
    """Rotations made of butterfly factors."""

    name: Literal["boft"] = "boft"
    block_size: Annotated[Count, Field(description="size of a rotated block")] = 4
    factors: Annotated[Count, Field(description="butterfly factors")] = 1


def _boft(setting: Setting) -> Any:
    import peft

    return peft.BOFTConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        boft_block_size=setting.options.block_size,
        boft_n_butterfly_factor=setting.options.factors,
        fan_in_fan_out=setting.transposed,
    )


class LokrOptions(TargetedOptions):
    """Updates that are Kronecker products."""

    name: Literal["lokr"] = "lokr"
    r: Annotated[Count, Field(description="rank of the larger factor")] = 8
    alpha: Annotated[Positive, Field(description="scale of the update, divided by r")] = 16.0


def _lokr(setting: Setting) -> Any:
    import peft

    return peft.LoKrConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        r=setting.options.r,
        alpha=setting.options.alpha,
    )


class LohaOptions(TargetedOptions):
    """Updates that are Hadamard products of two low-rank ones."""

    name: Literal["loha"] = "loha"
    r: Annotated[Count, Field(description="rank of both products")] = 8
    alpha: Annotated[Positive, Field(description="scale of the update, divided by r")] = 16.0


def _loha(setting: Setting) -> Any:
    import peft

    return peft.LoHaConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        r=setting.options.r,
        alpha=setting.options.alpha,
    )


class LayernormOptions(TargetedOptions):
    """The normalisation layers alone."""

    name: Literal["layernorm"] = "layernorm"
    target_modules: Annotated[
        Words, Field(description="the layers to train; all-norms, names or a regular expression")
    ] = ("all-norms",)


def _layernorm(setting: Setting) -> Any:
    import peft

    return peft.LNTuningConfig(task_type=setting.task_type, target_modules=list(setting.targets))


class FourierftOptions(TargetedOptions):
    """Updates given by a few of their Fourier coefficients."""

    name: Literal["fourierft"] = "fourierft"
    coefficients: Annotated[Count, Field(description="learned coefficients of each module")] = 1000
    scale: Annotated[Positive, Field(description="scale of the update")] = 150.0


def _fourierft(setting: Setting) -> Any:
    import peft

    return peft.FourierFTConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        n_frequency=setting.options.coefficients,
        scaling=setting.options.scale,
        # At zero, so that a new adapter changes nothing.
        init_weights=True,
        fan_in_fan_out=setting.transposed,
    )


class AdaptionPromptOptions(MethodOptions):
    """Learned tokens that the top layers attend to through a gate that starts at zero."""

    name: Literal["adaption_prompt"] = "adaption_prompt"
    length: Annotated[Count, Field(description="learned tokens of each layer")] = 10
    layers: Annotated[Count, Field(description="layers that have them, from the top")] = 30


def _adaption_prompt(setting: Setting) -> Any:
    import peft

    present = setting.config.get("num_hidden_layers") or setting.config.get("n_layer") or 1
    return peft.AdaptionPromptConfig(
        task_type=setting.task_type,
        adapter_len=setting.options.length,
        adapter_layers=min(setting.options.layers, int(present)),
    )


class TrainableTokensOptions(MethodOptions):
    """The embeddings of some tokens alone."""

    name: Literal["trainable_tokens"] = "trainable_tokens"
    tokens: Annotated[
        Words, Field(min_length=1, description="the tokens to train, as the tokenizer spells them")
    ]


def _trainable_tokens(setting: Setting) -> Any:
    import peft

    return peft.TrainableTokensConfig(
        task_type=setting.task_type, token_indices=list(setting.token_ids)
    )


def _row(
    name: str,
    summary: str,
    options: type[MethodOptions],
    config: Callable[[Setting], Any],
    learning_rate: float,
    **cells: Any,
) -> Method:
    cells = {"mergeable": True, "merges_classes": False, **cells}
    return Method(name, "sft", summary, options, config, learning_rate, **cells)


ROWS = (
    _row(
        "ia3", "learned scales of keys, values and MLP", Ia3Options, _ia3, 5e-3, quantized=QUANTIZED
    ),
    _row(
        "adalora",
        "LoRA whose ranks move to where they count",
        AdaloraOptions,
        _adalora,
        1e-3,
        quantized=QUANTIZED,
        merges_classes=True,
    ),
    _row(
        "vera",
        "scales between random factors that all layers share",
        VeraOptions,
        _vera,
        1e-2,
        quantized=QUANTIZED,
    ),
    _row(
        "oft",
        "rotations, block by block",
        OftOptions,
        _oft,
        5e-4,
        quantized=QUANTIZED,
        conv1d=False,
    ),
    _row(
        "boft",
        "rotations of butterfly factors",
        BoftOptions,
        _boft,
        1e-3,
        quantized=QUANTIZED,
        conv1d=False,
    ),
    _row(
        "lokr",
        "updates that are Kronecker products",
        LokrOptions,
        _lokr,
        1e-3,
        quantized=frozenset({"int8"}),
        conv1d=False,
    ),
    _row(
        "loha",
        "updates that are Hadamard products",
        LohaOptions,
        _loha,
        1e-3,
        quantized=frozenset({"int8"}),
        conv1d=False,
    ),
    _row(
        "layernorm",
        "the normalisation layers",
        LayernormOptions,
        _layernorm,
        1e-3,
        quantized=QUANTIZED,
        classes=False,
    ),
    _row(
        "trainable_tokens",
        "the embeddings of some tokens",
        TrainableTokensOptions,
        _trainable_tokens,
        1e-3,
        quantized=QUANTIZED,
        classes=False,
    ),
    _row(
        "fourierft",
        "Fourier coefficients of the update",
        FourierftOptions,
        _fourierft,
        1e-2,
        quantized=QUANTIZED,
    ),
    _row(
        "adaption_prompt",
        "gated tokens in the top layers",
        AdaptionPromptOptions,
        _adaption_prompt,
        5e-3,
        quantized=QUANTIZED,
        mergeable=False,
        packing=False,
        classes=False,
        families=frozenset({DECODER}),
        model_types=frozenset({"llama", "mistral", "gpt2"}),
    ),
)
