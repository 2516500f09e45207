"""The composed config against what verl can do: what its own `validate_config` lets through.

Messages name the knob where one sets the key, else the key. Names that verl looks up in its registries are listed here,
so that nothing heavy is loaded; a test compares the lists with the registries.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.preference_losses import ANSWER_LOSSES
from common.preflight.config_async import MODE, MODES, SAMPLER, STRATEGIES, check_async
from common.preflight.config_check import RL, ConfigCheck
from common.preflight.config_sizes import (
    check_batches,
    check_budget,
    check_divides,
    check_fsdp_size,
    check_lengths,
    check_parallel,
    check_sequence_parallel,
    divisors,
)
from common.preflight.fused import check_fused_config

ESTIMATORS = (
    "gae", "grpo", "grpo_vectorized", "grpo_passk", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "rloo",
    "rloo_vectorized", "opo", "remax", "gpg",
)  # fmt: skip
# verl has them, but its v1 trainer does not hand them what they need (`PPOTrainer` of its trainer_base).
UNFED = ("gdpo", "optimal_token_baseline", "tir_optimal_token_baseline")
# ReMax too: its last answer is the greedy baseline (common/verl_ext/remax.py), which is not trained on.
GROUPED = tuple(name for name in ESTIMATORS if name not in ("gae", "reinforce_plus_plus"))
LOSSES = (
    "vanilla", "dppo_tv", "dppo_kl", "gspo", "sapo", "gpg", "clip_cov", "kl_cov", "geo_mean", "dro", "cispo",
    "bypass_mode",
)  # fmt: skip
AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
KL_TYPES = tuple(name + plus for name in ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3") for plus in ("", "+"))
LOGGERS = (
    "console", "file", "tensorboard", "wandb", "mlflow", "swanlab", "vemlp_wandb", "clearml", "trackio", "rl_insight",
)  # fmt: skip
SAVED = ("model", "optimizer", "extra", "hf_model")
# Key -> values, for RL configs and for SFT ones; a key that a config does not have is skipped.
ESTIMATOR, LOSS = "algorithm.adv_estimator", f"{RL}.actor.policy_loss.loss_mode"
CHOICES: dict[str, tuple[str, ...]] = {
    ESTIMATOR: ESTIMATORS,
    "algorithm.kl_penalty": KL_TYPES,
    "algorithm.kl_ctrl.type": ("fixed", "adaptive"),
    LOSS: LOSSES,
    f"{RL}.actor.loss_agg_mode": AGGREGATIONS,
    f"{RL}.actor.kl_loss_type": KL_TYPES,
    f"{RL}.actor.strategy": ("fsdp", "fsdp2", "megatron"),
    f"{RL}.actor.optim.lr_scheduler_type": ("constant", "cosine"),
    f"{RL}.rollout.name": ("vllm", "sglang", "trtllm", "hf"),
    f"{RL}.rollout.load_format": ("dummy", "safetensors", "auto", "dummy_dtensor", "hf"),
    f"{RL}.rollout.dtype": ("bfloat16", "float16", "float32", "auto"),
    "data.truncation": ("error", "left", "right", "middle"),
    "data.pad_mode": ("no_padding", "right", "left_right"),
    "critic.strategy": ("fsdp", "fsdp2", "megatron"),
    "reward.reward_manager.name": ("naive", "dapo", "gdpo", "rate_limited", "remote"),
    "engine.strategy": ("fsdp", "fsdp2"),
    "optim.lr_scheduler_type": ("constant", "cosine"),
    "trainer.resume_mode": ("auto", "disable", "resume_path"),
    MODE: MODES,
    f"{SAMPLER}.max_off_policy_strategy": STRATEGIES,
}


def check_config(check: ConfigCheck, heads: int = 0, kv_heads: int = 0) -> None:
    """All checks of a composed config.

    Args:
        check: Collects what is found.
        heads: Attention heads of the model, 0 when not known.
        kv_heads: Its key-value heads, 0: as many.
    """
    _choices(check)
    _lists(check)
    _files(check)
    check_fused_config(check)
    if check.get(RL) is None:
        _supervised(check, heads, kv_heads or heads)
        return
    world = check.size("trainer.n_gpus_per_node") * check.size("trainer.nnodes")
    _groups(check)
    check_batches(check, world)
    check_parallel(check, world, heads, kv_heads or heads)
    check_lengths(check)
    _lora(check)
    _reward_model(check)
    _contradictions(check)
    check_async(check)


def near(value: str, known: tuple[str, ...]) -> str:
    """``; did you mean …?`` where a known word is near, else the known words."""
    close = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"


def _choices(check: ConfigCheck) -> None:
    for key, known in CHOICES.items():
        value, own = check.get(key), tuple(check.registered.get(key, ()))
        if not isinstance(value, str) or value in (*known, *own):
            continue
        if key == ESTIMATOR and value in UNFED:
            check.error(key, "verl's trainer does not hand it what it computes from", near(value, known))
        else:
            fix = near(value, known + own)
            fix += " (ALGORITHM_PATH adds your own)" if key in (ESTIMATOR, LOSS) else ""
            check.error(key, "verl does not know it", fix)


def _lists(check: ConfigCheck) -> None:
    loggers = list(_texts(check.get("trainer.logger")))
    if "file" not in loggers:
        loggers_needed = ",".join(["console", "file", *(name for name in loggers if name != "console")])
        check.error(
            "trainer.logger",
            "without file there is no metrics.jsonl: no charts, no curve on the page, no early stop",
            f"write trainer.logger=[{loggers_needed}]",
        )
    for name in loggers:
        if name not in LOGGERS:
            check.error("trainer.logger", f"verl has no logger {name}", near(name, LOGGERS))
    for key in (f"{RL}.actor.checkpoint.save_contents", "checkpoint.save_contents", "critic.checkpoint.save_contents"):
        contents = list(_texts(check.get(key)))
        for name in contents:
            if name not in SAVED:
                check.error(key, f"a checkpoint cannot hold {name}", near(name, SAVED))
        if contents and "model" not in contents:
            check.error(key, "without model nothing can be resumed or merged", "add model")
        elif contents and "optimizer" not in contents:
            check.warn(key, "without optimizer a resumed run starts Adam from zero", "add optimizer")


def _texts(value: Any) -> Iterator[str]:
    """The texts of a list, or of what is there in place of one."""
    from omegaconf import ListConfig

    for part in value if isinstance(value, ListConfig) else [] if value is None else [value]:
        yield str(part)


def _files(check: ConfigCheck) -> None:
    for key in ("data.train_files", "data.val_files"):
        paths = list(_texts(check.get(key)))
        if not paths and (check.get(RL) is not None or key == "data.train_files"):
            check.error(key, "no file is named; verl needs both", "set TRAIN_DATA and VAL_DATA")
        for path in paths:
            if "://" not in path and path not in check.coming and not Path(path).exists():
                check.error(key, f"no such file: {path}", f"set {'TRAIN_DATA' if 'train' in key else 'VAL_DATA'}")
    for key in (
        f"{RL}.rollout.multi_turn.tool_config_path",
        f"{RL}.model.lora_adapter_path",
        "model.lora_adapter_path",
    ):
        path = str(check.get(key) or "")
        if path and "://" not in path and not Path(path).exists():
            check.error(key, "no such file or folder", "correct the path")
    resume = check.get("trainer.resume_from_path")
    if resume and "global_step_" not in str(resume):
        check.error("trainer.resume_from_path", "verl resumes from a global_step_N folder", "set RESUME to one")


def _groups(check: ConfigCheck) -> None:
    """Estimators that compare the answers to one prompt need several of them."""
    estimator, key = check.get(ESTIMATOR), f"{RL}.rollout.n"
    if estimator in GROUPED and check.size(key) < 2:
        name = check.name(ESTIMATOR)
        check.error(
            key,
            f"{name}={estimator} compares the answers to one prompt",
            f"set {check.name(key)}=2 or more, or {name}=reinforce_plus_plus, which needs no group",
        )
    if estimator == "gae" and ESTIMATOR in check.owners:  # a script without the critic's knobs
        check.error(ESTIMATOR, "needs a critic", "use ppo/train.sh, or another estimator")
    if estimator == "gae" and check.get("critic.enable") is False:
        check.error("critic.enable", "gae needs a critic", "remove it, or use another algorithm.adv_estimator")
    if check.get("algorithm.filter_groups.enable") and check.get("reward.reward_model.enable"):
        check.error("algorithm.filter_groups.enable", "not with a reward model on the same GPUs", "set it to false")


def _lora(check: ConfigCheck) -> None:
    if not check.count(f"{RL}.model.lora_rank"):
        return
    merge, engine = check.get(f"{RL}.model.lora.merge"), check.get(f"{RL}.rollout.name")
    if check.get(f"{RL}.rollout.load_format") not in ("safetensors", "auto") and not merge:
        check.error(f"{RL}.rollout.load_format", "with LoRA the engine needs the base weights", "write safetensors")
    if engine == "sglang" and not merge:
        check.error(f"{RL}.model.lora.merge", "SGLang takes LoRA only merged", "write true")


def _reward_model(check: ConfigCheck) -> None:
    if not check.get("reward.reward_model.enable"):
        return
    path = check.get("reward.reward_model.model_path")
    if not path:
        check.error("reward.reward_model.model_path", "a reward model is on and none is named", "set REWARD_MODEL_PATH")
    elif str(path).startswith(("/", ".", "~")) and not Path(path).expanduser().is_dir():
        check.error("reward.reward_model.model_path", "no such folder", "set REWARD_MODEL_PATH")
    world = check.size("trainer.n_gpus_per_node")
    size = check.size("reward.reward_model.rollout.tensor_model_parallel_size")
    if not check.get("reward.reward_model.enable_resource_pool") and world % size:
        check.error("reward.reward_model.rollout.tensor_model_parallel_size", divisors(world))


def _contradictions(check: ConfigCheck) -> None:
    if check.get("algorithm.use_kl_in_reward") and check.get(f"{RL}.actor.use_kl_loss"):
        check.warn("algorithm.use_kl_in_reward", "the KL is in the reward and in the loss", "one of them is usual")
    keys = [f"{RL}.actor.clip_ratio_{side}" for side in ("low", "high")]
    low, high = (check.get(key) for key in keys)
    # verl would silently clip to [1 - low, 1 + high]. CISPO has no lower bound, which is written as 1.
    if all(isinstance(bound, float | int) for bound in (low, high)) and low > high and check.get(LOSS) != "cispo":
        high_name = check.name(keys[1])
        check.error(keys[0], f"is above {high_name}={high}; the bounds are the wrong way round", "swap the two")
    multi = check.get(f"{RL}.rollout.multi_turn.enable")
    if multi and check.get(f"{RL}.rollout.agent.default_agent_loop") == "single_turn_agent":
        check.warn(
            f"{RL}.rollout.multi_turn.enable",
            "is read nowhere",
            f"tools are turned on with {RL}.rollout.agent.default_agent_loop=tool_agent",
        )
    if check.get(ESTIMATOR) == "gae" and check.count("trainer.critic_warmup") >= (
        check.count("trainer.total_training_steps") or float("inf")
    ):
        check.error("trainer.critic_warmup", "the actor would not be trained in any step", "lower it")


def _supervised(check: ConfigCheck, heads: int, kv_heads: int) -> None:
    world = check.size("trainer.n_gpus_per_node") * check.size("trainer.nnodes")
    batch = check.count("data.train_batch_size")
    parallel = check.size("engine.ulysses_sequence_parallel_size")
    check_divides(check, batch, max(1, world // parallel))
    check_sequence_parallel(check, "engine.ulysses_sequence_parallel_size", "model", world, (heads, kv_heads))
    check_fsdp_size(check, "engine.fsdp_size", world)
    micro = check.count("data.micro_batch_size_per_gpu")
    share = batch // max(1, world // parallel) if batch else 0
    if not check.get("data.use_dynamic_bsz") and micro and share % micro:
        check.error("data.micro_batch_size_per_gpu", f"must divide the {share} rows a GPU has of a batch")
    answer = check.count("data.max_prompt_length") + check.count("data.max_response_length")  # of dpo
    pair = bool(answer) and check.get("algorithm.loss_type") not in ANSWER_LOSSES
    longest = (2 * answer if pair else answer) or check.count("data.max_length")
    check_budget(check, "data", parallel, longest, "pair" if pair else "sequence")
    if check.get("trainer.test_freq", -1) > 0 and not check.get("data.val_files"):
        check.error("trainer.test_freq", "there is no validation file, so SFT would fail there", "set VAL_DATA")
