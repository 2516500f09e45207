"""Keys of older verl and of its documents that verl no longer has, or takes and never reads; what to write instead.

Hydra stops at the first kind with a message that does not help; the second kind is worse: it trains with a default.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from common.preflight.findings import Finding
from common.verl_ext.version import pinned

RL = "actor_rollout_ref"
# Pattern of a key -> what to write. Found by composing each against the verl that requirements.txt pins.
REPLACED: tuple[tuple[str, str], ...] = (
    # Taken and never read: the reward has moved below `reward.`
    (r"custom_reward_function\.path", "set REWARD_FUNC_PATH (reward.custom_reward_function.path)"),
    (r"custom_reward_function\.name", "set REWARD_FUNC_NAME (reward.custom_reward_function.name)"),
    (r"custom_reward_function\..*", "write reward.custom_reward_function.…"),
    (r"reward_model\.reward_manager", "write reward.reward_manager.name"),
    (r"reward_model\.enable", "write reward.reward_model.enable"),
    (r"reward_model\.model\.path|reward\.reward_model\.model\.path", "write reward.reward_model.model_path"),
    (r"reward_model\.overlong_buffer\.(\w+)", "write +reward.reward_kwargs.overlong_buffer_cfg.{0}"),
    (r"reward_model\.reward_kwargs\.(.*)", "write +reward.reward_kwargs.{0}"),
    (r"reward_model\.micro_batch_size\w*|reward_model\.strategy", "remove it: the reward model is a server now"),
    (r"reward_model\..*", "write reward.reward_model.…"),
    (r"reward_manager(\..*)?", "write reward.reward_manager.name"),
    (r"sandbox_fusion\.(.*)", "write reward.sandbox_fusion.{0}"),
    (r"trainer\.reward_fn", "set REWARD_FUNC_PATH"),
    (r"algorithm\.filter_groups\.max_num_gen_batches", "write algorithm.filter_groups.max_inflight_gen_batches"),
    # Gone
    (r"model\.partial_pretrain", "set MODEL_PATH (model.path)"),
    (r"data\.(?:prompt_dict_keys|response_dict_keys|response_key)", "give rows with messages; data_utils converts"),
    (r"data\.multiturn\.enable", "remove it: SFT rows are conversations"),
    (r"data\.micro_batch_size", "set TOKENS_PER_GPU, or write data.micro_batch_size_per_gpu"),
    (r"(.*optim)\.warmup_steps_ratio", "set WARMUP_RATIO ({0}.lr_warmup_steps_ratio)"),
    (r"(.*optim)\.lr_scheduler", "set LR_SCHEDULER ({0}.lr_scheduler_type)"),
    (r"ulysses_sequence_parallel_size", "write engine.ulysses_sequence_parallel_size"),
    (r"use_remove_padding", "write model.use_remove_padding"),
    (r"trainer\.checkpoint\.save_contents", "write checkpoint.save_contents"),
    (r"(.*checkpoint)\.contents", "write {0}.save_contents"),
    (rf"{RL}\.rollout\.enable_lora", "set LORA_RANK"),
    (rf"{RL}\.rollout\.multi_turn\.max_turns", f"write {RL}.rollout.multi_turn.max_assistant_turns"),
    (rf"{RL}\.rollout\.multi_turn\.(?:completion_callback|interaction_config_path)", "remove it: agent loops do it"),
    (rf"{RL}\.rollout\.tool_kwargs\.tools_config_file", f"write {RL}.rollout.multi_turn.tool_config_path"),
    (rf"{RL}\.rollout\.use_fire_sampling", "remove it: it is gone"),
    (rf"{RL}\.(actor|ref)\.fsdp_config\.(?:grad_offload)", "remove it: gradients go with param_offload (OFFLOAD)"),
    (r"(.*fsdp_config)\.wrap_policy\.transformer_layer_cls_to_wrap", "remove it: verl finds the layers"),
    (r"critic\.model\.fsdp_config\.(.*)", "write critic.fsdp.{0}"),
    (r"trainer\.use_legacy_worker_impl", "remove it: there is one worker implementation"),
    (r"trainer\.remove_previous_ckpt_in_save", "set KEEP_CHECKPOINTS=1"),
    (r"trainer\.val_generations_to_log_to_wandb", "write trainer.log_val_generations"),
    (r"trainer\.rejection_sample", "write algorithm.filter_groups.enable=true"),
    (r"trainer\.profile_steps", "write global_profiler.steps"),
    (r"ray_init\.num_cpus", "write ray_kwargs.ray_init.num_cpus"),
    (rf"{RL}\.rollout\.micro_batch_size", f"write {RL}.rollout.log_prob_micro_batch_size_per_gpu"),
    (rf"{RL}\.actor\.kl_ctrl\..*", "write algorithm.kl_ctrl.…"),
    (r"trainer\.total_epoch", "set TOTAL_EPOCHS (trainer.total_epochs)"),
)
# Values that compose and are wrong: key, value, what to write.
REPLACED_VALUES: tuple[tuple[str, str, str], ...] = (
    (rf"{RL}\.rollout\.multi_turn", r".*", f"write {RL}.rollout.agent.default_agent_loop=tool_agent"),
    (rf"{RL}\.rollout\.mode", r"sync", "only async is left; remove it"),
    (r"reward\.reward_manager", r"\w*", "it is a group of keys; write reward.reward_manager.name={value}"),
    (r"data\.reward_fn_key", r"(?!data_source$).*", "the reward loop always reads the column data_source"),
    (r"algorithm\.adv_estimator", r"gspo", f"GSPO is a loss: write {RL}.actor.policy_loss.loss_mode=gspo"),
    (r"algorithm\.adv_estimator", r"ppo", "PPO's advantage is gae"),
    (r"algorithm\.adv_estimator", r"dpo", "DPO is ./dpo/train.sh"),
    (r"algorithm\.adv_estimator", r"dapo", "DAPO is grpo with other clips and algorithm.filter_groups.enable=true"),
    (r"model_engine", r"fsdp2?", "write model_engine=dp"),
)
# Key -> supervised algorithms where it is dead though RL has it.
DEAD_IN_SFT = {
    "data.prompt_key": "give rows with messages (data.messages_key); data_utils converts",
    "data.micro_batch_size": "set TOKENS_PER_GPU",
}


def dead_arguments(arguments: Sequence[str], supervised: bool) -> list[Finding]:
    """Errors for ``key=value`` arguments that verl would refuse without help, or take and never read.

    Args:
        arguments: As given, perhaps with ``+``, ``++`` or ``~`` before the key.
        supervised: Whether they are for SFT or DPO.
    """
    errors = []
    for argument in arguments:
        key, _, value = argument.lstrip("+~").partition("=")
        instead = _instead(key, value.strip("'\""), supervised)
        if instead:
            errors.append(Finding(key, value, f"verl {pinned()} does not read this", instead))
    return errors


def _instead(key: str, value: str, supervised: bool) -> str | None:
    if supervised and key in DEAD_IN_SFT:
        return DEAD_IN_SFT[key]
    for pattern, words in REPLACED:
        match = re.fullmatch(pattern, key)
        if match:
            return words.format(*match.groups(default=""))
    for pattern, wrong, words in REPLACED_VALUES:
        if re.fullmatch(pattern, key) and re.fullmatch(wrong, value):
            return words.format(value=value)
    return None
