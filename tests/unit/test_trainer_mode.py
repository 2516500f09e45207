"""TRAINER_MODE: the knobs, verl's rules for its asynchronous trainers, the transfer of weights to other processes."""

from __future__ import annotations

import asyncio
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from common.callbacks import _free_rollout
from common.checkpoints.pickles import strange_calls
from common.preflight.config_async import check_async
from common.preflight.config_check import ConfigCheck
from common.preflight.machine import Machine
from common.preflight.resolved import process_environment
from common.preflight.trainer_mode import derived
from tests.run_maker import complete
from tests.unit.test_preflight import only_error

GIB = 2**30
FOUR = Machine(gpu_memory=(80 * GIB,) * 4, cores=64, memory=200 * GIB)


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setattr("common.preflight.trainer_mode.has_package", lambda name: True)


# ---- knobs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, ("sync", "1", "naive")),
        ({"TRAINER_MODE": "colocate", "MINI_BATCH_SIZE": "8"}, ("colocate_async", "4", "naive")),
        ({"TRAINER_MODE": "separate", "MINI_BATCH_SIZE": "16"}, ("separate_async", "2", "gloo")),
    ],
)
def test_what_verl_gets(check, composed, knobs, expected):
    resolved = check(**knobs)
    assert resolved.errors == []
    assert resolved["ROLLOUT_GPUS"] == "1"
    assert tuple(derived(resolved).values()) == expected
    parts = process_environment(resolved)["VERL_EXT"].split(",")
    assert ("separate" in parts) == (knobs.get("TRAINER_MODE") == "separate")


@pytest.mark.parametrize(
    ("given", "training", "answering"),
    [
        ({}, "2", "2"),
        ({"N_GPUS": "3"}, "3", "1"),
        ({"ROLLOUT_GPUS": "1"}, "3", "1"),
        ({"REWARD_MODEL_GPUS": "1", "REWARD": "model"}, "2", "1"),
        ({"TENSOR_PARALLEL_SIZE": "2"}, "2", "2"),
    ],
)
def test_the_gpus_are_divided(check, composed, cupy, given, training, answering):
    knobs = check("ppo", machine=FOUR, TRAINER_MODE="separate", DEVICE="cuda", ROLLOUT_ENGINE="hf", **given)
    assert (knobs["N_GPUS"], knobs["ROLLOUT_GPUS"]) == (training, answering)
    assert derived(knobs)["CHECKPOINT_BACKEND"] == "nccl"
    asked = int(process_environment(knobs)["RAY_CPUS"])
    assert asked >= 3 * (int(training) + int(answering) + int(given.get("REWARD_MODEL_GPUS", "0")))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"TRAINER_MODE": "async"}, "TRAINER_MODE=async: must be sync | colocate | separate"),
        ({"TRAINER_MODE": "colocate", "ROLLOUT_GPUS": "2"}, "ROLLOUT_GPUS=2: TRAINER_MODE=colocate has no GPUs"),
        ({"ROLLOUT_GPUS": "3"}, "ROLLOUT_GPUS=3: TRAINER_MODE=sync has no GPUs that only answer; leave it auto"),
        ({"TRAINER_MODE": "colocate", "ROLLOUT_ENGINE": "vllm"}, "set ROLLOUT_ENGINE=hf, or sync"),
        (
            {"TRAINER_MODE": "separate", "NNODES": "2"},
            "TRAINER_MODE=separate: takes the GPUs that only answer from one",
        ),
        ({"MAX_OFF_POLICY_THRESHOLD": "0"}, "MAX_OFF_POLICY_THRESHOLD=0: must be a whole number from 1"),
        ({"MAX_OFF_POLICY_STRATEGY": "keep"}, "MAX_OFF_POLICY_STRATEGY=keep: must be drop | wait"),
    ],
)
def test_knobs_that_cannot_be(check, composed, knobs, words):
    assert any(words in error for error in check(**knobs).errors)


