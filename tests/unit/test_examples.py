"""examples/: each recipe passes the preflight and fits the GPUs it names, with the memory that its head says."""

import json
import os
import re
import subprocess
import sys

import pytest

from common.plan.machine import GIB, parse_gpus
from common.preflight import checks
from common.preflight.knobs import read_knobs
from common.preflight.machine import planned_machine
from tests.conftest import ROOT
from tests.preflight_table import make_files

FOLDER = ROOT / "examples"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.sh") if path.stem != "start")
PROMPT = (
    "Natalia sold clips to {n} of her friends in April, and half as many in May. How many did she sell in all? " * 2
)
TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
# Recipe -> model whose config stands for the recipe's, and the knobs that name local data.
LOCAL = {
    "gsm8k_grpo_lora": ("Qwen2.5-1.5B", {"TRAIN_DATA": "rl", "VAL_DATA": "auto"}),
    "qwen3_4b_grpo": ("Qwen3-4B", {"TRAIN_DATA": "rl", "VAL_DATA": "auto"}),
    "dapo_math": ("Qwen2.5-7B", {"TRAIN_DATA": "rl", "VAL_DATA": "auto"}),
    "sft_tools": ("Qwen2.5-7B", {"TRAIN_DATA": "tools"}),
    "dpo_zh": ("Qwen2.5-7B", {"TRAIN_DATA": "pairs"}),
    "sft_rm_ppo": (
        "Qwen2.5-1.5B",
        {"SFT_DATA": "tools", "PAIR_DATA": "pairs", "PROMPT_DATA": "prompts", "REWARD_MODEL_PATH": "reward-model"},
    ),
    "code_sandbox": ("Qwen2.5-7B", {"TRAIN_DATA": "code", "VAL_DATA": "auto"}),
}
RECORDER = """#!{python}
import json, os, sys
with open({file!r}, "a") as file:
    file.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
"""


def rows(kind, n):
    question = f"{n} {PROMPT.format(n=2 * n)}"
    if kind == "rl":
        return {"question": question, "answer": f"She sold {n} in May.\n#### {3 * n}"}
    if kind == "tools":
        said = [("human", question), ("function_call", json.dumps({"name": "f", "arguments": {"a": str(n)}}))]
        said += [("observation", '{"r": 1}'), ("gpt", f"It is {n}. " * 30)]
        return {"conversations": [{"from": who, "value": text} for who, text in said], "tools": json.dumps([TOOL])}
    if kind == "pairs":
        return {"prompt": question, "chosen": f"好的，答案是{n}。" * 20, "rejected": f"不知道{n}。" * 10}
    if kind == "code":
        return {"text": f"Add {n}.", "test_list": [f"assert add(1) == {n + 1}"], "test_setup_code": "", "task_id": n}
    return {"prompt": question}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    make_files(folder)
    for kind in ("rl", "tools", "pairs", "code", "prompts"):
        (folder / kind).write_text("".join(json.dumps(rows(kind, n)) + "\n" for n in range(1, 1025)))
        (folder / kind).rename(folder / f"{kind}.jsonl")
    return folder


def environment(name, files):
    model, knobs = LOCAL[name]
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    paths = {
        key: files / (value if "MODEL" in key else f"{value}.jsonl") for key, value in knobs.items() if value != "auto"
    }
    autos = {key: value for key, value in knobs.items() if value == "auto"}
    return {**kept, **autos, "PLAN": "1", "MODEL_PATH": str(files / model), **{k: str(v) for k, v in paths.items()}}


def launches(name, files, tmp_path):
    """What the recipe starts: algorithm, GPUs, arguments and environment of each preflight."""
    record, stand_in = tmp_path / "record.jsonl", tmp_path / "python"
    stand_in.write_text(RECORDER.format(python=sys.executable, file=str(record)))
    stand_in.chmod(0o755)
    done = subprocess.run(
        [FOLDER / f"{name}.sh"],
        env={**environment(name, files), "PYTHON": str(stand_in)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for line in record.read_text().splitlines():
        words, variables = json.loads(line)
        assert words[:2] == ["-m", "common.preflight"] and words[3] == "--gpus" and words[5] == "--"
        yield words[2], words[4], words[6:], variables


def test_every_recipe_is_tested_and_in_the_readmes():
    assert sorted(LOCAL) == RECIPES
    for name in ("README.md", "README_zh.md"):
        text = (FOLDER / name).read_text()
        assert all(f"]({recipe}.sh)" in text for recipe in RECIPES), name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is(name):
    head = (FOLDER / f"{name}.sh").read_text().partition("set -euo")[0]
    assert all(
        re.search(rf"^#   {word} +\S", head, re.MULTILINE) for word in ("model", "data", "plan", "curve", "source")
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_composes_and_fits_as_it_says(name, files, tmp_path, composed, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("CALLER_DIR", str(tmp_path))
    sums = []
    for algorithm, gpus, arguments, variables in launches(name, files, tmp_path):
        machine = planned_machine(parse_gpus(gpus))
        knobs = read_knobs(algorithm, variables, [*arguments])
        try:
            checks.check(knobs, machine)
            assert knobs.errors == []
            sums.append((round(knobs.plan.memory.peak / GIB), round(knobs.plan.setup.gpus.memory / GIB)))
        finally:
            if knobs.data:
                knobs.data.discard()
    said = re.search(r"plan .*?(\d+) of (\d+) GiB", (FOLDER / f"{name}.sh").read_text())
    most, there = max(sums)
    assert (abs(most - int(said[1])) <= 2, there) == (True, int(said[2])), sums


@pytest.mark.nightly
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_plans_as_a_person_starts_it(name, files, tmp_path):
    done = subprocess.run(
        [FOLDER / f"{name}.sh"],
        env={**environment(name, files), "PYTHON": sys.executable, "OUTPUTS_DIR": str(tmp_path / "outputs")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "GiB on each of" in done.stdout


def test_the_notebook_compiles_and_holds_no_output():
    notebook = json.loads((FOLDER / "demo.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        compile("".join(cell["source"]), cell["id"], "exec")
        assert cell["outputs"] == [] and cell["execution_count"] is None
    assert len(cells) >= 6 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
