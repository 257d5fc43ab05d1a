"""The seams: what this project relies on of the inner parts of libraries, with the signatures it was written for.

tests/tasks/train/test_seams.py checks that each is there, and that none is missing here. tasks/train/seams.py holds the
overrides of trainers; a search for the name finds the rest.
"""

from __future__ import annotations

from typing import NamedTuple


class Seam(NamedTuple):
    """What is relied on: `name` of each of `owners`, classes or modules. `signature` is without types; an attribute has
    none."""

    owners: str
    name: str
    signature: str | None
    why: str


_OFFLINE = "trl.SFTTrainer trl.DPOTrainer trl.KTOTrainer trl.RewardTrainer"
_ONLINE = "trl.RLOOTrainer trl.GRPOTrainer"
_CALLBACK = "transformers.TrainerCallback"
_HOOK = "(self, args, state, control, **kwargs)"
_TASKS = (
    "flytekitplugins.kfpytorch.task.PytorchElasticFunctionTask flytekit.core.python_function_task.PythonFunctionTask "
    "flytekit.core.base_task.PythonTask flytekit.core.base_task.Task"
)
_PYDANTIC = "flytekit.extras.pydantic_transformer.transformer.PydanticTransformer"
_TYPES = "flytekit.core.type_engine.TypeTransformer"
_REMOTE = "flytekit.remote.FlyteRemote"
_CACHE = "flytekit.core.local_cache.LocalTaskCache"
_KEY = "task_name, cache_version, input_literal_map, cache_ignore_input_vars"
_PLUGIN = "flytekit.configuration.plugin.FlytekitPlugin"

