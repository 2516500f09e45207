"""Several machines: their names, what differs between them, and the meeting of their launchers over a real TCPStore."""

import copy
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.cluster import board as boards
from common.cluster import compare, facts, meeting, names, network
from common.cluster.names import Cluster, ClusterError, first_host, joins_ray, read_cluster
from tests.conftest import ROOT, free_port

LOOP = "127.0.0.1"
ANY = meeting.Wanted()


# ---- which machine this is --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400"}, (1, "10.0.0.1", 29400)),
        ({"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "job-0", "PET_MASTER_PORT": "23456"}, (1, "job-0", 23456)),
        ({"SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[03-04]"}, (1, "gpu03", 29500)),
        ({"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6"}, (1, "10.0.0.5", 29500)),
        ({"JOB_COMPLETION_INDEX": "0", "MASTER_ADDR": "[fd00::1]"}, (0, "fd00::1", 29500)),
        ({"NODE_RANK": "0", "SLURM_NODEID": "1", "MASTER_ADDR": "a", "SLURM_JOB_NODELIST": "b"}, (0, "a", 29500)),
    ],
)
def test_names_of_schedulers_are_read_and_the_kits_own_win(environment, place):
    found = read_cluster({"NNODES": "2", **environment})
    assert (found.rank, found.master, found.port) == place


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MASTER_ADDR": "a"}, ["NODE_RANK is not set: 0 on the first machine, then 1 to 1"]),
        ({"NODE_RANK": "0"}, ["MASTER_ADDR is not set"]),
        ({}, ["NODE_RANK is not set", "MASTER_ADDR is not set"]),
        ({"NODE_RANK": "2", "MASTER_ADDR": "a"}, ["NODE_RANK=2: NNODES=2 machines have the ranks 0 to 1"]),
        ({"NODE_RANK": "x", "MASTER_ADDR": "a", "MASTER_PORT": "p"}, ["NODE_RANK=x", "MASTER_PORT=p"]),
        ({"NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "65534"}, ["MASTER_PORT=65534: must be a port"]),
        ({"NODE_RANK": "0", "MASTER_ADDR": "a", "CLUSTER_TIMEOUT": "soon"}, ["CLUSTER_TIMEOUT=soon"]),
        ({"SLURM_NODEID": "0", "SLURM_LOCALID": "3", "MASTER_ADDR": "a"}, ["--ntasks-per-node=1"]),
    ],
)
def test_what_is_missing_or_wrong_is_said_all_at_once(environment, words):
    with pytest.raises(ClusterError) as caught:
        read_cluster({"NNODES": "2", **environment})
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("a", "a"), ("a,b", "a"), ("n[1-3]", "n1"), ("n[007,9],m", "n007"), ("n[2-3]-ib,x", "n2-ib"), ("r1n[4]", "r1n4")],
)
def test_first_host_of_a_slurm_list(hosts, first):
    assert first_host(hosts) == first


def test_a_ray_that_is_there_is_joined_by_rl_with_several_machines_only():
    there = {"NNODES": "2", "RAY_ADDRESS": "auto"}
    assert joins_ray(there, "grpo") and not joins_ray(there, "sft")
    assert not joins_ray({**there, "NNODES": "1"}, "grpo") and not joins_ray({**there, "RAY_ADDRESS": "local"}, "grpo")


def test_the_interface_is_that_of_the_address_and_the_users_choice_stays():
    name = network.interface_of(LOOP)
    assert name == "lo" and network.own_address(LOOP) == LOOP
    assert network.interface_variables(LOOP, {}) == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    assert network.interface_variables(LOOP, {"NCCL_SOCKET_IFNAME": "ib0"}) == {"GLOO_SOCKET_IFNAME": "lo"}


# ---- the meeting ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_facts():
    cluster = Cluster(2, 0, LOOP)
    return facts.facts(cluster, LOOP, "sft", [])


def machine(own, rank, changes):
    found = copy.deepcopy(own) | {"rank": rank, "host": f"host-{rank}"}
    for key, value in changes.items():
        found["equal" if key in found["equal"] else key] = (
            {**found["equal"], key: value} if key in found["equal"] else value
        )
    return found


