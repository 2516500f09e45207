"""Rewards that raise: what is scored, counted, written down, and when a run ends."""

import asyncio
import json
import math

import pytest

from common.rewards.errors import FILE, MOST, RewardErrors, problem, read_errors, size


def half_broken(solution_str, extra="", **kwargs):
    if solution_str == "bad":
        raise ZeroDivisionError("the judge is away")
    return {"score": 2.0, "acc": True, "note": "x"}


def test_a_reward_that_raises_counts_zero_and_is_written_down(tmp_path):
    errors = RewardErrors(tmp_path)
    first = errors.call(half_broken, solution_str="bad", ground_truth=["1", "2"], data_source="s")
    assert first == {"score": 0.0, "acc": 0.0, "reward_error": 1.0}
    assert errors.call(half_broken, solution_str="ok") == {"score": 2.0, "acc": True, "note": "x", "reward_error": 0.0}
    assert errors.call(half_broken, solution_str="bad") == {"score": 0.0, "acc": 0.0, "reward_error": 1.0}
    one, two = read_errors(tmp_path)
    assert (one["error"], one["data_source"], one["ground_truth"]) == (
        "ZeroDivisionError: the judge is away",
        "s",
        "['1', '2']",
    )
    assert one["answer"] == "bad" and one["place"].startswith("test_reward_errors.py:") and not one["ends_run"]
    assert one["place"].endswith("in half_broken") and "ZeroDivisionError" in one["traceback"]
    assert len(read_errors(tmp_path, size(tmp_path))) == 0


def test_an_async_reward_and_a_keyword_named_as_ours():
    async def judge(solution_str, reward, **kwargs):
        if not reward:
            raise KeyError("verdict")
        return 1

    errors = RewardErrors(None)
    assert asyncio.run(errors.call_async(judge, solution_str="", reward=1))["score"] == 1
    assert asyncio.run(errors.call_async(judge, solution_str="", reward=0))["reward_error"] == 1.0


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, "returned None; it must be a finite number"),
        ({"acc": 1}, "which has no 'score'"),
        (math.nan, "returned nan"),
        ({"score": math.inf}, "returned inf"),
        ("1.0", "returned '1.0'"),
        ([1.0], "returned [1.0]"),
    ],
)
def test_what_is_no_score_is_an_error(tmp_path, result, words):
    errors = RewardErrors(tmp_path)
    assert errors.call(lambda **kwargs: result, solution_str="a")["reward_error"] == 1.0
    assert words in read_errors(tmp_path)[0]["error"]


def test_numbers_of_other_libraries_are_scores():
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    errors = RewardErrors(None)
    for score in (numpy.float32(0.5), numpy.int64(1), torch.tensor(0.25), True):
        result = errors.call(lambda score=score, **kwargs: score)
        assert result["reward_error"] == 0.0 and float(result["score"]) == float(score)


def test_the_file_is_bounded_and_a_torn_line_is_passed_over(tmp_path):
    errors = RewardErrors(tmp_path)
    for _ in range(MOST + 20):
        errors.call(half_broken, solution_str="bad" if _ else "bad" * 10_000, data_source="\ud800")
    with (tmp_path / FILE).open("a") as file:
        file.write('{"error": "to')
    found = read_errors(tmp_path)
    assert len(found) == MOST and errors.written == MOST + 20 - 1  # the first answer was not "bad"
    assert json.loads((tmp_path / FILE).read_text().splitlines()[0])["answer"] == "bad"


def test_above_one_percent_or_at_a_fatal_error_a_run_ends():
    error = {"error": "KeyError: 'a'", "place": "r.py:3 in f", "ends_run": False}
    assert problem(7, 1, 100, [error]) is None and problem(7, 0, 0, []) is None
    words = "the reward raised on 2 of 100 answers at step 7: KeyError: 'a' at r.py:3 in f; reward_errors.jsonl has the"
    assert problem(7, 2, 100, [error]).startswith(words)
    assert "on 1 of 1000 answers" in problem(7, 1, 1000, [error, {**error, "ends_run": True}])
    assert "see train.log" in problem(7, 2, 100, [])