def test_separate_on_gpus(check, composed, cupy, monkeypatch):
    asked = {"TRAINER_MODE": "separate", "DEVICE": "cuda", "ROLLOUT_ENGINE": "hf"}
    errors = check(machine=FOUR, N_GPUS="4", ROLLOUT_GPUS="1", **asked).errors
    assert any("ROLLOUT_GPUS=1: with N_GPUS=4" in error and "5 GPUs and 4 are visible" in error for error in errors)
    monkeypatch.setattr("common.preflight.trainer_mode.has_package", lambda name: name != "cupy")
    assert any("pip install cupy-cuda" in error for error in check(machine=FOUR, **asked).errors)


def test_a_checkpoint_of_the_other_kind_is_not_resumed(check, composed, tmp_path):
    """An asynchronous run fetches prompts one by one: its place in the data counts prompts, not batches."""
    folder = complete(tmp_path, "mine")
    error = only_error(check(EXPERIMENT_NAME="new", RESUME=str(folder), TRAINER_MODE="colocate"))
    assert "it was written with TRAINER_MODE=sync" in error and "set TRAINER_MODE=sync" in error


def test_the_queue_of_a_stranger_is_read_as_pickles_are(tmp_path):
    """verl unpickles the answers that were under way, from transfer_queue/*.pkl in the checkpoint."""
    (tmp_path / "transfer_queue").mkdir()
    (tmp_path / "transfer_queue" / "controller.pkl").write_bytes(pickle.dumps({"run": print}))
    assert strange_calls(tmp_path) == ["transfer_queue/controller.pkl: builtins.print"]


# ---- verl's rules ------------------------------------------------------------------------------------------------

GOOD = {
    "trainer.use_v1": True,
    "trainer.v1.trainer_mode": "separate_async",
    "trainer.v1.separate_async.parameter_sync_step": 4,
    "trainer.v1.sampler.max_off_policy_threshold": 8,
    "data.train_batch_size": 32,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
    "actor_rollout_ref.rollout.nnodes": 1,
    "actor_rollout_ref.rollout.n_gpus_per_node": 4,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 2,
    "actor_rollout_ref.rollout.checkpoint_engine.backend": "nccl",
}


def found(**changes) -> list[str]:
    config = OmegaConf.create({})
    for key, value in {**GOOD, **changes.pop("keys", {})}.items():
        OmegaConf.update(config, key, value)
    collected = ConfigCheck(config)
    check_async(collected)
    return [str(error) for error in collected.errors]


@pytest.mark.parametrize("mode", ["colocate_async", "separate_async"])
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, ""),
        ({"trainer.v1.sampler.max_off_policy_threshold": None}, ""),
        ({"trainer.use_v1": False}, "trainer.use_v1=False: verl's older trainer has no"),
        ({"trainer.v1.sampler.max_off_policy_threshold": 0}, "max_off_policy_threshold=0: an answer is at least one"),
        ({"data.gen_batch_size": 32}, "data.gen_batch_size=32: verl fetches prompts one by one"),
        (
            {"reward.reward_model.enable": True, "reward.reward_model.enable_resource_pool": False},
            "set REWARD_MODEL_GPUS=1 or more",
        ),
    ],
)
def test_rules_of_both_modes(mode, keys, words):
    errors = found(keys={"trainer.v1.trainer_mode": mode, **keys})
    assert [words in error for error in errors] == [True] * bool(words)
    assert found(keys={**keys, "trainer.v1.trainer_mode": "sync"}) == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"trainer.v1.separate_async.parameter_sync_step": 2}, "actor_rollout_ref.actor.ppo_mini_batch_size = 4"),
        ({"actor_rollout_ref.rollout.n_gpus_per_node": 3}, "n_gpus_per_node=3: an engine takes 2 GPUs; use 2 or 4"),
        ({"actor_rollout_ref.rollout.nnodes": 0}, "needs GPUs that only answer; set ROLLOUT_GPUS"),
        ({"actor_rollout_ref.rollout.checkpoint_engine.backend": "naive"}, "set TRAINER_MODE=separate"),
        ({"actor_rollout_ref.hybrid_engine": False}, "ends in a TypeError"),
        ({"algorithm.adv_estimator": "gae", "critic.ppo_mini_batch_size": 32}, "an update has only 8 prompts"),
    ],
)
def test_rules_of_separate(keys, words):
    [error] = found(keys=keys)
    assert words in error
    assert found(keys={**keys, "trainer.v1.trainer_mode": "colocate_async"}) == []


