"""Sizes of a composed config against each other: batches, GPUs, parallel parts, lengths."""

from __future__ import annotations

from common.plan.fit import sequence_sizes
from common.preflight.config_check import RL, ConfigCheck

SEQUENCE_PARALLEL = (  # the short ones are verl's older names; the actor's it still obeys
    f"{RL}.actor.ulysses_sequence_parallel_size", f"{RL}.actor.fsdp_config.ulysses_sequence_parallel_size",
    "critic.ulysses_sequence_parallel_size", "critic.fsdp.ulysses_sequence_parallel_size",
)  # fmt: skip
EXCHANGES = ("flash_attention_2", "sdpa_varlen")


def check_batches(check: ConfigCheck, world: int) -> None:
    """Batch, mini batch and micro batch, on so many GPUs."""
    batch, mini = check.count("data.train_batch_size"), check.count(f"{RL}.actor.ppo_mini_batch_size")
    answers, key = check.size(f"{RL}.rollout.n"), f"{RL}.actor.ppo_mini_batch_size"
    if not batch or not mini:
        return
    check_divides(check, batch, world, answers)
    if batch % mini:  # verl would fill the last one up with answers that it repeats
        fits = [str(size) for size in range(1, batch + 1) if batch % size == 0 and size * answers % world == 0]
        fix = f"use one of {', '.join(fits)}" if fits else ""
        check.error(key, f"must divide {check.name('data.train_batch_size')}={batch}", fix)
    elif mini * answers % world:
        times = f"times {check.name(f'{RL}.rollout.n')}={answers}"
        check.error(key, f"{times} must be divisible by {world} GPUs", f"use a multiple of {world}")
    micro = check.count(f"{RL}.actor.ppo_micro_batch_size_per_gpu")
    share = mini * answers // world
    if not check.get(f"{RL}.actor.use_dynamic_bsz") and micro and share % micro:
        fits = [size for size in range(1, share + 1) if share % size == 0]
        fix = f"use one of {', '.join(map(str, fits))}"
        check.error(
            f"{RL}.actor.ppo_micro_batch_size_per_gpu",
            f"must divide the {share} sequences a GPU has of a mini batch",
            f"{fix}",
        )
    generated = check.count("data.gen_batch_size")
    if generated and batch % generated and generated % batch:
        check.error("data.gen_batch_size", f"must divide data.train_batch_size={batch}", "remove it")
    critic = check.count("critic.ppo_mini_batch_size")
    if check.get("algorithm.adv_estimator") == "gae" and critic and critic > batch:
        check.error("critic.ppo_mini_batch_size", f"larger than the batch of {batch}", "remove it")


def check_divides(check: ConfigCheck, batch: int, ranks: int, answers: int = 1) -> None:
    """A batch, with so many answers to each of its rows, against the processes that share it."""
    if batch * answers % ranks:
        below = batch - batch % ranks
        near = f"{below} or {below + ranks}" if below else str(ranks)
        check.error("data.train_batch_size", f"not divisible by the {ranks} GPUs", f"use {near}")


def check_budget(check: ConfigCheck, part: str, parallel: int, longest: int, word: str = "sequence") -> None:
    """Tokens of a forward pass against the longest thing that must be in one; it counts where batches are packed.

    Args:
        check: Collects what is found.
        part: Of the config, ``data`` or ``actor_rollout_ref.actor``.
        parallel: GPUs that share a sequence: verl multiplies the budget by them.
        longest: Tokens.
        word: What that thing is.
    """
    key = f"{part}.{'max' if part == 'data' else 'ppo_max'}_token_len_per_gpu"
    budget = check.count(key)
    if check.get(f"{part}.use_dynamic_bsz") and budget and budget * parallel < longest:
        check.error(key, f"must hold one {word} of {longest} tokens", "raise it, or lower the length limits")