def meet(own, tmp_path, changes=None, paths=(), resolve=None, timeout=20.0):
    """Two launchers; returns what each got, values or error, and what the first said."""
    port, results, said = free_port(), [None, None], []
    plan = meeting.Plan({"BATCH_SIZE": "8"}, tuple(paths), tmp_path / "outputs")

    def first():
        cluster = Cluster(2, 0, LOOP, port, timeout)
        board = boards.host_board(LOOP, port)
        results[0] = meeting.lead(cluster, board, machine(own, 0, {}), ANY, resolve or (lambda: plan), said.append)

    def second():
        cluster = Cluster(2, 1, LOOP, port, timeout)
        board = boards.join_board(LOOP, port, timeout, lambda _: None)
        results[1] = meeting.attend(
            cluster, board, machine(own, 1, changes or {}), tmp_path / "outputs", lambda _: None
        )

    def catch(index, work):
        try:
            work()
        except ClusterError as error:
            results[index] = error

    threads = [
        threading.Thread(target=catch, args=(n, one), name=f"machine {n}") for n, one in enumerate((first, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results, said


def test_two_launchers_meet_and_get_what_the_first_has_resolved(own_facts, tmp_path):
    data = tmp_path / "rows.parquet"
    data.write_bytes(b"x" * 100)
    (first, second), said = meet(own_facts, tmp_path, paths=[str(data)])
    assert first == second and first["BATCH_SIZE"] == "8" and first["CLUSTER_LAUNCH"]
    assert '"host": "host-1"' in first["CLUSTER_MACHINES"]
    assert any(line.startswith("2 machines: host-0 (NODE_RANK=0, 127.0.0.1), host-1") for line in said)
    assert not (tmp_path / "outputs").exists()  # the canary and its folder are gone


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"kit commit": "abc"},
            ["kit commit differs", "abc on host-1 (NODE_RANK=1, 127.0.0.1)", "check out one commit"],
        ),
        (
            {"torch": "1.0", "ray": None},
            ["torch differs", "1.0 on host-1", "ray differs", "none on host-1", "2 differences"],
        ),
        ({"python": "3.9.1"}, ["python differs"]),
        ({"NNODES": 3}, ["NNODES differs"]),
        ({"script": "dpo/train.sh"}, ["script differs"]),
        ({"arguments": "trainer.seed=5"}, ["arguments differs"]),
        ({"gpus": 7}, ["the number of GPUs differs", "7 on host-1"]),
    ],
)
def test_each_difference_stops_both_with_one_text(own_facts, tmp_path, changes, words):
    (first, second), _ = meet(own_facts, tmp_path, changes)
    assert isinstance(first, meeting.Refused) and isinstance(second, meeting.Refused)
    assert str(first) == str(second) and all(word in str(first) for word in words)
    assert "nothing was started, nothing was written." in str(first)


def test_fewer_gpus_than_asked_for(own_facts):
    machines = [machine(own_facts, 0, {"gpus": 8}), machine(own_facts, 1, {"gpus": 4})]
    found = compare.differences(machines, 8, on_cpu=False)
    assert len(found) == 1 and found[0].startswith("N_GPUS=8: fewer GPUs are visible: 4 on host-1")
    assert compare.differences(machines, 4, on_cpu=False) == [] == compare.differences(machines, None, on_cpu=True)


def test_files_a_folder_that_is_not_shared_and_shut_ports_are_all_named():
    machines = [{"rank": rank, "host": f"h{rank}", "address": f"10.0.0.{rank}"} for rank in (0, 1)]
    answers = [
        {"sizes": {"/m": "3 files", "/r.py": "9 bytes"}, "sees": True, "shut": {}},
        {"sizes": {"/m": "2 files", "/r.py": None}, "sees": False, "shut": {"h0": "timed out"}},
    ]
    found = compare.file_differences(machines, answers, "/out")
    assert [line.split(";")[0] for line in found] == [
        "/m differs: 3 files on h0 (NODE_RANK=0, 10.0.0.0)",
        "/r.py differs: 9 bytes on h0 (NODE_RANK=0, 10.0.0.0)",
        "OUTPUTS_DIR=/out is not the first machine's folder on h1 (NODE_RANK=1, 10.0.0.1), so each would keep its own "
        "pieces of a checkpoint",
        "h1 (NODE_RANK=1, 10.0.0.1) cannot open a connection to h0: timed out",
    ]


