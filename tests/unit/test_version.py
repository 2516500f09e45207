"""The kit's version has one place; what shows it reads it there."""

import os
import re
import subprocess
import sys

import pytest

from common import __version__
from common.runner.attempt import describe_run
from tests.conftest import ROOT


def test_a_run_names_the_kit_it_was_made_with(tmp_path):
    knobs = {"MODEL_PATH": "demo", "TRAIN_DATA": "a.parquet", "VAL_DATA": "b.parquet"}
    versions = describe_run(tmp_path, knobs, "grpo", 1)["versions"]
    assert versions["kit"] == __version__ and versions["verl"]


@pytest.mark.parametrize(
    "command",
    ["common.preflight", "common.checkpoints", "common.data_utils", "common.test_model", "monitor.app"],
)
def test_programs_say_their_version(command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", command, "--version"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, __version__), done.stderr


def test_the_changelog_begins_with_this_version_and_no_other_file_holds_it():
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == __version__
    assert versions == sorted(versions, key=lambda text: [int(part) for part in text.split(".")], reverse=True)
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project and 'attr = "common.__version__"' in project
    assert not re.search(r"^version", (ROOT / "CITATION.cff").read_text(), re.M)
