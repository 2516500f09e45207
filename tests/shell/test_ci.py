""".ci/nightly with stand-ins for what it starts: which parts run, and with which environment."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit whose programs write their name, VENV_DIR, VLLM_VENV and arguments; those named in FAILING fail."""
    system = ("bin/sudo", "bin/apt-get", "bin/debootstrap", "bin/slurmctld", "tests/cluster/slurm.sh")
    for name in (".ci/run", ".venv/bin/python", "setup_env.sh", *system):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        line = f"{name} [${{VENV_DIR:-}}] [${{VLLM_VENV:-}}] $*"
        program.write_text(
            f'#!/bin/sh\necho "{line}" >> "{tmp_path}/calls"\ncase "$FAILING" in *{name}*) exit 1 ;; esac\n'
        )
        program.chmod(0o755)
    shutil.copy2(ROOT / ".ci/nightly", tmp_path / ".ci")
    return tmp_path


def nightly(kit: Path, **settings: str) -> tuple[int, list[str]]:
    unset = {name: value for name, value in os.environ.items() if name not in ("VLLM_VENV", "VENV_DIR")}
    unset["PATH"] = f"{kit}/bin:{unset['PATH']}"  # nothing of the machine is changed
    done = subprocess.run([kit / ".ci/nightly"], env=unset | {"FAILING": ""} | settings, cwd="/")
    calls = (kit / "calls").read_text().splitlines()
    return done.returncode, [call for call in calls if re.search(r"^\.ci/run|^setup_env|-m pytest", call)]


@pytest.mark.parametrize("given", [{}, {"VLLM_VENV": "/else where"}])
def test_nightly_makes_the_environment_of_vllm_and_tests_with_it(kit, given):
    status, calls = nightly(kit, **given)
    folder = given.get("VLLM_VENV", ".venv-vllm-cpu")
    assert status == 0
    assert calls == [
        f".ci/run [] [{folder}] ",
        f".venv/bin/python [] [{folder}] -m pytest -m nightly --durations 20",
        f"setup_env.sh [{folder}] [{folder}] --cpu --engine vllm",
        f".venv/bin/python [] [{folder}] -m pytest -m vllm --durations 20",
    ]


@pytest.mark.parametrize(("failing", "started"), [(".ci/run", 4), (".venv/bin/python", 4), ("setup_env.sh", 3)])
def test_nightly_fails_with_each_of_its_parts(kit, failing, started):
    status, calls = nightly(kit, FAILING=failing)
    assert status != 0 and len(calls) == started
