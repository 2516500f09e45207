"""Sizes of a launch against each other: batches, processes, lengths, tensor parallelism."""

from __future__ import annotations

from common.preflight import auto
from common.preflight.knobs import SUPERVISED, Knobs
from common.preflight.model import ModelInfo


def check_batch(knobs: Knobs, rows: int, validation_rows: int) -> None:
    """Batch sizes against each other, the number of processes and the data."""
    batch, world = knobs.number("BATCH_SIZE"), knobs.number("N_GPUS") * knobs.number("NNODES")
    if not batch or not world:
        return
    answers = 1 if knobs.algorithm in SUPERVISED else knobs.number("ROLLOUT_N")
    if (batch * answers) % world:
        near = nearest_multiples(batch, world)
        knobs.error("BATCH_SIZE", f"not divisible by the {world} GPUs", f"use {near}", value=batch)
    if batch > rows:
        knobs.error("BATCH_SIZE", f"the training data has only {rows} rows", "lower it or add data", value=batch)
    mini = knobs.number("MINI_BATCH_SIZE")
    if mini and (mini > batch or batch % mini):
        divisors = [str(size) for size in range(1, batch + 1) if batch % size == 0 and size * answers % world == 0]
        knobs.error(
            "MINI_BATCH_SIZE", f"must divide BATCH_SIZE={batch}", f"use one of {', '.join(divisors)}", value=mini
        )
    elif mini and mini * answers % world:
        knobs.error("MINI_BATCH_SIZE", f"times ROLLOUT_N={answers} must be divisible by {world} GPUs", value=mini)
    longest = auto.longest_group(knobs)
    if knobs.number("TOKENS_PER_GPU") < longest:
        word = "pair" if knobs.algorithm == "dpo" else "sequence"
        knobs.error(
            "TOKENS_PER_GPU", f"must hold one {word} of {longest} tokens", "raise it, or lower the length limits"
        )
    if knobs.algorithm == "sft" and validation_rows and validation_rows < batch:
        knobs.error(
            "VAL_DATA",
            f"has {validation_rows} rows, fewer than BATCH_SIZE={batch}: verl would validate on nothing",
            f"use BATCH_SIZE={validation_rows} or less, or more validation rows",
        )
    per_epoch, total = rows // batch, knobs.number("TOTAL_STEPS")
    if per_epoch and total > per_epoch * knobs.number("TOTAL_EPOCHS"):
        knobs.error(
            "TOTAL_STEPS",
            f"TOTAL_EPOCHS={knobs['TOTAL_EPOCHS']} ends after {per_epoch * knobs.number('TOTAL_EPOCHS')} steps",
            "set TOTAL_EPOCHS=auto",
            value=total,
        )


def check_context(knobs: Knobs, model: ModelInfo | None) -> None:
    """Length limits against the longest sequence the model was made for."""
    longest = auto.longest_sequence(knobs)
    if model and model.context and longest > model.context:
        names = "MAX_LENGTH" if "MAX_LENGTH" in knobs else "MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH"
        knobs.error(names, f"the model was made for {model.context} tokens", "lower the limits", value=longest)


def check_parallel(knobs: Knobs) -> None:
    """Tensor parallelism against the number of GPUs and the engine."""
    size, gpus = knobs.number("TENSOR_PARALLEL_SIZE"), knobs.number("N_GPUS")
    if size and gpus and gpus % size:
        knobs.error("TENSOR_PARALLEL_SIZE", f"must divide N_GPUS={gpus}", value=size)
    elif size > 1 and knobs["ROLLOUT_ENGINE"] == "hf":
        knobs.error("TENSOR_PARALLEL_SIZE", "ROLLOUT_ENGINE=hf has none", "set 1", value=size)


def nearest_multiples(number: int, of: int) -> str:
    """The multiples around a number in words, e.g. ``6 or 9``."""
    below = number - number % of
    return f"{below} or {below + of}" if below else str(of)
