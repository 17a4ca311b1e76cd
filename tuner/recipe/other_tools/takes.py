"""Settings of other tools whose value is not simply taken: batches, warmup, methods, data."""

from __future__ import annotations

from typing import Any

from tuner.recipe.other_tools.row import (
    Given,
    Here,
    blocks,
    empty,
    flag,
    left_out,
    lost,
    number,
)

# Under this name a conversion says on how many devices the other tool trained.
DEVICES = "(devices)"
_PER_DEVICE = (
    *("per_device_train_batch_size", "micro_batch_size", "per_gpu_train_batch_size"),
    *("device_batch_size", "per_device_batch_size"),
)
_ALL = ("all", "all-linear", "all_linear", "linear")
_METHODS: dict[str, dict[str, Any]] = {
    **{
        name: {"method.name": name}
        for name in ("lora", "dora", "rslora", "full", "oft", "boft", "ia3", "vera", "adalora")
    },
    "qlora": {"method.name": "lora", "model.quantize": "nf4"},
    "loha": {"method.name": "loha"},
    "lokr": {"method.name": "lokr"},
    "fourierft": {"method.name": "fourierft"},
    "prefix_tuning": {"method.name": "prefix"},
    "prompt_tuning": {"method.name": "prompt"},
    "p_tuning": {"method.name": "ptuning"},
    "ln_tuning": {"method.name": "layernorm"},
    "adaption_prompt": {"method.name": "adaption_prompt"},
    "llama-adapter": {"method.name": "adaption_prompt"},
    "layernorm": {"method.name": "layernorm"},
}
_FLAGS = {"dora": ("use_dora", "lora_use_dora", "peft_use_dora")}
_FLAGS["rslora"] = ("use_rslora", "lora_use_rslora", "peft_use_rslora")


def method(place: str, given: Given) -> Here:
    """The kind of adapter."""
    word = str(given.value).lower()
    if word == "freeze":
        return blocks("no method trains some layers in full; last_layer and full are nearest")
    if word not in _METHODS:
        return blocks(f"there is no method '{given.value}' here; `method.name` has others")
    for name, flags in _FLAGS.items():
        if word in ("lora", "qlora") and any(flag(given.others.get(each)) for each in flags):
            return Here({**_METHODS[word], "method.name": name})
    return Here(_METHODS[word])


def targets(place: str, given: Given) -> Here:
    """The modules that get adapters: names, in a list or with commas, or all of them."""
    if flag(given.others.get("lora_target_linear")):
        return Here({place: "all-linear"})
    value = given.value
    names = value if isinstance(value, list) else [each.strip() for each in str(value).split(",")]
    if isinstance(value, str) and set(value) & set("(|["):
        return Here({place: value}, "a regular expression over the whole name")
    if any(str(name).lower() in _ALL for name in names):
        return Here({place: "all-linear"})
    return Here({place: names[0] if len(names) == 1 else list(names)})


def batch(place: str, given: Given) -> Here:
    """Rows per device and accumulation steps, which make one step together."""
    others = {**given.others, given.name: given.value}
    if given.name.startswith("per_") and "batch_size" in others:
        said = "train.batch_size counts the rows of a whole step"
        return Here({"train.micro_batch_size": given.value}, said)
    rows = next((others[name] for name in _PER_DEVICE if not empty(others.get(name))), 1)
    steps = others.get("gradient_accumulation_steps") or 1
    devices = others.get(DEVICES) or others.get("ray_num_workers") or 1
    rows, steps, devices = (int(number(each, 1)) for each in (rows, steps, devices))
    whole = others.get("batch_size")
    parts = f"{rows} per device x {steps} accumulation steps"
    if not empty(whole):
        rows, steps, parts = int(number(whole, 1)), 1, f"{whole} per device and step"
    known = DEVICES in others or "ray_num_workers" in others
    on = f"{devices} device{'s' * (devices > 1)}{'' if known else ', assumed'}"
    return Here({place: rows * steps * devices}, f"{parts} x {on}")


def strategy(place: str, given: Given) -> Here:
    """FSDP's own settings: only that it is used has a key."""
    return Here({place: "fsdp"}, "the rest of its settings is the plan's")


def max_steps(place: str, given: Given) -> Here:
    """Steps in place of epochs."""
    if number(given.value, -1) <= 0:
        return left_out("epochs count")
    return Here({place: given.value}, "training also ends after train.epochs, if that is earlier")


def checkpointing(place: str, given: Given) -> Here:
    """Recomputed activations; offloading them is not there."""
    off = given.name.startswith("disable")
    truth = flag(given.value)
    if truth is not None:
        return Here({place: truth != off})
    return Here({place: True}, f"without '{given.value}'")


def save(place: str, given: Given) -> Here:
    """Steps between checkpoints."""
    value = number(given.value, 0)
    if value < 1 or value != int(value):
        return left_out("train.save_steps counts steps")
    return Here({place: int(value)})


def dtype(place: str, given: Given) -> Here:
    """Half precision by a flag."""
    if str(given.value).lower() in ("auto", "full"):
        return left_out("auto: bfloat16 on a GPU that has it")
    if flag(given.value) is False:
        return left_out("model.dtype says which is used")
    return Here({place: "float16" if given.name in ("fp16", "float16") else "bfloat16"})


def quantize_bits(place: str, given: Given) -> Here:
    """Bits of a base that is quantized when loaded."""
    bits = int(number(given.value, 0))
    how = str(given.others.get("quantization_method", given.others.get("quant_method", "bnb")))
    if bits in (4, 8) and how in ("bnb", "bitsandbytes"):
        return Here({place: "nf4" if bits == 4 else "int8"})
    return blocks(f"a base in {bits} bits by {how} is not loaded; model.quantize: nf4 or int8")


def attention(place: str, given: Given) -> Here:
    """Which kernels compute attention; the result is the same."""
    word = str(given.value).lower()
    if word in ("sdpa", "eager"):
        return Here({place: word})
    if given.name == "eager_attention" and flag(given.value):
        return Here({place: "eager"})
    if given.name == "sdp_attention" and flag(given.value):
        return Here({place: "sdpa"})
    if word == "disabled":
        return Here({place: "eager"})
    return left_out("the plan chooses the kernels; the result is the same")


def thinking(place: str, given: Given) -> Here:
    """Whether answers have reasoning."""
    return Here({place: {"enable_thinking": flag(given.value) is True}}, "if its template has it")


def experts(place: str, given: Given) -> Here:
    """The fused weights of experts, by name."""
    names = given.value if isinstance(given.value, list) else [given.value]
    if all("experts" in str(name) for name in names):
        return Here({place: True})
    return lost("of parameters that are no layers, only the fused weights of experts are adapted")


def loftq(place: str, given: Given) -> Here:
    """LoftQ, which has options in other tools."""
    if not flag(given.others.get("load_in_4bit")):
        return lost("method.init: loftq is for a base with model.quantize: nf4")
    return Here({place: "loftq"})
