"""test.sh and serve.sh: found from anywhere, with a path with spaces; paths are relative to the current folder."""

import json
import os
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

SCRIPTS = {"test.sh": "common.test_model", "serve.sh": "common.serving"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_from_another_folder_through_a_path_with_spaces(tmp_path, script):
    kit = tmp_path / "a kit"
    (kit / ".venv" / "bin").mkdir(parents=True)
    shutil.copy2(ROOT / script, kit / script)
    (kit / "common").mkdir(exist_ok=True)
    shutil.copy2(ROOT / "common/find_python.sh", kit / "common")
    python = kit / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = subprocess.run(
        [str(kit / script), "--model_path", "my run", "--batch"], cwd=elsewhere, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == str(elsewhere) and lines[1].split(":")[0] == str(kit)
    assert lines[2:] == ["-m", SCRIPTS[script], "--model_path", "my run", "--batch"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_venv_dir_names_the_environment(tmp_path, script):
    kit = tmp_path / "kit"
    for name in (".venv", ".venv-vllm-cpu"):
        (kit / name / "bin").mkdir(parents=True)
        (kit / name / "bin" / "python").write_text(f"#!/bin/sh\necho {name}\n")
        (kit / name / "bin" / "python").chmod(0o755)
    shutil.copy2(ROOT / script, kit / script)
    (kit / "common").mkdir(exist_ok=True)
    shutil.copy2(ROOT / "common/find_python.sh", kit / "common")

    def answer(venv_dir):
        env = os.environ | {"VENV_DIR": venv_dir, "VIRTUAL_ENV": ""}
        return subprocess.run([kit / script], cwd=tmp_path, env=env, capture_output=True, text=True)

    assert answer(".venv-vllm-cpu").stdout == ".venv-vllm-cpu\n"  # from the kit's folder, as setup_env.sh takes it
    assert answer(str(kit / ".venv-vllm-cpu")).stdout == ".venv-vllm-cpu\n"
    missing = answer(".venv-sglang")
    assert missing.returncode == 2 and missing.stderr.startswith("error: VENV_DIR=.venv-sglang: no environment there")


def test_help_names_every_option_and_mistakes_have_status_2(tmp_path):
    shown = subprocess.run([str(ROOT / "test.sh"), "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0 and all(word in shown.stdout for word in ("--compare", "--use_vllm", "--single"))
    (tmp_path / "q.json").write_text(json.dumps([{"prompt": "x"}]))
    wrong = subprocess.run(
        [str(ROOT / "test.sh"), "--model_path", "no/such/model", "--batch", "--input_file", "q.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --model_path no/such/model")
