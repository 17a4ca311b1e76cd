"""The base model's weights: converted, loaded, placed.

Attention runs on `tuner_rows` (see `attention.py`), so that rows packed into one sequence never see
each other; a lone row takes the same path as transformers' own SDPA.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tuner import attention, packages, seal, token_rows
from tuner import base as bases
from tuner.errors import ModelError, ResourceError, first_line
from tuner.heads import Head, is_new

if TYPE_CHECKING:
    from tuner.base import Base
    from tuner.plan import Plan
    from tuner.recipe import ModelSection

log = logging.getLogger(__name__)

_LOAD_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    ImportError,
    TypeError,
    AttributeError,
    ZeroDivisionError,
    SafetensorError,
    StrictDataclassError,
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def quiet_libraries() -> None:
    """Keep transformers' progress bars and notices off the terminal; they stand in run.log."""
    library = logging.getLogger("transformers")
    for handler in list(library.handlers):
        if type(handler) is logging.StreamHandler:
            library.removeHandler(handler)
    # Without any handler Python would print warnings to stderr itself.
    library.addHandler(logging.NullHandler())
    transformers_logging.disable_progress_bar()


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file into a sealed folder of safetensors, tokenizer and chat template.

    Raises:
        ModelError: transformers cannot read the file.
    """
    quiet_libraries()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, trust_remote_code=False
        )
        model: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(
            f"{gguf.name} cannot be converted",
            f"{gguf}: {type(error).__name__}: {first_line(error)}",
            "check that the file is whole, or use the model's safetensors",
        ) from error
    # The tensors are plain floats by now; what is left of the quantization only forbids saving.
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    model.config._name_or_path = gguf.stem
    with seal.seal(folder, keep_existing=True) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)


def load(plan: Plan) -> Any:
    """The base model of a plan, with its weights, on its device, in its dtype, evaluation mode.

    Raises:
        ModelError: the weights cannot be had or do not fit the config.
        ResourceError: not enough memory.
    """
    quiet_libraries()
    attention.register()
    section = plan.recipe.model
    found = bases.with_weights(plan.base, section.revision, log.info)
    arguments: dict[str, Any] = {"attn_implementation": attention.ROWS if plan.packing else "sdpa"}
    if plan.head.name == "classes":
        labels = dict(enumerate(plan.prepared.labels))
        arguments["id2label"] = labels
        arguments["label2id"] = {label: number for number, label in labels.items()}
    if plan.head.name == "reward":
        arguments["num_labels"] = 1
    # A head that is new to the base starts the same in every process.
    torch.manual_seed(plan.recipe.run.seed)
    # What is to be shared out between GPUs need not fit into one.
    device = "cpu" if plan.devices.sharded else plan.device
    model = open_weights(found, section, plan.head, plan.dtype, device, **arguments)
    token_rows.grow(model, plan.vocabulary_rows)
    if plan.head.added:
        model.config.pad_token_id = plan.tokenizer.pad_token_id
    return model


def open_weights(
    found: Base, section: ModelSection, head: Head, dtype: str, device: str, **arguments: Any
) -> Any:
    """The weights of a base with a head, on `device`, in evaluation mode.

    Args:
        found: the base; its folder holds the weights.
        section: says whether they are quantized.
        head: what is loaded on top.
        dtype: its name in `DTYPES`.
        device: cpu or cuda.
        arguments: further ones for transformers' `from_pretrained`.

    Raises:
        ModelError: the weights do not load or do not fit the config.
        ResourceError: not enough memory.
    """
    if section.quantize != "none":
        arguments["quantization_config"] = _quantization(section.quantize, DTYPES[dtype])
        arguments["device_map"] = {"": device}
    with told(
        f"the base model '{found.name}' cannot be loaded",
        found.folder,
        "check that the folder is whole: config.json and every safetensors file",
    ):
        loaded: Any = getattr(transformers, head.auto_class).from_pretrained(
            found.folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=found.trusted,
            local_files_only=True,
            # So that _check_loaded names them; transformers only says that there are some.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **arguments,
        )
        model, report = loaded
        _check_loaded(report, found.folder, head.added)
        if section.quantize == "none":
            model.to(device)
    return without_cpu_packing(model).eval()


@contextmanager
def told(what: str, place: Path, fix: str) -> Iterator[None]:
    """Say what a library could not load, where, and what to do.

    Raises:
        ModelError: for what transformers, peft and safetensors raise.
        ResourceError: not enough memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            "the model does not fit into memory", str(error), "use a smaller base or a larger GPU"
        ) from error
    except _LOAD_ERRORS as error:
        raise ModelError(
            what, f"{place}: {type(error).__name__}: {first_line(error)}", fix
        ) from error


def without_cpu_packing(model: Any) -> Any:
    """`model`, with bitsandbytes' repacking of 4-bit weights for fast CPU inference switched off.

    The first evaluation would repack them for good, into a kernel that has no gradient: all that
    is trained afterwards below the last such layer would stay where it is, without a word.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _quantization(kind: str, compute: torch.dtype) -> Any:
    """bitsandbytes' configuration of a base in `kind` = nf4 or int8, computing in `compute`.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError(
            "a quantized base needs bitsandbytes",
            f"model.quantize: {kind}, and bitsandbytes is not installed",
            packages.add("bitsandbytes"),
        ) from error
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
    )


def _check_loaded(report: dict[str, Any], folder: Path, added: bool) -> None:
    """Refuse weights that are missing or of another shape; a new head may be missing.

    Raises:
        ModelError: naming them.
    """
    missing = sorted(report.get("missing_keys") or ())
    if added:
        missing = [key for key in missing if not is_new(key)]
    mismatched = sorted(str(key) for key in report.get("mismatched_keys") or ())
    if missing or mismatched:
        raise ModelError(
            "the weights do not fit the model's config",
            f"{folder}: {len(missing)} tensors missing, {len(mismatched)} of another shape: "
            + ", ".join([*missing, *mismatched][:4]),
            "use the weights and the config.json of the same model",
        )
