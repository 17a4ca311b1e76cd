"""The files of an adapter: their configuration, and whether they fit a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftConfig, get_peft_model_state_dict
from safetensors import safe_open

from tuner.errors import ModelError, SafetyError
from tuner.methods.options import CONFIG, WEIGHTS
from tuner.model.heads import HEADS, Head
from tuner.model.transformers_errors import as_model_error

# Initialisations that move part of the base's weights into the adapter, so it fits no other base.
_MOVED_STARTS = ("pissa", "olora", "corda")
WHOLE = "check that the folder is complete, and that base and adapter belong together"


def read(folder: Path, name: str) -> Any:
    """Return peft's configuration of an adapter whose files are safe to open.

    Raises:
        ModelError: there is no adapter, or it cannot be read.
        SafetyError: it is a pickle.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"{folder} has no adapter",
            f"there is no {CONFIG}",
            "use the folder that peft's save_pretrained wrote, or a run's folder",
        )
    pickles = sorted(path for end in ("bin", "pt", "pth") for path in folder.glob(f"*.{end}"))
    if not (folder / WEIGHTS).is_file():
        if pickles:
            raise SafetyError(
                f"the adapter '{name}' has only pickled weights",
                f"{pickles[0]}: a pickle can run any code when it is opened",
                "if you trust it, convert it to safetensors and use that folder",
            )
        raise ModelError(
            f"the adapter '{name}' has no weights", f"{folder} has no {WEIGHTS}", "copy it again"
        )
    with as_model_error(f"the adapter '{name}' cannot be read", folder / CONFIG, WHOLE):
        return PeftConfig.from_pretrained(str(folder))


def check_kind(config: Any, head: Head, folder: Path, name: str) -> None:
    """Refuse an adapter that is not for this kind of model, or that writes to the base's weights.

    Raises:
        ModelError: it is one of those.
    """
    task = getattr(config.task_type, "value", config.task_type)
    if task == HEADS["classes"].task_type != head.task_type:
        raise does_not_write(f"the adapter '{name}'", f"{folder / CONFIG}: task_type {task}")
    if task not in (None, head.task_type):
        raise ModelError(
            f"the adapter '{name}' is for another kind of model",
            f"{folder / CONFIG}: task_type {task}; the base is {head.task_type}",
            "use the base that it was trained on",
        )
    start = getattr(config, "init_lora_weights", None)
    bias = getattr(config, "bias", "none")
    if isinstance(start, str) and start.startswith(_MOVED_STARTS):
        why = f"init_lora_weights {start}: its initial values were taken out of the base's weights"
    elif bias != "none":
        why = f"bias {bias}: it replaces biases of the base"
    else:
        return
    raise ModelError(
        f"the adapter '{name}' would change the weights of the base",
        f"{folder / CONFIG}: {why}",
        "convert it to a plain LoRA (peft: path_initial_model_for_weight_conversion), or merge it "
        "and chat with the merged model",
    )


def check_tensors(network: Any, folder: Path, name: str) -> None:
    """Refuse tensors that match no module and modules without a tensor; peft only warns.

    Args:
        network: peft's model, with the adapter's weights.
        folder: the adapter's.
        name: of the adapter.

    Raises:
        ModelError: names the first such tensors.
    """
    wanted = set(get_peft_model_state_dict(network, save_embedding_layers=False))
    with safe_open(folder / WEIGHTS, "pt") as file:
        saved = set(file.keys())
    if wanted != saved:
        missing, unexpected = wanted - saved, saved - wanted
        raise ModelError(
            f"the adapter '{name}' does not fit the base",
            f"{folder / WEIGHTS}: tensors missing: {len(missing)}, without a module: "
            f"{len(unexpected)}: " + ", ".join(sorted(missing | unexpected)[:4]),
            "use the base that it was trained on, or copy the adapter again",
        )


def does_not_write(what: str, why: str) -> ModelError:
    """Return the error for a model that does not generate text."""
    return ModelError(
        f"{what} does not generate text",
        f"{why}; nothing there names classes to answer with either",
        "name the run or the artefact of a classifier first; a reward model is scored with the "
        "held-out rows of its recipe",
    )
