"""Further cases of `same_bytes`: bases, preferences, exports, resuming, what only looks."""

from __future__ import annotations

from typing import Any

from tests.tools.same_bytes_cases import (
    Case,
    Command,
    labelled,
    method,
    one,
    pairs,
    prompts,
    rankings,
    recipe,
    rows,
)

GGUF = (
    *("gguf-f32", "gguf", "gguf-bf16", "gguf-q8_0", "gguf-q6_k", "gguf-q5_k_m", "gguf-q5_0"),
    *("gguf-q5_1", "gguf-q4_k_m", "gguf-q4_0", "gguf-q4_1", "gguf-adapter"),
)
FORMATS = ("adapter", "merged", "int8", "nf4", "int8-torchao", "int4", *GGUF)
LORA = method("lora")
RULES: list[dict[str, Any]] = [
    {"rule": "length", "max": 2},
    {"rule": "forbidden", "words": ["film", "music"]},
]
FUNCTION = "def by_length(answers):\n    return [float(a.num_tokens) for a in answers]\n"


def of_bases() -> dict[str, Case]:
    """Families of bases, heads, and half precision."""
    classes = {"task": "classification"}
    text = {"train.jsonl": labelled(18), "held": labelled(6, 100)}
    made: dict[str, Case] = {}
    for kind in ("gpt2", "qwen2", "mixtral", "t5", "bart"):
        made[f"base-{kind}"] = one("lora", recipe(model={"base": f"{{{kind}}}"}, method=LORA))
    for name, kind in (("encoder", "bert"), ("decoder", "llama")):
        made[f"classes-{name}"] = one(
            "lora",
            recipe(model={"base": f"{{{kind}}}", **classes}, method=LORA),
            text["train.jsonl"],
            text["held"],
        )
    made["classes-ptuning_v2"] = one(
        "prefix",
        recipe(model={"base": "{bert}", **classes}, method=method("ptuning_v2")),
        text["train.jsonl"],
        text["held"],
    )
    for dtype in ("bfloat16", "float16"):
        for name in ("lora", "adalora"):
            given = recipe(model={"dtype": dtype}, method=method(name))
            made[f"{dtype}-{name}"] = one("sft", given)
    for quantize in ("nf4", "int8"):
        given = recipe(model={"quantize": quantize}, method=LORA)
        made[f"quantized-{quantize}"] = one("lora", given)
    mixture = {"base": "{mixtral}"}
    # Its proof allows a multiple of the noise, not the roundings that are always allowed.
    made["noisy"] = one(
        "lora",
        recipe(model={"base": "{noisy}"}, method=LORA, export={"formats": ["adapter"]}),
    )
    made["experts"] = one("lora", recipe(model=mixture, method=LORA | {"experts": True}))
    made["new-tokens"] = one("lora", recipe(model={"new_tokens": ["<law>"]}, method=LORA))
    made["qat"] = one("lora", recipe(method=LORA, train={"qat": "int8"}))
    for init in ("pissa", "olora", "eva"):
        made[f"lora-{init}"] = one("lora", recipe(method=LORA | {"init": init}))
    made["lora-plus"] = one(
        "lora",
        recipe(
            method=LORA | {"b_rate_ratio": 4.0, "dropout": 0.1, "modules_to_save": ["lm_head"]},
            data={"packing": False},
            train={"gradient_checkpointing": True, "micro_batch_size": 2},
        ),
    )
    return made


