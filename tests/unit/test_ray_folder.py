"""Ray opens its folders to everybody, so they are in one that only this user may enter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.runner import ray_folder as module
from common.runner.ray_folder import ray_folder
from tests.conftest import ROOT
from tests.unit.test_attempt import LAUNCHER, environment


def mode(folder):
    return os.stat(folder).st_mode & 0o7777


def test_a_folder_of_this_user_or_the_one_that_is_set(tmp_path):
    before = os.umask(0o002)
    try:
        folder = ray_folder({"TMPDIR": str(tmp_path)})
    finally:
        os.umask(before)
    assert folder == str(tmp_path / f"ray-{os.getuid()}") and mode(folder) == 0o700
    assert ray_folder({"TMPDIR": str(tmp_path)}) == folder  # the next run
    assert ray_folder({"TMPDIR": str(tmp_path), "RAY_TMPDIR": "/data/x"}) == "/data/x"


@pytest.mark.parametrize("kind", ["open", "link", "foreign"])
def test_a_folder_that_others_made_is_not_used(tmp_path, monkeypatch, kind):
    name = tmp_path / f"ray-{os.getuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        name.symlink_to(tmp_path / "elsewhere")
    else:
        name.mkdir(mode=0o700)
        name.chmod(0o777 if kind == "open" else 0o700)
    if kind == "foreign":
        found = os.lstat(name)
        monkeypatch.setattr(module.os, "lstat", lambda path: os.stat_result((*found[:4], found.st_uid + 1, *found[5:])))
    folder = ray_folder({"TMPDIR": str(tmp_path)})
    assert Path(folder) != name and mode(folder) == 0o700


def test_the_trainer_gets_it(tmp_path):
    trainer = "import os; open(os.environ['RUN_DIR'] + '/ray', 'w').write(os.environ['RAY_TMPDIR'])"
    variables = environment(tmp_path) | {"TRAINER": trainer, "TMPDIR": str(tmp_path)}
    variables.pop("RAY_TMPDIR", None)
    subprocess.run([sys.executable, "-c", LAUNCHER], env=variables, cwd=ROOT, capture_output=True, timeout=60)
    folder = (tmp_path / "run" / "ray").read_text()
    assert folder == str(tmp_path / f"ray-{os.getuid()}") and mode(folder) == 0o700
