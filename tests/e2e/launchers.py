"""Launchers of several machines on this host: each with a separate folder for Ray, meeting on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from common.checkpoints.integrity import latest_checkpoint
from tests.conftest import ROOT, free_port


class Launchers:
    """``count`` launchers of one run.

    Args:
        environment: Without knobs.
        folder: For runs, output and Ray.
        algorithm: Folder of the train.sh.
        name: Of the run.
        count: Machines.
        knobs: Others.
    """

    def __init__(self, environment, folder: Path, algorithm: str, name: str, count: int = 2, **knobs):
        self.run_dir = folder / "outputs" / name
        self.ray = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets have short names; pytest's folders have not
        self.outputs = [folder / f"{name}.{rank}.txt" for rank in range(count)]
        place = {
            "NNODES": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(following=2),
            "CLUSTER_TIMEOUT": 120,
        }
        common = {"DEVICE": "cpu", "N_GPUS": 1, "USE_WANDB": "false", "PREFLIGHT": "fast", "EXPERIMENT_NAME": name}
        common |= {"OUTPUTS_DIR": folder / "outputs", **(place if count > 1 else {}), **knobs}
        self.processes = []
        for rank in range(count):
            own = {"NODE_RANK": rank, "RAY_TMPDIR": self.ray / str(rank)} if count > 1 else {}
            (self.ray / str(rank)).mkdir()
            with self.outputs[rank].open("wb") as output:
                self.processes.append(
                    subprocess.Popen(
                        [str(ROOT / algorithm / "train.sh")],
                        env={**environment, **{key: str(value) for key, value in (common | own).items()}},
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def wait(self, timeout: float = 600) -> list[int]:
        """Exit statuses, once all have ended."""
        until = time.monotonic() + timeout
        try:
            return [process.wait(max(1.0, until - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said()) from None
        finally:
            self.end()

    def wait_for_line(self, words: str, rank: int = 0, timeout: float = 300) -> None:
        """Wait until a launcher has printed something."""
        until = time.monotonic() + timeout
        while words not in self.text(rank):
            assert self.processes[rank].poll() is None and time.monotonic() < until, self.said()
            time.sleep(0.2)

    def wait_for_checkpoint(self, timeout: float = 300) -> None:
        """Wait until the run has one that is complete; steps that are quicker than a second are not all printed."""
        until = time.monotonic() + timeout
        while latest_checkpoint(self.run_dir) is None:
            assert self.processes[0].poll() is None and time.monotonic() < until, self.said()
            time.sleep(0.2)

    def text(self, rank: int) -> str:
        """What a launcher has printed."""
        return self.outputs[rank].read_text(errors="replace")

    def said(self) -> str:
        """What all have printed, and the ends of their logs."""
        logs = sorted(self.run_dir.glob("train*.log")) if self.run_dir.is_dir() else []
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in [*self.outputs, *logs])

    def end(self) -> None:
        """End what is left; a launcher whose shell dies takes all its processes along."""
        for process in self.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.ray, ignore_errors=True)

    def left(self) -> list[str]:
        """Processes that still name the run's folder in their environment or arguments."""
        done = subprocess.run(["ps", "axeww", "-o", "pid,command"], capture_output=True, text=True)
        return [line for line in done.stdout.splitlines() if f"RUN_DIR={self.run_dir}" in line]
