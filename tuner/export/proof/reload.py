"""Open an artefact the way any user would: with only transformers and peft, by its format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tuner.methods.options import WEIGHTS
from tuner.model import fold, folded
from tuner.model.heads import HEADS, MULTI_LABEL
from tuner.model.weights import numbered, without_cpu_packing
from tuner.recipe.formats import FORMATS


def load(job: Mapping[str, Any], kind: str, folder: str) -> Any:
    """Load an artefact as a model in evaluation mode, on the device of the job.

    Args:
        job: see `fresh_process.job_of`.
        kind: its format.
        folder: where it is.

    Raises:
        SystemExit: tensors are missing, or match no module.
    """
    if kind == "adapter":
        from tuner.methods import bottleneck_layers as bottleneck_peft  # noqa: F401  # makes peft know the method
        from tuner.model import embedding_rows

        model: Any = embedding_rows.load_adapter_onto(base(job), folder)
        _refuse_other_keys(model, folder)
    elif kind == "virtual_tokens":
        from tuner.export.virtual_tokens import WithTokens

        model = WithTokens(base(job), folder)
    else:
        model = whole(job, kind, Path(folder))
    if job["num_labels"]:
        model.config.pad_token_id = job["pad_token_id"]
    without_cpu_packing(model.base if kind == "virtual_tokens" else model)
    return model.eval()


def base(job: Mapping[str, Any]) -> Any:
    """Load the base of a job, quantized if it was in training, or with the adapters below it."""
    arguments = _arguments(job)
    dtype = getattr(torch, job["dtype"])
    if job["num_labels"]:
        arguments |= _classes(job)
    if job["quantize"] == "none":
        model = _class(job).from_pretrained(job["base"], **arguments).to(job["device"])
        return fold.onto(model, folded.of_job(job), HEADS[job["head"]].task_type)
    from transformers import BitsAndBytesConfig

    arguments["device_map"] = {"": numbered(job["device"])}
    arguments["quantization_config"] = (
        BitsAndBytesConfig(load_in_8bit=True)
        if job["quantize"] == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    )
    return _class(job).from_pretrained(job["base"], **arguments)


def _classes(job: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of a head; by name, if they are kept: a merged model has them in its config."""
    labels = job.get("classifier", {}).get("labels") or job.get("labels", ())
    if len(labels) != job["num_labels"]:
        return {"num_labels": job["num_labels"]}
    numbers = {label: number for number, label in enumerate(labels)}
    named = {"id2label": dict(enumerate(labels)), "label2id": numbers}
    several = "threshold" in job.get("classifier", {})
    return named | ({"problem_type": MULTI_LABEL} if several else {})


def whole(job: Mapping[str, Any], kind: str, folder: Path, **further: Any) -> Any:
    """Load a whole model of any format.

    Args:
        job: see `load`.
        kind: its format.
        folder: where it is.
        further: arguments of `from_pretrained`, such as a quantization.
    """
    arguments = _arguments(job) | further
    # What is not in the table of this process is opened as transformers' own files.
    row = FORMATS.get(kind, FORMATS["merged"])
    if row.llama_type:
        file = next(folder.glob("*.gguf"))
        arguments |= {"gguf_file": file.name, "dtype": torch.float32, "config": _config(file)}
        del arguments["use_safetensors"]
    if row.packages == ("bitsandbytes",):
        arguments["device_map"] = {"": numbered(job["device"])}
    loaded: Any = _class(job).from_pretrained(folder, output_loading_info=True, **arguments)
    model, report = loaded
    _refuse_keys(report["missing_keys"], report["unexpected_keys"])
    return model if "device_map" in arguments else model.to(job["device"])


def _config(file: Path) -> Any:
    """Return the config in a GGUF file, with what transformers omits for GPT-2."""
    from gguf import GGUFReader
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    if config.model_type == "gpt2":
        reader = GGUFReader(file)
        for name, key in (("n_inner", "feed_forward_length"), ("n_positions", "context_length")):
            found = reader.get_field(f"gpt2.{key}")
            if found is not None:
                setattr(config, name, int(found.contents()))
    return config


def _class(job: Mapping[str, Any]) -> Any:
    import transformers

    return getattr(transformers, job["auto_class"])


def _arguments(job: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "dtype": getattr(torch, job["dtype"]),
        "use_safetensors": True,
        "trust_remote_code": job["trust_remote_code"],
    }


def _refuse_other_keys(model: Any, folder: str) -> None:
    """Refuse tensors that match no module: peft only warns, and they would do nothing."""
    from peft import get_peft_model_state_dict

    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    with safe_open(f"{folder}/{WEIGHTS}", "pt") as file:
        saved = set(file.keys())
    _refuse_keys(wanted - saved, saved - wanted)


def _refuse_keys(missing: Collection[str], unexpected: Collection[str]) -> None:
    if missing or unexpected:
        raise SystemExit(
            f"tensors missing: {len(missing)}, without a module: {len(unexpected)}: "
            + ", ".join(sorted([*missing, *unexpected])[:4])
        )
