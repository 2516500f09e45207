"""Variables that a launch sets next to the knobs: the table, the scripts, the YAML files and the launches agree."""

import json
import re
import shlex

import pytest

from common.plan.machine import parse_gpus
from common.preflight import checks, command, run_name
from common.preflight.compose import after_options
from common.preflight.derived import CONFIG, DERIVED, LAUNCHER, PROCESS, PROCESS_KNOBS, SCRIPT, names
from common.preflight.knobs import knobs_of_keys, read_block, read_knobs
from common.preflight.machine import planned_machine
from common.preflight.resolved import write_resolved
from common.runner.attempt import Attempt
from gspo.stages import RL, Stage, stage_environment
from tests.conftest import ALGORITHMS, ROOT, SCRIPTS, command_in

EIGHT, NONE = "8x80GB", ""
LAUNCHES = [
    *((algorithm, gpus, {}) for algorithm in ALGORITHMS for gpus in (NONE, EIGHT)),
    ("ppo", EIGHT, {"REWARD": "model", "ROLLOUT_ENGINE": "hf"}),
    ("ppo", EIGHT, {"REWARD": "api"}),
    ("grpo", NONE, {"ROLLOUT_ENGINE": "vllm", "TENSOR_PARALLEL_SIZE": "2"}),
]


@pytest.fixture
def exported(monkeypatch, tmp_path):
    """What a launch exports, without running it."""
    monkeypatch.setattr(run_name, "OUTPUTS", tmp_path / "outputs")

    def write(algorithm, gpus, knobs):
        machine = planned_machine(parse_gpus(gpus)) if gpus else checks.Machine((), 2, 16 * 2**30)
        read = read_knobs(algorithm, knobs)
        checks.prepare(read, machine, everything=False)
        checks.trackers.resolve_trackers(read)
        write_resolved(tmp_path / "resolved", read, tmp_path / "run")
        words = (tmp_path / "resolved").read_bytes().decode().split("\0")
        return dict(zip(words[::2], words[1::2], strict=False))

    return write


def test_all_that_launches_export_is_declared_and_all_that_is_declared_is_exported(exported):
    seen = set()
    for algorithm, gpus, knobs in LAUNCHES:
        seen |= set(exported(algorithm, gpus, knobs)) - set(read_block(ROOT / algorithm / "train.sh"))
    assert seen == set(names())
    assert len(names()) == len(set(names()))


@pytest.mark.parametrize("script", SCRIPTS, ids=ALGORITHMS)
def test_a_script_names_the_variables_that_are_no_knobs(script):
    below = script.read_text(encoding="utf-8").split("nothing to edit", 1)[1]
    said = re.search(
        r"^# also sets, from the knobs \(common/preflight/derived.py\): ((?:.*\n)(?:#   .*\n)*)prepare_run", below, re.M
    )
    knobs = set(read_block(script)) | {"PYTHON", "PWD", "DRY_RUN"}
    used = set(re.findall(r"\$\{([A-Z_]+)", below)) - knobs
    assert set(said[1].replace("#", "").split()) == used <= set(names(SCRIPT))


def test_every_declared_variable_has_its_reader():
    scripts = "".join(script.read_text(encoding="utf-8").split("nothing to edit", 1)[1] for script in SCRIPTS)
    files = [*ROOT.glob("*/*.yaml"), *ROOT.glob("*/variants/*.yaml"), *ROOT.glob("common/config/**/*.yaml")]
    in_yaml = set(re.findall(r"oc\.env:([A-Z_]+)", "".join(path.read_text(encoding="utf-8") for path in files)))
    assert in_yaml == set(names(CONFIG))
    skipped = ("resolved.py", "derived.py")
    code = "".join(
        path.read_text()
        for place in ("common", "gspo")
        for path in (ROOT / place).rglob("*.py")
        if path.name not in skipped
    )
    for one in DERIVED:
        if one.reader == SCRIPT:
            assert f"${{{one.name}}}" in scripts, one.name
        elif one.reader in (PROCESS, LAUNCHER):
            assert f'"{one.name}"' in code, one.name


def test_every_knob_that_is_named_exists():
    knobs = set().union(*(read_block(script) for script in SCRIPTS))
    assert set().union(*(one.knobs for one in DERIVED)) <= knobs


def test_command_sh_holds_what_the_config_reads_on_gpus(exported, tmp_path):
    """Without them the same command would run with verl's own numbers of workers and sequences."""
    environment = exported("grpo", EIGHT, {})
    script = Attempt(["true"], environment).script()
    lines = dict(line[7:].split("=", 1) for line in script.splitlines() if line.startswith("export "))
    for name in ("MAX_NUM_SEQS", "ENFORCE_EAGER", "AGENT_WORKERS", "STORAGE_UNITS", "RAY_CPUS", "RAY_ADDRESS"):
        assert lines[name] == shlex.quote(environment[name])


