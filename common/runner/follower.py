"""What a train.sh becomes on a machine that is not the first of several: its share of the processes, nothing else.

The first machine has the run: its state, its metrics, its log. This one writes ``train.node<rank>.log`` next to them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import machine_use
from common.checkpoints.integrity import latest_checkpoint
from common.cluster.names import Cluster, ClusterError
from common.cluster.watch import End, Watch, open_watch
from common.run_dir import resume_command
from common.runner.attempt import listen, process_environment, quiet
from common.runner.failures import diagnose
from common.runner.ray_folder import ray_folder
from common.runner.supervisor import NO_RUN, STOP

POLL_SECONDS = 0.2
SHARE_SECONDS = 60.0  # until the run's folder is seen here
END_SECONDS = 15.0  # from this machine's signal or failure to the first machine's word


class Follower:
    """This machine's part of a run.

    Args:
        command: What runs here.
        cluster: The place of this machine.
        environment: What train.sh exported.
    """

    def __init__(self, command: Sequence[str], cluster: Cluster, environment: Mapping[str, str]):
        self.command, self.cluster = list(command), cluster
        self.environment = {**environment, **quiet(), "RAY_TMPDIR": ray_folder(environment)}
        self.run_dir = Path(environment["RUN_DIR"])
        self.log = self.run_dir / f"train.node{cluster.rank}.log"
        self.stop_signal: int | None = None

    def run(self) -> int:
        """Run until the first machine tells the end; returns the run's exit status."""
        listen(self._on_signal)
        try:
            watch = open_watch(self.cluster, self.environment)
        except ClusterError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return 1
        until = time.monotonic() + SHARE_SECONDS
        while not self.run_dir.is_dir() and time.monotonic() < until and not watch.end():
            time.sleep(POLL_SECONDS)
        self._say(
            f"machine {self.cluster.rank + 1} of {self.cluster.nnodes}: the first, {self.cluster.master}, shows the run"
        )
        self._say(f"  log here: {self.log}")
        machine_use.record(self.run_dir, self.cluster.rank)
        supervisor = self._start()
        try:
            self._follow(supervisor, watch)
            if self.stop_signal is not None and not watch.end():
                watch.report("", self.stop_signal)
        finally:
            status = self._stop(supervisor)
        end = self._end(status, watch)
        watch.close()
        self._say(f"ended with status {end.status}" + (f": {end.reason}" if end.reason else ""))
        return end.status

    def _start(self) -> subprocess.Popen:
        knobs = json.loads(self.environment["KNOBS_JSON"])
        with self.log.open("ab") as log:
            log.write(f"# attempt on machine {self.cluster.rank + 1} of {self.cluster.nnodes}\n".encode())
            log.flush()
            return subprocess.Popen(
                [sys.executable, "-m", "common.runner.supervisor", NO_RUN, "--", *self.command],
                env=process_environment(self.environment, knobs),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _follow(self, supervisor: subprocess.Popen, watch: Watch) -> None:
        while supervisor.poll() is None and self.stop_signal is None and not watch.is_over() and not watch.problem():
            time.sleep(POLL_SECONDS)

    @staticmethod
    def _stop(supervisor: subprocess.Popen) -> int:
        try:
            supervisor.communicate(STOP)
        except BrokenPipeError:
            supervisor.wait()
        return supervisor.returncode

    def _end(self, status: int, watch: Watch) -> End:
        """Wait for the first machine's word; one that is not all right tells it so first."""
        limit = time.monotonic() + END_SECONDS if self.stop_signal is not None else None
        if status and limit is None and not watch.is_over():
            watch.report(f"{diagnose(self.log).cause} (log: {self.log.name})")
            limit = time.monotonic() + 3 * END_SECONDS
        while not (end := watch.end()):  # without a limit where all is well here: the first machine exports the model
            problem = watch.problem()
            if problem:
                return End(128 + self.stop_signal if self.stop_signal else 1, problem.text + self._how_to_resume())
            if limit is None and self.stop_signal is not None:
                watch.report("", self.stop_signal)
                limit = time.monotonic() + END_SECONDS
            if limit is not None and time.monotonic() > limit:
                return End(128 + self.stop_signal if self.stop_signal else status, "the first machine gave no answer")
            time.sleep(POLL_SECONDS)
        return end

    def _how_to_resume(self) -> str:
        found = latest_checkpoint(self.run_dir)
        where = f"from the checkpoint of step {found[0]}" if found else "from the start (no checkpoint yet)"
        return f"\nto resume {where}, on all machines: {resume_command(self.run_dir, self.environment['ALGORITHM'])}"

    def _on_signal(self, number: int, frame: object) -> None:
        self.stop_signal = number

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def follow(command: Sequence[str], cluster: Cluster) -> int:
    """Run this machine's part of a run."""
    return Follower(command, cluster, os.environ).run()
