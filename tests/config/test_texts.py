"""A knob's text arrives as it is: Hydra and OmegaConf take nothing in it for theirs, also when verl resolves it."""

import re
import sys

import pytest
from omegaconf import OmegaConf

from common.preflight.compose import compose_command
from common.preflight.resolved import hydra_quote
from common.verl_ext.config_texts import as_text, replacement
from tests.conftest import ALGORITHMS, ROOT

TEXTS = [
    "${oc.env:OPENAI_API_KEY}",
    r"\${oc.env:OPENAI_API_KEY}",
    r"a\\${oc.env:OPENAI_API_KEY}\'",
    "${",
    'it\'s "so"',
    "a\\b\\",
    "a,b=[c]{d: e}",
    "one\ntwo\t中文",
]


@pytest.fixture(autouse=True)
def secret(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-leaked")
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    monkeypatch.setattr(OmegaConf, "resolve", OmegaConf.resolve)  # put back at the end
    OmegaConf.resolve = staticmethod(replacement(OmegaConf.resolve))


def text_keys(algorithm):
    """The keys of a train.sh that get a text knob."""
    script = (ROOT / algorithm / "train.sh").read_text(encoding="utf-8")
    return re.findall(r'^  (\S+)="\$\{(?:MODEL_PATH|REWARD_FUNC_PATH|WANDB_PROJECT|WANDB_RUN_NAME)\}"', script, re.M)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_texts_arrive_in_each_algorithms_config(algorithm):
    keys = text_keys(algorithm)
    assert len(keys) >= 3
    for text in TEXTS:
        command = [sys.executable, f"--config-path={ROOT / algorithm}", "--config-name=config", "+hardware=cpu"]
        config = compose_command([*command, *(f"{key}={hydra_quote(text)}" for key in keys)])
        assert {OmegaConf.select(config, key) for key in keys} - {text} == set()


def test_texts_stay_when_verl_resolves_the_config_in_place():
    for text in TEXTS[:4]:
        config = OmegaConf.create({"b": "${a}", "c": ["${a}"], "a": as_text(text), "d": "${a}"})
        for _ in range(2):
            OmegaConf.resolve(config)
        assert (config.a, config.b, config.c[0], config.d) == (text,) * 4