def check_parallel(check: ConfigCheck, world: int, heads: int, kv_heads: int) -> None:
    """Tensor, data, pipeline and sequence parallel against GPUs and attention heads."""
    tensor = check.size(f"{RL}.rollout.tensor_model_parallel_size")
    data = check.size(f"{RL}.rollout.data_parallel_size")
    pipeline = check.size(f"{RL}.rollout.pipeline_model_parallel_size")
    key = f"{RL}.rollout.tensor_model_parallel_size"
    a_machine = check.size("trainer.n_gpus_per_node")
    if world > a_machine and a_machine % tensor and tensor % a_machine:
        # verl counts engines along all GPUs (workers/rollout/replica.py) and takes this one for one of one machine
        check.error(key, f"an engine of {tensor} GPUs would cross machines of {a_machine}", divisors(a_machine))
    elif world % (tensor * data * pipeline):
        check.error(
            key, f"a rollout engine of {tensor * data * pipeline} GPUs does not divide {world}", f"{divisors(world)}"
        )
    elif tensor > 1 and check.get(f"{RL}.rollout.name") == "hf":
        check.error(key, f"{check.name(f'{RL}.rollout.name')}=hf has none", "set 1")
    elif heads and heads % tensor:
        fits = [size for size in range(1, world + 1) if world % size == 0 and heads % size == 0]
        check.error(key, f"the model has {heads} attention heads", f"use one of {', '.join(map(str, fits))}")
    if world > a_machine and tensor > a_machine and not tensor % a_machine:
        check.warn(
            key,
            f"an engine over {tensor // a_machine} machines sums twice a layer over the network",
            divisors(a_machine),
        )
    if pipeline > 1:
        check.error(f"{RL}.rollout.pipeline_model_parallel_size", "no rollout engine of verl does it", "set 1")
    for key in SEQUENCE_PARALLEL:
        model = "critic.model" if key.startswith("critic") else f"{RL}.model"
        check_sequence_parallel(check, key, model, world, (heads, kv_heads))
    _same_sequence_parallel(check)
    check_fsdp_size(check, f"{RL}.actor.fsdp_config.fsdp_size", world)
    share = check.get(f"{RL}.rollout.gpu_memory_utilization")
    if isinstance(share, float | int) and share > 0.95 and check.get(f"{RL}.rollout.name") != "hf":
        check.error(f"{RL}.rollout.gpu_memory_utilization", "leaves nothing for training", "set 0.4 to 0.7")


def divisors(world: int) -> str:
    """The sizes that divide the GPUs, in words."""
    return "use one of " + ", ".join(str(size) for size in range(1, world + 1) if world % size == 0)


def _same_sequence_parallel(check: ConfigCheck) -> None:
    """The reference takes its size from the actor's older key; the critic's older key is not read at all."""
    old, new, critic_old, critic = SEQUENCE_PARALLEL
    if check.size(new) > 1 and check.size(old) == 1:
        fix = f"set {check.name(old)}={check.size(new)} in its place"
        check.error(new, "the reference model would still hold whole sequences", fix)
    if check.size(critic_old) > 1 and check.size(critic) != check.size(critic_old):
        check.error(critic_old, "verl does not read it", f"write {critic}={check.size(critic_old)}")


def check_sequence_parallel(check: ConfigCheck, key: str, model: str, world: int, heads: tuple[int, int]) -> None:
    """Sequence parallel of one engine.

    Args:
        check: Collects what is found.
        key: Its size.
        model: Key of the engine's model.
        world: GPUs.
        heads: Attention heads and key-value heads of the policy, 0 when not known.
    """
    size = check.size(key)
    if size == 1:
        return
    if world % size:
        check.error(key, f"must divide the {world} GPUs", divisors(world))
    elif all(heads) and size not in (fits := sequence_sizes(*heads, world)):
        whose = f"the model's {heads[0]} attention heads and fit its {heads[1]} key-value heads"
        check.error(key, f"must divide {whose}", f"use one of {', '.join(map(str, fits))}")
    # The exchange between the GPUs sits in the attention: in flash-attn's call by verl (models/transformers/
    # monkey_patch.py), in sdpa_varlen by the kit (hf_engine/sequence_parallel.py). With any other attention each GPU
    # would see its part of a sequence alone, and nothing would say so.
    attention = check.get(f"{model}.override_config.attn_implementation") or "flash_attention_2"  # verl's default
    if attention not in EXCHANGES or not check.get(f"{model}.use_remove_padding"):
        check.error(key, f"works without padding only, not with {attention}", "set ATTENTION=sdpa_varlen, or 1 here")


def check_fsdp_size(check: ConfigCheck, key: str, world: int) -> None:
    """An FSDP group against the GPUs."""
    size = check.get(key)
    if isinstance(size, int) and size > 0 and world % size:
        check.error(key, f"must divide the {world} GPUs", f"{divisors(world)}, or -1 for all")


def check_lengths(check: ConfigCheck) -> None:
    """What an engine and a forward pass must hold against the longest sequence."""
    prompt, response = check.count("data.max_prompt_length"), check.count("data.max_response_length")
    longest = check.count(f"{RL}.rollout.max_model_len")
    if longest and longest < prompt + response:
        check.error(f"{RL}.rollout.max_model_len", f"shorter than prompt and answer, {prompt + response}", "remove it")
    batched = check.count(f"{RL}.rollout.max_num_batched_tokens")
    chunked = check.get(f"{RL}.rollout.enable_chunked_prefill")
    if batched and chunked is False and batched < prompt:
        check.error(
            f"{RL}.rollout.max_num_batched_tokens", f"below a prompt of {prompt} without chunked prefill", "raise it"
        )
    parallel = max(check.size(key) for key in SEQUENCE_PARALLEL[:2])
    check_budget(check, f"{RL}.actor", parallel, prompt + response)