def test_a_folder_that_is_not_shared_stops_both(own_facts, tmp_path, monkeypatch):
    """Each machine has its own disk: what the first writes is not there for the second."""
    real = facts.read_shared
    here = lambda: threading.current_thread().name == "machine 0"  # noqa: E731
    monkeypatch.setattr(facts, "read_shared", lambda path, within: real(path, within) if here() else "")
    (one, two), _ = meet(own_facts, tmp_path)
    assert str(one) == str(two) and f"OUTPUTS_DIR={tmp_path}/outputs is not" in str(one)
    assert "host-1 (NODE_RANK=1" in str(one) and "host-0" not in str(one)


def test_a_stranger_who_writes_on_the_board_is_not_heard(own_facts, tmp_path):
    """The plan's values end in a launcher's environment, so they are taken from a launcher of the same user only."""
    port, outputs, elsewhere = free_port(), tmp_path / "outputs", tmp_path / "elsewhere"
    outputs.mkdir()
    elsewhere.mkdir()
    (elsewhere / "known").write_text("known to all")
    (outputs / "secret").write_text("known to its user")
    evil = {"values": {"PYTHONPATH": "/evil"}, "sizes": {}, "doors": {}, "time": time.time()}
    board = boards.host_board(LOOP, port)
    board.post("answer", {"go": True, "text": "", "remarks": []})
    for canary, secret in ((outputs / "secret", "guessed"), (elsewhere / "known", "known to all")):
        board.post("plan", meeting.seal({**evil, "canary": str(canary)}, "plan", secret))
        own = {**machine(own_facts, 1, {}), "rank": 1}
        found = meeting.look(board.read("plan"), own, outputs)
        assert found["proof"] == "" and not meeting.heard(found, 1, secret)["sees"]
    cluster = Cluster(2, 1, LOOP, port, 20.0)
    with pytest.raises(meeting.Refused, match="is not from a launcher that writes to"):
        meeting.attend(cluster, boards.join_board(LOOP, port, 20.0, print), own, outputs, print)


def test_a_seal_holds_for_one_value_of_one_machine():
    sealed = meeting.seal({"drift": 0}, "found/1", "secret")
    assert meeting.heard(sealed, 1, "secret") == {"drift": 0, "sees": True}
    assert not meeting.heard(sealed, 2, "secret")["sees"]
    assert not meeting.heard({**sealed, "text": "{}"}, 1, "secret")["sees"]
    assert not meeting.heard(sealed, 1, "other")["sees"]
    assert not meeting.heard(meeting.seal({}, "found/1", ""), 1, "secret")["sees"]


def test_the_canary_is_its_owners_only(tmp_path):
    with meeting.canary(tmp_path / "outputs") as (path, content):
        assert Path(path).stat().st_mode & 0o777 == 0o600 and len(content) == 64
        assert facts.read_shared(path, tmp_path / "outputs", 0) == content
        assert facts.read_shared(path, tmp_path / "other", 0) == ""


def test_what_the_preflight_refuses_is_told_to_all(own_facts, tmp_path):
    def refuse():
        raise meeting.Refused("the first machine's preflight refuses the run:\nerror: BATCH_SIZE=7: ...")

    (first, second), _ = meet(own_facts, tmp_path, resolve=refuse)
    assert str(first) == str(second) and "BATCH_SIZE=7" in str(second)


def test_a_machine_that_never_comes_is_named_after_the_time_limit(own_facts):
    port = free_port()
    board, said = boards.host_board(LOOP, port), []
    cluster = Cluster(3, 0, LOOP, port, timeout=1.0)
    started = time.monotonic()
    with pytest.raises(meeting.Refused, match=r"1 of NNODES=3 machines after 1 s: NODE_RANK=1,2 has not come"):
        meeting.lead(cluster, board, machine(own_facts, 0, {}), meeting.Wanted(), lambda: None, said.append)
    assert time.monotonic() - started < 8 and said == ["1 of 3 machines are there, waiting for NODE_RANK=1,2"]


