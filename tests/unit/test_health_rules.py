"""Each health rule on a recorded curve (tests/data/health/record.py), and none on 20 runs that learn."""

from __future__ import annotations

import json

import pytest

from common.metrics.names import BY_NAME, check_health, friendly
from common.metrics.trends import TRENDS
from monitor.columns import Columns
from monitor.health import find
from monitor.i18n import ADVICE_ZH
from tests.conftest import ROOT

FOLDER = ROOT / "tests" / "data" / "health"
RULES = (
    *("entropy", "response_length", "accuracy_reward", "kl_divergence"),
    *("advantage_max", "clip_fraction", "dead_groups", "staleness"),
)
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
    assert steps.get((name, name in TRENDS)), steps


def test_the_examples_are_of_the_rules():
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == {*RULES, "healthy"}
    assert set(TRENDS) < set(RULES)
    assert all(f"{name}_trend" in ADVICE_ZH for name in TRENDS)


def test_no_rule_of_movement_warns_in_healthy_runs():
    """The toy has no reference worth a limit, so its KL is judged by the jump only."""
    runs = recorded("healthy")
    assert len(runs) == 20
    for run in runs:
        rewards = [step["critic/score/mean"] for step in run["steps"]]
        assert sum(rewards[-3:]) > sum(rewards[:3]), "it learns"
        found = {key for key in warned(run["steps"]) if key != ("kl_divergence", False)}
        assert not found, (run["seed"], found)


@pytest.mark.parametrize("name", sorted(TRENDS))
def test_the_page_finds_what_the_terminal_finds(name):
    columns = Columns()
    columns.add(list(enumerate(recorded(name), 1)))
    found = [one for one in find(columns, None, None) if one.name == name and one.side == "trend"]
    assert found and found[0].advice and BY_NAME[name].label


def test_a_jump_is_told_at_once():
    steps = warned(recorded("kl_divergence"))[("kl_divergence", True)]
    assert steps[0] == 30
