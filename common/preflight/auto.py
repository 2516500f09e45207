"""A value, with its reason, for each knob that is ``auto``."""

from __future__ import annotations

import math

from common.attention import beyond_sdpa
from common.preference_losses import ANSWER_LOSSES, WITHOUT_REFERENCE
from common.preflight import trainer_mode
from common.preflight.knobs import Knobs
from common.preflight.machine import Machine, has_package
from common.preflight.method import method_knobs
from common.preflight.model import ModelInfo

SMALL_MODEL = 20_000_000  # parameters; below, learning rates of large models move nothing
BALANCED = 4 / 3  # good answers for a bad one, up to which KTO's authors leave the weights alone
DEMO_STEPS = {"gspo": 8, "grpo": 20, "ppo": 9, "sft": 192, "dpo": 64, "reward_model": 640}
EPOCHS = {"sft": 3}  # usual for the method; 1 for the others
# Usual learning rates: large models full and with LoRA, then models below SMALL_MODEL.
# Self-play takes smaller steps, as there are rounds of them.
LEARNING_RATES = {
    "sft": ("1e-5", "1e-4", "1e-3", "2e-3"),
    "dpo": ("5e-7", "5e-6", "3e-4", "1e-3"),
    "reward_model": ("1e-5", "1e-4", "5e-4", "2e-3"),
    "gspo": ("1e-6", "1e-5", "5e-5", "5e-4"),
    "ppo": ("1e-6", "1e-5", "5e-5", "5e-4"),
}
PREFERENCE_LEARNING_RATES = ("5e-7", "5e-6", "2e-5", "2e-4")
RL_LEARNING_RATES = ("1e-6", "1e-5", "1e-4", "1e-3")
LARGEST_BATCH = {
    "sft": (128, 64),
    "dpo": (64, 32),
    "reward_model": (64, 32),
    "ppo": (256, 128),
}  # for large models and small ones
RL_LARGEST_BATCH = (256, 32)
PACKED_LENGTH = 2048  # tokens of a sequence of packed texts
USUAL_TOKENS = 16384  # of one forward pass

# Families whose logits and gradients from packed sequences were compared with those from padded ones
# (tests/unit/test_architectures.py has the most used ones).
# fmt: off
VARLEN_FAMILIES = (
    "apertus", "cohere", "cohere2", "deepseek_v3", "ernie4_5", "exaone4", "gemma", "gemma3_text", "glm", "glm4",
    "glm4_moe", "gpt_neox", "granite", "granitemoe", "helium", "hunyuan_v1_dense", "llama", "mistral", "mixtral",
    "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3",
    "stablelm", "starcoder2",
)
# fmt: on


def resolve_hardware(knobs: Knobs, machine: Machine) -> None:
    """Choose device, GPU count, attention and rollout engine."""
    knobs.cores = machine.cores
    if machine.nodes > 1:
        knobs.values["NNODES"] = str(machine.nodes)
    gpus = len(machine.gpu_memory)
    knobs.resolve("DEVICE", "cuda" if gpus else "cpu", f"{gpus} GPUs found" if gpus else "no NVIDIA GPU found")
    on_cpu = knobs["DEVICE"] == "cpu"
    if on_cpu:
        knobs.resolve("N_GPUS", 1, "on the CPU one process uses all cores")
        knobs.resolve("ROLLOUT_ENGINE", "hf", "the engine that runs on a CPU")
        trainer_mode.resolve_rollout_gpus(knobs, 1)
        trainer_mode.share_gpus(knobs)
        return
    trainer_mode.resolve_rollout_gpus(knobs, gpus)
    own = trainer_mode.gpus_beside(knobs)
    knobs.resolve("N_GPUS", max(1, gpus - own), "all visible GPUs" + (" without a separate task" if own else ""))
    trainer_mode.share_gpus(knobs)
    if has_package("flash_attn") and not machine.planned:
        knobs.resolve("ATTENTION", "flash_attention_2", "flash-attn is installed")
    engine = next((name for name in ("vllm", "sglang") if machine.planned or has_package(name)), "hf")
    reason = f"{engine} is installed" if engine != "hf" else "neither vllm nor sglang is installed; this is slow"
    knobs.resolve("ROLLOUT_ENGINE", engine, reason)