# ---- weights -----------------------------------------------------------------------------------------------------


@pytest.fixture
def on_loopback(monkeypatch):
    monkeypatch.setattr("common.cpu_backend.checkpoint_engine._address", lambda: "127.0.0.1")


def test_weights_arrive_over_loopback_as_they_were_sent(on_loopback):
    from common.cpu_backend.checkpoint_engine import GlooCheckpointEngine

    weights = {
        "model.a": torch.randn(5, 3),
        "b": torch.randn(7).to(torch.bfloat16),
        "a view": torch.arange(12).reshape(3, 4).T,
        "scalar": torch.tensor(2.5),
        "nothing": torch.zeros(0, 4),
    }
    sender, outside, *receivers = engines = [GlooCheckpointEngine(is_master=number == 0) for number in range(4)]
    metadata = [engine.prepare() for engine in engines]
    assert metadata[0][0] == "127.0.0.1" and metadata[1:] == [None] * 3
    actor, rollout = GlooCheckpointEngine.build_topology(2, 2, metadata)
    assert (actor["rank"], rollout["rank"]) == ([0, -1], [1, 2])
    arguments = [dict(zip(actor, row, strict=True)) for row in zip(*actor.values(), strict=True)]
    arguments += [dict(zip(rollout, row, strict=True)) for row in zip(*rollout.values(), strict=True)]
    got = {}

    def work(number):
        engines[number].init_process_group(**arguments[number])
        for turn in range(2):  # the group is kept
            if number < 2:
                asyncio.run(engines[number].send_weights(iter(weights.items()), global_steps=turn))
            else:
                got[number, turn] = asyncio.run(received(engines[number]))
            engines[number].finalize()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sender.group is not None and outside.group is None and len(receivers) == 2
    assert sorted(got) == [(2, 0), (2, 1), (3, 0), (3, 1)]
    for each in got.values():
        assert list(each) == list(weights)
        assert all(
            torch.equal(each[name], tensor) and each[name].dtype == tensor.dtype for name, tensor in weights.items()
        )


async def received(engine):
    return {name: tensor async for name, tensor in engine.receive_weights()}


def test_weights_that_are_put_aside_do_not_follow_the_updates(tmp_path):
    """The old log-probabilities of later mini-batches come from the weights before the first update."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from verl.utils.fsdp_utils import fsdp2_sharded_load_from_cpu, fsdp2_sharded_save_to_cpu

    from common.verl_ext.cpu_copy import replacement

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        model = fully_shard(torch.nn.Linear(3, 2), mesh=mesh)
        before = {name: parameter.full_tensor().clone() for name, parameter in model.named_parameters()}
        alias, _ = fsdp2_sharded_save_to_cpu(model)
        saved, spec = replacement(fsdp2_sharded_save_to_cpu)(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        assert not torch.equal(alias["weight"][0], before["weight"])  # verl's own: without it this file could go
        assert all(torch.equal(saved[name][0], before[name]) for name in before)
        fsdp2_sharded_load_from_cpu(model, saved, spec)
        assert all(torch.equal(parameter.full_tensor(), before[name]) for name, parameter in model.named_parameters())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("mode", "calls"), [("sync", ["sleep"]), ("colocate_async", ["abort", "sleep"]), ("separate_async", ["trainer"])]
)
def test_an_early_stop_frees_the_engine_with_answers_under_way(mode, calls):
    done = []
    manager = SimpleNamespace(abort_replicas=lambda: done.append("abort"), sleep_replicas=lambda: done.append("sleep"))
    trainer = SimpleNamespace(trainer_mode=mode, checkpoint_manager=manager)
    if mode == "separate_async":
        trainer.switch_to_trainer = lambda: done.append("trainer")
    _free_rollout(trainer)
    assert done == calls
