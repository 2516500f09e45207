"""Machines of a run: what launchers write of them, what the page reads, and its two tabs."""

import json
import time

import pytest

from common import machine_use
from common.machine_use import Gpu, MachineUse, Moment
from monitor.i18n import Words
from monitor.machines import Figures, logs_of, machines_of
from monitor.store import Monitor
from monitor.tabs import system
from tests.unit.test_monitor_runs import make_run

MACHINES = [
    {"rank": 1, "host": "node-b", "address": "10.0.0.2", "interface": "eth0", "gpus": 1},
    {"rank": 0, "host": "node-a", "address": "10.0.0.1", "interface": "eth0", "gpus": 1},
]


def moment(seconds=0.0, use=None, **fields):
    gpus = () if use is None else (Gpu(0, "NVIDIA H100", use=use, memory=40 << 30, total=80 << 30),)
    figures = {"cpu": 12.0, "memory": 2 << 30, "memory_total": 8 << 30, "disk": 1 << 30, "disk_total": 4 << 30}
    return Moment(time=time.time() - seconds, **(figures | fields), gpus=gpus)


@pytest.fixture
def monitor(tmp_path):
    folder = make_run(tmp_path / "outputs", "two", machines=MACHINES)
    (folder / "train.log").write_text("hello of a\n")
    (folder / "train.node1.log").write_text("hello of b\n")
    (folder / "train.node7.log").write_text("of no machine of it\n")
    for rank, uses in ((0, (10.0, 30.0)), (1, (90.0, 70.0))):
        for age, use in zip((20.0, 10.0), uses, strict=True):
            machine_use.append(machine_use.file_of(folder, rank), moment(age, use))
    make_run(tmp_path / "outputs", "alone")
    return Monitor(tmp_path / "outputs")


def test_what_is_written_is_read_again(monitor):
    first, second = machines_of(monitor, "two")
    assert (first.title, second.title) == ("1: node-a (10.0.0.1)", "2: node-b (10.0.0.2)")
    figures = Figures()
    assert [one.gpus[0].use for one in figures.of(second)] == [90.0, 70.0]
    assert figures.of(first)[-1].memory_total == 8 << 30 and figures.of(first)[-1].gpus[0].name == "NVIDIA H100"
    machine_use.append(first.file, moment(0, 50.0))
    assert [one.gpus[0].use for one in figures.of(first)] == [10.0, 30.0, 50.0]
    assert machines_of(monitor, "alone") == [] and machines_of(monitor, "gone") == []


def test_its_files_are_no_runs_of_their_own(monitor):
    assert set(monitor.rows()) == {"two", "alone"}


def test_logs_by_machine_the_first_ones_first(monitor):
    logs = logs_of(monitor, "two")
    assert [(title, path.name) for title, path in logs.items()] == [
        ("1: node-a (10.0.0.1)", "train.log"),
        ("2: node-b (10.0.0.2)", "train.node1.log"),
    ]
    (monitor.root / "two" / "train.node1.log").unlink()
    assert list(logs_of(monitor, "two")) == ["1: node-a (10.0.0.1)"]
    assert logs_of(monitor, "alone") == {} == logs_of(monitor, "gone")


def test_the_system_tab_shows_all_of_them(monitor):
    figures = Figures()
    machines = {machine: figures.of(machine) for machine in machines_of(monitor, "two")}
    shown = system._of_run(machines, "two", Words("en"))
    assert "Machines of two" in shown and "node-a" in shown and "node-b" in shown
    assert "30%" in shown and "70%" in shown and "0:10 ago" in shown  # the newest of each
    charts = {chart["key"]: json.dumps(chart) for chart in system._of_all(machines, Words("en"))}
    assert list(charts) == ["all_gpu_use", "all_gpu_memory", "all_cpu", "all_memory"]
    assert '"ticksuffix": " min"' in charts["all_cpu"]  # of the time axis
    assert "node-a" in charts["all_gpu_use"] and "node-b" in charts["all_gpu_use"]
    assert system._of_run({}, "alone", Words("en")) == "" and system._of_all({}, Words("en")) == []


def test_a_file_of_two_hours_loses_the_older_one(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_use, "KEEP", 100.0)  # ten lines
    file = machine_use.file_of(tmp_path, 0)
    for count in range(25):
        machine_use.append(file, moment(cpu=float(count)))
    kept = [json.loads(line)["cpu"] for line in file.read_text().splitlines()]
    assert kept == [float(count) for count in range(11, 25)]  # 21 lines became ten, then came four


def test_hostile_files_and_names(tmp_path):
    odd = [*MACHINES, {"rank": "../../secret", "host": "x"}, {"rank": -1}, "text", {"rank": 2, "host": "<b>\u202e"}]
    folder = make_run(tmp_path / "outputs", "odd", machines=odd)
    (folder / "machines").mkdir()
    good = moment(0, 5.0)
    lines = ["[", "[" * 100_000, '{"time": 1}', json.dumps({**vars(good), "gpus": 3}), '{"gpus": [], "time": 1e999}']
    (folder / "machines" / "0.jsonl").write_text("\n".join(lines) + "\n")
    machine_use.append(folder / "machines" / "0.jsonl", good)
    (folder / "machines" / "1.jsonl").symlink_to("/etc/passwd")
    monitor = Monitor(tmp_path / "outputs")
    machines = machines_of(monitor, "odd")
    assert [machine.rank for machine in machines] == [0, 1, 2] and machines[1].file is None
    assert "\u202e" not in machines[2].title
    figures = {machine: Figures().of(machine) for machine in machines}
    assert [len(found) for found in figures.values()] == [1, 0, 0]
    shown = system._of_run(figures, "odd", Words("en"))
    assert "<b>\\u" not in shown and "It has written no figures yet." in shown
    for damaged in ("text", [1], {"rank": 0}):
        (folder / "run.json").write_text(json.dumps({"name": "odd", "state": "finished", "machines": damaged}))
        assert machines_of(Monitor(tmp_path / "outputs"), "odd") == []


def test_this_machine_is_recorded_while_the_launcher_lives(tmp_path):
    machine_use.record(tmp_path, 3, every=0.01)
    until = time.monotonic() + 20
    while not machine_use.file_of(tmp_path, 3).is_file() and time.monotonic() < until:
        time.sleep(0.01)
    line = json.loads(machine_use.file_of(tmp_path, 3).read_text().splitlines()[0])
    assert line["memory_total"] == MachineUse(tmp_path).look().memory_total
