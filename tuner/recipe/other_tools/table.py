"""TABLE: keys of LLaMA-Factory, Axolotl, TRL and transformers, ms-swift, Unsloth and torchtune.

A row says what its keys are here, and how their value is read; one without a place has the reason.
A key that comes to be needs its row changed, and nothing else.
"""

from __future__ import annotations

from tuner.recipe.other_tools import (
    sets,
    takes,
    takes_eval,
    takes_rlhf,
    takes_rows,
    takes_track,
    takes_train,
    words,
)
from tuner.recipe.other_tools.row import (
    Fate,
    Row,
    absent,
    as_is,
    chosen,
    if_true,
    left_out,
    noted,
    unneeded,
)

_DTYPES = {
    **dict.fromkeys(("bf16", "bfloat16", "torch.bfloat16"), "bfloat16"),
    **dict.fromkeys(("fp16", "float16", "half", "torch.float16"), "float16"),
    **dict.fromkeys(("fp32", "float32", "torch.float32"), "float32"),
    "auto": "auto",
    "no": left_out("auto is float32 on a CPU and half precision on a GPU"),
}
_INITS = {
    **{name: name for name in ("pissa", "olora", "eva", "loftq")},
    **dict.fromkeys((f"pissa_niter_{count}" for count in (4, 16, 32)), "pissa"),
    **dict.fromkeys(("true", "gaussian", "default", "kaiming"), "default"),
}

