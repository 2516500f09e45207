"""One launch of a run: its files, its processes, its end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.markup import escape

from common import __version__, machine_use, run_data
from common.checkpoints.integrity import latest_checkpoint, read_marker
from common.checkpoints.layout import Checkpoint, checkpoint_at, checkpoints_of
from common.checkpoints.merge import is_current
from common.cluster import run_secrets
from common.cluster.names import Cluster, joins_ray
from common.cluster.watch import Problem, Watch, open_watch
from common.files import ROOT, write_atomically
from common.notify.notifier import Notifier
from common.preflight.derived import COMMAND_VARIABLES, PROCESS_KNOBS, SCRIPT, names
from common.run_dir import (
    LOG_FILE,
    RUN_FILE,
    STOP_FILE,
    metrics_files,
    metrics_path,
    read_early_stop,
    read_metrics,
    read_run,
    resume_command,
    short_model_name,
    update_run,
)
from common.runner.heartbeat import Heartbeat
from common.runner.ray_folder import ray_folder
from common.runner.supervisor import STOP
from common.runner.terminal import Terminal
from common.tail import MetricsTail, Tail
from common.trackers.place import STATE_FILE as TRACKERS_FILE

POLL_SECONDS = 0.2
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # `ray job submit` sets it: a folder that only the submitting Ray has
PASSED_ON = ("NCCL_", "GLOO_", "HF_HOME", "HF_HUB_", "HF_ENDPOINT", "TRANSFORMERS_")  # to workers of a joined Ray
TRACKERS_PASSED_ON = (  # the trackers run in one of them; their keys are no part of it: log in by file there
    *("WANDB_MODE", "WANDB_BASE_URL", "SWANLAB_MODE", "SWANLAB_WORKSPACE", "SWANLAB_LOG_DIR"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "CLEARML_OFFLINE_MODE", "CLEARML_CONFIG_FILE"),
)
FILES_SECONDS = 60.0  # for the charts to reach the trackers
OWN_WORD_SECONDS = 10.0  # after a failure on another machine
VERSIONS = ("verl", "torch", "transformers", "ray", "vllm", "sglang", "flash-attn")  # run.json names those installed
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Attempt:
    """A launch of a training command in a run directory.

    Args:
        command: The trainer's command.
        environment: What train.sh exported.
        cluster: The place of this machine, the first, where launchers run on several.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cluster: Cluster | None = None):
        self.command, self.cluster = list(command), cluster
        self.watch: Watch | None = None
        self.run_dir = Path(environment["RUN_DIR"])
        self.knobs = json.loads(environment["KNOBS_JSON"])
        self.resume_from = Path(environment["RESUME_FROM"]) if environment.get("RESUME_FROM") else None
        self.forked = self.resume_from is not None and not (self.run_dir / RUN_FILE).is_file()
        self.number = len(metrics_files(self.run_dir)) + 1 + self.forked  # the first is what the other run has measured
        self.metrics = metrics_path(self.run_dir, self.number)
        self.environment = {**environment, **self._trainer_environment(), "RAY_TMPDIR": ray_folder(environment)}
        self.joined = cluster is None and joins_ray(environment, environment["ALGORITHM"])
        if self.joined:
            self.environment |= for_workers(self.run_dir, self.environment)
        self.stop_signal: int | None = None
        self.notifier = Notifier(self.run_dir, os.environ, environment["ALGORITHM"])

    def _trainer_environment(self) -> dict[str, str]:
        """What the trainer's processes find in their environment next to what train.sh exported."""
        run_id = read_run(self.run_dir).get("id") or uuid.uuid4().hex[:8]
        return {
            "VERL_FILE_LOGGER_PATH": str(self.metrics),
            "TENSORBOARD_DIR": str(self.run_dir / "tensorboard"),
            "WANDB_DIR": str(self.run_dir),
            "WANDB_RUN_ID": run_id,  # a resumed run continues its own curve
            "WANDB_RESUME": "allow",
            "ATTEMPT": str(self.number),
            **quiet(),
            **ray_on_loopback(self.knobs),
        }

    def run(self) -> int:
        """Run the command to its end; returns the exit status for the shell."""
        if self.cluster:
            self.watch = open_watch(self.cluster, self.environment)
        self._open()
        length = self.knobs.get("MAX_RESPONSE_LENGTH", "")
        limit = int(length) if length.isdigit() else None
        terminal = Terminal(self.run_dir, os.environ.get("VERBOSE") == "1", limit, self.notifier)
        terminal.phase(f"Starting {self.knobs_words()} in {os.path.relpath(self.run_dir, ROOT)} (log: {LOG_FILE})")
        log = Tail(self.run_dir / LOG_FILE, self._log_size(), progress_bars=True)
        listen(self._on_signal)
        heartbeat = Heartbeat(self.run_dir)
        if self.cluster:
            machine_use.record(self.run_dir, self.cluster.rank)
        supervisor = self._start(self.command)
        try:
            self._follow(supervisor, terminal, log)
        finally:
            status, problem = self._end(supervisor)
            terminal.close()
            status = self._close(status, terminal, problem)  # also when the view broke: the last state is written
            heartbeat.stop()
        return status

    def knobs_words(self) -> str:
        """The run in a few words."""
        where = "the CPU" if self.knobs["DEVICE"] == "cpu" else f"{self.knobs['N_GPUS']} GPU(s)"
        if self.knobs.get("NNODES", "1") != "1":
            where += f" of each of {self.knobs['NNODES']} machines"
        return f"{self.environment['ALGORITHM']} of the model {short_model_name(self.knobs['MODEL_PATH'])} on {where}"

    def _log_size(self) -> int:
        path = self.run_dir / LOG_FILE
        return path.stat().st_size if path.exists() else 0

    # ---- files -------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Make the run directory, or continue in it: command.sh, the log's heading, run.json."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        run_data.place(self.run_dir, self.environment)
        if self.resume_from:
            self._take_up(checkpoint_at(self.resume_from))
        write_atomically(self.run_dir / "command.sh", self.script(), executable=True)
        with (self.run_dir / LOG_FILE).open("a", encoding="utf-8") as log:
            log.write(f"# attempt {self.number}, {now()}: {shlex.join(self.command)}\n")
        # The file of this attempt must be there even when it fails early: the next attempt counts the files.
        self.metrics.touch()
        (self.run_dir / STOP_FILE).unlink(missing_ok=True)
        facts = describe_run(self.run_dir, self.knobs, self.environment["ALGORITHM"], self.number)
        tries = json.loads(self.environment.get("NUMBERS_TO_TRY") or "{}")
        if self.cluster or self.joined:
            run_secrets.make(self.run_dir, self.environment["CLUSTER_LAUNCH"])
        update_run(self.run_dir, id=self.environment["WANDB_RUN_ID"], numbers_to_try=tries, **facts)

    def _take_up(self, checkpoint: Checkpoint) -> None:
        """Make the run's folder fit the checkpoint that it resumes from.

        A run that resumes from another run's checkpoint continues that run's curve. In its own folder later
        checkpoints, which belong to the training that is abandoned, are set aside: overwritten bit by bit they would
        look complete when they are not.
        """
        if self.forked:
            records = [record for record in read_metrics(checkpoint.run_dir) if record["step"] <= checkpoint.step]
            lines = "".join(json.dumps(record) + "\n" for record in records)
            write_atomically(metrics_path(self.run_dir, 1), lines)
            return
        for later in checkpoints_of(self.run_dir):
            if later.step > checkpoint.step and read_marker(later):
                later.path.rename(later.path.with_name(f"{later.path.name}_before_attempt_{self.number}"))

    def script(self) -> str:
        """The command as a script that does the same again, into the metrics file of this attempt."""
        lines = script_head()
        names = (*COMMAND_VARIABLES, *self._trainer_environment())
        for name in names:
            if name in self.environment:
                lines.append(f"export {name}={shlex.quote(self.environment[name])}")
        shown = " \\\n  ".join(shlex.quote(part) for part in self.command)
        return "\n".join(lines) + f"\nexec {shown}\n"

    # ---- while it runs -----------------------------------------------------------------------------------

    def _start(self, command: Sequence[str]) -> subprocess.Popen:
        """Start a command under its own supervisor, its output appended to the log.

        The log is the processes' own output and not a pipe, so nothing is lost when the launcher dies.
        """
        with (self.run_dir / LOG_FILE).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "common.runner.supervisor", str(self.run_dir), "--", *command],
                env=self._process_environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _process_environment(self) -> dict[str, str]:
        """The environment of the trainer: knobs and arguments that are in its command already are left out."""
        return process_environment(self.environment, self.knobs)

    def _end(self, supervisor: subprocess.Popen) -> tuple[int, Problem | None]:
        """End what is left here and on other machines; returns the exit status, and what was wrong elsewhere."""
        problem = self.watch.problem() if self.watch else None
        if problem and problem.stop_signal:
            self.stop_signal = problem.stop_signal
        elif problem and not problem.gone:  # the trainer here may be about to say why itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                supervisor.wait(OWN_WORD_SECONDS)
        if self.watch and self.stop_signal is not None:
            self.watch.tell_over()
        said = supervisor.poll()  # ended by itself
        status = self._stop(supervisor)
        if said == 0:
            return 0, None  # all steps are done, whatever has happened since
        if said is None and problem:
            return 1, problem  # not the signal that it was ended with
        if said and self.watch and self.stop_signal is None and not (problem and problem.gone):
            problem = self.watch.who_is_gone() or (replace(problem, echo=True) if problem else None)
        return status, problem

    def _stop(self, supervisor: subprocess.Popen) -> int:
        """Have the supervisor end what is left, and return its exit status."""
        try:
            supervisor.communicate(STOP)
        except BrokenPipeError:  # it has ended already
            supervisor.wait()
        return supervisor.returncode

    def _on_signal(self, number: int, frame: object) -> None:
        first, self.stop_signal = self.stop_signal is None, number
        if first:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # the terminal may be gone
                print(
                    "\nstopping: ending the trainer and all its processes (a few seconds)", file=sys.stderr, flush=True
                )

    def _follow(self, supervisor: subprocess.Popen, terminal: Terminal, log: Tail) -> None:
        """Show the log and the metrics until the trainer ends or a signal asks to stop."""
        metrics = MetricsTail(self.metrics)
        running = True
        while running and self.stop_signal is None:
            running = supervisor.poll() is None and not (self.watch and self.watch.problem())
            terminal.look(log, metrics)
            if running:
                time.sleep(POLL_SECONDS)

    # ---- the end -----------------------------------------------------------------------------------------

    def _close(self, status: int, terminal: Terminal, problem: Problem | None = None) -> int:
        """Export, draw, write the last state, say how it ended, here and on other machines."""
        stage = os.environ.get("STAGE")  # of self-play, which says itself how to resume
        resume = resume_command(self.run_dir, self.environment["ALGORITHM"])
        well = self.stop_signal is None and status == 0 and problem is None
        exported = well and self._finish_model(terminal)
        early = read_early_stop(self.run_dir) if exported else None
        if early:
            state, reason = "stopped", f"step {early['step']}: {early['reason']}"
        elif exported:
            state, reason = "finished", None
        elif self.stop_signal is not None:
            status, state, reason = 128 + self.stop_signal, "stopped", signal.Signals(self.stop_signal).name
            if not stage:
                terminal.stopped(resume)
        else:
            status = status if status > 0 else 1
            state, reason = "failed", terminal.failed(status, problem)
        update_run(self.run_dir, state=state, reason=reason, ended=now(), exit_status=status)
        if self.cluster or self.joined:
            run_secrets.discard(self.run_dir, self.environment["CLUSTER_LAUNCH"])
        if self.watch:
            found = latest_checkpoint(self.run_dir) if state in ("failed", "stopped") else None
            how_to_resume = (
                f"; to resume from the checkpoint of step {found[0]}, on all machines: {resume}" if found else ""
            )
            self.watch.tell_end(status, f"{reason}{how_to_resume}" if reason else "")
        self._tell(state, early, terminal)
        draw(self.run_dir, terminal.console)
        send_files(self.run_dir, self._process_environment(), terminal.console)
        if exported:
            terminal.summary(reason, show_files=not stage)
        elif state == "failed" and not stage and latest_checkpoint(self.run_dir):
            terminal.stopped(resume)
        for problem in self.notifier.close():
            terminal.console.print(f"[yellow]warning:[/yellow] {problem}")
        return status

    def _tell(self, state: str, early: dict[str, Any] | None, terminal: Terminal) -> None:
        """A message of how it ended; none of a run that a person has stopped, nor of a stage that went well."""
        if state == "failed":
            self.notifier.tell(f"failed:{self.number}", "failed", terminal.failure, "error")
        elif early and not os.environ.get("STAGE"):
            words = f"step {early['step']}: {early['reason']}\n{terminal.outcome()}"
            self.notifier.tell(f"stopped early:{self.number}", "stopped early", words)
        elif state == "finished" and not os.environ.get("STAGE"):
            self.notifier.tell(f"finished:{self.number}", "finished", terminal.outcome())

    def _finish_model(self, terminal: Terminal) -> bool:
        """See that ``model/`` is the newest checkpoint's; RL trainers write it themselves at their last step."""
        found = latest_checkpoint(self.run_dir)
        step, total = found[0] if found else 0, int(self.knobs["TOTAL_STEPS"])
        early = read_early_stop(self.run_dir)
        total = early["step"] if early else total
        if step < total:
            with (self.run_dir / LOG_FILE).open("a", encoding="utf-8") as log:
                log.write(f"RuntimeError: the trainer ended with its last checkpoint at step {step} of {total}\n")
            return False
        if is_current(checkpoint_at(found[1]), self.run_dir / "model"):
            return True
        terminal.phase("Exporting the model")
        command = [sys.executable, "-m", "common.checkpoints", "merge", str(self.run_dir)]
        exporter = self._start(command)
        while exporter.poll() is None and self.stop_signal is None:
            time.sleep(POLL_SECONDS)
        return self._stop(exporter) == 0


