"""Fixtures that several kinds of tests share."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob("*/train.sh"))
ALGORITHMS = [script.parent.name for script in SCRIPTS]


def pytest_collection_modifyitems(items):
    """Real runs follow each other in one worker: two at a time would double the memory and the waiting."""
    for item in items:
        if item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.xdist_group("real runs"))


def command_in(script_text: str) -> list[str]:
    """The arguments of the command that a dry run prints (or that command.sh holds)."""
    return shlex.split(script_text.split("\nexec ", 1)[1].replace("\\\n", " "))


@pytest.fixture
def clean_environment():
    """The environment without anything that is a knob or that an earlier run left."""
    from common.preflight.knobs import read_block

    knobs = {name for script in SCRIPTS for name in read_block(script)}
    return {name: value for name, value in os.environ.items() if name not in knobs and not name.startswith("VERL_")}


@pytest.fixture
def train(clean_environment):
    """Run a train.sh; returns the finished process with its output as text."""

    def run(algorithm, *arguments, cwd=ROOT, timeout=300, **knobs):
        return subprocess.run(
            [str(ROOT / algorithm / "train.sh"), *arguments],
            cwd=cwd,
            # verl's own validation has tests of its own; importing verl for each start would take minutes
            env={"PREFLIGHT": "fast", **clean_environment, **{name: str(value) for name, value in knobs.items()}},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
