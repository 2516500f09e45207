"""Each train.sh with a stand-in for the trainer: what would run, with which arguments, and what is refused."""

import itertools
import os
import re
import shutil
import subprocess

import pytest

from common.preflight.knobs import RULES, read_block
from tests.conftest import ALGORITHMS, ROOT, SCRIPTS, command_in

HEADINGS = ["Model and data", "Batch", "Optimisation", "Algorithm", "Hardware", "Output"]


def dry_run(train, algorithm, *arguments, **knobs):
    done = train(algorithm, *arguments, DRY_RUN=1, **knobs)
    assert done.returncode == 0, done.stderr
    return command_in(done.stdout)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dry_run_prints_the_command_and_writes_nothing(train, algorithm):
    before = runs_of_scripts()
    command = dry_run(train, algorithm)
    assert "-m" in command and any(part.startswith(("verl.trainer.", "dpo.")) for part in command)
    assert runs_of_scripts() == before


def runs_of_scripts():
    """Runs with the names that a script gives; those of real runs in another worker begin with ``test-``."""
    return sorted(path.name for path in (ROOT / "outputs").glob("*") if not path.name.startswith("test-"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_environment_wins_over_the_block_and_arguments_over_both(train, algorithm):
    command = dry_run(train, algorithm, "trainer.save_freq=9", SAVE_FREQ=7, TEST_FREQ=6)
    assert "trainer.test_freq=6" in command
    # the argument counts as the knob it belongs to, and comes last so that Hydra takes it
    assert [part for part in command if part.startswith("trainer.save_freq")] == ["trainer.save_freq=9"] * 2
    assert command[-1] == "trainer.save_freq=9"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_starts_from_any_folder_through_a_link_and_with_spaces(train, tmp_path, algorithm):
    folder = tmp_path / "数据 and spaces"
    folder.mkdir()
    data = folder / "my train.parquet"
    shutil.copy(ROOT / algorithm / "data" / "train.parquet", data)
    done = train(algorithm, cwd=folder, DRY_RUN=1, TRAIN_DATA="my train.parquet", VAL_DATA="my train.parquet")
    assert done.returncode == 0, done.stderr
    command = command_in(done.stdout)
    assert f"data.train_files=['{data}']" in command and f"data.val_files=['{data}']" in command


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--epochs", "options are not taken"),
        ("lr", "expected key=value"),
        ("trainer.nope=1", "not a key of verl's config"),
    ],
)
def test_wrong_arguments_are_refused(train, algorithm, argument, words):
    done = train(algorithm, argument, DRY_RUN=1)
    assert done.returncode == 2
    assert argument.split("=")[0] in done.stderr and words in done.stderr
    assert done.stdout == ""


def test_venv_dir_names_the_environment(train, tmp_path):
    made = tmp_path / "with vLLM"
    (made / "bin").mkdir(parents=True)
    (made / "bin" / "python").write_text('#!/bin/sh\necho "this Python" >&2\nexit 1\n')
    (made / "bin" / "python").chmod(0o755)
    assert train("grpo", DRY_RUN=1, VENV_DIR=str(made)).stderr == "this Python\n"
    missing = train("grpo", DRY_RUN=1, VENV_DIR=".venv-missing")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: VENV_DIR=.venv-missing: no environment there")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_error_starts_and_writes_nothing(train, algorithm):
    done = train(algorithm, EXPERIMENT_NAME="never-made", TRAIN_DATA="nope.parquet")
    assert done.returncode == 2
    assert "TRAIN_DATA=nope.parquet: no such file" in done.stderr
    assert not (ROOT / "outputs" / "never-made").exists()


# ---- the duplication contract ----------------------------------------------------------------------------------


def block(script):
    text = script.read_text(encoding="utf-8")
    return re.search(r"^# =+ edit here =+\n(.*?)^# =+ nothing to edit", text, re.DOTALL | re.MULTILINE).group(1)


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(SCRIPTS, 2)), ids=lambda path: path.parent.name)
def test_common_knobs_have_the_same_order_and_words(one, two):
    """A line may differ where the algorithm differs; the comment of a common knob differs only where listed."""
    may_differ = {
        "REWARD_FUNC_PATH",
        "TEMPERATURE",
        "TRAIN_DATA",
        "VAL_DATA",
        "MAX_PROMPT_LENGTH",
        "BATCH_SIZE",
        "LEARNING_RATE",
        "LR_SCHEDULER",
        "WARMUP_RATIO",
        "SEED",
        "ROLLOUT_N",
        "NNODES",
        "WANDB_PROJECT",
    }
    lines = [dict(re.findall(r"^([A-Z_]+)=(.*)$", block(script), re.MULTILINE)) for script in (one, two)]
    common = [name for name in lines[0] if name in lines[1]]
    assert common == [name for name in lines[1] if name in lines[0]]
    for name in set(common) - may_differ:
        assert lines[0][name] == lines[1][name]


@pytest.mark.parametrize("script", SCRIPTS, ids=ALGORITHMS)
def test_shape_of_a_script(script):
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text and "set -x" not in text and "eval" not in text
    assert len(text.splitlines()) <= 210
    headings = re.findall(r"^# ---- (.*) ----$", text, re.MULTILINE)
    assert headings == [heading for heading in HEADINGS if heading in headings]
    for line in block(script).splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r'([A-Z_]+)="\$\{\1:-[^}]*\}" +# .+', line), line