def quiet() -> dict[str, str]:
    """What keeps libraries from talking too much, on every machine."""
    return {"TOKENIZERS_PARALLELISM": "false", "TQ_LOGGING_LEVEL": os.environ.get("TQ_LOGGING_LEVEL", "ERROR")}


def for_workers(run_dir: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of a run that joins a Ray: where its secrets are, and the names of what its workers are given.

    Only what a run and the user have set, by name: no key of a service is among them.
    """
    launch = secrets.token_hex(8)
    own = {"CLUSTER_LAUNCH": launch, **run_secrets.keys_file(run_dir, launch)}
    passed = {*COMMAND_VARIABLES, *quiet(), *own, "ATTEMPT", "VERL_FILE_LOGGER_PATH", "TENSORBOARD_DIR", "WANDB_DIR"}
    passed |= {"WANDB_RUN_ID", "WANDB_RESUME", *TRACKERS_PASSED_ON}
    passed -= {"RAY_ADDRESS", *(name for name in TRACKERS_PASSED_ON if "@" in environment.get(name, ""))}  # user:key@
    found = sorted(name for name in environment | own if name in passed or name.startswith(PASSED_ON))
    return {**own, "WORKER_ENV": ",".join(found)}


def process_environment(environment: Mapping[str, str], knobs: Mapping[str, str]) -> dict[str, str]:
    """The environment of trainer processes: knobs and arguments that are in their command already are left out."""
    in_command = (set(knobs) | set(names(SCRIPT))) - set(PROCESS_KNOBS)
    if environment.get("RAY_ADDRESS") == "local":
        in_command |= {RAY_JOB}
    kept = {name: value for name, value in environment.items() if name not in in_command}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def ray_on_loopback(knobs: Mapping[str, str]) -> dict[str, str]:
    """On one machine no port of Ray is open to the network: some, those for its metrics, ask for no token.

    The variable makes 127.0.0.1 the node's address (`ray._private.services`); ray.init's own argument for that is
    turned back into the machine's address.
    """
    several = knobs.get("NNODES", os.environ.get("NNODES", "1")) not in ("", "1")
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    return {} if several or name in os.environ else {name: "0"}


def script_head() -> list[str]:
    """How every command.sh begins."""
    return [
        "#!/usr/bin/env bash",
        "# Written by the launcher: what it ran. Runs from any folder.",
        "set -euo pipefail",
        f"cd {shlex.quote(str(ROOT))}",
    ]


def draw(run_dir: Path, console: Console) -> None:
    """Write the charts; a run is not lost because a picture could not be drawn, but it is said."""
    from common.plots import plot_run

    try:
        plot_run(run_dir)
    except Exception as error:
        console.print(f"[yellow]warning:[/yellow] the charts were not drawn: {escape(str(error))}")


def send_files(run_dir: Path, environment: Mapping[str, str], console: Console) -> None:
    """Send charts and comparison to the run's trackers; a tracker that is away holds nothing up for long."""
    if not (run_dir / TRACKERS_FILE).is_file():
        return
    command = [sys.executable, "-m", "common.trackers", str(run_dir)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=FILES_SECONDS)
        said = [line for line in done.stdout.splitlines() if line.startswith("Tracker ")] if done.returncode else []
    except subprocess.TimeoutExpired:
        said = [f"the trackers took longer than {FILES_SECONDS:.0f} s for charts and comparison"]
    for line in said:
        console.print(f"[yellow]warning:[/yellow] {escape(line)}")


def describe_run(run_dir: Path, knobs: Mapping[str, str], algorithm: str, attempt: int) -> dict[str, Any]:
    """What run.json says of a run that this process starts now."""
    return {
        "name": run_dir.name,
        "job_uuid": os.environ.get("JOB_UUID"),  # of the platform's job, None for a run that a person has started
        "job_launch": os.environ.get("JOB_LAUNCH"),  # which start of that job this is
        "algorithm": algorithm,
        "model": knobs["MODEL_PATH"],
        "model_name": short_model_name(knobs["MODEL_PATH"]),
        "data": {"train": knobs["TRAIN_DATA"].split(","), "validation": knobs["VAL_DATA"].split(",")},
        "state": "running",
        "reason": None,
        "attempt": attempt,
        "pid": os.getpid(),
        "pid_started": psutil.Process().create_time(),
        "host": os.uname().nodename,
        "started": read_run(run_dir).get("started") or now(),
        "ended": None,
        "exit_status": None,
        "versions": {"kit": __version__, **{name: found for name in VERSIONS if (found := _version(name))}},
        "git_commit": _git_commit(),
        "machines": json.loads(os.environ.get("CLUSTER_MACHINES") or "[]"),  # those of this attempt, where several
        "knobs": dict(knobs),
    }


def listen(handler: Callable[[int, Any], None]) -> None:
    """Take the signals that end a run; one that is ignored already, as nohup does with SIGHUP, stays ignored."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def now() -> str:
    """The time as run.json has it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10)
    return done.stdout.strip() if done.returncode == 0 else None
