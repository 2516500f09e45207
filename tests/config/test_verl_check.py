"""What the preflight knows about verl, against verl itself."""

import pytest
from omegaconf import OmegaConf

from common.preflight import config_checks, ppo
from common.preflight.compose import compose_command
from common.preflight.verl_check import VerlCheck, validate
from tests.conftest import command_in


def test_names_are_those_of_verls_registries():
    import verl.experimental.reward_loop.reward_manager  # noqa: F401  registers them
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.utils.tracking import Tracking

    assert {*config_checks.ESTIMATORS, *config_checks.UNFED} == set(ADV_ESTIMATOR_REGISTRY)
    assert set(config_checks.LOSSES) == set(POLICY_LOSS_REGISTRY)
    assert set(config_checks.LOGGERS) == set(Tracking.supported_backend)
    assert set(REWARD_MANAGER) == set(config_checks.CHOICES["reward.reward_manager.name"])


def test_models_with_a_value_head_are_those_of_transformers():
    from transformers.models.auto import modeling_auto as auto

    both = set(auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES) & set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert set(ppo.VALUE_HEADS) == both


@pytest.fixture
def config(train, monkeypatch, tmp_path):
    monkeypatch.setenv("RUN_DIR", str(tmp_path))

    def build(algorithm, *arguments):
        done = train(algorithm, *arguments, DRY_RUN=1)
        assert done.returncode == 0, done.stderr
        return compose_command(command_in(done.stdout))

    return build


@pytest.mark.parametrize("algorithm", ["grpo", "sft"])
def test_good_configs_pass_verls_own_validation(config, algorithm):
    assert validate(config(algorithm), {"model_type": "qwen2"}) == []


def test_verls_own_validation_is_heard(config):
    bad = config("grpo")
    OmegaConf.update(bad, "actor_rollout_ref.actor.loss_agg_mode", "token_mean")
    assert "token_mean" in validate(bad, {})[0]
    bad = config("sft")
    OmegaConf.update(bad, "engine.strategy", "fsdp3")
    assert validate(bad, {})[0].startswith("verl's own validation")
    assert "does not know the architecture alien" in validate(config("sft"), {"model_type": "alien"})[0]


def test_the_process_beside_answers_and_can_be_cancelled(config):
    bad = config("grpo")
    OmegaConf.update(bad, "actor_rollout_ref.actor.loss_agg_mode", "token_mean")
    check = VerlCheck()
    assert "token_mean" in check.finish(bad, {})[0]
    other = VerlCheck()
    other.cancel()
    assert other.process.poll() is not None


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "gspo"])
def test_separate_meets_the_conditions_of_verls_trainer(train, monkeypatch, tmp_path, algorithm):
    """They are assertions at the head of its constructor, which a run reaches after a minute."""
    from verl.trainer.ppo.v1 import trainer_separate_async
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    class Passed(Exception):
        pass

    def stop(self, config):
        raise Passed

    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    monkeypatch.setattr(PPOTrainer, "__init__", stop)
    knobs = {
        "TRAINER_MODE": "separate",
        "BATCH_SIZE": 32,
        "MINI_BATCH_SIZE": 8,
        "HARVEST_PAIRS": "false",
        "PREFLIGHT": "off",
    }
    done = train(algorithm, DRY_RUN=1, **knobs)
    assert done.returncode == 0, done.stderr
    config = compose_command(command_in(done.stdout))
    assert validate(config, {"model_type": "qwen2"}) == []
    assert config.trainer.v1.trainer_mode == "separate_async"
    with pytest.raises(Passed):
        trainer_separate_async.PPOTrainerSeparateAsync(config)
    OmegaConf.update(config, "trainer.v1.separate_async.parameter_sync_step", 2)
    with pytest.raises(AssertionError, match="parameter_sync_step"):
        trainer_separate_async.PPOTrainerSeparateAsync(config)
