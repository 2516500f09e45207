"""On-policy distillation (``VARIANT=distill``): the teacher, its GPUs, and what does not go with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.preflight.findings import problem_of
from common.preflight.knobs import Knobs
from common.preflight.model import ModelInfo, read_model
from common.small_files import MAX_TOKENIZER, read_json_object

VARIANT = "distill"
TOP_K = "forward_kl_topk"
KNOBS = ("TEACHER_MODEL_PATH", "TEACHER_GPUS", "DISTILL_LOSS")
REFUSED = (  # knob, what it must be, why
    ("TEMPERATURE", ("1", "1.0"), "the teacher's log-probabilities are those of temperature 1"),
    ("TRAINER_MODE", ("sync",), "the teacher scores the answers of a step before its update"),
    ("NNODES", ("1",), "the teacher's GPUs are taken from one node"),
    ("TRAIN_ENGINE", ("fsdp2", "fsdp"), "distillation was tried with FSDP only"),
    ("ENV_PATH", ("",), "the teacher would score episodes that the environment failed"),
    ("LORA_ADAPTER_PATH", ("",), "it was not tried with an adapter to start from"),
)


def is_distilling(knobs: Knobs) -> bool:
    """Whether a teacher scores the answers."""
    return knobs.values.get("VARIANT") == VARIANT


def teacher_gpus(knobs: Knobs) -> int:
    """GPUs that serve the teacher alone."""
    return knobs.number("TEACHER_GPUS") if is_distilling(knobs) else 0


def resolve_teacher_gpus(knobs: Knobs) -> None:
    """Choose how many GPUs serve the teacher; before ``N_GPUS`` takes the rest."""
    if not is_distilling(knobs):
        knobs.resolve("TEACHER_GPUS", 0, f"only VARIANT={VARIANT} has a teacher")
        return
    knobs.resolve("TEACHER_GPUS", 1, "a process of its own" if knobs["DEVICE"] == "cpu" else "a GPU of its own")


def derived(knobs: Knobs) -> dict[str, str]:
    """The variable that follows: whether the distillation loss is a reward rather than backpropagated itself."""
    return {"USE_POLICY_GRADIENT": str(knobs["DISTILL_LOSS"] == "k1").lower()}


def check_teacher(knobs: Knobs, student: ModelInfo | None, folder: Callable[[str], str]) -> None:
    """The teacher of ``VARIANT=distill``: a model with the student's tokens.

    Args:
        knobs: Gets errors; the path becomes absolute.
        student: The model that trains.
        folder: Finds a model's folder.
    """
    if "TEACHER_MODEL_PATH" not in knobs:
        return
    if not is_distilling(knobs):
        knobs.resolve("DISTILL_LOSS", "k1", "not used")
        for name in KNOBS:
            if name in knobs.given:
                knobs.error(name, f"only VARIANT={VARIANT} has a teacher", f"set VARIANT={VARIANT}, or leave it out")
        return
    knobs.resolve("DISTILL_LOSS", "k1", "the reverse KL of each token as its reward, lowest in memory")
    for name, allowed, why in REFUSED:
        if name in knobs and knobs[name] not in allowed:
            knobs.error(name, f"{why} (VARIANT={VARIANT})", f"set it to {allowed[0] or 'nothing'}")
    on_hf = knobs["ROLLOUT_ENGINE"] == "hf"
    if on_hf and knobs.number("TEACHER_GPUS") > 1:
        knobs.error("TEACHER_GPUS", "ROLLOUT_ENGINE=hf serves a model on one device", "set 1")
    if knobs["DISTILL_LOSS"] == TOP_K and on_hf:
        knobs.error("DISTILL_LOSS", "verl asks vLLM or SGLang for the most likely tokens", "set k1, or k3")
    if knobs["DISTILL_LOSS"] == TOP_K and knobs["FUSED_KERNELS"] == "true":
        knobs.error("FUSED_KERNELS", f"DISTILL_LOSS={TOP_K} needs the logits", "set false", value="true")
    _check_model(knobs, student, folder)


def _check_model(knobs: Knobs, student: ModelInfo | None, folder: Callable[[str], str]) -> None:
    name = "TEACHER_MODEL_PATH"
    if not knobs[name]:
        knobs.error(name, "no teacher to learn from", "set it to a model with the student's tokenizer", value="")
        return
    try:
        teacher = read_model(folder(knobs[name]))
    except (ValueError, OSError) as error:
        knobs.error(name, problem_of(error))
        return
    knobs.values[name] = teacher.path
    if student is None or not Path(student.path).is_dir():
        return
    try:
        ours, theirs = (tokens_of(Path(model.path)) for model in (student, teacher))
    except ValueError as error:
        knobs.warn(name, f"its tokens were not compared with the student's: {error}")
        return
    different = [token for token, number in ours.items() if theirs.get(token) != number]
    if different:
        knobs.error(
            name,
            f"{len(different):,} of the student's {len(ours):,} tokens have another id in it, such as {different[0]!r}",
            "use a teacher of the student's family, with the same tokenizer",
        )
    knobs.facts.append(("teacher", teacher.size, f"{knobs['DISTILL_LOSS']}, tokens as the student's"))


def tokens_of(folder: Path) -> dict[str, int]:
    """Id of each token of ``tokenizer.json``, those that were added among them.

    Raises:
        ValueError: If there is none, or it holds no vocabulary with ids.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"{folder} has no tokenizer.json")
    read: dict[str, Any] = read_json_object(file, MAX_TOKENIZER)
    vocabulary = (read.get("model") or {}).get("vocab")
    if not isinstance(vocabulary, dict):
        raise ValueError(f"{file} has no vocabulary with ids")
    return vocabulary | {token["content"]: token["id"] for token in read.get("added_tokens") or []}
