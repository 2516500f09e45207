"""Each health rule on a recorded curve (tests/data/health/record.py), and none on 20 runs that learn."""

from __future__ import annotations

import json

import pytest

from common.metrics.names import BY_NAME, METRICS, check_health, friendly
from common.metrics.trends import TRENDS
from monitor.columns import Columns
from monitor.health import find
from monitor.i18n import ADVICE_ZH
from tests.conftest import ROOT

FOLDER = ROOT / "tests" / "data" / "health"
HELD_BY_LIMIT = tuple(
    metric.name
    for metric in METRICS
    if metric.low is not None or metric.high is not None or metric.zero_steps or metric.finite or metric.rising
)
RULES = (*(name for name in HELD_BY_LIMIT if name not in TRENDS), *TRENDS, "kl_divergence_limit", "entropy_limit")
WINDOW = 40  # steps that the terminal looks back on


def recorded(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def warned(steps):
    """Rule -> the steps at which it warns, as the terminal asks after each."""
    found = {}
    history = []
    for number, data in enumerate(steps, 1):
        history = [*history, friendly(data)][-WINDOW:]
        for warning in check_health(history):
            found.setdefault((warning.name, warning.trend), []).append(number)
    return found


@pytest.mark.parametrize("name", RULES)
def test_a_rule_warns_on_its_example(name):
    steps = warned(recorded(name))
    assert steps.get((name.removesuffix("_limit"), name in TRENDS)), steps


def test_the_examples_are_of_the_rules():
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == {*RULES, "healthy", "healthy_sft"}
    assert set(HELD_BY_LIMIT) & set(TRENDS) == {"kl_divergence", "entropy"}
    assert all(f"{name}_trend" in ADVICE_ZH for name in TRENDS)


def test_no_rule_warns_in_healthy_runs():
    """20 runs of RL, whose KL is judged by the jump only (the toy has no reference worth a limit), and five of SFT."""
    runs, supervised = recorded("healthy"), recorded("healthy_sft")
    assert (len(runs), len(supervised)) == (20, 5)
    seen = {name for run in runs + supervised for name in friendly(run["steps"][0])}
    assert set(HELD_BY_LIMIT) - seen == {"reward_std_bound"}, "of logs without a spread"
    for run in runs:
        rewards = [step["critic/score/mean"] for step in run["steps"]]
        assert sum(rewards[-3:]) > sum(rewards[:3]), "it learns"
        found = {key for key in warned(run["steps"]) if key != ("kl_divergence", False)}
        assert not found, (run["seed"], found)
    for run in supervised:
        losses = [step["val/loss"] for step in run["steps"]]
        assert losses[-1] < losses[0] and not warned(run["steps"]), run["seed"]


@pytest.mark.parametrize("name", sorted(TRENDS))
def test_the_page_finds_what_the_terminal_finds(name):
    columns = Columns()
    columns.add(list(enumerate(recorded(name), 1)))
    found = [one for one in find(columns, None, None) if one.name == name and one.side == "trend"]
    assert found and found[0].advice and BY_NAME[name].label


def test_a_jump_is_told_at_once():
    steps = warned(recorded("kl_divergence"))[("kl_divergence", True)]
    assert steps[0] == 30
