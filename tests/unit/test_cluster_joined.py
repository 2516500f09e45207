"""A Ray that is there before the run, with a stand-in for Ray that runs each task here."""

import json
import sys
import types

import pytest

from common.cluster import facts, joined, meeting
from common.cluster.names import ClusterError


class FakeRay(types.SimpleNamespace):
    """The calls of Ray that are used; ``nodes_of`` holds GPUs by node."""

    def __init__(self, nodes_of, refuses=None):
        super().__init__()
        self.nodes_of, self.refuses, self.asked, self.down = nodes_of, refuses, [], False
        self.util = types.SimpleNamespace(get_node_ip_address=lambda: f"10.0.0.{len(self.asked)}")

    def init(self, address, **options):
        self.address, self.options = address, options
        if self.refuses:
            raise RuntimeError(self.refuses)

    def nodes(self):
        alive = [{"NodeID": name, "Alive": True, "Resources": {"GPU": gpus}} for name, gpus in self.nodes_of.items()]
        return [{"NodeID": "dead", "Alive": False, "Resources": {"GPU": 8}}, *alive]

    def get_runtime_context(self):
        return types.SimpleNamespace(get_node_id=lambda: "here", gcs_address="10.0.0.1:6379")

    def remote(self, function):
        def options(num_cpus, scheduling_strategy):
            def remote(*arguments):
                self.asked.append(scheduling_strategy.node_id)
                return function(*arguments)

            return types.SimpleNamespace(remote=remote)

        return types.SimpleNamespace(options=options)

    def get(self, found, timeout):
        return found

    def shutdown(self):
        self.down = True


@pytest.fixture
def check(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(facts, "gpu_count", lambda: 0)
    strategies = types.ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda node_id, soft: types.SimpleNamespace(node_id=node_id)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)

    def run(ray, nnodes=2, gpus=4, paths=()):
        monkeypatch.setitem(sys.modules, "ray", ray)
        said = []
        plan = meeting.Plan({}, tuple(paths), tmp_path / "outputs")
        try:
            run.found = joined.check(nnodes, gpus, "grpo", [], plan, said.append)
        finally:
            assert ray.down or ray.refuses
        return said

    return run


def test_each_machine_with_enough_gpus_is_asked_this_one_first(check, tmp_path):
    ray = FakeRay({"other": 4, "here": 4, "small": 2})
    said = check(ray)
    assert ray.asked == ["here", "other"] and ray.address == "10.0.0.1:6379"
    assert said[0].startswith("2 machines of the Ray at 10.0.0.1:6379: ")
    assert not (tmp_path / "outputs").exists()
    assert [one["rank"] for one in json.loads(check.found["CLUSTER_MACHINES"])] == [0, 1]
    assert check.found["RAY_ADDRESS"] == "10.0.0.1:6379"  # also where RAY_ADDRESS=auto was given
    assert list(ray.options["runtime_env"]["env_vars"]) == ["PYTHONPATH"]  # no secret


def test_too_few_machines_and_a_ray_that_is_not_there(check):
    with pytest.raises(meeting.Refused, match="NNODES=2: 1 machines of this Ray have N_GPUS=4 GPUs"):
        check(FakeRay({"here": 4, "small": 2}))
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS=10.0.0.1:6379: this Ray cannot be joined \(no token"):
        check(FakeRay({}, refuses="no token\nlong story"))


def test_differences_of_its_machines_stop_the_run(check, monkeypatch, tmp_path):
    versions = iter(("2.0", "2.1"))
    monkeypatch.setattr(facts, "PACKAGES", ("torch",))
    monkeypatch.setattr(facts, "package_version", lambda name: next(versions))
    monkeypatch.setattr(facts, "read_shared", lambda path, within: "")
    with pytest.raises(meeting.Refused) as caught:
        check(FakeRay({"here": 4, "other": 4}))
    assert "torch differs: 2.0 on" in str(caught.value) and "OUTPUTS_DIR=" in str(caught.value)


def test_verl_joins_it_with_the_variables_that_its_workers_need(monkeypatch):
    from omegaconf import OmegaConf

    from common.verl_ext import train_rl

    config = OmegaConf.create(
        {"ray_kwargs": {"ray_init": {"num_cpus": 64, "runtime_env": {"worker_process_setup_hook": "a.b"}}}}
    )
    OmegaConf.set_struct(config, True)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("WORKER_ENV", raising=False)
    train_rl.join_ray(config)
    start = OmegaConf.to_container(config.ray_kwargs.ray_init)
    assert start.pop("runtime_env") == {"worker_process_setup_hook": "a.b"}
    assert start == {"address": "10.0.0.1:6379", "num_cpus": None, "num_gpus": None, "include_dashboard": None}
    monkeypatch.setenv("WORKER_ENV", "RUN_DIR,SEED")
    monkeypatch.setenv("RUN_DIR", "/r")
    monkeypatch.setenv("SEED", "3")
    train_rl.join_ray(config)
    environment = OmegaConf.to_container(config.ray_kwargs.ray_init.runtime_env)
    assert environment["env_vars"] == {"RUN_DIR": "/r", "SEED": "3"}
    assert environment["worker_process_setup_hook"] == "common.verl_ext.joined_worker.set_up"
    assert json.dumps(environment)


@pytest.mark.parametrize(("joined_ray", "ends"), [("RUN_DIR", False), ("", True)])
def test_a_machine_of_others_may_leave_a_ray_that_was_there(monkeypatch, joined_ray, ends):
    """Its autoscaler takes idle machines away; of a Ray of the run's own every machine counts."""
    from common.verl_ext import train_rl

    rounds = iter([("here", "other", "idle"), ("here", "other"), ("here",)])
    said = []

    def nodes():
        return [
            {"NodeID": name, "NodeManagerHostname": name, "NodeManagerAddress": "", "Alive": True}
            for name in next(rounds)
        ]

    def end(reason):
        said.append(reason)
        raise SystemExit

    monkeypatch.setenv("WORKER_ENV", joined_ray)
    monkeypatch.setattr(train_rl, "ray", types.SimpleNamespace(is_initialized=lambda: True, nodes=nodes))
    monkeypatch.setattr(train_rl.joined, "nodes_of_run", lambda: {"here", "other"})
    monkeypatch.setattr(train_rl.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(train_rl, "end", end)
    with pytest.raises(SystemExit):
        train_rl.watch_machines()
    assert said == [f"a machine of the run is gone: {'idle' if ends else 'other'} ()"]