def test_two_machines_of_one_rank(own_facts):
    port = free_port()
    board = boards.host_board(LOOP, port)
    board.post("facts/1", {**machine(own_facts, 1, {}), "launcher": "another"})
    joined = boards.join_board(LOOP, port, 5, lambda _: None)
    with pytest.raises(ClusterError, match="NODE_RANK=1 is taken by host-1"):
        meeting.attend(Cluster(2, 1, LOOP, port), joined, machine(own_facts, 1, {}), ROOT, lambda _: None)
    assert "taken" in board.read("left/1")


def test_a_shut_port_and_a_wrong_address_are_said_at_once_and_end_after_the_time_limit():
    said = []
    with pytest.raises(ClusterError, match=r"MASTER_ADDR=127.0.0.1, MASTER_PORT=\d+: no first machine after 1 s"):
        boards.join_board(LOOP, free_port(), 1.0, said.append)
    assert len(said) == 1 and "refused" in said[0]


def test_a_host_name_that_does_not_resolve():
    said = []
    with pytest.raises(ClusterError, match="MASTER_ADDR=nobody.invalid.*the name does not resolve here"):
        boards.join_board("nobody.invalid", 29500, 0.5, said.append)
    assert len(said) == 1 and "does not resolve" in said[0]


def test_an_address_of_another_machine_and_a_port_in_use():
    with pytest.raises(
        ClusterError, match=r"MASTER_ADDR=192\.0\.2\.77 is not an address of this machine.*has .*127\.0\.0\.1"
    ):
        boards.host_board("192.0.2.77", free_port())
    with socket.socket() as other:
        other.bind((LOOP, 0))
        other.listen()
        with pytest.raises(ClusterError, match=r"MASTER_PORT=\d+ is in use"):
            boards.host_board(LOOP, other.getsockname()[1], patience=0.3)


def test_the_board_listens_on_its_own_address_only():
    """torch's store believes whoever connects; bound to all addresses it would be open on each network of a machine."""
    port = free_port()
    board = boards.host_board(LOOP, port)
    board.post("a", 1)
    assert network.reachable(LOOP, port) is None and network.reachable("127.0.0.2", port, 1.0) is not None


def test_clocks_and_memory_are_remarks():
    machines = [
        {"rank": rank, "host": f"h{rank}", "address": "a", "memory": memory, "shm": 2**30}
        for rank, memory in ((0, 2**35), (1, 2**33))
    ]
    found = compare.remarks(machines, [{"drift": 0.3}, {"drift": -40.0}])
    assert len(found) == 2 and "the clock of h1" in found[0] and "-40 s" in found[0]
    assert "8.0 GiB of host memory free and another machine 32.0" in found[1]


def test_the_commit_says_when_files_were_changed(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    clean = facts.kit_commit(tmp_path)
    (tmp_path / "a").write_text("2")
    assert len(clean) == 12 and facts.kit_commit(tmp_path) == f"{clean}-dirty"


def test_two_processes_end_with_status_2_when_the_second_has_no_first(tmp_path):
    """The command that train.sh runs, on a machine whose MASTER_ADDR nobody answers."""
    command = [sys.executable, "-m", "common.cluster", "sft", "--resolved", str(tmp_path / "resolved"), "--"]
    place = {
        "NNODES": "2",
        "NODE_RANK": "1",
        "MASTER_ADDR": LOOP,
        "MASTER_PORT": str(free_port()),
        "CLUSTER_TIMEOUT": "1",
    }
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **place}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "error: MASTER_ADDR=127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr and not Path(tmp_path / "resolved").exists()
    assert names.PORT == 29500


def test_a_launcher_leaves_with_its_status_though_a_call_still_waits(monkeypatch, capfd):
    left = []
    monkeypatch.setattr(boards.os, "_exit", left.append)
    print("the last word", end="")
    boards.leave(7)
    assert left == [7] and capfd.readouterr().out == "the last word"
