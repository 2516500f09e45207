"""Launchers of several machines watch each other over a real TCPStore: beats, reports, the end, a machine that goes."""

import argparse
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.cluster import board as boards
from common.cluster import ray_node, run_secrets, watch
from common.cluster.names import Cluster, ClusterError, launchers_of
from common.cluster.network import INTERFACE_VARIABLES
from common.preflight import environment, machines, resolved, self_play
from common.preflight.environment import check_ray
from common.preflight.knobs import read_knobs
from common.run_dir import RUN_FILE
from common.runner import attempt
from common.verl_ext import joined_worker, queue_guard, store_address
from tests.conftest import ROOT, free_port

LOOP = "127.0.0.1"
NAMES = {0: "machine 1 of 2, a (10.0.0.1)", 1: "machine 2 of 2, b (10.0.0.2)"}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(watch, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(watch, "GONE_SECONDS", 1.0)
    monkeypatch.setattr(watch, "FIRST_SECONDS", 3.0)
    monkeypatch.setattr(watch, "FAREWELL_SECONDS", 3.0)


@pytest.fixture
def two(quick):
    """The watches of two machines, and the board."""
    port = free_port()
    held = boards.host_board(LOOP, port)
    first = watch.Watch(Cluster(2, 0, LOOP, port), held, "launch", NAMES)
    joined = boards.join_board(LOOP, port, 5, lambda _: None)
    second = watch.Watch(Cluster(2, 1, LOOP, port), joined, "launch", NAMES)
    yield first, second
    first.close()
    second.close()


def wait_for(what, seconds=10.0):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def test_all_is_well_while_both_beat_and_the_end_reaches_the_other(two):
    first, second = two
    time.sleep(1.5)
    assert first.problem() is None and second.problem() is None and not second.is_over()
    first.tell_over()
    wait_for(second.is_over)
    assert second.end() is None
    teller = threading.Thread(target=first.tell_end, args=(3, "the reason"))
    teller.start()
    assert wait_for(second.end) == watch.End(3, "the reason")
    second.close()
    teller.join(5)
    assert not teller.is_alive() and first.problem() is None


def test_a_machine_that_beats_no_more_is_gone_and_named(two):
    first, second = two
    wait_for(lambda: first._seen)
    second._closed.set()  # as when its power fails: it says nothing
    problem = wait_for(first.problem)
    assert problem.gone and problem.text == "machine 2 of 2, b (10.0.0.2) is gone: no heartbeat for 1 s"
    assert first.who_is_gone(0.3).text.startswith("machine 2 of 2, b (10.0.0.2) is gone")


def test_nobody_is_gone_when_all_give_a_sign(two):
    first, second = two
    assert first.who_is_gone(5.0) is None


def test_the_other_machine_notices_that_the_first_beats_no_more(two):
    first, second = two
    wait_for(lambda: second._seen)
    first._closed.set()
    assert wait_for(second.problem).text.startswith("machine 1 of 2, a (10.0.0.1) is gone")


def test_a_board_that_closes_is_noticed_at_once(quick):
    """The first launcher was killed: its connections are closed by the kernel."""
    port = free_port()
    code = (
        "import sys, time; from common.cluster.board import host_board; "
        f"board = host_board('{LOOP}', {port}); print('up', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    holder.stdout.readline()
    second = watch.Watch(Cluster(2, 1, LOOP, port), boards.join_board(LOOP, port, 20, lambda _: None), "x", NAMES)
    holder.kill()
    holder.wait()
    problem = wait_for(second.problem, 5.0)
    assert problem.gone and "closed the connection" in problem.text
    second.close()


def test_a_report_and_a_persons_signal_reach_the_first(two):
    first, second = two
    second.report("out of memory (log: train.node1.log)")
    assert wait_for(first.problem).text == "on machine 2 of 2, b (10.0.0.2): out of memory (log: train.node1.log)"
    second.report("", signal.SIGINT)
    wait_for(lambda: first.problem().stop_signal == signal.SIGINT)


def test_of_another_launch_nothing_is_heard(quick):
    """A launcher that was left over must not end a run that was started anew."""
    port = free_port()
    held = boards.host_board(LOOP, port)
    first = watch.Watch(Cluster(2, 0, LOOP, port), held, "new", NAMES)
    old = watch.Watch(Cluster(2, 1, LOOP, port), boards.join_board(LOOP, port, 5, lambda _: None), "old", NAMES)
    old.report("from another time")
    time.sleep(0.5)
    assert first.problem() is None and not first._seen
    first.close()
    old.close()


# ---- secrets, Ray, the store ----------------------------------------------------------------------------------


def test_secrets_are_the_users_alone_and_go_with_the_attempt(tmp_path, monkeypatch):
    (tmp_path / ".cluster-old").mkdir()
    run_secrets.make(tmp_path, "new")
    folder = tmp_path / ".cluster-new"
    assert [path.name for path in tmp_path.iterdir()] == [".cluster-new"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    found = run_secrets.read(tmp_path, "new")
    assert found["RAY_AUTH_MODE"] == "token" and len(open(found["RAY_AUTH_TOKEN_PATH"]).read()) == 64
    monkeypatch.delenv(queue_guard.SECRET, raising=False)
    queue_guard.read_keys(Path(found[queue_guard.KEYS_FILE]))
    keys = [os.environ.pop(name) for name in (queue_guard.PUBLIC, queue_guard.SECRET)]
    assert [len(key) for key in keys] == [40, 40] and keys[0] != keys[1]
    run_secrets.discard(tmp_path, "new")
    with pytest.raises(ClusterError, match="is not seen here after 0 s; is OUTPUTS_DIR one folder"):
        run_secrets.read(tmp_path, "new", seconds=0)


def test_rays_part_of_each_machine():
    environment = {"N_GPUS": "8", "MACHINE_ADDR": "10.0.0.2", "DEVICE": "cuda", "RAY_CPUS": "96"}
    first, second = Cluster(2, 0, "10.0.0.1", 29500), Cluster(2, 1, "10.0.0.1", 29500)
    head = ray_node.command_of(first, ["python", "train"], environment)
    other = ray_node.command_of(second, ["python", "train"], environment)
    assert head[-3:] == ["--", "python", "train"] and "--" not in other and "--cpus=96" in other
    options = argparse.Namespace(gpus="8", cpus="96", address="10.0.0.2")
    started = ray_node.ray_start(second, "10.0.0.1", "10.0.0.2", options)
    assert "--address=10.0.0.1:29502" in started and "--num-gpus=8" in started and "--head" not in started
    assert "--node-ip-address=10.0.0.2" in started and "--block" in started
    assert {"--head", "--port=29502"} <= set(ray_node.ray_start(first, "10.0.0.1", "10.0.0.1", options))


def test_rays_port_that_is_taken_is_said(monkeypatch):
    with socket.socket() as other:
        other.bind((LOOP, 0))
        other.listen()
        monkeypatch.setenv("RAY_PORT", str(other.getsockname()[1]))
        with pytest.raises(ClusterError, match=r"RAY_PORT=\d+ is in use on this machine"):
            ray_node.lead(Cluster(2, 0, LOOP), ["false"], ["false"])


def test_torchs_store_of_several_machines_is_bound_to_the_address_it_announces(monkeypatch):
    """And not to every network of the machine: it takes keys and values from whoever connects."""
    monkeypatch.setenv("NNODES", "2")
    bound = {}

    def original(host, port, *args, is_master=False, **options):
        with socket.socket(fileno=options["master_listen_fd"]) as listener:
            bound[host] = listener.getsockname()

    port = free_port()
    store_address.replacement(original)("127.0.0.2", port, 2, is_master=True)
    assert bound == {"127.0.0.2": ("127.0.0.2", port)}


def test_launchers_are_several_only_where_they_meet():
    place = {"NODE_RANK": "1", "MASTER_ADDR": LOOP, "ALGORITHM": "grpo"}
    assert launchers_of({**place, "NNODES": "1"}) is None
    assert launchers_of({**place, "NNODES": "2", "RAY_ADDRESS": "auto"}) is None
    assert launchers_of({**place, "NNODES": "2"}).rank == 1


# ---- the launcher on a machine that is not the first ------------------------------------------------------------


def follower(tmp_path, port, command):
    """Start one whose first machine is this test."""
    machines = [{"rank": rank, "host": f"h{rank}", "address": LOOP, "interface": "lo", "gpus": 0} for rank in (0, 1)]
    environment = {
        **{"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": LOOP, "MASTER_PORT": str(port), "MACHINE_ADDR": LOOP},
        **{"CLUSTER_LAUNCH": "launch", "CLUSTER_MACHINES": json.dumps(machines), "RUN_DIR": str(tmp_path)},
        **{"ALGORITHM": "sft", "KNOBS_JSON": "{}", "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    }
    return subprocess.Popen(
        [sys.executable, "-m", "common.runner", "--", *command],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def first_machine(port):
    return watch.Watch(Cluster(2, 0, LOOP, port), boards.host_board(LOOP, port), "launch", NAMES)


def test_a_follower_that_is_done_waits_for_the_end_and_has_the_runs_status(tmp_path):
    port = free_port()
    first, process = first_machine(port), follower(tmp_path, port, ["true"])
    wait_for(lambda: first._seen, 60)
    time.sleep(1.0)
    assert process.poll() is None  # the first machine exports the model
    first.tell_end(7, "a bad end")
    _, said = process.communicate(timeout=30)
    assert process.returncode == 7 and "ended with status 7: a bad end" in said
    assert not (tmp_path / RUN_FILE).exists() and (tmp_path / "train.node1.log").is_file()
    first.close()


def test_a_follower_whose_part_fails_says_why_and_one_that_is_stopped_too(tmp_path):
    port = free_port()
    crash = [sys.executable, "-c", "raise ZeroDivisionError('in rank 1')"]
    first, process = first_machine(port), follower(tmp_path, port, crash)
    problem = wait_for(first.problem, 60)
    assert problem.text.startswith("on machine 2 of 2") and "ZeroDivisionError: in rank 1" in problem.text
    first.tell_end(1, problem.text)
    assert process.wait(30) == 1
    first.close()


def test_ctrl_c_on_a_follower_is_told_and_ends_its_part(tmp_path):
    port = free_port()
    first, process = first_machine(port), follower(tmp_path, port, ["sleep", "600"])
    wait_for(lambda: (tmp_path / "train.node1.log").exists(), 60)
    process.send_signal(signal.SIGINT)
    assert wait_for(first.problem, 30).stop_signal == signal.SIGINT
    first.tell_end(130, "SIGINT")
    assert process.wait(30) == 130
    first.close()


def test_a_follower_ends_its_part_when_the_first_is_gone_and_names_the_way_on(tmp_path):
    port = free_port()
    code = (
        "import sys; from common.cluster import board, watch; from common.cluster.names import Cluster; "
        f"watch.Watch(Cluster(2, 0, '{LOOP}', {port}), board.host_board('{LOOP}', {port}), 'launch', {NAMES!r}); "
        "print('up', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    first.stdout.readline()
    process = follower(tmp_path, port, ["sleep", "600"])
    wait_for(lambda: (tmp_path / "train.node1.log").exists(), 60)
    first.kill()
    first.wait()
    _, said = process.communicate(timeout=40)
    assert process.returncode == 1 and "h0 (127.0.0.1) is gone" in said
    assert "from the start (no checkpoint yet), on all machines: OUTPUTS_DIR=" in said


def test_ray_that_gives_up_on_a_busy_machine_is_asked_again(monkeypatch):
    """Its limit of 30 s for a raylet to start cannot be set."""
    asked, clock = [], iter(range(0, 1000, 40))
    monkeypatch.setattr(ray_node, "wait_for_head", lambda cluster: None)
    monkeypatch.setattr(ray_node.subprocess, "call", lambda start, stdin: asked.append(start) or 134)
    monkeypatch.setattr(ray_node.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(ray_node.time, "sleep", lambda seconds: None)
    assert ray_node.join(Cluster(2, 1, LOOP), ["ray"]) == 134 and len(asked) == 3


# ---- a Ray that is there already --------------------------------------------------------------------------------


def test_workers_of_a_ray_that_is_joined_get_what_a_run_sets_and_no_secret(tmp_path):
    """verl prints what it gives to ray.init, and the dashboard shows it."""
    keys = ("WANDB_API_KEY", "HF_TOKEN", "OPENAI_API_KEY", "TRANSFER_QUEUE_SECRET_KEY", "AWS_SECRET_ACCESS_KEY")
    environment = {"RUN_DIR": str(tmp_path), "ALGORITHM": "grpo", "NCCL_DEBUG": "INFO", "SEED": "1", "HOME": "/me"}
    environment |= {name: "secret" for name in keys} | {"RAY_ADDRESS": "auto", "OMP_NUM_THREADS": "1"}
    environment |= {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": "https://me:secret@host",
        "SWANLAB_API_KEY": "secret",
    }
    found = attempt.for_workers(tmp_path, environment)
    names = found["WORKER_ENV"].split(",")
    assert "WANDB_MODE" in names and not {"MLFLOW_TRACKING_URI", "SWANLAB_API_KEY"} & set(names)
    assert {"RUN_DIR", "ALGORITHM", "NCCL_DEBUG", "SEED", queue_guard.KEYS_FILE, "CLUSTER_LAUNCH"} <= set(names)
    assert not {*keys, "RAY_ADDRESS", "HOME", "OMP_NUM_THREADS"} & set(names)
    assert found[queue_guard.KEYS_FILE].startswith(f"{tmp_path}/.cluster-{found['CLUSTER_LAUNCH']}/")


@pytest.mark.parametrize(
    ("knobs", "pairs", "refused"),
    [
        ({"SELF_PLAY_ROUNDS": "1"}, 4, True),  # one round has a preference stage too where there are pairs
        ({"SELF_PLAY_ROUNDS": "1"}, 0, False),
        ({"SELF_PLAY_ROUNDS": "2"}, 4, True),
        ({"SELF_PLAY_ROUNDS": "1", "HARVEST_PAIRS": "true"}, 0, True),
    ],
)
def test_preference_stages_want_a_launcher_on_each_machine(monkeypatch, knobs, pairs, refused):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    found = read_knobs("gspo", {"NNODES": "2", "HARVEST_PAIRS": "false", **knobs})
    found.values |= {"TOTAL_STEPS": "4"}
    self_play.check_self_play(found, 10, pairs, 1)
    assert any("RAY_ADDRESS=auto: a Ray trains no preferences" in str(error) for error in found.errors) == refused
    monkeypatch.delenv("RAY_ADDRESS")
    alone = read_knobs("gspo", {"NNODES": "2", "HARVEST_PAIRS": "false", **knobs})
    alone.values |= {"TOTAL_STEPS": "4"}
    self_play.check_self_play(alone, 10, pairs, 1)
    assert alone.errors == []


def test_a_ray_that_is_joined_is_checked(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    knobs = read_knobs("grpo", {"NNODES": "2"})
    machines.check(knobs)
    assert knobs.errors == [] and "RAY_ADDRESS" not in resolved.process_environment(settled(knobs))
    check_ray(knobs)
    assert "RAY_ADDRESS=127.0.0.1" in str(knobs.errors[0]) and "no Ray cluster answers" in str(knobs.errors[0])


def test_ray_of_the_kits_environment_is_asked_though_it_is_not_active(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    asked, there = [], iter(["", " 0.0/64.0 CPU\n 0.0/1.0 GPU\n", " 0.0/64.0 CPU\n 0.0/2.0 GPU\n"])

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=next(there))

    monkeypatch.setattr(environment.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(environment.subprocess, "run", run)
    knobs = settled(read_knobs("grpo", {"NNODES": "2"}))
    check_ray(knobs)
    assert asked == 3 * [[str(Path(sys.executable).parent / "ray"), "status"]] and knobs.errors == []
    monkeypatch.setattr(environment, "RAY_SECONDS", -1)
    monkeypatch.setattr(environment.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, ""))
    check_ray(knobs)
    assert "N_GPUS=2: the Ray cluster at auto has 0 GPUs, 0 in use" in str(knobs.errors[0])


def settled(knobs):
    knobs.values |= {"DEVICE": "cpu", "ROLLOUT_ENGINE": "hf", "ATTENTION": "sdpa", "N_GPUS": "1"}
    return knobs


def test_the_interface_and_the_keys_of_such_a_worker(tmp_path, monkeypatch):
    import ray

    run_secrets.make(tmp_path, "x")
    for name in (queue_guard.PUBLIC, queue_guard.SECRET, *INTERFACE_VARIABLES):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(queue_guard.KEYS_FILE, run_secrets.keys_file(tmp_path, "x")[queue_guard.KEYS_FILE])
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: LOOP)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(queue_guard, "guard", lambda: None)
    joined_worker.set_up()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo" and len(os.environ[queue_guard.SECRET]) == 40
