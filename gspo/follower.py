"""Rounds of self-play on a machine that is not the first of several: it starts the stages that the first announces.

Each stage is a separate run on all machines, whose launchers meet again, `STAGE_PORT` ports further.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import machine_use
from common.cluster.names import Cluster, ClusterError
from common.cluster.watch import Watch, open_watch
from common.preflight.derived import OF_ONE_LAUNCH
from common.preflight.knobs import ROOT, read_block
from common.runner import processes
from common.runner.attempt import listen

POLL_SECONDS = 0.2
STAGE_PORT = 10
END_SECONDS = 60.0  # from a stage's end by a signal to the first machine's word


def stage_key(number: int) -> str:
    """Where the first machine announces a stage: ``gspo`` or ``dpo``."""
    return f"stage/{number}"


def stage_port(cluster: Cluster) -> dict[str, str]:
    """What a stage's launchers get: other ports than those of the rounds."""
    return {"MASTER_PORT": str(cluster.port + STAGE_PORT)}


class Follower:
    """This machine's stages.

    Args:
        cluster: The place of this machine.
        arguments: ``key=value`` arguments for verl, which go to the RL stages.
        environment: What train.sh exported.
    """

    def __init__(self, cluster: Cluster, arguments: Sequence[str], environment: Mapping[str, str]):
        self.cluster, self.arguments, self.environment = cluster, list(arguments), environment
        self.stop_signal: int | None = None

    def run(self) -> int:
        """Start stage after stage until the first machine tells the end; returns the run's exit status."""
        listen(self._on_signal)
        try:
            watch = open_watch(self.cluster, self.environment)
        except ClusterError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        machine_use.record(Path(self.environment["RUN_DIR"]), self.cluster.rank)
        number, limit = 0, None
        while not (end := watch.end()):
            if problem := watch.problem():
                print(f"error: {problem.text}", file=sys.stderr, flush=True)
                return 1
            if self.stop_signal is not None and limit is None:
                watch.report("", self.stop_signal)
                limit = time.monotonic() + END_SECONDS
            if limit is not None and time.monotonic() > limit:
                return 128 + (self.stop_signal or signal.SIGTERM)
            script = watch.hear(stage_key(number)) if self.stop_signal is None else None
            if script in ("gspo", "dpo"):
                self._run_stage(script, watch)
                number += 1
            time.sleep(POLL_SECONDS)
        watch.close()
        return end.status

    def _run_stage(self, script: str, watch: Watch) -> None:
        """Run a stage's train.sh here; how it ended is the first machine's to tell."""
        ours = {name for path in ROOT.glob("*/train.sh") for name in read_block(path)} | set(OF_ONE_LAUNCH)
        kept = {name: value for name, value in self.environment.items() if name not in ours}
        stage = subprocess.Popen(
            [str(ROOT / script / "train.sh"), *(self.arguments if script == "gspo" else [])],
            env={
                **kept,
                "NNODES": str(self.cluster.nnodes),
                **stage_port(self.cluster),
                "OUTPUTS_DIR": self.environment["RUN_DIR"],
            },
            stdin=subprocess.DEVNULL,
            preexec_fn=processes.die_with_parent,
        )
        told = False
        while stage.poll() is None:
            if not told and (self.stop_signal is not None or watch.problem() or watch.is_over()):
                stage.send_signal(signal.SIGTERM)
                told = True
            time.sleep(POLL_SECONDS)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stop_signal = number