TABLE: tuple[Row, ...] = (
    # model
    Row(
        "model_name_or_path base_model model_name model_id pretrained_model_name_or_path "
        "model_path checkpoint model_id_or_path",
        "model.base", as_is,
    ),
    Row("model_revision base_model_revision revision_of_model", "model.revision", as_is),
    Row("trust_remote_code", "model.trust_remote_code", as_is),
    Row(
        "torch_dtype compute_dtype bnb_4bit_compute_dtype mixed_precision precision dtype "
        "infer_dtype", "model.dtype", chosen(_DTYPES, "no dtype '{value}' here"),
    ),
    Row("bf16 bfloat16 pure_bf16 fp16 float16", "model.dtype", takes.dtype),
    Row("float32", "model.dtype", if_true("float32")),
    Row("tf32", "model.tf32", chosen({"true": True, "false": False}, "auto: off here",
                                     Fate.LEFT_OUT)),
    Row("load_in_4bit", "model.quantize", if_true("nf4")),
    Row("load_in_8bit", "model.quantize", if_true("int8")),
    Row("quantization_bit quant_bits", "model.quantize", takes.quantize_bits),
    Row("quantization quantization_config bnb_4bit_quant_type", "model.quantize", chosen(
        {"nf4": "nf4", "bnb": "nf4", "int8": "int8"}, "no quantization '{value}' here", Fate.BLOCKS
    )),
    Row("attn_implementation attn_impl flash_attn flash_attention flash_attention_2 "
        "use_flash_attention_2 sdp_attention xformers_attention flex_attention eager_attention",
        "model.attention", takes.attention),
    Row("chat_template_jinja chat_template_path", "model.chat_template", noted("a file")),
    Row("add_tokens additional_tokens new_special_tokens add_special_tokens tokens",
        "model.new_tokens", takes_rows.new_tokens),
    Row("template chat_template", "model.chat_template", words.chat_template),
    Row("special_tokens", "", takes_rows.special_tokens),
    Row("enable_thinking", "model.chat_arguments", takes.thinking),
    # method
    Row("lora lora_config peft peft_config peft_params", "method", absent("see its keys")),
    Row("finetuning_type peft_type adapter train_type tuner_type peft_method",
        "method.name", takes.method),
    Row("use_dora lora_use_dora peft_use_dora", "method.name", if_true("dora")),
    Row("use_rslora lora_use_rslora peft_use_rslora", "method.name", if_true("rslora")),
    Row("full_finetune full_finetuning", "method.name", if_true("full")),
    Row("lora_r lora_rank rank", "method.r", as_is),
    Row("lora_alpha", "method.alpha", as_is),
    Row("lora_dropout", "method.dropout", as_is),
    Row("lora_target lora_target_modules lora_attn_modules oft_target target_modules "
        "lora_modules", "method.target_modules", takes.targets),
    Row("lora_target_linear", "method.target_modules", if_true("all-linear")),
    Row("lora_target_parameters", "method.experts", takes.experts),
    Row("init_lora_weights peft_init_lora_weights init_weights", "method.init",
        chosen(_INITS, "no initialisation '{value}' here")),
    Row("pissa_init", "method.init", if_true("pissa")),
    Row("loftq_config", "method.init", takes.loftq),
    Row("pissa_iter pissa_convert", "", unneeded("exports work on the untouched base")),
    Row("loraplus_lr_ratio loraplus_lr_b_ratio lorap_lr_ratio", "method.b_rate_ratio", as_is),
    Row("layers_to_transform peft_layers_to_transform", "method.layers", as_is),
    Row("additional_target lora_modules_to_save modules_to_save", "method.modules_to_save",
        takes_rows.words),
    Row("lora_rank_pattern rank_pattern", "method.rank_pattern", as_is),
    Row("oft_block_size", "method.block_size", as_is),
    Row("bias lora_bias", "", absent("biases are not trained")),
    Row("lora_fan_in_fan_out fan_in_fan_out", "", unneeded("it is seen in the base")),
    Row("loraplus_lr_embedding embedding_lr embedding_lr_scale lr_groups lora_alpha_pattern "
        "module_dropout oft_rank", "", absent("it has no key here")),
    Row("relora relora_steps jagged_restart_steps use_llama_pro mixture_of_depths", "",
        absent("there is no such method here", Fate.BLOCKS)),
    Row("lisa_n_layers unfrozen_parameters freeze_trainable_layers freeze_trainable_modules "
        "freeze_extra_modules", "", absent("method.name: full trains all weights")),
    # data
    Row("dataset_config data_args data_config", "data", absent("see its keys")),
    Row("dataset datasets dataset_name dataset_path train_file train_data train_dataset "
        "training_file data_path train_path pretraining_dataset", "data.train", sets.sources),
    Row("eval_dataset eval_file eval_data val_data val_dataset test_datasets validation_file",
        "data.eval", takes_rows.one_file),
    Row("val_size val_set_size test_size validation_split split_dataset_ratio", "data.eval",
        takes_rows.held_out),
    Row("dataset_text_field", "data.columns", takes_rows.text_column),
    Row("field_mapping column_mapping columns_mapping", "data.columns", noted(
        "{name in the data template: name in the file}")),
    Row("system_prompt default_system train_system_prompt", "data.system", as_is),
    Row("cutoff_len max_seq_length max_seq_len sequence_len model_max_length max_len seq_length",
        "data.max_length", as_is),
    Row("max_prompt_length max_prompt_len", "", absent("data.max_length is that of a whole row")),
    Row("excess_length_strategy truncation_strategy", "data.cut", takes_rows.long_rows),
    Row("max_samples max_train_samples num_train_samples", "data.max_rows", takes_rows.max_rows),
    Row("packing sample_packing pack neat_packing multipack", "data.packing", takes_rows.packing),
    Row("train_on_inputs train_on_prompt", "data.learn", if_true("all")),
    Row("mask_history", "data.learn", if_true("last_answer")),
    Row("roles_to_train", "data.learn", takes_rows.learned),
    Row("assistant_only_loss completion_only_loss train_on_responses_only", "data.learn",
        if_true("answers")),
    Row("dataset_exact_deduplication", "", absent("rows that are there twice are counted, "
                                                  "not left out")),
    Row("min_sample_len curriculum_sampling streaming sample_packing_sequentially "
        "mix_strategy interleave_probs disable_shuffling dataset_shuffle train_dataloader_shuffle",
        "", absent("rows of all files are shuffled together by run.seed", harmless="concat")),
    # train
    Row("training trainer training_args training_arguments", "train", absent("see its keys")),
    Row("num_train_epochs num_epochs n_epochs max_epochs epoch", "train.epochs", as_is),
    Row("max_steps total_steps num_train_steps max_train_steps max_steps_per_epoch",
        "train.max_steps", takes.max_steps),
    Row("gradient_accumulation_steps accumulate_grad_batches per_device_train_batch_size "
        "micro_batch_size per_gpu_train_batch_size device_batch_size per_device_batch_size "
        "batch_size", "train.batch_size", takes.batch),
    Row("global_batch_size total_batch_size train_batch_size", "train.batch_size", as_is),
    Row("learning_rate lr peak_lr max_lr base_lr", "train.learning_rate", as_is),
    Row("lr_scheduler_type lr_scheduler scheduler_type lr_schedule", "train.scheduler",
        takes_train.scheduler),
    Row("lr_scheduler_kwargs lr_scheduler_config", "train.floor", takes_train.schedule),
    Row("cosine_min_lr_ratio min_lr_ratio lr_min_ratio min_lr_rate", "train.floor", as_is),
    Row("eta_min min_lr lr_end", "train.floor", takes_train.floor),
    Row("cosine_constant_lr_ratio lr_quadratic_warmup lr_div_factor", "",
        absent("it has no key here")),
    Row("num_decay_steps lr_decay_steps", "train.decay", as_is),
    Row("num_cycles lr_num_cycles", "train.cycles", as_is),
    Row("warmup_ratio warmup_steps num_warmup_steps lr_warmup_steps", "train.warmup",
        takes_train.warmup),
    Row("weight_decay", "train.weight_decay", as_is),
    Row("max_grad_norm gradient_clipping clip_grad_norm clip_grad gradient_clip_val",
        "train.max_grad_norm", takes_train.norm),
    Row("adam_beta1 beta1", "train.adam_beta1", as_is),
    Row("adam_beta2 beta2", "train.adam_beta2", as_is),
    Row("adam_epsilon adam_eps eps", "train.adam_epsilon", as_is),
    Row("gradient_checkpointing use_gradient_checkpointing activation_checkpointing "
        "enable_activation_checkpointing disable_gradient_checkpointing",
        "train.gradient_checkpointing", takes.checkpointing),
    Row("gradient_checkpointing_kwargs activation_offloading layer_offloading tiled_mlp "
        "use_reentrant_gc selective_checkpointing", "",
        unneeded("how memory is saved is the plan's; the result is the same")),
    Row("save_steps save_every checkpointing_steps", "train.save_steps", takes.save),
    Row("saves_per_epoch save_strategy", "", unneeded("train.save_steps counts steps")),
    Row("logging_steps log_every_n_steps", "train.logging_steps", takes.save),
    Row("optim optimizer optim_type optimizer_type", "train.optimizer", takes_train.optimizer),
    Row("use_muon", "train.optimizer", if_true("muon")),
    Row("optim_args optim_config optim_target_modules adam_epsilon2 adam_beta3 use_galore "
        "use_apollo use_badam use_adam_mini galore_rank apollo_rank badam_mode "
        "muon_momentum torchdistx_path", "", absent(takes_train.NONE)),
    Row("neftune_noise_alpha noisy_embedding_alpha", "train.embedding_noise", as_is),
    Row("label_smoothing_factor label_smoothing", "train.label_smoothing", as_is),
    Row("use_dft_loss use_asft_loss use_eaft_loss use_eaft loss_scale", "",
        absent("the loss is the cross-entropy of the learned tokens", harmless="default")),
    Row("save_total_limit max_checkpoints", "train.checkpoints", takes_eval.checkpoints),
    Row("save_only_model save_first_step", "",
        unneeded("checkpoints hold all that resuming needs")),
    # eval
    Row("eval_steps eval_interval", "eval.every", takes_eval.every),
    Row("eval_strategy evaluation_strategy", "eval.every", takes_eval.strategy),
    Row("evals_per_epoch", "eval.every", takes_eval.per_epoch),
    Row("early_stopping_patience early_stopping_steps early_stopping", "eval.stop",
        takes_eval.stop),
    Row("early_stopping_threshold", "eval.stop", takes_eval.threshold),
    Row("load_best_model_at_end save_best_model", "eval.keep", if_true("best")),
    Row("metric_for_best_model", "eval.stop", takes_eval.metric),
    Row("greater_is_better", "", unneeded("which way is better follows from the metric")),
    Row("eval_on_start eval_delay", "", unneeded("held-out rows are scored before training, too")),
    Row("compute_metrics metric eval_causal_lm_metrics", "eval.metrics", noted("by name")),
    Row("max_eval_samples eval_samples", "eval.max_rows", as_is),
    Row("eval_max_new_tokens", "eval.max_new_tokens", as_is),
    Row("do_eval predict_with_generate compute_accuracy do_causal_lm_eval eval_table_size "
        "eval_sample_packing per_device_eval_batch_size eval_batch_size do_bench_eval "
        "eval_on_each_dataset", "", unneeded(takes_eval.SCORED)),
    # run
    Row("output_dir save_dir logging_dir", "run.output", as_is),
    Row("report_to", "run.track", takes_track.trackers),
    Row("use_wandb", "run.track", takes_track.switch("wandb")),
    Row("use_tensorboard", "run.track", takes_track.switch("tensorboard")),
    Row("use_mlflow", "run.track", takes_track.switch("mlflow")),
    Row("use_swanlab", "run.track", takes_track.switch("swanlab")),
    Row("wandb_project", "run.project", takes_track.project_of_wandb),
    Row("project_name swanlab_project mlflow_experiment_name trackio_project_name", "run.project",
        takes_track.word),
    Row("run_name wandb_name wandb_run_name swanlab_experiment_name swanlab_run_name "
        "trackio_run_name", "run.name", takes_track.word),
    Row("wandb_tags", "run.tags", takes_track.word),
    Row("seed random_seed random_state", "run.seed", as_is),
    Row("data_seed", "", unneeded("run.seed is for all")),
    Row("full_determinism", "run.deterministic", if_true()),
    Row("ddp_timeout", "run.timeout", unneeded("seconds to wait for other processes; 600")),
    Row("fsdp fsdp_config fsdp_version fsdp_transformer_layer_cls_to_wrap", "run.strategy",
        takes.strategy),
    Row("deepspeed ddp_strategy", "run.strategy", unneeded(
        "auto is ddp; run.strategy: fsdp shards the base, as ZeRO-3 does")),
    Row("num_gpus n_gpu nproc_per_node num_processes gpus ray_num_workers world_size",
        "run.devices", unneeded("auto: all devices, at the same batch")),
    Row("nnodes num_nodes num_machines", "run.nodes", unneeded("auto: as launched")),
    Row("no_cuda use_cpu", "run.device", if_true("cpu")),
    Row("save_merged_model merge_lora", "export.formats", unneeded(
        "auto writes adapter and merged")),
    Row("save_method export_format", "export.formats", chosen(
        {"merged_16bit": "merged", "lora": "adapter", "q4_k_m": ["gguf-q4_k_m"]},
        "no format '{value}'; `tuner export --formats` lists them")),
    # reward and rlhf
    Row("stage", "rlhf.algorithm", takes_rlhf.stage),
    Row("rl rlhf_type", "rlhf.algorithm", takes_rlhf.algorithm),
    Row("reward_model reward_models reward_model_path", "rlhf.reward", takes_rlhf.reward_model),
    Row("reward_funcs", "rlhf.reward", absent("rlhf.reward: [{function: file.py:name}]")),
    Row("center_rewards_coefficient", "reward.centering", as_is),
    Row("process_reward_model ebft diffusion llmcompressor", "",
        absent("there is no such training here", Fate.BLOCKS)),
    Row("adapter_name_or_path lora_model_dir sft_model_path policy_model adapters "
        "resume_from_adapter", "model.adapter", takes_rlhf.policy),
    Row("create_new_adapter", "method.continue", takes_rlhf.new_adapter),
    Row("max_completion_length response_length max_response_length", "rlhf.max_new_tokens", as_is),
    Row("max_new_tokens", "rlhf.max_new_tokens", takes_rlhf.sampled),
    Row("temperature", "rlhf.temperature", takes_rlhf.sampled),
    Row("num_generations rollout_n num_responses", "rlhf.responses_per_prompt", as_is),
    Row("beta pref_beta rl_beta kl_coef init_kl_coef dpo_beta", "rlhf.kl_coefficient",
        takes_rlhf.preference),
    Row("pref_loss dpo_loss_type loss_type", "dpo.loss", takes_rlhf.loss),
    Row("dpo_label_smoothing", "dpo.label_smoothing", takes_rlhf.smoothing),
    Row("pref_ftx rpo_alpha", "dpo.sft_weight", takes_rlhf.words_weight),
    Row("cpo_alpha", "cpo.sft_weight", takes_rlhf.words_weight),
    Row("simpo_gamma", "simpo.margin", takes_rlhf.own("simpo")),
    Row("orpo_alpha", "rlhf.kl_coefficient", noted("lambda of ORPO")),
    Row("kto_desirable_weight kto_chosen_weight desirable_weight", "kto.desirable_weight",
        takes_rlhf.own("kto")),
    Row("kto_undesirable_weight kto_rejected_weight undesirable_weight",
        "kto.undesirable_weight", takes_rlhf.own("kto")),
    Row("kto_tag", "", unneeded("columns that say what is liked are found by their names")),
    Row("pref_bco_weight ld_alpha dpo_loss_weights dpo_use_weighting", "",
        absent("dpo.loss is one loss, and dpo.sft_weight adds the better answers' tokens",
               harmless="0.0")),
    Row("ref_model ref_model_adapters precompute_ref_log_probs", "",
        absent("the reference is the policy as it begins")),
    Row("cliprange clip_range epsilon", "ppo.clip", as_is),
    Row("vf_coef", "ppo.value_coefficient", as_is),
    Row("lam gae_lam", "ppo.gae_lambda", as_is),
    Row("num_ppo_epochs ppo_epochs", "ppo.epochs", as_is),
    Row("num_mini_batches", "ppo.minibatches", as_is),
    Row("ppo_score_norm", "ppo.normalize_scores", as_is),
    Row("ppo_target", "ppo.kl_target", as_is),
    Row("ppo_whiten_rewards", "ppo.whiten_rewards", as_is),
)  # fmt: skip