def test_the_checked_config_is_that_of_the_launch(exported, tmp_path, monkeypatch):
    """The preflight composes with the plan's numbers, not with the defaults in the YAML."""
    monkeypatch.setattr(run_name, "OUTPUTS", tmp_path / "outputs")
    knobs = read_knobs("grpo", {})
    checks.check(knobs, planned_machine(parse_gpus(EIGHT)))
    assert knobs.errors == []
    environment = exported("grpo", EIGHT, {})
    config = command.compose(knobs, tmp_path / "run")
    assert environment["RAY_CPUS"] != "null" and config.ray_kwargs.ray_init.num_cpus == int(environment["RAY_CPUS"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_offload_and_resume_reach_verl_as_arguments(train, algorithm):
    done = train(algorithm, DRY_RUN=1, OFFLOAD="full")
    assert done.returncode == 0, done.stderr
    given = dict(part.split("=", 1) for part in after_options(command_in(done.stdout)))
    policies = {value for key, value in given.items() if key.endswith(".offload_policy")}
    assert policies == {"true"}
    assert (given["trainer.resume_mode"], given["trainer.resume_from_path"]) == ("disable", "null")


def test_a_stage_inherits_nothing_of_the_whole_run(exported, monkeypatch, tmp_path):
    environment = exported("gspo", EIGHT, {})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    left = stage_environment(Stage(1, RL), tmp_path, json.loads(environment["KNOBS_JSON"]), "/model", {})
    assert set(left) & set(names(SCRIPT, CONFIG, PROCESS, LAUNCHER)) == set()


def test_the_trainers_processes_get_no_knob_that_is_in_their_command(exported):
    """LAM, BETA, DEVICE, BATCH_SIZE are names that Ray, a scheduler or a user's own code may read."""
    environment = exported("ppo", NONE, {"SEED": "7"})
    passed = Attempt(["true"], {**environment, "MY_OWN": "1"})._process_environment()
    left = set(read_block(ROOT / "ppo" / "train.sh")) & set(passed)
    own = {"LR_SCHEDULER", "VALUE_LOSS_COEF", "VAL_METRICS", "PROMETHEUS"}  # read by what the kit puts into verl
    assert left == own | {"SEED", "TOOL_TIMEOUT", "ENV_PATH", "ENV_TIMEOUT", "NNODES", "WANDB_ENTITY", "WANDB_PROJECT"}
    assert (passed["SEED"], passed["MY_OWN"], passed["ALGORITHM"]) == ("7", "1", "ppo")
    assert set(passed) & set(names(SCRIPT)) == set()


def test_a_ray_of_its_own_knows_nothing_of_the_job_that_it_runs_in(exported):
    """`ray job submit` tells its driver of a working_dir that only the submitting Ray has."""
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR as name

    environment = exported("grpo", NONE, {})
    assert environment["RAY_ADDRESS"] == "local"
    assert name not in Attempt(["true"], {**environment, name: "{}"})._process_environment()
    joins = {**environment, "RAY_ADDRESS": "10.0.0.1:6379", "NNODES": "2", name: "{}"}
    assert Attempt(["true"], joins)._process_environment()[name] == "{}"


def test_every_knob_that_is_read_from_the_environment_reaches_the_processes():
    """Code that runs inside the trainer and asks for a knob would else find its default, without a word."""
    knobs = set().union(*(read_block(script) for script in SCRIPTS))
    before = ("preflight", "runner")  # run before the trainer, with all knobs
    read = set()
    for place in ("common", "dpo", "grpo", "ppo", "gspo"):
        for path in (ROOT / place).rglob("*.py"):
            if path.parent.name not in before:
                read |= set(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', path.read_text(encoding="utf-8")))
    assert {"SEED", "NNODES"} <= read & knobs <= set(PROCESS_KNOBS)


def test_knobs_of_the_environment_are_shown_at_the_start(train):
    """Schedulers export SEED, DEVICE or BATCH_SIZE; what they set is said and nothing else is."""
    said = "from the environment:"
    done = train("sft", DRY_RUN=1, SEED=3, BATCH_SIZE=8, MODEL_PATH="demo")
    line = next(line for line in done.stderr.splitlines() if said in line)
    assert line.split(said)[1].split() == ["BATCH_SIZE=8", "SEED=3"]
    assert said not in train("sft", "trainer.seed=5", DRY_RUN=1).stderr
    refused = train("sft", DRY_RUN=1, BATCH_SIZE="many")
    assert refused.returncode == 2 and f"{said} BATCH_SIZE=many" in refused.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=ALGORITHMS)
def test_messages_never_name_a_variable_that_nobody_can_set(script):
    """An error about `trainer.resume_mode` names that key, not RESUME_MODE, which is not a knob."""
    owners = knobs_of_keys(script)
    assert len(owners) > 20 and set(owners.values()) <= set(read_block(script))
    assert owners["trainer.total_epochs"] == "TOTAL_EPOCHS" and "trainer.resume_mode" not in owners
