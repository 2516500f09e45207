"""The knobs that only PPO has: where the reward comes from, the critic, the KL."""

import json
import shutil

import numpy as np
import pytest

from common.demo_model import DEMO_MODEL_DIR, DEMO_REWARD_MODEL_DIR
from common.plan.machine import GIB
from common.preflight.checks import check
from common.preflight.knobs import read_knobs
from common.preflight.machine import Machine
from common.preflight.ppo import first_coefficient
from common.preflight.resolved import write_resolved

CPU = Machine(gpu_memory=(), cores=2, memory=16 * GIB)
JUDGE = """
kind: judge
url: http://127.0.0.1:9/v1/chat/completions
model: judge
prompt: "{prompt} {answer}"
criteria: {q: {pattern: "(x)"}}
attempts: 1
"""


def checked(**environment):
    knobs = read_knobs("ppo", {name: str(value) for name, value in environment.items()})
    check(knobs, CPU)
    return knobs


def resolved(knobs, tmp_path):
    write_resolved(tmp_path / "resolved", knobs, tmp_path / "run")
    parts = (tmp_path / "resolved").read_bytes().decode().split("\0")
    return dict(zip(parts[::2], parts[1::2], strict=False))


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, ("true", "false", "fixed")),
        ({"KL_IN": "loss"}, ("false", "true", "fixed")),
        ({"KL_COEF": 0}, ("false", "false", "fixed")),
        ({"KL_TARGET": 0.05}, ("true", "false", "adaptive")),
    ],
)
def test_kl(tmp_path, knobs, expected):
    values = resolved(checked(**knobs), tmp_path)
    assert (values["USE_KL_IN_REWARD"], values["USE_KL_LOSS"], values["KL_CONTROL"]) == expected


def test_the_first_coefficient_puts_the_best_policy_at_the_target():
    """A score that is right half of the time, in float64: the KL of p exp(score / coefficient) / Z, by answer."""
    for target, length in ((0.001, 24), (0.0001, 200), (0.00001, 1024)):
        coefficient = first_coefficient(target, length)
        weights = np.exp(np.array([0.0, 1.0]) / coefficient)
        best = weights / weights.sum()
        assert (best * np.log(best / 0.5)).sum() / length == pytest.approx(target, rel=0.03)


def test_a_kl_target_starts_strong_and_adapts_slowly():
    fixed, held = checked(), checked(KL_TARGET=0.01)
    assert (fixed["KL_COEF"], held["KL_COEF"]) == ("0.001", "0.72")
    assert "0.01 nats a token over 24 tokens" in held.reasons["KL_COEF"]
    answers = held.number("BATCH_SIZE") * held.number("ROLLOUT_N")
    assert held.number("KL_HORIZON") == 10 * answers
    own = checked(KL_TARGET=0.01, KL_COEF=0.3, KL_HORIZON=7)
    assert (own["KL_COEF"], own["KL_HORIZON"]) == ("0.3", "7")


@pytest.mark.parametrize("knobs", [{"KL_IN": "loss"}, {"KL_COEF": 0}])
def test_a_kl_target_needs_the_kl_in_the_reward(knobs):
    assert "KL_TARGET=0.1" in checked(KL_TARGET=0.1, **knobs).errors[0]


def test_defaults_need_nothing_else():
    knobs = checked()
    assert knobs.errors == []
    assert knobs["CRITIC_MODEL_PATH"] == knobs["MODEL_PATH"] == str(DEMO_MODEL_DIR)
    assert knobs["REWARD_FUNC_PATH"].endswith("grpo/reward_func.py") and knobs["ROLLOUT_N"] == "1"


def test_reward_model(tmp_path):
    values = resolved(checked(REWARD="model"), tmp_path)
    assert values["USE_REWARD_MODEL"] == "true" and values["REWARD_MODEL_PATH"] == str(DEMO_REWARD_MODEL_DIR)
    assert (values["REWARD_FUNC_PATH"], values["REWARD_KWARGS"]) == ("null", "{}")
    assert "hf_reward" in values["VERL_EXT"].split(",")


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"REWARD": "model", "REWARD_MODEL_PATH": DEMO_MODEL_DIR}, "Qwen2ForCausalLM, not a sequence classifier"),
        ({"REWARD": "model", "REWARD_MODEL_PATH": "/nowhere"}, "REWARD_MODEL_PATH=/nowhere: no such folder"),
        ({"REWARD": "model", "REWARD_FUNC_PATH": "ppo/api_reward.py"}, "must be a causal LM"),
        ({"REWARD": "model", "REWARD_FUNC_PATH": "ppo/api_reward.py"}, "REWARD_MODEL_GPUS=0: a judge"),
        ({"REWARD": "model", "MAX_RESPONSE_LENGTH": 1900}, "reads 2048 tokens"),
        ({"REWARD": "api", "REWARD_FUNC_PATH": "grpo/reward_func.py"}, "REWARD=api scores by ppo/api_reward.py"),
        ({"REWARD": "api", "API_REWARD_CONFIG": "nope.yaml"}, "API_REWARD_CONFIG=nope.yaml: no such file"),
        ({"REWARD": "magic"}, "REWARD=magic: must be function | model | api"),
        ({"CRITIC_MODEL_PATH": "/nowhere"}, "CRITIC_MODEL_PATH=/nowhere: no such folder"),
        ({"CRITIC_LR": 0}, "CRITIC_LR=0"),
        ({"GAMMA": 1.2}, "GAMMA=1.2: must be a number from 0 up to 1"),
    ],
)
def test_bad_input(knobs, words):
    assert any(words in error for error in checked(**knobs).errors), knobs


def test_gpus_of_the_reward_model():
    machine = Machine(gpu_memory=(80 * GIB,) * 4, cores=16, memory=200 * GIB)

    def with_gpus(**environment):
        knobs = read_knobs("ppo", {"REWARD": "model", "REWARD_MODEL_GPUS": "1", "DEVICE": "cuda", **environment})
        check(knobs, machine)
        return knobs

    assert with_gpus()["N_GPUS"] == "3"
    assert any("REWARD_MODEL_GPUS=1: with N_GPUS=4" in error for error in with_gpus(N_GPUS="4").errors)


def test_a_critic_with_other_tokens(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(DEMO_MODEL_DIR, other)
    assert checked(CRITIC_MODEL_PATH=other).errors == []
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[300:302]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    [error] = checked(CRITIC_MODEL_PATH=other).errors
    assert f"CRITIC_MODEL_PATH={other}" in error and "differs from the policy's in 2 of" in error


def test_an_endpoint_that_is_away_is_said_before_anything_starts(tmp_path):
    (tmp_path / "judge.yaml").write_text(JUDGE)
    [error] = checked(REWARD="api", API_REWARD_CONFIG=tmp_path / "judge.yaml").errors
    assert error.startswith(f"API_REWARD_CONFIG={tmp_path}") and "connection" in error and "resume" not in error


def test_a_key_that_is_not_set(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    text = JUDGE.replace("127.0.0.1:9", "judge.example") + "api_key_env: NO_SUCH_KEY\n"
    (tmp_path / "judge.yaml").write_text(text)
    [error] = checked(REWARD="api", API_REWARD_CONFIG=tmp_path / "judge.yaml").errors
    assert "NO_SUCH_KEY is not set" in error
