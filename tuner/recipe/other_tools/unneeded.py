"""UNNEEDED: keys of other tools about what a run sees to by itself, and about what none does."""

from __future__ import annotations

from tuner.recipe.other_tools.row import Fate, Row, absent, unneeded

UNNEEDED: tuple[Row, ...] = tuple(
    Row(names, "", take)
    for names, take in (
        (
            "wandb_entity swanlab_workspace swanlab_mode mlflow_tracking_uri trackio_space_id",
            unneeded("where a tracker's runs go, its own variables say: see docs/trackers.md"),
        ),
        (
            "wandb_watch wandb_log_model wandb_run_id swanlab_description swanlab_log_completions "
            "swanlab_completion_log_interval swanlab_completion_max_buffer swanlab_log_model "
            "use_comet use_otel_metrics otel_metrics_host otel_metrics_port",
            unneeded("a tracker is sent numbers and settings, nothing else"),
        ),
        (
            "plot_loss logging_strategy logging_first_step include_num_input_tokens_seen "
            "include_tokens_per_second",
            unneeded("figures are in metrics.jsonl and run.json of the run folder"),
        ),
        ("do_predict", unneeded("tuner predict RUN --data FILE answers the rows of a file")),
        ("do_train task_type training_type trainer_type", unneeded("the command says it")),
        (
            "resume_from_checkpoint auto_resume auto_resume_from_checkpoints ignore_data_skip",
            unneeded("--resume goes on from the newest checkpoint"),
        ),
        ("overwrite_output_dir", unneeded("a run folder is never overwritten")),
        (
            "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo push_dataset_to_hub "
            "hf_use_auth_token hf_hub_token",
            unneeded("nothing is uploaded; HF_TOKEN in the environment is for downloads"),
        ),
        (
            "overwrite_cache preprocessing_num_workers dataset_num_proc dataloader_num_workers "
            "dataset_processes dataloader_pin_memory dataloader_prefetch_factor "
            "dataloader_drop_last remove_unused_columns dataset_prepared_path tokenized_path "
            "preprocessing_batch_size lazy_tokenize skip_prepare_dataset shuffle_merged_datasets "
            "dataset_keep_in_memory data_shared_file_system dataset_kwargs ds_type",
            unneeded("rows are prepared for each run, by the program itself"),
        ),
        (
            "group_by_length length_column_name pad_to_sequence_len pad_to_multiple_of "
            "padding_free batch_flattening batching_strategy multipack_real_batches "
            "sample_packing_eff_est sample_packing_bin_size sample_packing_group_size "
            "sample_packing_seq_len_multiplier total_num_tokens eval_packing "
            "ignore_pad_token_for_loss padding_side",
            unneeded("how rows are padded is the plan's; the result is the same"),
        ),
        (
            "plugins liger_rms_norm liger_glu_activation liger_layer_norm liger_rope "
            "liger_rms_norm_gated liger_fused_linear_cross_entropy use_liger_kernel "
            "enable_liger_kernel use_unsloth use_unsloth_gc cut_cross_entropy lora_mlp_kernel "
            "lora_qkv_kernel lora_o_kernel lora_embedding_kernel torch_compile torch_compile_mode "
            "torch_compile_backend flash_attn_cross_entropy flash_attn_rms_norm "
            "flash_attn_fuse_mlp flash_optimum use_kernels kernel_config use_v1_kernels "
            "flex_attn_compile_kwargs fused_attn_kernel use_scattermoe use_sonicmoe "
            "experts_implementation chunked_cross_entropy gc_steps torch_empty_cache_steps "
            "use_cache gemma4_hybrid_attn_impl fused_lora",
            unneeded("the plan chooses the kernels; the result is the same"),
        ),
        (
            "ddp ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers local_rank "
            "device_map accelerator_config low_cpu_mem_usage auto_find_batch_size use_ray "
            "ray_scope resources_per_worker placement_strategy dp_shard_size dp_replicate_size "
            "tensor_parallel_size context_parallel_size sequence_parallel_degree "
            "expert_parallel_size sequence_parallel tensor_model_parallel_size "
            "pipeline_model_parallel_size expert_model_parallel_size use_distributed_optimizer "
            "overlap_param_gather overlap_grad_reduce use_kt kt_config kt_cpu_activation "
            "experimental_skip_move_to_device debug use_mca use_megatron_bridge "
            "max_memory dist_config init_config cp_size cp_mode",
            unneeded("how the work is split over devices is the plan's"),
        ),
        (
            "model_type tokenizer_type tokenizer_config use_fast_tokenizer tokenizer_use_fast "
            "tokenizer_legacy is_llama_derived_model is_falcon_derived_model "
            "is_mistral_derived_model trust_remote_code_tokenizer num_labels model_class "
            "tokenizer_use_mistral_common strict cls_model_config",
            unneeded("the files of the base say it"),
        ),
        ("eot_tokens train_on_eos train_on_eot", unneeded("the end of an answer is learned")),
        (
            "loss_watchdog_threshold loss_watchdog_patience",
            unneeded("a loss that is no number stops a run"),
        ),
        (
            "double_quantization bnb_4bit_use_double_quant bnb_config_kwargs",
            absent("the scales of nf4 are kept in 32 bits: closer to the weights, more memory"),
        ),
        (
            "gptq gptq_groupsize gptq_model_v1 gptq_disable_exllama awq quantize_moe_experts "
            "model_quantization_config model_quantization_config_kwargs fp8 fp8_backend "
            "fp8_enable_fsdp_float8_all_gather nvfp4_merge_aware use_onebitllms",
            absent("the base is loaded as its files are, or as model.quantize says"),
        ),
        ("qat quantization_aware", absent("train.qat: int4 or int8 is for the merged weights")),
        (
            "rope_scaling rope_theta resize_vocab resize_token_embeddings_to_32x shift_attn "
            "model_config reinit_weights overrides_of_model_config overrides_of_model_kwargs "
            "model_kwargs base_model_config upcast_layernorm llama4_linearized_experts",
            absent("the base is as its config.json says"),
        ),
        (
            "image_max_pixels video_max_pixels image_min_pixels video_fps video_maxlen media_dir "
            "freeze_vision_tower freeze_multi_modal_projector freeze_mm_modules freeze_vit "
            "freeze_aligner freeze_llm freeze_language_model processor_type image_size "
            "image_resize_algorithm max_pixels min_pixels",
            absent("rows with images, sounds or videos are not trained on", Fate.BLOCKS),
        ),
        (
            "sample_backend infer_backend trl vllm use_vllm vllm_mode",
            unneeded("rlhf.vllm: colocate or server samples with vLLM"),
        ),
        (
            "top_p top_k min_p repetition_penalty ppo_buffer_size",
            absent("answers are sampled by temperature alone"),
        ),
        (
            "export_dir export_size export_device export_legacy_format export_quantization_bit "
            "export_quantization_dataset export_hub_model_id save_safetensors",
            unneeded("export.formats says what is written"),
        ),
        ("dataset_dir", unneeded("data.train names files")),
    )
)
