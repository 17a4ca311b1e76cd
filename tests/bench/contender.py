"""One contender in a process of its own: `python -m tests.bench.contender NAME FOLDER`.

It gets the rows as token ids, in their order, so it need not prepare them; it tells on stdout when
it is ready to train and the loss of each step, as JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


def tell(**event: Any) -> None:
    """One JSON line to the bench."""
    print(json.dumps(event), file=sys.__stdout__, flush=True)


class Told(TrainerCallback):  # type: ignore[misc]
    """Tells when training begins and what each step's loss was."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        tell(event="ready")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            tell(event="step", step=state.global_step, loss=float(logs["loss"]))


def _shared(facts: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "unused"),
        "max_steps": facts["steps"],
        "per_device_train_batch_size": facts["batch_size"],
        "learning_rate": facts["learning_rate"],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "seed": facts["seed"],
        "use_cpu": facts["device"] == "cpu",
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
    }


def _model(facts: dict[str, Any]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(facts["base"], dtype=torch.float32)
    model.config.use_cache = False
    return model


def _lora(facts: dict[str, Any]) -> Any:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=facts["rank"],
        lora_alpha=2 * facts["rank"],
        lora_dropout=0.0,
        target_modules="all-linear",
    )


def plain(facts: dict[str, Any], folder: Path, rows: Any) -> Trainer:
    """transformers' Trainer and peft, rows padded to the longest of their batch."""
    tokenizer = AutoTokenizer.from_pretrained(facts["base"])
    model = _model(facts)
    if not facts["full"]:
        torch.manual_seed(facts["seed"])
        model = get_peft_model(model, _lora(facts))
    return Trainer(
        model=model,
        args=TrainingArguments(**_shared(facts, folder), label_names=["labels"]),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )


def trl(facts: dict[str, Any], folder: Path, rows: Any, **settings: Any) -> Trainer:
    """trl's SFTTrainer on rows that are prepared, which it then leaves alone."""
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(facts["seed"])
    return SFTTrainer(
        model=_model(facts),
        args=SFTConfig(**_shared(facts, folder), **settings),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(facts["base"]),
        peft_config=None if facts["full"] else _lora(facts),
    )


# trl's best on a CPU: nothing recomputed, and either kind of batch.
_BEST = {"bf16": False, "gradient_checkpointing": False, "max_length": None}
CONTENDERS = {
    "plain": plain,
    "trl": trl,
    "trl-padded": lambda *given: trl(*given, **_BEST),
    "trl-packed": lambda *given: trl(*given, **_BEST, padding_free=True),
    "trl-bf16": lambda *given: trl(*given, **{**_BEST, "bf16": True}, padding_free=True),
}


def main(name: str, folder: Path) -> None:
    """Train and tell."""
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    lines = (folder / "tokens.jsonl").read_text("utf-8").splitlines()
    rows = Dataset.from_list([json.loads(line) for line in lines])
    trainer = CONTENDERS[name](facts, folder, rows)
    trainer.add_callback(Told())
    trainer.train()


if __name__ == "__main__":
    # Stdout is for the bench alone.
    with contextlib.redirect_stdout(sys.stderr):
        main(sys.argv[1], Path(sys.argv[2]))
