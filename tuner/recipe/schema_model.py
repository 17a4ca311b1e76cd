"""The recipe's section about the base model."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tuner.schema.fields import (
    ADAPTER,
    BASE,
    FILE,
    Flag,
    FreeMapping,
    Section,
    Text,
    Words,
    own_words,
)


def _date(value: str) -> str:
    if value != "auto":
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            raise own_words(f"expected auto or a date such as 2026-11-28, not '{value}'") from None
    return value


class ModelSection(Section):
    """The base model."""

    base: Annotated[
        Text, BASE, Field(description="alias (smollm2-135m), Hub id, local folder or .gguf file")
    ] = "smollm2-135m"
    revision: Annotated[Text | None, Field(description="branch, tag or commit of a Hub model")] = (
        None
    )
    adapter: Annotated[
        Text | None,
        ADAPTER,
        Field(
            description="a run or an adapter to start from: folded into the base, or trained "
            "further (method.continue)"
        ),
    ] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(
            description="dtype of the base weights; auto: half precision on GPUs, float32 on a CPU"
        ),
    ] = "auto"
    tf32: Annotated[
        Flag,
        Field(description="on a GPU: float32 matrix products in TF32, faster and less exact"),
    ] = False
    attention: Annotated[
        Literal["auto", "sdpa", "eager"],
        Field(
            description="sdpa: PyTorch's fused kernels; eager: plain matrix products; auto: sdpa "
            "where the base has it"
        ),
    ] = "auto"
    quantize: Annotated[
        Literal["none", "nf4", "int8"],
        Field(description="quantize the base when loading it (bitsandbytes)"),
    ] = "none"
    task: Annotated[
        Literal["auto", "generation", "classification"],
        Field(description="generate text or classify; auto: as the base's config.json says"),
    ] = "auto"
    new_tokens: Annotated[
        Words, Field(description="tokens to add to the vocabulary and train; never split")
    ] = ()
    chat_template: Annotated[
        Text,
        FILE,
        Field(description="file or name (chatml, llama3, qwen3 ...); auto: the base's own"),
    ] = "auto"
    chat_arguments: Annotated[
        FreeMapping | None,
        Field(description="arguments of the chat template: {enable_thinking: false}"),
    ] = None
    chat_date: Annotated[
        Text,
        AfterValidator(_date),
        Field(description="the date in prompts whose chat template writes today's; auto: today"),
    ] = "auto"
    trust_remote_code: Annotated[
        Flag, Field(description="run Python code that comes with the model")
    ] = False
    code_sha256: Annotated[
        Text | None,
        Field(description="sha256 of that code, as in recipe.lock.yaml; any other is refused"),
    ] = None
