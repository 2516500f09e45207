"""DATA_FORM=text: how many packed sequences the texts give, which is what batches and steps are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.attention import PADDED
from common.preflight import data
from common.preflight.chat_template import FolderTokenizer
from common.preflight.knobs import Knobs
from common.preflight.model import ModelInfo

SURE = 0.97  # of an estimate from the first rows: a run that had too few sequences would end before its last step


def packed(knobs: Knobs, model: ModelInfo | None, files: Sequence[data.DataFile]) -> int:
    """Sequences of MAX_LENGTH tokens, rounded down; exact where all rows were looked at.

    Args:
        knobs: An error is noted where the tokenizer is not on this machine.
        model: Its ``tokenizer.json`` counts.
        files: Those to train on, or to validate on.
    """
    if model is None or not files:
        return 0
    try:
        tokenizer = FolderTokenizer(Path(model.path))
    except ValueError as error:
        fix = ".venv/bin/python -m common.data_utils download gets it, with the model"
        knobs.error("MODEL_PATH", f"{error} here, and DATA_FORM=text counts tokens before the launch", fix)
        return 0
    tokens = 0
    for file in files:
        looked_at = sum(tokenizer.count([row["text"] for row in file.sample])) + len(file.sample)  # and their ends
        whole = file.rows == len(file.sample)
        tokens += looked_at if whole else int(SURE * looked_at * file.rows / len(file.sample))
    return tokens // max(1, knobs.number("MAX_LENGTH"))


def warn_of_padding(knobs: Knobs) -> None:
    """With padded attention packed texts see each other."""
    if knobs.data_form == "text" and knobs["ATTENTION"] in PADDED:
        fix = "set flash_attention_2 or sdpa_varlen where the model has it, or accept it"
        knobs.warn("ATTENTION", "pads, so tokens of a packed sequence see the texts before theirs", fix)
