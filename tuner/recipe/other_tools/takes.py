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
_STAGES: dict[str, Here] = {
    "sft": left_out("it is what is done with answers"),
    "pt": Here({"data.template": "text"}),
    "rm": Here({"reward": {}}),
    "dpo": Here({"rlhf.algorithm": "dpo"}),
    "ppo": Here({"rlhf.algorithm": "ppo"}, "clipping, KL and values are those of this program"),
    "grpo": Here({"rlhf.algorithm": "grpo"}),
    "rloo": Here({"rlhf.algorithm": "rloo"}),
}
_SCHEDULES = ("linear", "cosine", "constant")


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


def warmup(place: str, given: Given) -> Here:
    """Steps come before a fraction, and a constant rate has no warmup."""
    scheduler = given.others.get("lr_scheduler_type", given.others.get("lr_scheduler"))
    if scheduler == "constant":
        return Here({place: 0}, "a constant schedule has no warmup there")
    steps = number(given.others.get("warmup_steps"), 0)
    if "ratio" in given.name and steps > 0:
        return left_out("warmup_steps comes first")
    value = number(given.value, 0)
    if "ratio" not in given.name and value == 0 and "warmup_ratio" in given.others:
        return left_out("warmup_ratio says it")
    return Here({place: int(value) if value >= 1 or value == 0 else value})


def scheduler(place: str, given: Given) -> Here:
    """The schedule of the learning rate."""
    word = str(given.value).lower()
    if word == "constant_with_warmup":
        return Here({place: "constant"}, "with train.warmup")
    if word == "constant":
        return Here({place: word, "train.warmup": 0}, "train.warmup: 0, as it has none there")
    if word in _SCHEDULES:
        return Here({place: word})
    return lost(f"no schedule '{given.value}' here; there are {', '.join(_SCHEDULES)}")


def stage(place: str, given: Given) -> Here:
    """What is optimised, in LLaMA-Factory and ms-swift."""
    word = str(given.value).lower()
    if word in ("kto", "orpo", "simpo", "cpo"):
        return blocks(f"{word.upper()} is not there; pairs: rlhf.algorithm: dpo; thumbs: reward")
    return _STAGES.get(word) or blocks(f"there is no training '{given.value}' here")


def algorithm(place: str, given: Given) -> Here:
    """The algorithm of reinforcement or preference learning, in Axolotl and ms-swift."""
    word = str(given.value).lower()
    if word in ("dpo", "ppo", "grpo", "rloo"):
        return Here({place: word})
    return stage(place, given)


def reward_model(place: str, given: Given) -> Here:
    """Axolotl says by it that a reward model is trained; others name one."""
    if flag(given.value) is not None:
        return Here({"reward": {}}) if flag(given.value) else left_out("none is trained")
    return Here({place: [{"model": given.value}]}, "a run or an adapter of tuner")


def preference(place: str, given: Given) -> Here:
    """Beta: of DPO and its kin."""
    if _kind(given) not in ("", "dpo", "ppo", "grpo", "rloo"):
        return left_out("only preference learning has it")
    return Here({place: given.value})


def loss(place: str, given: Given) -> Here:
    """The loss of DPO."""
    if str(given.value).lower() in ("sigmoid", "['sigmoid']"):
        return left_out("it is DPO's loss here")
    if _kind(given) not in ("", "dpo"):
        return left_out("only preference learning has it")
    return blocks(f"DPO's loss is the sigmoid here; there is no '{given.value}'")


def policy(place: str, given: Given) -> Here:
    """The adapter that training starts from; further ones before it are merged there."""
    named = given.value if isinstance(given.value, list) else str(given.value).split(",")
    if len(named) > 1:
        return blocks("one adapter can be started from; merge the others into the base first")
    said = "a run or an adapter folder"
    if _kind(given) in ("dpo", "ppo", "grpo", "rloo"):
        return Here({"rlhf.policy": named[0]}, said)
    goes_on = not flag(given.others.get("create_new_adapter"))
    return Here({place: named[0], "method.continue": goes_on}, said)


def new_adapter(place: str, given: Given) -> Here:
    """Whether the weights of an adapter are merged, or trained further."""
    if empty(given.others.get("adapter_name_or_path")):
        return left_out("there is no adapter to start from")
    if _kind(given) in ("dpo", "ppo", "grpo", "rloo"):
        return left_out("rlhf.policy is trained further")
    return Here({place: not flag(given.value)})


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


def sampled(place: str, given: Given) -> Here:
    """How answers are sampled, which matters to what learns from them."""
    if _kind(given) in ("ppo", "grpo", "rloo"):
        return Here({place: given.value})
    return left_out("only what learns from its own answers has it; `tuner chat` has options")


def _kind(given: Given) -> str:
    """Return what is trained, as far as the other keys say it."""
    names = ("stage", "rl", "rlhf_type")
    return str(next((given.others[name] for name in names if name in given.others), ""))


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
