"""verl reports by itself: a bare ``python -m verl.trainer...`` with JOB_UUID and PLATFORM_URL, nothing else."""

import importlib
import os
import subprocess
import sys
import types
from importlib.metadata import distributions

import pytest

from common.verl_ext import table, tracking, trainer_main
from tests.conftest import ROOT
from tests.platform.conftest import wait_for

pytestmark = [pytest.mark.usefixtures("spool"), pytest.mark.filterwarnings("ignore::RuntimeWarning")]


@pytest.fixture
def site(tmp_path):
    """A folder with what setup_env.sh writes into an environment's packages."""
    folder = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    folder.mkdir(parents=True)
    text = (ROOT / "setup_env.sh").read_text()
    function = text[text.index("link_kit() {") : text.index("\n}\n", text.index("link_kit() {")) + 3]
    subprocess.run(["bash", "-euc", f"env_dir={tmp_path}/env\n{function}link_kit"], cwd=ROOT, check=True)
    return folder


def test_verl_finds_it(site):
    (found,) = [one for one in distributions(path=[str(site)])]
    (entry,) = found.entry_points
    assert (entry.group, entry.value) == ("verl.plugins", "training_platform.core.verl_forward")
    assert (site / "training_kit.pth").read_text().strip() == str(ROOT)


class Tracking:
    """As verl's: a table of loggers."""

    def __init__(self, names):
        self.logger = dict.fromkeys(names)


def hydra_main(config_path):
    return lambda task: lambda: task(config_path)


@pytest.fixture
def forward(platform, monkeypatch):
    """The module, installed over stand-ins for verl's logger and Hydra's decorator."""
    monkeypatch.setattr(table, "replace", lambda parts: parts == ["report"] or pytest.fail(str(parts)))
    monkeypatch.setattr(tracking, "loggers", [])
    monkeypatch.setattr(trainer_main, "listeners", [])
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(shutdown=lambda: None))
    monkeypatch.setenv("PLATFORM_URL", platform.url)
    monkeypatch.setenv("JOB_UUID", "job-1764000000")
    module = importlib.import_module("training_platform.core.verl_forward")
    monkeypatch.setattr(module.Metrics, "made", [])
    monkeypatch.setattr(Tracking, "__init__", tracking.replacement(Tracking.__init__))
    tracking.loggers.clear()
    trainer_main.listeners.clear()
    module.install()
    return module


def train(task):
    trainer_main.replacement(hydra_main)("config")(task)()


def test_a_training_from_begin_to_end(platform, forward):
    seen = []

    def task(config):
        made = Tracking(["console"])
        for step in (1, 2):
            for name, logger in made.logger.items():
                if name != "console":
                    logger.log(data={"actor/pg_loss": 0.5, "critic/score/mean": 0.25 * step}, step=step)
        wait_for(lambda: platform.client.get("/api/jobs/job-1764000000").status_code == 200)
        seen.append((config, platform.job("job-1764000000")["state"]))

    train(task)
    assert seen == [("config", "running")]
    rows = platform.client.get("/api/jobs/job-1764000000/metrics").json()
    assert rows == [{"step": n, "policy_loss": 0.5, "reward_mean": 0.25 * n} for n in (1, 2)]
    wait_for(lambda: platform.job("job-1764000000")["state"] == "finished")


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("ray::run()\nCUDA out of memory"), "failed", "ValueError: CUDA out of memory"),
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (SystemExit(3), "failed", "SystemExit: 3"),
    ],
)
def test_how_it_ends(platform, forward, error, state, reason):
    def task(config):
        raise error

    with pytest.raises(type(error)):
        train(task)
    wait_for(lambda: platform.job("job-1764000000")["state"] == state)
    assert platform.job("job-1764000000")["reason"] == reason


def test_without_both_variables_nothing_is_touched(forward, monkeypatch):
    tracking.loggers.clear()
    for name in ("JOB_UUID", "PLATFORM_URL"):
        with monkeypatch.context() as context:
            context.delenv(name)
            forward.install()
    assert tracking.loggers == []


def test_a_run_that_the_platform_reads_is_not_reported_twice(platform):
    uuid = platform.submit(name="run")
    platform.wait(uuid, "finished")
    platform.client.delete(f"/api/jobs/{uuid}")  # as a run that was started by hand with this JOB_UUID
    batch = {"job": uuid, "session": "s", "seq": 1, "records": [{"kind": "finish"}]}
    answer = platform.client.post("/api/records", json=batch)
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "own_run"
    assert sorted(path.name for path in platform.options["outputs"].glob("[!.]*")) == ["run"]


@pytest.mark.nightly
@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_verls_own_command(platform, site, tmp_path):
    """The command that the launcher prints, on the demo; all that it knows of the platform are two variables."""
    environment = {
        **os.environ,
        "DEVICE": "cpu",
        "TOTAL_STEPS": "2",
        "DRY_RUN": "1",
        "OUTPUTS_DIR": str(tmp_path / "o"),
    }
    shown = subprocess.run(
        [ROOT / "grpo" / "train.sh"], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    command = shown.stdout[shown.stdout.index("#!/usr/bin/env bash") :]
    (tmp_path / "command.sh").write_text(command.replace(f"PYTHONPATH={ROOT}", f"PYTHONPATH={ROOT}:{site}"))
    environment = {**os.environ, "JOB_UUID": "job-1764000000", "PLATFORM_URL": platform.url}
    done = subprocess.run(["bash", tmp_path / "command.sh"], env=environment, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    rows = platform.client.get("/api/jobs/job-1764000000/metrics").json()
    assert [row["step"] for row in rows if "policy_loss" in row] == [1, 2]
    assert platform.client.get("/api/jobs/job-1764000000/metrics?source=validation").json()[0]["step"] == 0
    wait_for(lambda: platform.job("job-1764000000")["state"] == "finished")
