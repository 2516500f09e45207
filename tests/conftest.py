"""Fixtures that several kinds of tests share."""

import contextlib
import json
import os
import shlex
import socket
import subprocess
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob("*/train.sh"))
ALGORITHMS = [script.parent.name for script in SCRIPTS]


TOGETHER = {"tests/e2e/": "real runs", "tests/ui/": "browser"}  # in one worker, one after the other


class Grouped(LoadScopeScheduling):
    """Real runs follow each other in one worker, tests in a browser too: two at a time would double memory and waiting.

    xdist's own groups (``--dist loadgroup``) do nothing with pytest 9.2: it has no ``_nodeid`` to put their name into.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((group for folder, group in TOGETHER.items() if nodeid.startswith(folder)), nodeid)


def pytest_xdist_make_scheduler(config, log):
    return Grouped(config, log)


def free_port(following: int = 0) -> int:
    """A port of this machine that nothing listens on just now, nor on so many that follow it."""
    while True:
        with contextlib.ExitStack() as held:
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                for number in range(1, following + 1):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
                return port


def command_in(script_text: str) -> list[str]:
    """The arguments of the command that a dry run prints (or that command.sh holds)."""
    return shlex.split(script_text.split("\nexec ", 1)[1].replace("\\\n", " "))


def environment_without_knobs() -> dict[str, str]:
    """The environment without anything that is a knob or that an earlier run left."""
    from common.preflight.knobs import read_block

    knobs = {name for script in SCRIPTS for name in read_block(script)}
    return {name: value for name, value in os.environ.items() if name not in knobs and not name.startswith("VERL_")}


def launch(environment, algorithm, *arguments, cwd=ROOT, timeout=300, **knobs):
    """Run a train.sh; returns the finished process with its output as text."""
    return subprocess.run(
        [str(ROOT / algorithm / "train.sh"), *arguments],
        cwd=cwd,
        # verl's own validation has separate tests; importing verl for each start would take minutes
        env={"PREFLIGHT": "fast", **environment, **{name: str(value) for name, value in knobs.items()}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(autouse=True)
def same_environment():
    """Put ``os.environ`` back: datasets leaves a copy there when it maps with processes, as verl does with prompts.

    The copy would keep what a test had set, since monkeypatch takes it back in the first object.
    """
    with mock.patch.object(os, "environ", os.environ):
        yield


@pytest.fixture
def clean_environment():
    """The environment without anything that is a knob or that an earlier run left."""
    return environment_without_knobs()


@pytest.fixture
def train(clean_environment):
    """Run a train.sh; returns the finished process with its output as text."""
    return partial(launch, clean_environment)


@pytest.fixture(scope="session")
def plain_command(tmp_path_factory):
    """The command of an algorithm with nothing set; each is launched once, for all workers of the test session."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    environment = environment_without_knobs()

    def build(algorithm):
        kept = root / f"command-{algorithm}.json"
        with FileLock(f"{kept}.lock"):
            if not kept.is_file():
                done = launch(environment, algorithm, DRY_RUN=1)
                assert done.returncode == 0, done.stderr
                kept.write_text(json.dumps(command_in(done.stdout)))
            return json.loads(kept.read_text())

    return build
