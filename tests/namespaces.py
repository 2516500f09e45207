"""Two machines made of namespaces, as root: own network, processes, host name, /tmp, /dev/shm and checkout.

Each has its checkout in /mnt/kit, a disk of its own, and sees the other over a switch; host names do not resolve.
/mnt/shared is one folder. Nothing stays but what is in a temporary folder, which is removed. Needs iproute2 and
util-linux.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
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
        run("ip", "netns", "add", self.switch)
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
        run("ip", "netns", "del", self.switch)
        shutil.rmtree(self.work, ignore_errors=True)

    def up(self, name: str) -> None:
        """Make a machine and plug it in."""
        own = self.work / name
        if not own.exists():
            (own / "tmp" / "home").mkdir(parents=True)
            run("git", "clone", "-q", str(ROOT), str(own / "kit"))
            (own / "kit" / ".venv").symlink_to((ROOT / ".venv").resolve())
        script = INSIDE.format(name=name, work=self.work)
        options = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "private")
        self.holders[name] = subprocess.Popen(["unshare", *options, "bash", "-c", script], start_new_session=True)
        pid = self.pid(name)
        run("ip", "link", "add", f"{self.switch}{name}", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        run("ip", "link", "set", f"{self.switch}{name}", "netns", self.switch)
        self._ip("link", "set", f"{self.switch}{name}", "master", "br0")
        self._ip("link", "set", f"{self.switch}{name}", "up")
        run("nsenter", "-t", str(pid), "-n", "ip", "addr", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
        run("nsenter", "-t", str(pid), "-n", "ip", "link", "set", "eth0", "up")
        while run("nsenter", "-t", str(pid), "-m", "ls", f"{KIT}/grpo", check=False):
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
        run("ip", "-n", self.switch, "link", "del", f"{self.switch}{name}", check=False)  # the kernel takes its time

    def cable(self, name: str, state: str) -> None:
        """Pull it (``down``) or put it back (``up``)."""
        self._ip("link", "set", f"{self.switch}{name}", state)

    def start(self, name: str, command: str, output: str = "", **variables: object) -> subprocess.Popen:
        """Run a shell command on a machine, in its checkout; what it prints is in ``output``, by default `said`."""
        environment = {"HOME": "/tmp/home", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}
        pairs = [f"{key}={value}" for key, value in (environment | variables).items()]
        enter = ["nsenter", "-t", str(self.pid(name)), "-m", "-u", "-i", "-n", "-p", "env", "-i", *pairs]
        self.launchers.append(
            subprocess.Popen(
                [*enter, "bash", "-c", f"cd {KIT} && {command}"],
                stdin=subprocess.DEVNULL,
                stdout=(self.work / f"{output or name}.txt").open("wb"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return self.launchers[-1]

    def train(
        self, algorithm: str, names: str = "ab", b: dict | None = None, **knobs: object
    ) -> list[subprocess.Popen]:
        """Start a train.sh on the machines; ``b`` holds what the second one is told otherwise."""
        common = {"NNODES": 2, "N_GPUS": 1, "DEVICE": "cpu", "MASTER_ADDR": ADDRESSES["a"], "MASTER_PORT": 29500}
        common |= {"OUTPUTS_DIR": f"{SHARED}/outputs", "USE_WANDB": "false", "PREFLIGHT": "fast", "CLUSTER_TIMEOUT": 60}
        ranks = {name: "ab".index(name) for name in names}
        return [
            self.start(
                name, f"exec ./{algorithm}/train.sh", **(common | knobs | {"NODE_RANK": rank} | (rank and b or {}))
            )
            for name, rank in ranks.items()
        ]

    def said(self, name: str) -> str:
        """What its launcher has printed."""
        path = self.work / f"{name}.txt"
        return path.read_text(errors="replace") if path.is_file() else ""

    def folder(self, name: str) -> Path:
        """Of a run."""
        return self.work / "shared" / "outputs" / name

    def run_json(self, name: str) -> dict:
        """run.json of a run."""
        return json.loads((self.folder(name) / "run.json").read_text())

    def signal(self, launcher: subprocess.Popen, number: int) -> None:
        """Send a signal to what was started; ``nsenter`` does not pass it on."""
        for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
            os.kill(int(pid), number)

    def processes(self, name: str) -> list[str]:
        """Command lines of what runs on a machine, but for its process 1 and that one's `sleep`."""
        listed = subprocess.run(
            ["nsenter", "-t", str(self.pid(name)), "-m", "-p", "ps", "-e", "-o", "pid=,args="],
            capture_output=True,
            text=True,
        )
        found = [line.strip().partition(" ")[2] for line in listed.stdout.splitlines() if not line.split()[0] == "1"]
        return [line for line in found if not line.startswith(("sleep ", "ps "))]

    def _ip(self, *arguments: str) -> None:
        run("ip", "-n", self.switch, *arguments)


def run(*command: str, check: bool = True) -> int:
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.returncode