def resolve_attention(knobs: Knobs, model: ModelInfo | None) -> None:
    """Choose the attention where flash-attn is not there: without padding for the families that it is right for."""
    family = model.config.get("model_type") if model else None
    if lacking := beyond_sdpa(model.config if model else {}):
        knobs.resolve("ATTENTION", "eager", f"{lacking}, which SDPA does not compute")
    where = "on the CPU" if knobs["DEVICE"] == "cpu" else "torch's own flash kernel"
    if family in VARLEN_FAMILIES or (model and not model.config and knobs["DEVICE"] != "cpu"):
        knobs.resolve("ATTENTION", "sdpa_varlen", f"{where}, without padding")
    knobs.resolve("ATTENTION", "sdpa", f"with padding: {family or 'an unknown family'} is not known to pack")


def resolve_optimisation(knobs: Knobs, model: ModelInfo | None) -> None:
    """Choose learning rate and adapter scale."""
    rank = knobs.number("LORA_RANK")
    knobs.resolve("LORA_ALPHA", 2 * rank if rank else 16, "2 x LORA_RANK" if rank else "not used without LoRA")
    parameters = model.parameters if model else 0
    small = 0 < parameters < SMALL_MODEL
    rates = LEARNING_RATES.get(knobs.algorithm, RL_LEARNING_RATES)
    rate = rates[2 * small + bool(rank)]
    kind = f"LoRA rank {rank}" if rank else "full fine-tuning"
    size = f"{model.size if model else 'unknown size'} parameters, {kind}"
    knobs.resolve("LEARNING_RATE", rate, size)
    preference = PREFERENCE_LEARNING_RATES[2 * small + bool(rank)]
    knobs.resolve("PREFERENCE_LEARNING_RATE", preference, size)


def share_that_fits(lengths: list[int], limit: int) -> float:
    """Share of the sampled rows that are within a length limit, 1 when lengths are not known."""
    return sum(length <= limit for length in lengths) / len(lengths) if lengths and limit else 1.0