def of_preferences() -> dict[str, Case]:
    """Reward models, and each way of learning from rewards or preferences."""
    held: dict[str, Any] = {"samples": 1, "max_new_tokens": 4}
    reward = recipe(method=LORA, eval={})
    made = {
        "reward-pairs": one("reward", reward, pairs(16), pairs(4, 100)),
        "reward-rankings": one("reward", reward, rankings(12), rankings(4, 100)),
    }
    dpo = recipe(method=LORA, rlhf={"algorithm": "dpo"}, eval=held)
    made["dpo"] = one("rlhf", dpo, pairs(16), pairs(4, 100))
    online = {"reward": RULES, "max_new_tokens": 6, "missing_eos_penalty": 0.25}
    for name in ("grpo", "rloo", "ppo"):
        given = recipe(
            method=LORA, rlhf={"algorithm": name, **online}, train={"batch_size": 8}, eval=held
        )
        made[name] = one("rlhf", given, prompts(20), prompts(4, 100))
    stages = {
        "train.jsonl": rows(16),
        "eval.jsonl": rows(4, 100),
        "pairs.jsonl": pairs(16),
        "held-pairs.jsonl": pairs(4, 100),
        "prompts.jsonl": prompts(20),
        "ptx.jsonl": rows(8, 40),
        "r.py": FUNCTION,
        "sft.yaml": recipe(method=LORA),
        "reward.yaml": recipe(
            method=LORA, data={"train": "pairs.jsonl", "eval": "held-pairs.jsonl"}
        ),
    }
    for trunk in ("policy", "reward"):
        parts: list[dict[str, Any]] = [{"model": "runs/reward"}, {"function": "r.py:by_length"}]
        ppo = recipe(
            data={"train": "prompts.jsonl", "eval": 4},
            rlhf={
                "policy": "runs/sft",
                "reward": parts[:1] if trunk == "reward" else parts,
                "allow_code": True,
                "max_new_tokens": 6,
                "responses_per_prompt": 2,
                "sample_steps": 1,
                "temperature": 0.9,
            },
            ppo={
                "gamma": 0.9,
                "gae_lambda": 0.8,
                "kl_target": 0.05,
                "kl_horizon": 40,
                "normalize_scores": True,
                "ptx_coefficient": 0.5,
                "ptx_data": "ptx.jsonl",
                "value_trunk": trunk,
            },
            train={"batch_size": 8, "micro_batch_size": 4},
            eval=held,
        )
        commands = (
            Command("sft --recipe sft.yaml --output runs/sft"),
            Command("reward --recipe reward.yaml --output runs/reward"),
            Command("rlhf --recipe ppo.yaml --output runs/ppo"),
        )
        made[f"ppo-critic-on-{trunk}"] = Case(commands, stages | {"ppo.yaml": ppo})
    chain = recipe(
        data={"train": "prompts.jsonl", "eval": 4},
        rlhf={"policy": "sft.yaml", "reward": [{"model": "reward.yaml"}], "max_new_tokens": 6},
        train={"batch_size": 8},
        eval=held,
    )
    line = "rlhf --recipe chain.yaml --output runs/chain"
    made["chain"] = Case((Command(line), Command("runs list")), stages | {"chain.yaml": chain})
    return made


def of_runs() -> dict[str, Case]:
    """Exports, a killed run, two processes, comparisons."""
    made: dict[str, Case] = {}
    for name in FORMATS:
        given = recipe(method=LORA, export={"formats": ["adapter"]}, train={"max_steps": 8})
        after = [f"export runs/r --format {name} --output out", f"verify out/{name}"]
        made[f"export-{name}"] = one("lora", given, None, None, *after)
    formats = ["adapter", "merged", {"gguf": "q8_0"}, "int8"]
    made["formats-in-a-run"] = one("lora", recipe(method=LORA, export={"formats": formats}))
    made["virtual-tokens"] = one(
        "prefix",
        recipe(method=method("prefix"), export={"formats": ["adapter", "virtual_tokens"]}),
    )
    for name in ("lora", "staged", "adalora"):
        train: dict[str, Any] = {"max_steps": 8}
        train |= {"learning_rate": "auto"} if name == "staged" else {}
        base = one("sft", recipe(method=method(name), train=train))
        line = base.commands[0].line
        stopped = Command(line, kill_at="runs/r/checkpoints/step-4/MANIFEST.json")
        resumed = Command(f"{line} --resume --quiet")
        made[f"killed-{name}"] = Case((stopped, resumed), base.files)
    made["two-processes"] = one("lora", recipe(method=LORA, run={"devices": 2}))
    compared = recipe(
        compare=[{"name": "lora", "r": 4}, {"name": "prompt", "num_virtual_tokens": 4}]
    )
    made["compare"] = Case(
        (Command("compare --recipe c.yaml --output runs/c"),),
        {"train.jsonl": rows(16), "eval.jsonl": rows(4, 100), "c.yaml": compared},
    )
    made["rehearsal"] = one("lora --rehearse", recipe(method=LORA))
    made["combined"] = Case(
        (
            Command("lora --recipe r.yaml --output runs/a"),
            Command("lora --recipe r.yaml --output runs/b --set run.seed=7"),
            Command("export runs/a --adapters runs/b --format adapter --output out"),
        ),
        {"train.jsonl": rows(16), "eval.jsonl": rows(4, 100), "r.yaml": recipe(method=LORA)},
    )
    return made


