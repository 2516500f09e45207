"""Rules of verl's asynchronous trainers that its ``validate_config`` leaves to them, where they end a started run.

``colocate_async`` and ``separate_async`` of verl/trainer/ppo/v1; prompts are fetched one by one and replaced when they
are dropped.
"""

from __future__ import annotations

from common.preflight.config_check import RL, ConfigCheck

MODE, SAMPLER = "trainer.v1.trainer_mode", "trainer.v1.sampler"
MODES = ("sync", "colocate_async", "separate_async")
STRATEGIES = ("drop", "wait")


def check_async(check: ConfigCheck) -> None:
    """Batches, GPUs, reward model and limits of age in an asynchronous mode."""
    mode = check.get(MODE)
    if mode not in MODES[1:]:
        return
    if not check.get("trainer.use_v1"):
        check.error("trainer.use_v1", f"verl's older trainer has no {MODE}={mode} and would train in step", "remove it")
    threshold = f"{SAMPLER}.max_off_policy_threshold"
    if check.get(threshold) is not None and check.count(threshold) < 1:
        check.error(threshold, "an answer is at least one step old when it is trained on", "set 1 or more")
    if check.get("data.gen_batch_size") not in (None, 1):
        check.error("data.gen_batch_size", f"verl fetches prompts one by one with {MODE}={mode}", "remove it")
    model = "reward.reward_model"
    if check.get(f"{model}.enable") and not check.get(f"{model}.enable_resource_pool"):
        check.error(
            f"{model}.enable_resource_pool",
            f"a reward model on the GPUs that answer would put answers under way to sleep with {MODE}={mode}",
            "set REWARD_MODEL_GPUS=1 or more",
        )
    if mode == "separate_async":
        _separate(check)


def _separate(check: ConfigCheck) -> None:
    batch, mini = check.count("data.train_batch_size"), check.count(f"{RL}.actor.ppo_mini_batch_size")
    step = "trainer.v1.separate_async.parameter_sync_step"
    if batch and mini and batch % mini == 0 and batch != mini * check.count(step):
        sizes = f"{check.name('data.train_batch_size')} / {check.name(f'{RL}.actor.ppo_mini_batch_size')}"
        check.error(step, f"is {sizes} = {batch // mini} in separate_async", "remove it")
    critic = check.count("critic.ppo_mini_batch_size")
    if check.get("algorithm.adv_estimator") == "gae" and critic and mini and critic > mini:
        check.error("critic.ppo_mini_batch_size", f"an update has only {mini} prompts in separate_async", "remove it")
    gpus, parts = check.count(f"{RL}.rollout.n_gpus_per_node"), check.size(f"{RL}.rollout.tensor_model_parallel_size")
    parts *= check.size(f"{RL}.rollout.data_parallel_size")
    if not gpus or not check.count(f"{RL}.rollout.nnodes"):
        check.error(f"{RL}.rollout.n_gpus_per_node", "separate_async needs GPUs that only answer", "set ROLLOUT_GPUS")
    elif gpus % parts:
        near = max(parts, gpus - gpus % parts)
        check.error(f"{RL}.rollout.n_gpus_per_node", f"an engine takes {parts} GPUs", f"use {near} or {near + parts}")
    if check.get(f"{RL}.rollout.checkpoint_engine.backend") == "naive":
        check.error(
            f"{RL}.rollout.checkpoint_engine.backend", "naive reaches no other GPU", "set TRAINER_MODE=separate"
        )
    if check.get(f"{RL}.hybrid_engine") is False:
        check.error(f"{RL}.hybrid_engine", "this verl ends in a TypeError without it", "remove it")