@pytest.mark.parametrize("script", SCRIPTS, ids=ALGORITHMS)
def test_a_script_runs_its_own_config(script):
    text = script.read_text(encoding="utf-8")
    folder = script.parent.name
    assert (
        re.findall(r'--config-path="\$\{PWD\}/(\w+)"', text)
        == [folder]
        == re.findall(r"^prepare_run (\w+)", text, re.MULTILINE)
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=ALGORITHMS)
def test_every_knob_is_used_and_has_a_rule(script):
    text = script.read_text(encoding="utf-8")
    command = text.split("run_training", 1)[1]
    names = set(read_block(script))
    free_text = {
        "MODEL_PATH",
        "TRAIN_DATA",
        "VAL_DATA",
        "REFERENCE_MODEL_PATH",
        "RESUME",
        "CRITIC_MODEL_PATH",
        "REWARD_FUNC_PATH",
        "REWARD_FUNC_NAME",
        "ALGORITHM_PATH",
        "ADV_ESTIMATOR",
        "POLICY_LOSS",
        "LORA_TARGETS",
        "LORA_ADAPTER_PATH",
        "MODEL_PARALLEL",
        "TOOLS_PATH",
        "ENV_PATH",
        "REWARD_MODEL_PATH",
        "API_REWARD_CONFIG",
        "EXPERIMENT_NAME",
        "VAL_METRICS",
        "TRACKERS",
        "WANDB_PROJECT",
        "WANDB_ENTITY",
        "WANDB_RUN_NAME",
    }
    assert names - free_text <= set(RULES)
    # used by the launcher, the preflight or wandb itself, not by verl
    elsewhere = {"EXPERIMENT_NAME", "RESUME", "TRACKERS", "USE_WANDB", "WANDB_ENTITY", "TOTAL_EPOCHS"}
    elsewhere |= {"ALGORITHM_PATH", "TOOL_TIMEOUT", "ENV_PATH", "ENV_TIMEOUT", "MODEL_PARALLEL"}
    by_rounds = {"SELF_PLAY_ROUNDS", "HARVEST_PAIRS", "PAIR_MARGIN", "PREFERENCE_LEARNING_RATE", "LOSS_TYPE", "BETA"}
    elsewhere |= {"sft": {"SEED"}, "gspo": by_rounds}.get(script.parent.name, set())
    elsewhere |= {
        "REWARD",
        "API_REWARD_CONFIG",
        "ON_FAILURE",
        "KL_IN",
        "TRAINER_MODE",
        "DATA_FORM",
        "OPTIMIZER",
        "LR_SCHEDULER",
        "VALUE_LOSS_COEF",
        "VAL_METRICS",
    }  # become switches of verl in the preflight
    for name in names - elsewhere:
        used = f"${{{name}}}" in command or re.search(rf"\$\(\([^)]*\b{name}\b", command)
        assert used, f"{name} is in the block but not in the command"


def test_shellcheck_is_clean():
    shellcheck = shutil.which("shellcheck", path=f"{ROOT}/.venv/bin:{os.environ['PATH']}")
    assert shellcheck, "shellcheck is missing; ./setup_env.sh --dev installs it"
    scripts = [str(path.relative_to(ROOT)) for path in (*SCRIPTS, ROOT / "common" / "launch.sh")]
    done = subprocess.run([shellcheck, "-x", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ---- several machines -------------------------------------------------------------------------------------------

PLACE = {"NNODES": 2, "NODE_RANK": 1, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": 29400}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"NNODES": 2}, "NODE_RANK is not set: 0 on the first machine"),
        ({"SLURM_STEP_NUM_NODES": 4, "SLURM_NODEID": 4, "SLURM_STEP_NODELIST": "n[1-4]"}, "SLURM_NODEID=4: NNODES=4"),
        ({"SKYPILOT_NUM_NODES": 2, "SKYPILOT_NODE_RANK": 0}, "MASTER_ADDR is not set"),
        ({"PET_NNODES": 3, "PET_NODE_RANK": 0, "PET_MASTER_ADDR": "192.0.2.99"}, "is not an address of this machine"),
    ],
)
def test_a_machine_that_cannot_have_its_place_is_refused_before_anything_is_looked_at(train, variables, words):
    done = train("sft", EXPERIMENT_NAME="never-made", **variables)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (ROOT / "outputs" / "never-made").exists()


def test_torchrun_gets_the_rendezvous_of_several_machines_and_rl_the_kits_entry_point(train):
    command = dry_run(train, "sft", **PLACE, BATCH_SIZE=8, N_GPUS=1, DEVICE="cpu")
    assert {"--nnodes=2", "--node-rank=1", "--rdzv-backend=static", "--rdzv-endpoint=10.0.0.1:29401"} <= set(command)
    alone = dry_run(train, "sft")
    assert {"--nnodes=1", "--node-rank=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"} <= set(alone)
    assert "common.verl_ext.train_rl" in dry_run(train, "grpo", **PLACE, BATCH_SIZE=8, N_GPUS=1, DEVICE="cpu")
    assert "verl.trainer.main_ppo" in dry_run(train, "grpo")


def test_the_number_of_machines_is_no_argument_for_verl(train):
    """The launchers must know it before verl's arguments are read."""
    done = train("sft", "trainer.nnodes=2", DRY_RUN=1, **(PLACE | {"NNODES": 1}))
    assert done.returncode == 2 and "NNODES=2: comes too late as an argument for verl" in done.stderr
