"""Two machines made of namespaces, and runs over them: ``python -m tests.two_machines [CHECK ...]``, as root.

Each machine has its own network, processes, host name, /tmp, /dev/shm and checkout (/mnt/kit, a separate disk) and
sees the other over a switch; host names do not resolve. /mnt/shared is one folder. Nothing stays but what is in a
temporary folder, which is removed. Needs iproute2 and util-linux. ``.ci/nightly`` runs it where it is root.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KIT, SHARED = "/mnt/kit", "/mnt/shared"
ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}
INSIDE = """
hostname machine-{name}; ip link set lo up
mount -t tmpfs tmpfs /mnt; mkdir /mnt/kit /mnt/shared
mount --bind {work}/{name}/kit /mnt/kit; mount --bind {work}/shared /mnt/shared
mount -t tmpfs -o size=6g tmpfs /dev/shm; mount --bind {work}/{name}/tmp /tmp
while :; do sleep 3600 & wait; done
"""  # the last line is process 1, which takes leave of orphans


class Machines:
    """Both of them, up between ``with`` and its end."""

    def __enter__(self) -> Machines:
        self.work = Path(tempfile.mkdtemp(prefix="two-machines-", dir="/var/tmp"))
        self.switch = f"sw{os.getpid()}"
        self.launchers: list[subprocess.Popen] = []
        self.holders: dict[str, subprocess.Popen] = {}
        (self.work / "shared").mkdir()
        _run("ip", "netns", "add", self.switch)
        self._ip("link", "add", "br0", "type", "bridge")
        self._ip("link", "set", "br0", "up")
        for name in ADDRESSES:
            self.up(name)
        return self

    def __exit__(self, *_: object) -> None:
        for launcher in self.launchers:
            launcher.kill()
        for name in ADDRESSES:
            self.power_off(name)
        _run("ip", "netns", "del", self.switch)
        shutil.rmtree(self.work, ignore_errors=True)

    def up(self, name: str) -> None:
        """Make a machine and plug it in."""
        own = self.work / name
        if not own.exists():
            (own / "tmp" / "home").mkdir(parents=True)
            _run("git", "clone", "-q", str(ROOT), str(own / "kit"))
            (own / "kit" / ".venv").symlink_to((ROOT / ".venv").resolve())
        script = INSIDE.format(name=name, work=self.work)
        options = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "private")
        self.holders[name] = subprocess.Popen(["unshare", *options, "bash", "-c", script], start_new_session=True)
        pid = self.pid(name)
        _run("ip", "link", "add", f"{self.switch}{name}", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _run("ip", "link", "set", f"{self.switch}{name}", "netns", self.switch)
        self._ip("link", "set", f"{self.switch}{name}", "master", "br0")
        self._ip("link", "set", f"{self.switch}{name}", "up")
        _run("nsenter", "-t", str(pid), "-n", "ip", "addr", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
        _run("nsenter", "-t", str(pid), "-n", "ip", "link", "set", "eth0", "up")
        while _run("nsenter", "-t", str(pid), "-m", "ls", f"{KIT}/grpo", check=False):
            time.sleep(0.1)

    def pid(self, name: str) -> int:
        """Its process 1, as seen from here."""
        children = Path(f"/proc/{self.holders[name].pid}/task/{self.holders[name].pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.05)
        return int(found[0])

    def power_off(self, name: str) -> None:
        """End every process of it at once."""
        if self.holders[name].poll() is None:
            os.kill(self.pid(name), signal.SIGKILL)
            self.holders[name].wait()

    def cable(self, name: str, state: str) -> None:
        """Pull it (``down``) or put it back (``up``)."""
        self._ip("link", "set", f"{self.switch}{name}", state)

    def start(self, name: str, command: str, **variables: object) -> subprocess.Popen:
        """Run a shell command on a machine, in its checkout."""
        environment = {"HOME": "/tmp/home", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}
        pairs = [f"{key}={value}" for key, value in (environment | variables).items()]
        enter = ["nsenter", "-t", str(self.pid(name)), "-m", "-u", "-i", "-n", "-p", "env", "-i", *pairs]
        self.launchers.append(
            subprocess.Popen(
                [*enter, "bash", "-c", f"cd {KIT} && {command}"],
                stdin=subprocess.DEVNULL,
                stdout=(self.work / f"{name}.txt").open("wb"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return self.launchers[-1]

    def train(
        self, algorithm: str, names: str = "ab", b: dict | None = None, **knobs: object
    ) -> list[subprocess.Popen]:
        """Start a train.sh on the machines; ``b`` holds what differs for the second one."""
        common = {"NNODES": 2, "N_GPUS": 1, "DEVICE": "cpu", "MASTER_ADDR": ADDRESSES["a"], "MASTER_PORT": 29500}
        common |= {"OUTPUTS_DIR": f"{SHARED}/outputs", "USE_WANDB": "false", "PREFLIGHT": "fast", "CLUSTER_TIMEOUT": 60}
        ranks = {name: "ab".index(name) for name in names}
        return [
            self.start(name, f"./{algorithm}/train.sh", **(common | knobs | {"NODE_RANK": rank} | (rank and b or {})))
            for name, rank in ranks.items()
        ]

    def said(self, name: str) -> str:
        """What its launcher has printed."""
        return (self.work / f"{name}.txt").read_text(errors="replace")

    def run(self, name: str) -> dict:
        """run.json of a run."""
        return json.loads((self.work / "shared" / "outputs" / name / "run.json").read_text())

    def _ip(self, *arguments: str) -> None:
        _run("ip", "-n", self.switch, *arguments)


def _run(*command: str, check: bool = True) -> int:
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.returncode


def _ends(launchers: list[subprocess.Popen], seconds: float) -> list[int]:
    until = time.monotonic() + seconds
    return [launcher.wait(max(1.0, until - time.monotonic())) for launcher in launchers]


FEW = {"TOTAL_STEPS": 2, "SAVE_FREQ": 1, "TEST_FREQ": 2, "BATCH_SIZE": 8}
LONG = FEW | {"TOTAL_STEPS": 4000, "TOTAL_EPOCHS": 100}


def trains(machines: Machines, algorithm: str, **knobs: object) -> None:
    """It trains, saves, and resumes."""
    for steps in (2, 3):
        launchers = machines.train(algorithm, EXPERIMENT_NAME=algorithm, **(FEW | {"TOTAL_STEPS": steps} | knobs))
        assert _ends(launchers, 1200) == [0, 0], machines.said("a") + machines.said("b")
    run = machines.run(algorithm)
    assert run["state"] == "finished" and run["attempt"] == 2, run
    assert [one["host"] for one in run["machines"]] == ["machine-a", "machine-b"]
    assert {one["interface"] for one in run["machines"]} == {"eth0"}


def refused(machines: Machines, words: str, names: str = "ab", **settings: object) -> None:
    """It is refused before the start, with the same text and status on all."""
    launchers = machines.train("sft", names, EXPERIMENT_NAME="never", **(FEW | settings))
    assert _ends(launchers, 240) == [2] * len(names), machines.said("a") + machines.said("b")
    for name in names:
        assert words in machines.said(name), machines.said(name)
    assert not (machines.work / "shared" / "outputs" / "never").exists()


def other_commit(machines: Machines) -> None:
    """The second machine has another commit."""
    commit = "git -c user.name=t -c user.email=t@t commit -q --allow-empty -m other"
    assert machines.start("b", commit).wait() == 0
    try:
        refused(machines, "kit commit differs")
    finally:
        assert machines.start("b", "git reset -q --hard HEAD~1").wait() == 0


def never_comes(machines: Machines) -> None:
    """The second machine is not started."""
    refused(machines, "1 of NNODES=2 machines after 5 s: NODE_RANK=1 has not come", "a", CLUSTER_TIMEOUT=5)


def not_found(machines: Machines, words: str, **b: object) -> None:
    """The second machine does not find the first."""
    launchers = machines.train(
        "sft", EXPERIMENT_NAME="never", b={"CLUSTER_TIMEOUT": 5, **b}, **(FEW | {"CLUSTER_TIMEOUT": 20})
    )
    assert _ends(launchers, 240) == [2, 2], machines.said("a") + machines.said("b")
    assert words in machines.said("b") and "NODE_RANK=1 has not come" in machines.said("a"), machines.said("b")


def cut(machines: Machines, how: Callable[[subprocess.Popen], None], algorithm: str = "sft") -> None:
    """A machine goes in the middle: the other ends within 90 s, names it and the checkpoint, and does not say 0."""
    name = f"cut{int(time.time())}"
    first, second = machines.train(algorithm, EXPERIMENT_NAME=name, **LONG)
    until = time.monotonic() + 600
    while "Step 2/" not in machines.said("a"):
        assert first.poll() is None and time.monotonic() < until, machines.said("a")
        time.sleep(0.5)
    how(second)
    gone = time.monotonic()
    status = first.wait(120)
    took = time.monotonic() - gone
    assert status not in (0, None) and took < 90, (status, took, machines.said("a"))
    said = machines.said("a")
    assert "machine-b (10.77.0.2)" in said and "is gone" in said and "from the checkpoint of step" in said, said
    print(f"    ended after {took:.0f} s", flush=True)


def killed(machines: Machines) -> None:
    """The second launcher is killed."""
    cut(machines, lambda launcher: _run("pkill", "-KILL", "-P", str(launcher.pid), check=False) or launcher.kill())


def powered_off(machines: Machines) -> None:
    """The second machine has no power any more."""
    cut(machines, lambda _: machines.power_off("b"))
    machines.up("b")


def cable_pulled(machines: Machines) -> None:
    """Nothing comes from the second machine any more."""
    try:
        cut(machines, lambda _: machines.cable("b", "down"))
        assert machines.launchers[-1].wait(120) not in (0, None)
        assert "machine-a (10.77.0.1)" in machines.said("b") and "is gone" in machines.said("b"), machines.said("b")
    finally:
        machines.cable("b", "up")


CHECKS: dict[str, Callable[[Machines], None]] = {
    "another commit": other_commit,
    "a folder that is not shared": lambda m: refused(m, "OUTPUTS_DIR=/tmp/runs is not", OUTPUTS_DIR="/tmp/runs"),
    "a machine that never comes": never_comes,
    "a wrong MASTER_ADDR": lambda m: not_found(m, "MASTER_ADDR=10.77.0.9", MASTER_ADDR="10.77.0.9"),
    "a shut port": lambda m: not_found(m, "refused", MASTER_PORT=29777),
    "a host name that does not resolve": lambda m: not_found(m, "does not resolve", MASTER_ADDR="machine-a"),
    "sft": lambda m: trains(m, "sft"),
    "dpo": lambda m: trains(m, "dpo"),
    "grpo": lambda m: trains(m, "grpo"),
    "ppo": lambda m: trains(m, "ppo"),
    "process killed": killed,
    "power off": powered_off,
    "cable pulled": cable_pulled,
    "grpo, power off": lambda m: (cut(m, lambda _: m.power_off("b"), "grpo"), m.up("b"))[0],
}


def main() -> int:
    """Run the checks; the exit status is 1 when one has failed."""
    names = sys.argv[1:] or list(CHECKS)
    if os.geteuid() != 0:
        print("error: namespaces with a network need root", file=sys.stderr)
        return 2
    if unknown := [name for name in names if name not in CHECKS]:
        print(f"error: {unknown}: there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    failed = []
    with Machines() as machines:
        for name in names:
            started = time.monotonic()
            try:
                CHECKS[name](machines)
                print(f"passed  {name} ({time.monotonic() - started:.0f} s)", flush=True)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failed.append(name)
                print(f"FAILED  {name}: {str(error)[-3000:]}", flush=True)
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
