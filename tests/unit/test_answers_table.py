"""Answers in English and Chinese over all rewards, right and wrong ones, worked out by hand; each row says why.

tests/data/answers.jsonl holds the table, tests/data/reward_reports.jsonl what public bug reports gave as examples.
"""

import json

import numpy as np
import pytest

from common import reward_functions
from tests.conftest import ROOT


def rows(name):
    return [json.loads(line) for line in (ROOT / "tests" / "data" / name).read_text(encoding="utf-8").splitlines()]


TABLE, REPORTS = rows("answers.jsonl"), rows("reward_reports.jsonl")

LISTS = [row for row in TABLE if isinstance(row["truth"], list) and row["reward"] != "code"]


def score(row, truth):
    result = getattr(reward_functions, row["reward"])("x", row["answer"], truth)
    return result["score"] if isinstance(result, dict) else result


def name(row):
    return f"{row['reward']}-{row.get('why') or row['report']}"


@pytest.mark.parametrize("row", TABLE + REPORTS, ids=name)
def test_a_person_would_score_it_so(row):
    assert score(row, row["truth"]) == row["right"], f"{row['answer']!r} against {row['truth']!r}"


def test_the_table_is_large_and_has_wrong_answers():
    assert len(TABLE) >= 150 and len(REPORTS) == 31
    assert {row["reward"] for row in TABLE} >= {"math", "gsm8k", "code", "multiple_choice", "exact_match"}
    for reward in {row["reward"] for row in TABLE}:
        assert {row["right"] for row in TABLE if row["reward"] == reward} == {0.0, 1.0}, reward


@pytest.mark.parametrize("row", LISTS, ids=name)
def test_lists_come_in_each_shape_that_verl_hands_over(row):
    """A list column of parquet is a numpy array, one of JSON a list; a config may make it a tuple."""
    for truth in (np.array(row["truth"], dtype=object), tuple(row["truth"]), {"target": row["truth"]}):
        assert score(row, truth) == row["right"]
