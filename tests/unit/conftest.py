"""What the tests of single modules share."""

import copy

import pytest
import yaml
from omegaconf import OmegaConf

from common.attention import PADDED
from common.plan.machine import GIB
from common.preflight import checks, command, run_name
from common.preflight.knobs import knobs_of_keys, read_knobs, script_of
from common.preflight.machine import Machine
from common.verl_ext import registered, tool_descriptions

REAL_COMPOSE = command.compose
LAPTOP = Machine(gpu_memory=(), cores=2, memory=16 * GIB)


@pytest.fixture(autouse=True)
def not_composed(request, monkeypatch):
    """Tests of the preflight's single checks do not need the composed config, which takes seconds each time."""
    if "test_preflight" in request.module.__name__:
        monkeypatch.setattr(command, "compose", lambda knobs, run_dir: None)


@pytest.fixture(scope="session")
def of_files():
    """What a file of algorithms or tools holds, by what asks and by the file's text."""
    return {}


@pytest.fixture
def asked_once(monkeypatch, of_files):
    """A file of algorithms or tools is asked once a session: each time imports verl in a separate process."""

    def keep(module, name):
        real = getattr(module, name)

        def ask(path):
            key = name, path.read_text()
            if key not in of_files:
                of_files[key] = real(path)
            return copy.deepcopy(of_files[key])

        monkeypatch.setattr(module, name, ask)

    keep(registered, "registered")
    keep(tool_descriptions, "descriptions")


@pytest.fixture
def check(monkeypatch, tmp_path, asked_once):
    """Run all checks with some knobs set; returns the knobs."""
    monkeypatch.setattr(run_name, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setenv("CALLER_DIR", str(tmp_path))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    def run(algorithm="grpo", machine=None, arguments=(), **environment):
        knobs = read_knobs(algorithm, environment, arguments)
        checks.check(knobs, machine or LAPTOP)
        return knobs

    return run


@pytest.fixture(scope="session")
def bases():
    """Composed configs by algorithm, made when they are first asked for."""
    return {}


@pytest.fixture
def composed(monkeypatch, tmp_path, bases, not_composed):
    """The config is composed once for each algorithm; knobs and arguments change it as they would."""
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
        keys = knobs_of_keys(script_of(knobs.algorithm))
        owned = {key: knobs.values.get(name, "") for key, name in keys.items()}
        given = dict(text.lstrip("+").partition("=")[::2] for text in knobs.arguments)
        for key, value in {**owned, **given}.items():
            if value and key not in ("data.train_files", "data.val_files"):
                OmegaConf.update(config, key, number(yaml.safe_load(value)), force_add=True)
        if "actor_rollout_ref" in config and "actor_rollout_ref.rollout.max_model_len" not in given:
            longest = knobs.number("MAX_PROMPT_LENGTH") + knobs.number("MAX_RESPONSE_LENGTH")
            OmegaConf.update(config, "actor_rollout_ref.rollout.max_model_len", longest)
        model = "model" if "model" in config else "actor_rollout_ref.model"
        OmegaConf.update(config, f"{model}.use_remove_padding", knobs["ATTENTION"] not in PADDED)  # as resolved.py does
        return config

    monkeypatch.setattr(command, "compose", compose)


def number(value):
    """YAML 1.1 reads 1e-6 as text; Hydra reads a number."""
    try:
        return float(value) if isinstance(value, str) and "e-" in value else value
    except ValueError:
        return value
