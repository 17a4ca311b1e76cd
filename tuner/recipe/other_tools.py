"""Keys that other tools have under other names: what they are called in a recipe."""

from __future__ import annotations

# By the place here: their names in TRL, transformers, peft, LLaMA-Factory, axolotl, torchtune.
_NAMES: dict[str, str] = {
    "model.base": "model_name_or_path base_model model_name model_id pretrained_model_name_or_path "
    "model_path checkpoint",
    "model.revision": "model_revision base_model_revision revision_of_model",
    "model.dtype": "torch_dtype compute_dtype bnb_4bit_compute_dtype mixed_precision precision",
    "model.dtype: bfloat16": "bf16 pure_bf16",
    "model.dtype: float16": "fp16",
    "model.quantize": "quantization_bit bnb_4bit_quant_type quantization quantization_config",
    "model.quantize: nf4": "load_in_4bit",
    "model.quantize: int8": "load_in_8bit",
    "model.attention": "attn_implementation flash_attn flash_attention flash_attention_2 "
    "use_flash_attention_2 sdp_attention",
    "model.chat_template": "chat_template_jinja chat_template_path",
    "model.new_tokens": "add_tokens additional_tokens new_special_tokens",
    "method": "lora lora_config peft peft_config peft_params",
    "method.name": "finetuning_type peft_type adapter train_type tuner_type",
    "method.name: dora": "use_dora lora_use_dora peft_use_dora",
    "method.name: rslora": "use_rslora lora_use_rslora peft_use_rslora",
    "method.r": "lora_r lora_rank rank",
    "method.alpha": "lora_alpha",
    "method.dropout": "lora_dropout",
    "method.target_modules": "lora_target lora_target_modules lora_attn_modules",
    "method.target_modules: all-linear": "lora_target_linear",
    "method.init": "init_lora_weights pissa_init peft_init_lora_weights",
    "method.b_rate_ratio": "loraplus_lr_ratio loraplus_lr_b_ratio",
    "method.layers": "layers_to_transform peft_layers_to_transform",
    "method.modules_to_save": "additional_target lora_modules_to_save",
    "data": "dataset_config data_args data_config",
    "data.train": "dataset datasets dataset_name dataset_path train_file train_data train_dataset "
    "training_file data_path data_files train_path",
    "data.eval": "eval_dataset eval_file eval_data val_data val_size val_set_size test_size "
    "test_datasets validation_file validation_split split_dataset_ratio",
    "data.columns": "dataset_text_field field_mapping column_mapping columns_mapping",
    "data.system": "system_prompt default_system train_system_prompt",
    "data.max_length": "cutoff_len max_seq_length max_seq_len sequence_len model_max_length "
    "max_len max_prompt_length seq_length",
    "data.max_rows": "max_samples max_train_samples num_train_samples",
    "data.packing": "sample_packing pack neat_packing multipack",
    "data.learn: all": "train_on_inputs train_on_prompt",
    "data.learn: last_answer": "mask_history",
    "data.learn: answers": "assistant_only_loss completion_only_loss train_on_responses_only",
    "train": "training trainer training_args training_arguments",
    "train.epochs": "num_train_epochs num_epochs n_epochs max_epochs epoch",
    "train.max_steps": "total_steps num_train_steps max_train_steps max_steps_per_epoch",
    "train.batch_size": "gradient_accumulation_steps accumulate_grad_batches global_batch_size "
    "total_batch_size train_batch_size",
    "train.micro_batch_size": "per_device_train_batch_size per_gpu_train_batch_size "
    "device_batch_size per_device_batch_size",
    "train.learning_rate": "lr peak_lr max_lr base_lr",
    "train.scheduler": "lr_scheduler_type lr_scheduler scheduler_type lr_schedule",
    "train.warmup": "warmup_ratio warmup_steps num_warmup_steps lr_warmup_steps",
    "train.max_grad_norm": "gradient_clipping clip_grad_norm clip_grad gradient_clip_val",
    "train.gradient_checkpointing": "use_gradient_checkpointing activation_checkpointing "
    "enable_activation_checkpointing",
    "train.save_steps": "save_strategy saves_per_epoch save_every checkpointing_steps",
    "train.logging_steps": "log_every_n_steps logging_strategy",
    "train.adam_beta1": "beta1",
    "train.adam_beta2": "beta2",
    "train.adam_epsilon": "adam_eps eps",
    "train.checkpoints": "save_total_limit max_checkpoints",
    "eval.metrics": "compute_metrics metric",
    "eval.every": "eval_steps eval_strategy evaluation_strategy evals_per_epoch eval_interval",
    "eval.stop": "early_stopping early_stopping_patience early_stopping_steps "
    "early_stopping_threshold metric_for_best_model",
    "eval.keep: best": "load_best_model_at_end save_best_model",
    "eval.max_rows": "max_eval_samples eval_samples",
    "run.output": "output_dir save_dir logging_dir",
    "run.seed": "random_seed data_seed",
    "run.timeout": "ddp_timeout",
    "run.strategy": "deepspeed fsdp fsdp_config ddp_strategy",
    "run.devices": "num_gpus n_gpu nproc_per_node num_processes gpus",
    "run.nodes": "nnodes num_nodes num_machines",
    "rlhf.algorithm": "rl rlhf_type pref_loss",
    "rlhf.reward": "reward_funcs reward_model reward_models reward_model_path",
    "rlhf.policy": "sft_model_path adapter_name_or_path policy_model",
    "rlhf.max_new_tokens": "max_completion_length response_length max_response_length",
    "rlhf.responses_per_prompt": "num_generations rollout_n num_responses",
    "rlhf.kl_coefficient": "beta pref_beta rl_beta kl_coef init_kl_coef dpo_beta",
    "ppo.clip": "cliprange clip_range epsilon",
    "ppo.value_coefficient": "vf_coef",
    "ppo.gae_lambda": "lam gae_lam",
    "ppo.epochs": "num_ppo_epochs ppo_epochs",
    "ppo.minibatches": "num_mini_batches",
    "export.formats": "save_merged_model save_method export_format",
}
_HERE = {name: place for place, names in _NAMES.items() for name in names.split()}
_NOTES = {
    "gradient_accumulation_steps": "the rows of a whole step, on all devices",
    "per_device_train_batch_size": "train.batch_size counts the rows of a whole step",
    "deepspeed": "ddp or fsdp",
    "metric_for_best_model": "its metric, which keeps the best weights, too",
    "early_stopping_patience": "its patience",
    "early_stopping_threshold": "its min_change",
}
# Settings that a recipe has no key for, and what a run does in their place.
_NONE = {
    "the optimizer is AdamW": "optim optimizer optim_type optim_args",
    "figures are in metrics.jsonl and run.json of the run folder": "report_to use_wandb "
    "wandb_project wandb_run_name use_tensorboard plot_loss use_swanlab run_name "
    "mlflow_tracking_uri",
    "held-out rows are scored before and after training": "do_eval per_device_eval_batch_size "
    "predict_with_generate eval_on_start",
    "which way is better follows from the metric": "greater_is_better",
    "the command says what is done": "do_train stage task_type training_type trainer_type",
    "--resume goes on from the newest checkpoint": "resume_from_checkpoint auto_resume",
    "a run folder is never overwritten": "overwrite_output_dir overwrite_cache",
    "nothing is uploaded": "push_to_hub hub_model_id hub_strategy hub_token",
    "rows are prepared by one process": "preprocessing_num_workers dataset_num_proc "
    "dataloader_num_workers dataset_processes dataloader_pin_memory remove_unused_columns",
    "rows of similar length are grouped where they are not packed": "group_by_length "
    "length_column_name",
    "the base keeps its own special tokens": "special_tokens",
    "biases are not trained": "bias lora_bias",
}
_ABSENT = {name: why for why, names in _NONE.items() for name in names.split()}


def place(word: str) -> str | None:
    """Return the key of a recipe (`train.epochs`, `method.name: dora`) that another tool calls so;
    None: not known."""
    return _HERE.get(word.replace("-", "_"))


def answer(word: str) -> str | None:
    """Return the message for a key that another tool has; None: not known."""
    plain = word.replace("-", "_")
    if here := place(plain):
        note = f" ({_NOTES[plain]})" if plain in _NOTES else ""
        return f"another tool's name for {here}{note}"
    if plain in _ABSENT:
        return f"a key of other tools; leave it out: {_ABSENT[plain]}"
    return None


def places() -> list[str]:
    """Return the keys that other tools have under other names."""
    return list(_NAMES)