def resolve_batch(knobs: Knobs, model: ModelInfo | None, rows: int) -> None:
    """Choose batch sizes that divide and leave enough steps; needs the lengths to be resolved."""
    world = max(1, knobs.number("N_GPUS") * knobs.number("NNODES"))
    small = model is not None and 0 < model.parameters < SMALL_MODEL
    size = LARGEST_BATCH.get(knobs.algorithm, RL_LARGEST_BATCH)[small]
    while size > world and (size % world or rows // size < 16):
        size //= 2
    size = max(world, size - size % world)
    knobs.resolve("BATCH_SIZE", size, f"{rows:,} rows give {rows // size} steps an epoch")
    batch = knobs.number("BATCH_SIZE")
    if "MINI_BATCH_SIZE" in knobs:
        if method_knobs(knobs)[0].get("MINI_BATCH_SIZE") == "BATCH_SIZE":
            knobs.resolve("MINI_BATCH_SIZE", batch, f"{method_knobs(knobs)[1]}: one update per step")
        parts = 4 if batch >= 64 and batch % 4 == 0 else 1
        knobs.resolve("MINI_BATCH_SIZE", batch // parts, f"{parts} update{'s' if parts > 1 else ''} per step")


def longest_sequence(knobs: Knobs) -> int:
    """Tokens of the longest sequence a forward pass may see."""
    if "MAX_LENGTH" in knobs:
        return knobs.number("MAX_LENGTH")
    return knobs.number("MAX_PROMPT_LENGTH") + knobs.number("MAX_RESPONSE_LENGTH")


def longest_group(knobs: Knobs) -> int:
    """Tokens that must be in one forward pass: a sequence, or for dpo a pair of them."""
    return longest_sequence(knobs) * (2 if knobs.data_form == "dpo" else 1)


def resolve_lengths(knobs: Knobs, model: ModelInfo | None, lengths: list[int], answers: list[int]) -> None:
    """Choose length limits.

    Args:
        knobs: Are resolved.
        model: For its context.
        lengths: Tokens of the sampled rows, for sft of whole conversations, else of prompts; empty when not known.
        answers: For dpo, tokens of the longer answer of each row.
    """
    knobs.resolve("THINKING", "null", "as the chat template does it")
    demo = model is not None and model.is_demo
    context = model.context if model and model.context else math.inf
    if knobs.data_form == "text":
        knobs.resolve("MAX_LENGTH", int(min(PACKED_LENGTH, context)), "texts are packed to this length")
    if "MAX_LENGTH" in knobs:
        knobs.resolve("MAX_LENGTH", *_limit(lengths, "rows", min(4096, context), "cut", unknown=2048))
    if "MAX_PROMPT_LENGTH" in knobs:
        most = min(2048, context * 3 // 4)  # the answer needs room too
        fate = "cut" if knobs.algorithm == "dpo" else "left out"
        knobs.resolve("MAX_PROMPT_LENGTH", *_limit(lengths, "prompts", most, fate, unknown=1024))
        answer, why = (24, "the demo's answers are short") if demo else (1024, "room for a worked answer")
        if demo and knobs.values.get("ENV_PATH"):
            answer, why = 2 * 24 * knobs.number("MAX_TURNS"), "room for MAX_TURNS short answers and observations"
        room = context - knobs.number("MAX_PROMPT_LENGTH")
        if answers:
            knobs.resolve("MAX_RESPONSE_LENGTH", *_limit(answers, "answers", min(2048, room), "cut", unknown=1024))
        if answer > room > 0:
            answer, why = int(room), f"the model's context of {context} tokens less the prompt"
        knobs.resolve("MAX_RESPONSE_LENGTH", answer, why)


def _limit(lengths: list[int], word: str, most: float, fate: str, unknown: int) -> tuple[int, str]:
    """A limit in tokens that holds the longest row, or ``most``, and the reason in words."""
    if not lengths:
        return int(min(unknown, most)), "lengths not measured"
    limit = int(min(round_up(max(lengths), 32), most))
    reason = f"longest of {len(lengths):,} {word} is {max(lengths):,} tokens"
    over = sum(length > limit for length in lengths)
    return limit, f"{reason}; {over:,} are longer than this and will be {fate}" if over else reason


def resolve_without_plan(knobs: Knobs) -> None:
    """Choose what the memory plan would choose, where there is none: on the CPU, or with an unknown model."""
    reason = "nothing to offload to" if knobs["DEVICE"] == "cpu" else "model size or GPU memory not known"
    knobs.resolve("OFFLOAD", "false", reason)
    knobs.resolve("FUSED_KERNELS", "false", "on a GPU the plan chooses it" if knobs["DEVICE"] == "cpu" else reason)
    knobs.resolve("SEQUENCE_PARALLEL", 1, "each process holds whole sequences")
    knobs.resolve("TENSOR_PARALLEL_SIZE", 1, "one device per copy")
    knobs.resolve("MODEL_PARALLEL", "1x1x1x1", reason)  # of Megatron, when the model is not known
    knobs.resolve("GPU_MEMORY_UTILIZATION", 0.5, "half for the rollout engine, half for training")
    longest, word = longest_group(knobs), "pair" if knobs.data_form == "dpo" else "sequence"
    usual = longest <= USUAL_TOKENS
    reason = "a usual budget" if usual else f"one {word} of {longest} tokens"
    knobs.resolve("TOKENS_PER_GPU", max(USUAL_TOKENS, longest), reason)


def resolve_schedule(knobs: Knobs, model: ModelInfo | None, rows: int) -> None:
    """Choose epochs, steps and the frequencies of saving and validating; needs the batch size."""
    batch = knobs.number("BATCH_SIZE")
    if not batch or rows < batch:
        return
    per_epoch = rows // batch
    demo = model is not None and model.is_demo
    if demo and knobs.is_auto("TOTAL_EPOCHS") and knobs.algorithm in DEMO_STEPS:
        knobs.resolve("TOTAL_STEPS", DEMO_STEPS[knobs.algorithm], "enough for the demo to learn")
    steps = knobs.number("TOTAL_STEPS")
    if steps:
        # Both trainers of verl end at whichever comes first, so the epochs must reach as far as the steps.
        knobs.resolve("TOTAL_EPOCHS", math.ceil(steps / per_epoch), f"{per_epoch} steps an epoch")
    knobs.resolve("TOTAL_EPOCHS", EPOCHS.get(knobs.data_form, 1), "usual for this method")
    knobs.resolve("TOTAL_STEPS", knobs.number("TOTAL_EPOCHS") * per_epoch, f"{per_epoch} steps an epoch")
    total = knobs.number("TOTAL_STEPS")
    knobs.resolve("TEST_FREQ", max(5, total // 20), f"of {total} steps")
    every = max(1, knobs.number("TEST_FREQ"))
    freq = round_up(max(10, total // 5), every)  # a checkpoint that is validated can be kept as the best
    knobs.resolve("SAVE_FREQ", freq, f"of {total} steps, every {freq // every} validations")


def resolve_weights(knobs: Knobs, wanted: int, unwanted: int) -> None:
    """Choose the weights of good and bad answers: the rarer kind is weighed up to the other (KTO, section 4.3).

    Args:
        knobs: Are resolved.
        wanted: Good answers among the rows looked at.
        unwanted: Bad ones.
    """
    if "DESIRABLE_WEIGHT" not in knobs:
        return
    names = ("DESIRABLE_WEIGHT", "UNDESIRABLE_WEIGHT")
    if knobs["LOSS_TYPE"] not in ANSWER_LOSSES:
        for name in names:
            if not knobs.is_auto(name):
                knobs.error(name, f"LOSS_TYPE={knobs['LOSS_TYPE']} compares pairs", "leave it auto")
            knobs.resolve(name, "1.0", "not used: a pair has one answer of each kind")
        return
    reason = f"{wanted} good and {unwanted} bad answers among the rows looked at"
    if not wanted or not unwanted:
        knobs.warn("TRAIN_DATA", f"{reason}: there is only one kind", "add answers of the other kind")
    elif all(map(knobs.is_auto, names)) and not 1 <= wanted / unwanted <= BALANCED:
        rarer, weight = (names[0], unwanted / wanted) if wanted < unwanted else (names[1], wanted / unwanted)
        knobs.resolve(rarer, f"{weight:.3g}", reason)
    for name in names:
        knobs.resolve(name, "1.0", reason)


def round_up(number: int, multiple: int) -> int:
    """The next multiple at or above a number."""
    return -(-number // multiple) * multiple


def resolve_reference(knobs: Knobs) -> None:
    """Choose where the reference's log-probabilities come from; needs the epochs to be resolved."""
    if "REFERENCE" not in knobs:
        return
    if knobs["LOSS_TYPE"] in WITHOUT_REFERENCE:
        knobs.resolve("REFERENCE", "none", f"{knobs['LOSS_TYPE']} has no reference")
    elif knobs.number("TOTAL_EPOCHS") > 1:
        knobs.resolve("REFERENCE", "precompute", "asked once, used in every epoch")
    elif knobs.number("LORA_RANK") and not knobs["REFERENCE_MODEL_PATH"]:
        knobs.resolve("REFERENCE", "adapter", "the model without its LoRA adapter, no second copy")
    else:
        knobs.resolve("REFERENCE", "precompute", "needs no second copy of the model while it trains")
