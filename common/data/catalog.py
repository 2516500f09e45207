"""Data sets that ``prepare`` knows: where they are and how their rows read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.data import hub as hubs
from common.data.convert import Options, Source, convert
from common.data.names import Columns
from common.data.readers.files import DataError
from common.data.report import Report


@dataclass(frozen=True)
class Known:
    """A data set.

    Args:
        hugging_face: Its id there.
        modelscope: Its id there, None when it is not there.
        algorithm: What it is usually used for.
        data_source: Name by which rewards know it (``common.reward_functions.by_data_source``).
        columns: Names of its columns, where they are not detected.
        subset: Subset to take.
        train: Split to train on.
        validation: Split to validate on; None takes 1% of the training rows.
        system: System prompt that asks for the form in which the reward expects the answer.
    """

    hugging_face: str
    modelscope: str | None
    algorithm: str
    data_source: str
    columns: Columns = Columns()
    subset: str | None = None
    train: str = "train"
    validation: str | None = "test"
    system: str = ""


HASHES = 'Think step by step, then write the final answer after "####".'
BOXED = r"Think step by step, then write the final answer in \boxed{}."

# fmt: off
KNOWN: dict[str, Known] = {
    "gsm8k": Known("openai/gsm8k", "AI-ModelScope/gsm8k", "grpo", "openai/gsm8k", subset="main", system=HASHES),
    "math": Known("DigitalLearningGmbH/MATH-lighteval", "AI-ModelScope/MATH-lighteval", "grpo",
                  "DigitalLearningGmbH/MATH-lighteval", Columns("problem", "solution"), system=BOXED),
    "math500": Known("HuggingFaceH4/MATH-500", "AI-ModelScope/MATH-500", "grpo", "HuggingFaceH4/MATH-500",
                     Columns("problem", "answer"), train="test", validation=None, system=BOXED),
    "hh-rlhf": Known("Anthropic/hh-rlhf", "AI-ModelScope/hh-rlhf", "dpo", "Anthropic/hh-rlhf",
                     subset="helpful-base"),
    "ultrafeedback": Known("trl-lib/ultrafeedback_binarized", None, "dpo", "trl-lib/ultrafeedback_binarized"),
    "alpaca": Known("vicgalle/alpaca-gpt4", "AI-ModelScope/alpaca-gpt4-data-en", "sft", "alpaca", validation=None),
    "alpaca-zh": Known("llm-wizard/alpaca-gpt4-data-zh", "AI-ModelScope/alpaca-gpt4-data-zh", "sft", "alpaca-zh",
                       validation=None),
}
# fmt: on


def prepare(
    name: str,
    target: Path,
    algorithm: str | None = None,
    folder: Path | None = None,
    hub: str = "huggingface",
    max_rows: int | None = None,
    skip_bad: bool = False,
) -> list[Report]:
    """Write ``train.parquet`` and ``val.parquet`` of a well-known data set.

    Args:
        name: One of ``KNOWN``.
        target: Folder for the two files.
        algorithm: What to write them for; the usual one by default.
        folder: A local copy; nothing is downloaded then.
        hub: One of ``hub.HUBS``.
        max_rows: Rows of each file at most.
        skip_bad: Leave rows out that cannot be used.

    Returns:
        A report for each reading.

    Raises:
        DataError: If the data set is unknown, cannot be fetched, or has no usable rows.
    """
    if name not in KNOWN:
        raise DataError(f"{name}: not known; known are {', '.join(KNOWN)}. Any other: convert {name} OUT.parquet")
    known = KNOWN[name]
    if folder is None:
        identifier = known.hugging_face if hub == "huggingface" else known.modelscope
        if identifier is None:
            raise DataError(f"{name}: is not on {hub}; use the other one, or --from DIR")
        folder = hubs.download_data(identifier, hub)
    elif not folder.is_dir():
        raise DataError(f"--from {folder}: no such folder")
    train = _sources(known, hubs.split_files(folder, known.train, known.subset))
    options = Options(algorithm or known.algorithm, max_rows=max_rows, skip_bad=skip_bad)
    if known.validation is None:
        return [convert(train, target / "train.parquet", _with_ratio(options))]
    try:
        validation = _sources(known, hubs.split_files(folder, known.validation, known.subset))
    except DataError:
        if not any(folder.rglob(f"*{known.train}*")):
            raise
        return [convert(train, target / "train.parquet", _with_ratio(options))]  # a local copy of one split
    return [
        convert(train, target / "train.parquet", options),
        convert(validation, target / "val.parquet", options),
    ]


def _with_ratio(options: Options) -> Options:
    from dataclasses import replace

    return replace(options, val_ratio=0.01)


def _sources(known: Known, paths: list[Path]) -> list[Source]:
    return [Source(path, known.columns, known.data_source, known.system) for path in paths]
