"""The composed config against what verl 0.9.1 can do: what its own `validate_config` lets through.

Messages name the knob where one sets the key, else the key. Names that verl looks up in its registries are listed here,
so that nothing heavy is loaded; a test compares the lists with the registries.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RL = "actor_rollout_ref"
ESTIMATORS = (
    "gae", "grpo", "grpo_vectorized", "gdpo", "grpo_passk", "reinforce_plus_plus", "reinforce_plus_plus_baseline",
    "rloo", "rloo_vectorized", "opo", "remax", "gpg", "optimal_token_baseline", "tir_optimal_token_baseline",
)  # fmt: skip
GROUPED = tuple(name for name in ESTIMATORS if name not in ("gae", "reinforce_plus_plus", "remax"))
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
SEQUENCE_PARALLEL = (  # the short ones are verl's older names, which it still obeys
    f"{RL}.actor.ulysses_sequence_parallel_size", f"{RL}.actor.fsdp_config.ulysses_sequence_parallel_size",
    "critic.ulysses_sequence_parallel_size", "critic.fsdp.ulysses_sequence_parallel_size",
)  # fmt: skip
# Key -> values, for RL configs and for SFT ones; a key that a config does not have is passed over.
CHOICES: dict[str, tuple[str, ...]] = {
    "algorithm.adv_estimator": ESTIMATORS,
    "algorithm.kl_penalty": KL_TYPES,
    "algorithm.kl_ctrl.type": ("fixed", "adaptive"),
    f"{RL}.actor.policy_loss.loss_mode": LOSSES,
    f"{RL}.actor.loss_agg_mode": AGGREGATIONS,
    f"{RL}.actor.kl_loss_type": KL_TYPES,
    f"{RL}.actor.strategy": ("fsdp", "fsdp2", "megatron", "veomni", "torchtitan"),
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
}


@dataclass
class ConfigCheck:
    """A composed config with what was found in it.

    Args:
        config: As Hydra composed it.
        owners: Key of verl -> knob that sets it.
        own_names: Whether a file of the user's registers estimators and losses (it has been checked already).
        errors: Stop the launch.
        warnings: Do not.
    """

    config: Any
    owners: Mapping[str, str] = field(default_factory=dict)
    own_names: bool = False
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key, ``default`` when the config has no such key."""
        from omegaconf import OmegaConf

        return OmegaConf.select(self.config, key, default=default)

    def count(self, key: str, default: int = 0) -> int:
        """A whole number from 0 on; ``default`` where the config has none, or something else, which is an error."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, int) and value >= 0:
            return value
        if not any(error.startswith(f"{self.name(key)}=") for error in self.errors):
            self.error(key, "must be a whole number from 0 on")
        return default

    def size(self, key: str) -> int:
        """A ``count`` of processes or of parts; 1 where the config has none or 0."""
        return self.count(key, 1) or 1

    def name(self, key: str) -> str:
        """The knob that sets a key, else the key."""
        return self.owners.get(key, key)

    def error(self, key: str, text: str) -> None:
        """Note what is wrong with the value of a key."""
        self.errors.append(f"{self.name(key)}={self.get(key)}: {text}")

    def warn(self, key: str, text: str) -> None:
        """Note what to look at in the value of a key."""
        self.warnings.append(f"{self.name(key)}={self.get(key)}: {text}")


def check_config(check: ConfigCheck, heads: int = 0) -> None:
    """All checks of a composed config.

    Args:
        check: Collects what is found.
        heads: Attention heads of the model, 0 when not known.
    """
    _choices(check)
    _lists(check)
    _files(check)
    _saving(check)
    if check.get(RL) is None:
        _supervised(check, heads)
        return
    world = check.size("trainer.n_gpus_per_node") * check.size("trainer.nnodes")
    _groups(check)
    _batches(check, world)
    _parallel(check, world, heads)
    _lengths(check)
    _lora(check)
    _reward_model(check)
    _contradictions(check)


def near(value: str, known: tuple[str, ...]) -> str:
    """``; did you mean …?`` where a known word is near, else the known words."""
    close = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"


def _choices(check: ConfigCheck) -> None:
    for key, known in CHOICES.items():
        value = check.get(key)
        if check.own_names and known in (ESTIMATORS, LOSSES):
            continue
        if isinstance(value, str) and value not in known:
            check.error(key, f"verl does not know it; {near(value, known)}")


def _lists(check: ConfigCheck) -> None:
    for name in _texts(check.get("trainer.logger")):
        if name not in LOGGERS:
            check.error("trainer.logger", f"verl has no logger {name}; {near(name, LOGGERS)}")
    for key in (f"{RL}.actor.checkpoint.save_contents", "checkpoint.save_contents", "critic.checkpoint.save_contents"):
        contents = list(_texts(check.get(key)))
        for name in contents:
            if name not in SAVED:
                check.error(key, f"a checkpoint cannot hold {name}; {near(name, SAVED)}")
        if contents and "model" not in contents:
            check.error(key, "without model nothing can be resumed or merged; add model")
        elif contents and "optimizer" not in contents:
            check.warn(key, "without optimizer a resumed run starts Adam anew; add optimizer")


def _texts(value: Any) -> Iterator[str]:
    """The texts of a list, or of what stands in the place of one."""
    from omegaconf import ListConfig

    for part in value if isinstance(value, ListConfig) else [] if value is None else [value]:
        yield str(part)


def _files(check: ConfigCheck) -> None:
    for key in ("data.train_files", "data.val_files"):
        paths = list(_texts(check.get(key)))
        if not paths and (check.get(RL) is not None or key == "data.train_files"):
            check.error(key, "no file is named; verl needs both; set TRAIN_DATA and VAL_DATA")
        for path in paths:
            if "://" not in path and not Path(path).exists():
                check.error(key, f"no such file: {path}; set {'TRAIN_DATA' if 'train' in key else 'VAL_DATA'}")
    for key in (
        f"{RL}.rollout.multi_turn.tool_config_path",
        f"{RL}.model.lora_adapter_path",
        "model.lora_adapter_path",
    ):
        path = str(check.get(key) or "")
        if path and "://" not in path and not Path(path).exists():
            check.error(key, "no such file or folder; correct the path")
    resume = check.get("trainer.resume_from_path")
    if resume and "global_step_" not in str(resume):
        check.error("trainer.resume_from_path", "verl resumes from a global_step_N folder; set RESUME to one")


def _saving(check: ConfigCheck) -> None:
    save, total = check.get("trainer.save_freq"), check.get("trainer.total_training_steps")
    if isinstance(save, int) and save <= 0:
        check.error("trainer.save_freq", "nothing would ever be saved, not even at the end; set SAVE_FREQ from 1")
    if isinstance(total, int) and total <= 0:
        check.error("trainer.total_training_steps", "no step would be trained; set TOTAL_STEPS from 1")
    test = check.get("trainer.test_freq")
    if isinstance(test, int) and test > 0 and check.get(RL) is None and not check.get("data.val_files"):
        check.error("trainer.test_freq", "there is no validation file, so SFT would fail there; set VAL_DATA")


def _groups(check: ConfigCheck) -> None:
    """Estimators that compare the answers to one prompt need several of them."""
    estimator, answers = check.get("algorithm.adv_estimator"), check.size(f"{RL}.rollout.n")
    if estimator in GROUPED and answers < 2:
        check.error(f"{RL}.rollout.n", f"{estimator} compares the answers to a prompt and needs at least 2; set 8")
    if estimator == "gae" and check.get("critic.enable") is False:
        check.error("critic.enable", "gae needs a critic; remove it, or use another algorithm.adv_estimator")
    if check.get("algorithm.filter_groups.enable") and check.get("reward.reward_model.enable"):
        check.error("algorithm.filter_groups.enable", "not with a reward model on the same GPUs; set it to false")
    if check.get(f"{RL}.rollout.temperature") == 0:
        check.error(f"{RL}.rollout.temperature", "all answers to a prompt would be the same; set TEMPERATURE=1.0")


def _batches(check: ConfigCheck, world: int) -> None:
    batch, mini = check.count("data.train_batch_size"), check.count(f"{RL}.actor.ppo_mini_batch_size")
    answers = check.size(f"{RL}.rollout.n")
    if not batch or not mini:
        return
    if mini > batch:
        check.error(f"{RL}.actor.ppo_mini_batch_size", f"larger than the batch of {batch}; set MINI_BATCH_SIZE={batch}")
    micro = check.count(f"{RL}.actor.ppo_micro_batch_size_per_gpu")
    share = mini * answers // world
    if not check.get(f"{RL}.actor.use_dynamic_bsz") and micro and share % micro:
        fits = [size for size in range(1, share + 1) if share % size == 0]
        fix = f"use one of {', '.join(map(str, fits))}"
        check.error(
            f"{RL}.actor.ppo_micro_batch_size_per_gpu",
            f"must divide the {share} sequences a GPU has of a mini batch; {fix}",
        )
    generated = check.count("data.gen_batch_size")
    if generated and batch % generated and generated % batch:
        check.error("data.gen_batch_size", f"must divide data.train_batch_size={batch}; remove it")
    critic = check.count("critic.ppo_mini_batch_size")
    if check.get("algorithm.adv_estimator") == "gae" and critic and critic > batch:
        check.error("critic.ppo_mini_batch_size", f"larger than the batch of {batch}; remove it")


def _parallel(check: ConfigCheck, world: int, heads: int) -> None:
    tensor = check.size(f"{RL}.rollout.tensor_model_parallel_size")
    data = check.size(f"{RL}.rollout.data_parallel_size")
    pipeline = check.size(f"{RL}.rollout.pipeline_model_parallel_size")
    key = f"{RL}.rollout.tensor_model_parallel_size"
    if world % (tensor * data * pipeline):
        check.error(
            key, f"a rollout engine of {tensor * data * pipeline} GPUs does not divide {world}; {_divisors(world)}"
        )
    elif heads and heads % tensor:
        fits = [size for size in range(1, world + 1) if world % size == 0 and heads % size == 0]
        check.error(key, f"the model has {heads} attention heads; use one of {', '.join(map(str, fits))}")
    if pipeline > 1:
        check.error(f"{RL}.rollout.pipeline_model_parallel_size", "no rollout engine of verl does it; set 1")
    for key in SEQUENCE_PARALLEL:
        model = "critic.model" if key.startswith("critic") else f"{RL}.model"
        _sequence_parallel(check, key, model, world, heads)
    _fsdp_size(check, f"{RL}.actor.fsdp_config.fsdp_size", world)
    share = check.get(f"{RL}.rollout.gpu_memory_utilization")
    if isinstance(share, float | int) and share > 0.95 and check.get(f"{RL}.rollout.name") != "hf":
        check.error(f"{RL}.rollout.gpu_memory_utilization", "leaves nothing for training; set 0.4 to 0.7")


def _divisors(world: int) -> str:
    return "use one of " + ", ".join(str(size) for size in range(1, world + 1) if world % size == 0)


def _sequence_parallel(check: ConfigCheck, key: str, model: str, world: int, heads: int) -> None:
    size = check.size(key)
    if size == 1:
        return
    if world % size:
        check.error(key, f"must divide the {world} GPUs; {_divisors(world)}")
    elif heads and heads % size:
        check.error(key, f"must divide the model's {heads} attention heads; use 1, or a divisor of it")
    # verl's exchange between the GPUs sits in flash-attn's call (verl/models/transformers/monkey_patch.py); with any
    # other attention each GPU would see its part of a sequence alone, and nothing would say so.
    attention = check.get(f"{model}.override_config.attn_implementation") or "flash_attention_2"  # verl's default
    if attention != "flash_attention_2" or not check.get(f"{model}.use_remove_padding"):
        check.error(key, f"works with flash-attn only, not {attention}; set ATTENTION=flash_attention_2, or 1 here")


def _fsdp_size(check: ConfigCheck, key: str, world: int) -> None:
    size = check.get(key)
    if isinstance(size, int) and size > 0 and world % size:
        check.error(key, f"must divide the {world} GPUs; {_divisors(world)}, or -1 for all")


def _lengths(check: ConfigCheck) -> None:
    prompt, response = check.count("data.max_prompt_length"), check.count("data.max_response_length")
    longest = check.count(f"{RL}.rollout.max_model_len")
    if longest and longest < prompt + response:
        check.error(f"{RL}.rollout.max_model_len", f"shorter than prompt and answer, {prompt + response}; remove it")
    batched = check.count(f"{RL}.rollout.max_num_batched_tokens")
    chunked = check.get(f"{RL}.rollout.enable_chunked_prefill")
    if batched and chunked is False and batched < prompt:
        check.error(
            f"{RL}.rollout.max_num_batched_tokens", f"below a prompt of {prompt} without chunked prefill; raise it"
        )
    parallel = max(check.size(key) for key in SEQUENCE_PARALLEL[:2])
    key, dynamic = f"{RL}.actor.ppo_max_token_len_per_gpu", check.get(f"{RL}.actor.use_dynamic_bsz")
    if dynamic and (check.count(key) or prompt + response) * parallel < prompt + response:
        check.error(key, f"must hold one sequence of {prompt + response} tokens; raise it, or lower the lengths")


def _lora(check: ConfigCheck) -> None:
    if not check.count(f"{RL}.model.lora_rank"):
        return
    merge, engine = check.get(f"{RL}.model.lora.merge"), check.get(f"{RL}.rollout.name")
    if check.get(f"{RL}.rollout.load_format") not in ("safetensors", "auto") and not merge:
        check.error(f"{RL}.rollout.load_format", "with LoRA the engine needs the base weights; write safetensors")
    if engine == "sglang" and not merge:
        check.error(f"{RL}.model.lora.merge", "SGLang takes LoRA only merged; write true")
    if not check.get(f"{RL}.model.lora_alpha"):
        check.error(f"{RL}.model.lora_alpha", "0 makes the adapter do nothing; set LORA_ALPHA to 2 x LORA_RANK")


def _reward_model(check: ConfigCheck) -> None:
    if not check.get("reward.reward_model.enable"):
        return
    path = check.get("reward.reward_model.model_path")
    if not path:
        check.error("reward.reward_model.model_path", "a reward model is on and none is named; set REWARD_MODEL_PATH")
    elif str(path).startswith(("/", ".", "~")) and not Path(path).expanduser().is_dir():
        check.error("reward.reward_model.model_path", "no such folder; set REWARD_MODEL_PATH")
    world = check.size("trainer.n_gpus_per_node")
    size = check.size("reward.reward_model.rollout.tensor_model_parallel_size")
    if not check.get("reward.reward_model.enable_resource_pool") and world % size:
        check.error("reward.reward_model.rollout.tensor_model_parallel_size", f"{_divisors(world)}")


def _contradictions(check: ConfigCheck) -> None:
    if check.get("algorithm.use_kl_in_reward") and check.get(f"{RL}.actor.use_kl_loss"):
        check.warn("algorithm.use_kl_in_reward", "the KL is in the reward and in the loss; one of them is usual")
    low, high = (check.get(f"{RL}.actor.clip_ratio_{side}") for side in ("low", "high"))
    if isinstance(low, float) and isinstance(high, float) and low > high:
        check.warn(f"{RL}.actor.clip_ratio_low", f"above clip_ratio_high={high}; usually it is the smaller one")
    multi = check.get(f"{RL}.rollout.multi_turn.enable")
    if multi and check.get(f"{RL}.rollout.agent.default_agent_loop") == "single_turn_agent":
        check.warn(
            f"{RL}.rollout.multi_turn.enable",
            f"is read nowhere; tools are turned on with {RL}.rollout.agent.default_agent_loop=tool_agent",
        )
    if check.get("algorithm.adv_estimator") == "gae" and check.count("trainer.critic_warmup") >= (
        check.count("trainer.total_training_steps") or float("inf")
    ):
        check.error("trainer.critic_warmup", "the actor would not be trained in any step; lower it")


def _supervised(check: ConfigCheck, heads: int) -> None:
    world = check.size("trainer.n_gpus_per_node") * check.size("trainer.nnodes")
    batch = check.count("data.train_batch_size")
    parallel = check.size("engine.ulysses_sequence_parallel_size")
    if batch and batch % max(1, world // parallel):
        check.error("data.train_batch_size", f"not divisible by the {world // parallel} data-parallel ranks")
    _sequence_parallel(check, "engine.ulysses_sequence_parallel_size", "model", world, heads)
    _fsdp_size(check, "engine.fsdp_size", world)
    micro = check.count("data.micro_batch_size_per_gpu")
    share = batch // max(1, world // parallel) if batch else 0
    if not check.get("data.use_dynamic_bsz") and micro and share % micro:
        check.error("data.micro_batch_size_per_gpu", f"must divide the {share} rows a GPU has of a batch")
    budget, longest = check.count("data.max_token_len_per_gpu"), check.count("data.max_length")
    if check.get("data.use_dynamic_bsz") and budget and longest and budget * parallel < longest:
        check.error(
            "data.max_token_len_per_gpu", f"must hold one row of {longest} tokens; raise it, or lower MAX_LENGTH"
        )
    if check.count("model.lora_rank") and not check.get("model.lora_alpha"):
        check.error("model.lora_alpha", "0 makes the adapter do nothing; set LORA_ALPHA to 2 x LORA_RANK")
