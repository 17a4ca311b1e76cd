"""Values that other tools have for keys that a recipe has, too: `data.template: qwen`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.recipe.other_tools import takes
from tuner.recipe.other_tools.row import Fate, Given, Here, Take, blocks, chosen, left_out, lost

# By the names of LLaMA-Factory, Axolotl and ms-swift: the chat template here that is the same.
CHAT_TEMPLATES = {
    **{name: name for name in ("chatml", "phi")},
    **dict.fromkeys(("llama3", "llama-3", "llama3_1", "llama3_2"), "llama3"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), "gemma"),
    **dict.fromkeys(("mistral", "mistral_v1", "mistral_v2v3"), "mistral"),
    "qwen3": "qwen3",
    **dict.fromkeys(("deepseekr1", "deepseek_r1", "deepseek-r1"), "deepseek-r1"),
}
# Names that are those of the base's own template, or say so.
_OWN = (
    *("tokenizer_default", "default", "auto", "qwen", "qwen_25", "qwen2_5", "qwen25", "qwen2"),
    *("qwen3_nothink", "qwen3_5", "llama2", "llama4", "gemma3", "gemma3n", "gemma4", "phi4"),
    *("phi_3", "phi_35", "phi3", "glm4", "glm4_moe", "gpt_oss", "smollm2", "falcon_h1", "jamba"),
    *("cohere", "command_a", "deepseek", "deepseek_v2", "deepseek3", "granite3", "exaone", "yi"),
    *("tokenizer_default_fallback_chatml", "jinja", "zephyr", "vicuna", "baichuan", "internlm2"),
)
_DATA_TEMPLATES = {
    **dict.fromkeys(("alpaca", "instruct", "instruction_following", "gpteacher"), "instruction"),
    **dict.fromkeys(("openai", "messages", "chat_template", "conversation", "conversational",
                     "conversations", "chat_messages"), "chat"),
    **dict.fromkeys(("completion", "pretrain", "plain", "raw", "text_only"), "text"),
    **dict.fromkeys(("context_qa", "qa_context", "squad"), "qa_with_context"),
    **dict.fromkeys(("prompt-completion", "input_output"), "prompt_completion"),
}  # fmt: skip


def chat_template(place: str, given: Given) -> Here:
    """Return the chat template of a name: one that is here, or the base's own."""
    word = str(given.value).lower()
    if word in CHAT_TEMPLATES:
        return Here({place: CHAT_TEMPLATES[word]})
    if word in ("empty", "none", "completion"):
        return Here({"data.render": "raw"}, "prompt and answer without a chat template")
    if word.startswith(("tokenizer_default", "default", "auto")):
        return left_out("the base's own chat template is used")
    return lost("the base's own chat template is used; for another one, model.chat_template: FILE")


def _data_template(place: str, given: Given) -> Here:
    word = str(given.value).lower()
    if word in _DATA_TEMPLATES:
        return Here({place: _DATA_TEMPLATES[word]})
    known = word in CHAT_TEMPLATES or word in _OWN
    return chat_template("model.chat_template", given) if known else Here()


_METHODS: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(("lora_plus", "loraplus", "lora+"), ("b_rate_ratio", 16)),
    **{init: ("init", init) for init in ("pissa", "olora", "eva", "loftq")},
    **dict.fromkeys(("full_finetune", "fft", "none"), ("name", "full")),
    "prefix-tuning": ("name", "prefix"),
    **dict.fromkeys(("p-tuning", "p_tuning_v1"), ("name", "ptuning")),
    **dict.fromkeys(("p-tuning-v2", "ptuning-v2"), ("name", "ptuning_v2")),
    **dict.fromkeys(("prompt-tuning", "soft_prompt"), ("name", "prompt")),
    **dict.fromkeys(("adapter", "houlsby", "pfeiffer"), ("name", "bottleneck")),
}


def _method(place: str, given: Given) -> Here:
    word = str(given.value).lower()
    key, name = _METHODS.get(word, ("", ""))
    found = Here({f"method.{key}": name}) if key else takes.method(place, given)
    same = found.keys == {"method.name": word} or found.fate is Fate.BLOCKS
    return Here() if same and word != "freeze" else found


def _targets(place: str, given: Given) -> Here:
    found = takes.targets(place, given)
    one = given.value[0] if isinstance(given.value, list) and len(given.value) == 1 else given.value
    return Here() if found.keys.get(place) == one else found


def _words(words: Mapping[str, Any]) -> Take:
    return chosen(words, "", Fate.KEPT)


VALUES: dict[str, Take] = {
    "method": _method,
    "method.name": _method,
    "method.target_modules": _targets,
    "method.init": _words({
        **dict.fromkeys(("true", "gaussian", "kaiming"), "default"),
        **{f"pissa_niter_{count}": "pissa" for count in (4, 8, 16, 32)},
    }),
    "data.template": _data_template,
    "model.chat_template": chat_template,
    "model.dtype": _words({
        **dict.fromkeys(("bf16", "torch.bfloat16", "half_bf16"), "bfloat16"),
        **dict.fromkeys(("fp16", "half", "torch.float16"), "float16"),
        **dict.fromkeys(("fp32", "full", "torch.float32"), "float32"),
    }),
    "model.quantize": _words({
        **dict.fromkeys(("4", "4bit", "4-bit", "int4", "bnb", "true", "bitsandbytes"), "nf4"),
        **dict.fromkeys(("8", "8bit", "8-bit"), "int8"),
        **dict.fromkeys(("false", "null"), "none"),
    }),
    "model.attention": _words(dict.fromkeys(
        ("flash_attention_2", "flash_attention_3", "flash_attn", "fa2", "fa3", "flash",
         "flex_attention", "xformers"), "auto",
    )),
    "data.learn": _words({"assistant": "answers", "completion": "answers", "last": "last_answer"}),
    "data.render": _words({"chatml": {"model.chat_template": "chatml"}, "plain": "raw",
                           "jinja": "chat"}),
    "train.scheduler": _words({
        "constant_with_warmup": "constant", "cosine_decay": "cosine", "linear_decay": "linear",
        "cosine_with_restarts": "cosine_restarts", "warmup_stable_decay": "wsd",
        "cosine_with_min_lr": "cosine",
    }),
    "train.optimizer": _words({
        **dict.fromkeys(("adam", "adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw"),
        **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "adam8bit"), "adamw8bit"),
        "paged_adamw_8bit": "paged_adamw8bit",
        **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), "adamw"),
        **dict.fromkeys(("schedule_free_adamw", "schedulefree"), "schedule_free"),
        "lion_32bit": "lion",
    }),
    "train.max_grad_norm": _words(dict.fromkeys(("off", "false", "null", "inf"), "none")),
    "run.device": _words(dict.fromkeys(("gpu", "cuda:0", "nvidia"), "cuda")),
    "run.strategy": _words(dict.fromkeys(
        ("fsdp2", "full_shard", "zero3", "zero2", "zero", "deepspeed_zero3"), "fsdp"
    )),
    "rlhf.algorithm": _words({
        "reinforce": "rloo", "reinforce++": "rloo",
        "ipo": {"rlhf.algorithm": "dpo", "dpo.loss": "ipo"}, "kto_pair": "kto",
        "gspo": blocks("there is no GSPO here; grpo is nearest"),
        "dapo": blocks("there is no DAPO here; grpo is nearest"),
    }),
}  # fmt: skip
