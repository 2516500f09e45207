"""Bad launches are stopped with the right knob named, good ones pass: the table, in one process.

The config of each algorithm is composed once, for real; rows change it as their knobs and arguments would. The same
table with every row started as a person does: benchmarks/preflight_table.py.
"""

import copy

import pytest
import yaml
from omegaconf import OmegaConf

from common.plan.machine import GIB, parse_gpus
from common.preflight import checks, command, run_name
from common.preflight.findings import Finding
from common.preflight.knobs import ROOT, knobs_of_keys, read_knobs
from common.preflight.machine import Machine, planned_machine
from tests.preflight_table import BAD, GOOD, make_files

REAL_COMPOSE = command.compose
LAPTOP = Machine(gpu_memory=(), cores=2, memory=16 * GIB)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    make_files(folder)
    return folder


@pytest.fixture(scope="module")
def bases():
    """Composed configs by algorithm, made when they are first asked for."""
    return {}


@pytest.fixture
def findings(monkeypatch, tmp_path, files, bases):
    """Check a row; returns its knobs with what was found."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("CALLER_DIR", str(files))
    monkeypatch.setattr(run_name, "OUTPUTS", tmp_path / "outputs")

    def compose(knobs, run_dir):
        if knobs.algorithm not in bases:
            plain = read_knobs(knobs.algorithm, {})
            monkeypatch.setattr(command, "compose", lambda *_: None)
            checks.check(plain, LAPTOP)
            monkeypatch.setattr(command, "compose", compose)
            bases[knobs.algorithm] = REAL_COMPOSE(plain, tmp_path / "outputs" / "x")
        config = copy.deepcopy(bases[knobs.algorithm])
        OmegaConf.set_struct(config, False)
        keys = knobs_of_keys(ROOT / knobs.algorithm / "train.sh")
        owned = {key: knobs.values.get(name, "") for key, name in keys.items()}
        given = dict(text.lstrip("+").partition("=")[::2] for text in knobs.arguments)
        for key, value in {**owned, **given}.items():
            if value and key not in ("data.train_files", "data.val_files"):
                OmegaConf.update(config, key, number(yaml.safe_load(value)), force_add=True)
        if "actor_rollout_ref" in config and "actor_rollout_ref.rollout.max_model_len" not in given:
            longest = knobs.number("MAX_PROMPT_LENGTH") + knobs.number("MAX_RESPONSE_LENGTH")
            OmegaConf.update(config, "actor_rollout_ref.rollout.max_model_len", longest)
        model = "model" if "model" in config else "actor_rollout_ref.model"
        OmegaConf.update(config, f"{model}.use_remove_padding", knobs["ATTENTION"] != "sdpa")  # as resolved.py does
        return config

    monkeypatch.setattr(command, "compose", compose)

    def run(row):
        environment = {name: value.replace("{tmp}", str(files)) for name, value in row.knobs.items()}
        knobs = read_knobs(row.algorithm, environment, row.arguments)
        checks.check(knobs, planned_machine(parse_gpus(row.gpus)) if row.gpus else LAPTOP)
        return knobs

    return run


def number(value):
    """YAML 1.1 reads 1e-6 as text; Hydra reads a number."""
    try:
        return float(value) if isinstance(value, str) and "e-" in value else value
    except ValueError:
        return value


def test_the_table_is_as_long_as_promised():
    assert len(BAD) >= 60 and len(GOOD) >= 25


@pytest.mark.parametrize("name", BAD)
def test_a_bad_launch_is_stopped_and_the_right_knob_named(findings, name):
    knobs = findings(BAD[name])
    errors = knobs.errors
    assert all(isinstance(one, Finding) and (one.fix or one.problem) for one in [*errors, *knobs.warnings])
    assert any(all(word in error for word in BAD[name].words) for error in errors), errors


@pytest.mark.parametrize("name", GOOD)
def test_a_good_launch_passes(findings, name):
    assert findings(GOOD[name]).errors == []