def of_looking() -> dict[str, Case]:
    """Chat with a seed, plans, what only shows, and the texts of errors."""
    lora = recipe(method=LORA)
    looks = (
        "chat runs/r --seed 3 --temperature 0.8 --max-new-tokens 8",
        "chat runs/r --seed 3 --temperature 0.8 --max-new-tokens 8 --json",
    )
    base = one("lora", lora)
    talk = [Command(line, stdin="Say number 3.\nSay rent.\n") for line in looks]
    made = {"chat": Case((*base.commands, *talk), base.files)}
    made["shown"] = one(
        "lora",
        lora,
        None,
        None,
        *("inspect runs/r", "inspect runs/r --json", "runs list", "runs show runs/r"),
        *("verify runs/r/merged", "data preview --recipe r.yaml -n 3"),
        *("plan --recipe r.yaml", "plan --recipe r.yaml --json"),
        "plan --recipe r.yaml --for h100 --devices 2",
        "plan --recipe r.yaml --for rtx4090 --json",
    )
    words = ("recipes list", "templates list", "templates show classification", "recipes schema")
    words += ("--help", "lora --help", "rlhf --help", "export --help", "chat --help")
    made["help"] = Case(tuple(Command(line) for line in words))
    files = base.files | {
        "bad.yaml": "model: {base: [}\n",
        "unknown.yaml": recipe(method=LORA, train={"learning_rat": 1}),
        "twice.yaml": "model: {base: x}\nmodel: {base: y}\n",
        "broken.jsonl": '{"instruction": "a"}\nnot json\n',
        "empty.jsonl": "",
    }
    wrong = (
        *("lora --recipe none.yaml", "lora --recipe bad.yaml", "lora --recipe unknown.yaml"),
        *("lora --recipe twice.yaml", "lora", "frobnicate", "lora --recipe r.yaml --frob"),
        *("lora --recipe r.yaml --set method.name=lorra", "lora --recipe r.yaml --set method.r=0"),
        *("lora --recipe r.yaml --set model.base=nowhere/none", "lora --recipe r.yaml --set x.y=1"),
        "lora --recipe r.yaml --set data.train=broken.jsonl",
        "lora --recipe r.yaml --set data.train=empty.jsonl",
        "lora --recipe r.yaml --set data.train=none.jsonl",
        "lora --recipe r.yaml --set data.template=none",
        "lora --recipe r.yaml --set 'method.target_modules=[nope]'",
        "lora --recipe r.yaml --set data.max_length=4",
        "lora --recipe r.yaml --set model.quantize=nf4 --set train.qat=int4",
        *("lora --recipe r.yaml --set 'export.formats=[gguf-q9]'", "verify nowhere"),
        *("rlhf --recipe r.yaml", "reward --recipe r.yaml", "export nowhere --format gguf"),
        *("inspect nowhere", "chat nowhere", "runs show nowhere", "plan --recipe r.yaml --for x"),
        "lora --recipe r.yaml --output runs/new --resume --dry-run",
    )
    made["errors"] = Case(tuple(Command(line) for line in wrong), files)
    return made
