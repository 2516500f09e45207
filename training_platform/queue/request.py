"""What a job may ask for; a field that is not here is refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_TEXT = 4_096  # characters of a path or a value


def printable(text: str) -> str:
    """No control characters: they reach environment variables, logs and terminals."""
    if not all(letter.isprintable() for letter in text):
        raise ValueError("holds characters that cannot be shown (line ends, tabs, control characters)")
    return text


def _shown(text: str) -> str:
    """As `printable`, with line ends and tabs."""
    printable(text.replace("\n", "").replace("\t", ""))
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(printable)]
Word = Annotated[str, Field(max_length=100), AfterValidator(printable)]
Prose = Annotated[str, Field(max_length=10_000), AfterValidator(_shown)]
Paths = Text | Annotated[list[Text], Field(min_length=1, max_length=100)]
Whole = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Count = Annotated[int, Field(strict=True, ge=0, le=10**6)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Value = Text | bool | int | float


class JobRequest(BaseModel):
    """A job. Only `algorithm` is needed; what is left out is chosen as a train.sh chooses it."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    algorithm: Word = Field(
        description="sft, dpo, ppo, grpo, gspo, or a method of grpo/variants (dapo, rloo, ...)", examples=["grpo"]
    )
    name: Word = Field("", description="of the run's folder; a number is added to one that is taken")
    description: Prose = ""
    owner: Word = ""
    tags: list[Word] = Field(default=[], max_length=50)
    model_path: Text | None = Field(None, description="Hugging Face folder or id; left out: the built-in demo")
    model_size: Word = Field("", description="for people; nothing follows from it")
    train_data_path: Paths | None = None
    eval_data_path: Paths | None = None
    num_gpus: Count | None = Field(None, description="0: on the CPU; left out: all GPUs of the server")
    nnodes: Count = Field(1, description="machines, each with num_gpus; above 1 on a Ray cluster")
    learning_rate: Positive | None = None
    batch_size: Whole | None = Field(None, description="prompts, rows or pairs a step")
    num_epochs: Whole | None = None
    context_length: Whole | None = Field(None, description="tokens of prompt and answer together")
    rollout_n: Whole | None = Field(None, description="answers to a prompt")
    kl_coef: NotNegative | None = None
    knobs: dict[Word, Value] = Field(default={}, description="any knob of the algorithm's train.sh", max_length=200)
    overrides: list[Text] = Field(default=[], description="key=value arguments for verl", max_length=200)
    resume_from: Text | None = Field(None, description="a run, or a checkpoint's folder, to resume from")
    priority: int = Field(0, strict=True, ge=-1000, le=1000, description="higher starts first")
    max_restarts: int = Field(0, strict=True, ge=0, le=100, description="after faults of the machine, none of the job")
    start: bool = Field(False, description="queue it at once")
