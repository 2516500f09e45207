"""--suite lm-eval:TASKS next to the harness's own run, in an environment with it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.optional_packages import environment_with

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An interpreter with requirements/lm-eval.txt; LM_EVAL_VENV names an environment that is there."""
    if os.environ.get("LM_EVAL_VENV"):
        return Path(os.environ["LM_EVAL_VENV"]) / "bin" / "python"
    return environment_with("lm-eval.txt", tmp_path_factory.mktemp("lm_eval"))


def test_answers_scores_and_log_likelihoods_are_the_harness_s_own(python):
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "tests/e2e/lm_eval_checks.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]