SEAMS = (
    Seam(
        "transformers.TextStreamer",
        "on_finalized_text",
        "(self, text, stream_end=False)",
        "an answer of `make chat` is printed without characters that move the cursor",
    ),
    # trainers: overridden in tasks/train/seams.py, where each says why
    Seam(
        "transformers.Trainer",
        "_maybe_log_save_evaluate",
        "(self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None)",
        "checkpoints are saved after a step",
    ),
    Seam("transformers.Trainer", "_save_optimizer_and_scheduler", "(self, output_dir)", "shards are saved by all"),
    Seam(
        "transformers.Trainer",
        "_load_from_checkpoint",
        "(self, resume_from_checkpoint, model=None)",
        "shards are loaded with the optimizer",
    ),
    Seam(
        "transformers.Trainer trl.GRPOTrainer",
        "_load_optimizer_and_scheduler",
        "(self, checkpoint)",
        "shards are loaded by all",
    ),
    Seam("transformers.Trainer", "_load_best_model", "(self)", "the best weights may be in another format"),
    Seam("transformers.Trainer", "_issue_warnings_after_load", "(self, load_result)", "tied weights are not missing"),
    Seam(_OFFLINE, "training_step", "(self, *args, **kwargs)", "the loss watch"),
    Seam(_ONLINE, "training_step", "(self, model, inputs, num_items_in_batch)", "the loss watch"),
    Seam("transformers.Trainer", "training_step", "(self, model, inputs, num_items_in_batch=None)", "the loss watch"),
    Seam(
        f"transformers.Trainer trl.SFTTrainer trl.DPOTrainer trl.KTOTrainer {_ONLINE}",
        "prediction_step",
        "(self, model, inputs, prediction_loss_only, ignore_keys=None)",
        "held-out rows travel with their numbers",
    ),
    Seam("transformers.Trainer", "_get_grad_norm", "(self, model, grad_norm=None)", "the loss watch"),
    Seam(
        "trl.trainer.base_trainer._BaseTrainer",
        "create_model_card",
        "(self, model_name=None, dataset_name=None, tags=None)",
        "no card with every checkpoint",
    ),
    Seam(
        "transformers.Trainer",
        "create_model_card",
        "(self, language=None, license=None, tags=None, model_name=None, finetuned_from=None, tasks=None, "
        "dataset_tags=None, dataset=None, dataset_args=None)",
        "no card with every checkpoint",
    ),
    Seam(
        "transformers.Trainer",
        "evaluation_loop",
        "(self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix='eval')",
        "measures of answers are added; a batch counts once under tensor parallelism",
    ),
    Seam("transformers.Trainer", "save_model", "(self, output_dir=None, _internal_call=False)", "FSDP makes no folder"),
    Seam(
        "trl.SFTTrainer",
        "_prepare_dataset",
        "(self, dataset, processing_class, args, packing, formatting_func, dataset_name)",
        "rows are token ids already",
    ),
    Seam(
        "trl.DPOTrainer trl.KTOTrainer trl.RewardTrainer",
        "_prepare_dataset",
        "(self, dataset, processing_class, args, dataset_name)",
        "rows are token ids already",
    ),
    Seam(
        "transformers.Trainer trl.KTOTrainer",
        "_get_train_sampler",
        "(self, train_dataset=None)",
        "our order of rows",
    ),
    Seam(_ONLINE, "_get_train_sampler", "(self, dataset=None)", "an order that a resumed run keeps"),
    Seam(
        "transformers.Trainer",
        "_run_epoch",
        "(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, "
        "ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch)",
        "the sampler is told the epoch",
    ),
    Seam(
        "transformers.Trainer",
        "get_batch_samples",
        "(self, epoch_iterator, num_batches, device)",
        "rows of a step are counted",
    ),
    Seam(
        f"transformers.Trainer {_OFFLINE}",
        "compute_loss",
        "(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
        "rows weigh the same",
    ),
    Seam(_ONLINE, "_tokenize_prompts", "(self, prompts)", "prompts are token ids already"),
    # trainers: called, read or set
    Seam("transformers.Trainer", "_save_scaler", "(self, output_dir)", "part of a checkpoint"),
    Seam("transformers.Trainer", "_save_rng_state", "(self, output_dir)", "part of a checkpoint"),
    Seam(f"{_OFFLINE} {_ONLINE}", "_total_train_tokens", None, "a resumed run goes on counting"),
    Seam("transformers.Trainer", "is_distributed_loading_by_transformers", None, "says that the model has shards"),
    Seam("transformers.Trainer", "gather_function", None, "replaced for one evaluation under tensor parallelism"),
    Seam("transformers.Trainer", "current_gradient_accumulation_steps", None, "what the loss is divided by"),
    Seam("trl.trainer.utils.RepeatSampler", "generator", None, "seeded anew for each epoch"),
    Seam("trl.trainer.utils.RepeatSampler", "seed", None, "seeded anew for each epoch"),
    Seam("trl.trainer.utils.RepeatSampler", "num_samples", None, "earlier epochs are drawn again"),
    Seam(
        "trl.trainer.sft_trainer.DataCollatorForLanguageModeling",
        "torch_call",
        "(self, examples)",
        "the first token of a row has no label",
    ),
    # callbacks
    *(
        Seam(_CALLBACK, name, _HOOK, "transformers' hook")
        for name in (
            "on_train_begin",
            "on_pre_optimizer_step",
            "on_substep_end",
            "on_step_end",
            "on_prediction_step",
            "on_log",
            "on_evaluate",
            "on_train_end",
        )
    ),
    Seam("transformers.EarlyStoppingCallback", "on_train_begin", _HOOK, "silent where nothing is evaluated"),
    Seam("transformers.EarlyStoppingCallback", "early_stopping_patience_counter", None, "a resumed run goes on"),
    # models
    Seam("transformers.PreTrainedConfig", "_attn_implementation", None, "flash attention takes other batches"),
    Seam("transformers.PreTrainedConfig", "_name_or_path", None, "peft reads the text of virtual tokens by it"),
    Seam("transformers.PreTrainedModel", "_supports_sdpa", None, "which kernels an architecture has"),
    Seam("transformers.PreTrainedModel", "_supports_flash_attn", None, "which kernels an architecture has"),
    Seam("transformers.PreTrainedModel", "_keep_in_fp32_modules", None, "what stays whole when quantized"),
    Seam("transformers.PreTrainedModel", "all_tied_weights_keys", None, "tied weights are saved once"),
    Seam(
        "transformers.quantizers.base.HfQuantizer",
        "get_modules_to_not_convert",
        "(model, skip_modules=None, keep_in_fp32_modules=None, add_default_skips=False)",
        "what stays whole when quantized",
    ),
    Seam(
        "transformers.quantizers.quantizers_utils",
        "should_convert_module",
        "(full_name, patterns=None)",
        "what stays whole when quantized",
    ),
    Seam(
        "transformers.utils.chat_template_utils",
        "render_jinja_template",
        "(conversations, tools=None, documents=None, chat_template=None, return_assistant_tokens_mask=False, "
        "continue_final_message=False, add_generation_prompt=False, **kwargs)",
        "the plan renders templates without torch",
    ),
    Seam(
        "transformers.utils.chat_template_utils",
        "ImmutableSandboxedEnvironment",
        "(*args, **kwargs)",
        "operators of templates are bounded by a subclass in its place",
    ),
    Seam(
        "transformers.utils.chat_template_utils", "_compile_jinja_template", "(chat_template)", "its cache is cleared"
    ),
    Seam("httpx2._models", "_content", None, "an answer is read up to a limit, which `read` does not have"),
    Seam("transformers.utils.logging", "set_tqdm_hook", "(hook)", "loaded weights are counted"),
    Seam("transformers.integrations.integration_utils", "rewrite_logs", "(d)", "names of quantities in trackers"),
    Seam("transformers.integrations.deepspeed", "set_hf_deepspeed_config", "(hf_deepspeed_config_obj)", "ZeRO 3"),
    Seam("transformers.integrations.deepspeed", "unset_hf_deepspeed_config", "()", "ZeRO 3 shards what is loaded"),
    Seam("peft.utils.integrations", "gather_params_ctx", "(param, modifier_rank=0, fwd_module=None)", "ZeRO 3"),
    Seam("peft.utils.transformers_weight_conversion", "_MODEL_TO_CONVERSION_PATTERN", None, "fused layers"),
    Seam("peft.utils.transformers_weight_conversion", "_MOE_TARGET_MODULE_MAPPING", None, "fused experts"),
    Seam("peft.utils.TrainableTokensWrapper", "original_module", None, "the head's bias, which the losses read"),
    # processes
    Seam("accelerate.PartialState", "_shared_state", None, "FSDP and tensor parallelism on CPUs"),
    Seam("accelerate.FullyShardedDataParallelPlugin", "transformer_cls_names_to_wrap", None, "parts by size"),
    Seam("accelerate.FullyShardedDataParallelPlugin", "mixed_precision_policy", None, "gradients in 32 bits"),
    Seam("deepspeed.runtime.engine.DeepSpeedEngine", "_config", None, "the format of the best weights"),
    Seam("deepspeed.runtime.config.DeepSpeedConfig", "load_universal_checkpoint", None, "the format of the best"),
    Seam("deepspeed.checkpoint.ds_to_universal", "main", "(args)", "checkpoints for another number of processes"),
    Seam("deepspeed.runtime.bf16_optimizer", "_hp_mapping", None, "marks a parameter with a 32-bit copy"),
    Seam("deepspeed.runtime.zero.partition_parameters", "ds_id", None, "marks a parameter that ZeRO 3 shards"),
    Seam("deepspeed.runtime.zero.partition_parameters", "ds_numel", None, "the whole size of such a parameter"),
    Seam("deepspeed.utils", "safe_get_full_fp32_param", "(param)", "the model is saved from its 32-bit copy"),
    Seam("torch.cpu", "_is_avx512_bf16_supported", "()", "whether a CPU computes in bfloat16"),
    Seam("torch.cpu", "_is_amx_tile_supported", "()", "whether a CPU computes in bfloat16"),
    Seam("torch._subclasses.fake_tensor", "FakeTensorMode", None, "the plan runs a model without numbers"),
    Seam("torch.distributed._tools.mem_tracker", "MemTracker", None, "the plan counts a model's memory"),
    Seam("torch.utils._python_dispatch", "TorchDispatchMode", None, "the plan counts a model's operations"),
    Seam("fsspec.AbstractFileSystem", "_strip_protocol", "(path)", "paths within a store"),
    # Flyte
    Seam(_TASKS, "execute", "(self, **kwargs)", "processes and timeouts come from the task's inputs"),
    Seam("flytekit.core.python_function_task.PythonFunctionTask", "_task_function", None, "errors of processes"),
    Seam("flytekit.core.base_task.PythonTask", "_task_config", None, "processes and timeouts of a run"),
    Seam("flytekit.core.base_task.PythonTask", "_disable_deck", None, "only rank 0's machine has a Deck"),
    Seam("flytekit.core.checkpointer.SyncCheckpoint", "_checkpoint_src", None, "where the last attempt saved"),
    Seam("flytekit.core.checkpointer.SyncCheckpoint", "_checkpoint_dest", None, "where this attempt saves"),
    Seam("flytekit.Deck", "_html", None, "a live Deck is written anew"),
    Seam("flytekit.models.literals.Literal", "_scalar", None, "errors without the whole config"),
    Seam("flytekit.models.types.LiteralType", "_metadata", None, "types without schemas"),
    Seam("flytekit.models.types.LiteralType", "_structure", None, "types without schemas"),
    Seam("flytekit.remote.remote_fs.FlyteFS", "_remote", None, "signed addresses for uploads"),
    Seam("flytekit.core.local_cache", "CACHE_LOCATION", None, "steps whose outputs are gone are forgotten"),
    Seam(_CACHE, "get", f"({_KEY})", "why a step runs"),
    Seam(_CACHE, "set", f"({_KEY}, value)", "which steps have finished"),
    Seam("flytekit.core.context_manager.FlyteContextManager", "add_signal_handler", "(handler)", "Ctrl-C is one line"),
    Seam(f"{_PYDANTIC} {_TYPES}", "get_literal_type", "(self, t)", "made once for each type"),
    Seam(f"{_PYDANTIC} {_TYPES}", "to_literal", "(self, ctx, python_val, python_type, expected)", "the console's form"),
    Seam(f"{_PYDANTIC} {_TYPES}", "to_python_value", "(self, ctx, lv, expected_python_type)", "short errors"),
    Seam(_TYPES, "guess_python_type", "(self, literal_type)", "inputs of a registered workflow"),
    Seam(_PLUGIN, "get_remote", "(config, project, domain, data_upload_location=None)", "our client of a cluster"),
    Seam(_PLUGIN, "configure_pyflyte_cli", "(main)", "all files are sent"),
    Seam(
        _REMOTE,
        "register_script",
        "(self, entity, image_config=None, version=None, project=None, domain=None, destination_dir='.', "
        "copy_all=False, default_launch_plan=True, options=None, source_path=None, module_name=None, envs=None, "
        "default_resources=None, fast_package_options=None)",
        "the version from the environment; refusals in words",
    ),
    Seam(
        _REMOTE,
        "raw_register",
        "(self, cp_entity, settings, version, create_default_launchplan=True, options=None, og_entity=None)",
        "one order of nodes; refusals in words",
    ),
    Seam(
        _REMOTE,
        "upload_file",
        "(self, to_upload, project=None, domain=None, filename_root=None)",
        "refusals in words",
    ),
    Seam(
        _REMOTE,
        "fetch_launch_plan",
        "(self, project=None, domain=None, name=None, version=None)",
        "defaults are left to the cluster; refusals in words",
    ),
    Seam(
        _REMOTE,
        "fetch_active_launchplan",
        "(self, project=None, domain=None, name=None)",
        "defaults are left to the cluster; refusals in words",
    ),
    Seam(
        _REMOTE,
        "execute",
        "(self, entity, inputs=None, project=None, domain=None, name=None, version=None, execution_name=None, "
        "execution_name_prefix=None, image_config=None, options=None, wait=False, type_hints=None, "
        "overwrite_cache=None, interruptible=None, envs=None, tags=None, cluster_pool=None, "
        "execution_cluster_label=None, serialization_settings=None)",
        "a missing input is named; refusals in words",
    ),
)
