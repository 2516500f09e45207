"""The reward function of the user, tried on real rows before a GPU is touched; the bench does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.preflight.findings import Finding
from common.rewards.bench.data import FORMS, Case, answers_of
from common.rewards.bench.trial import Outcome, Target, Trial, call_each
from common.worker import WorkerNotStarted

ROWS = 3  # rows that are tried, each with its ground truth as the answer and with an empty answer
KWARGS_KEY = "reward.custom_reward_function.reward_kwargs"
LIMIT_S = 60.0  # seconds for one call; a reward may ask another model


def check_reward(
    path: Path,
    name: str,
    rows: list[dict[str, Any]],
    parameters: dict[str, Any] | None = None,
    needed: str | None = None,
) -> Finding | None:
    """Return what is wrong with a reward function, or None.

    It runs in a separate process, so that one that hangs cannot hold up the preflight for longer than a few calls.

    Args:
        path: Python file.
        name: Function in it; called as verl calls it, by keyword, in a thread or as a coroutine.
        rows: Rows of prompt data.
        parameters: What `reward_kwargs` holds.
        needed: A key that a dictionary must have.
    """
    trial = Trial(Target(path, name, parameters or {}), limit_s=LIMIT_S)
    cases = [case for number, row in enumerate(rows[:ROWS], 1) for case in _cases(number, row)]
    worker = trial.target.worker()
    try:
        call_each(worker, cases, trial)
    except WorkerNotStarted as error:
        if "be imported" in str(error):
            return Finding("REWARD_FUNC_PATH", path, str(error))
        return Finding("REWARD_FUNC_NAME", name, str(error))
    finally:
        worker.stop()
    problems = [_problem(path, outcome) for outcome in trial.outcomes]
    return next(filter(None, problems), None) or _keys(path, trial.outcomes, needed)


def reward_kwargs(overrides: list[str]) -> dict[str, Any]:
    """Return the parameters that `key=value` arguments of a launch give to the reward function.

    Args:
        overrides: Hydra overrides, e.g. ``+reward.custom_reward_function.reward_kwargs.max_length=1024``.
    """
    ours = [text.lstrip("+") for text in overrides if text.lstrip("+").startswith(KWARGS_KEY)]
    if not ours:
        return {}
    from omegaconf import OmegaConf

    values = OmegaConf.select(OmegaConf.from_dotlist(ours), KWARGS_KEY)
    return OmegaConf.to_container(values, resolve=True) if values is not None else {}


def _cases(number: int, row: dict[str, Any]) -> list[Case]:
    truth = row["reward_model"]["ground_truth"]
    right = next(iter(answers_of(truth)), "")
    answers = {"N": right, "#### N": FORMS["#### N"].format(right), "empty": ""}
    extra = {"prompt": row.get("prompt"), **(row.get("extra_info") or {})}  # as common.data.verl_datasets adds it
    return [Case(number, "trial", form, text, truth, row["data_source"], extra) for form, text in answers.items()]


def _problem(path: Path, outcome: Outcome) -> Finding | None:
    said = f"raised {outcome.error}" if outcome.error else outcome.problem or outcome.late
    if not said:
        return None
    return Finding("REWARD_FUNC_PATH", path, f"on the answer {outcome.case.answer[:40]!r} it {said}")


def _keys(path: Path, outcomes: list[Outcome], needed: str | None) -> Finding | None:
    for outcome in outcomes:
        first = outcomes[0]
        if needed and first.keys is not None and needed not in first.keys:
            problem = f"the dictionary has no {needed!r}, by which the variant chooses groups"
            fix = "add it (1.0 for a right answer), or set algorithm.filter_groups.metric=reward"
            return Finding("REWARD_FUNC_PATH", path, problem, fix)
        if outcome.keys != first.keys:
            answers = [one.case.answer[:40] for one in (first, outcome)]
            problem = (
                f"on the answer {answers[0]!r} it returned the keys {first.keys}, on {answers[1]!r} {outcome.keys}"
            )
            return Finding("REWARD_FUNC_PATH", path, problem, "verl needs the same ones on every row")
    return None
