"""Self-play of GSPO: which rows are prompts and which are pairs, and whether the rounds have what to learn from."""

from __future__ import annotations

import os
from dataclasses import replace

from common.cluster.names import joins_ray
from common.data.readers.records import read_records
from common.data.rows import loaded
from common.data.self_play import is_pair, is_prompt
from common.preflight.data import DataFile
from common.preflight.data_split import NO_PROMPTS
from common.preflight.knobs import Knobs

STAGES = ("rl", "preference")  # of a round, in this order


def stage_names(rounds: int) -> list[str]:
    """Names of all stages of a run in their order; they are folders of its run directory too."""
    return [f"round-{number}/{stage}" for number in range(1, rounds + 1) for stage in STAGES]


def split_prompts(knobs: Knobs, files: list[DataFile]) -> tuple[list[DataFile], int]:
    """Files with the rows only that the model answers itself, and the number of pairs.

    For other algorithms than gspo all rows are prompts.
    """
    if "SELF_PLAY_ROUNDS" not in knobs:
        return files, 0
    pairs = 0
    prompts = []
    for file in files:
        rows = 0
        for record in read_records(file.path):
            row = {name: loaded(value) for name, value in (record.row or {}).items() if name in ("chosen", "rejected")}
            row["self_play"] = (record.row or {}).get("self_play")
            pairs += is_pair(row)
            rows += is_prompt(row)
        prompts.append(replace(file, rows=rows, sample=[row for row in file.sample if is_prompt(row)]))
    return prompts, pairs


def check_self_play(knobs: Knobs, prompts: int, pairs: int, validation_prompts: int) -> None:
    """Rounds need prompts to answer and pairs to learn from; says what each round will do.

    Args:
        knobs: As resolved.
        prompts: Rows of the training data that the model answers.
        pairs: Its rows with a better and a worse answer.
        validation_prompts: Rows of the validation data that the model answers.
    """
    if "SELF_PLAY_ROUNDS" not in knobs:
        return
    rounds, harvest = knobs.number("SELF_PLAY_ROUNDS"), knobs["HARVEST_PAIRS"] == "true"
    knobs.values["SELF_PLAY"] = str(rounds > 1 or harvest or pairs > 0).lower()
    if not prompts and pairs:
        knobs.error("TRAIN_DATA", f"all {pairs:,} rows are pairs and none is a prompt to answer", NO_PROMPTS)
    if prompts and not validation_prompts and knobs["VAL_DATA"]:
        knobs.error("VAL_DATA", "has no prompt to answer, only pairs", "add prompts")
    if rounds > 1 and not harvest and not pairs:
        knobs.error(
            "SELF_PLAY_ROUNDS",
            "there is no pair to learn from between the rounds",
            "set HARVEST_PAIRS=true, add rows with chosen and rejected, or set SELF_PLAY_ROUNDS=1",
            value=rounds,
        )
    if harvest and knobs.number("ROLLOUT_N") == 1:
        knobs.error(
            "HARVEST_PAIRS", "takes the best and the worst of several answers", "set ROLLOUT_N=2 or more", value="true"
        )
    if harvest and (knobs["TOOLS_PATH"] or knobs["ENV_PATH"]):
        knobs.error(
            "HARVEST_PAIRS",
            "answers with tool calls, and episodes, are conversations and make no pairs",
            "set HARVEST_PAIRS=false",
            value="true",
        )
    if knobs["SELF_PLAY"] == "true" and joins_ray({**os.environ, "NNODES": knobs["NNODES"]}, knobs.algorithm):
        knobs.error(
            "RAY_ADDRESS",
            f"a Ray trains no preferences ({pairs:,} pairs in the data, HARVEST_PAIRS={knobs['HARVEST_PAIRS']})",
            "start train.sh on every machine instead, see docs/cluster.md; or leave pairs out and set "
            "SELF_PLAY_ROUNDS=1 HARVEST_PAIRS=false",
            value=os.environ["RAY_ADDRESS"],
        )
    if knobs["SELF_PLAY"] == "true":
        source = " and ".join(
            ([f"{pairs:,} pairs of the data"] if pairs else []) + (["those of its answers"] if harvest else [])
        )
        knobs.warn(
            "",
            f"{rounds} round{'s' if rounds > 1 else ''} of {len(STAGES)} stages: {knobs['TOTAL_STEPS']} RL steps on "
            f"{prompts:,} prompts, then preferences from {source}",
        )
