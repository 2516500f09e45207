"""What a person sees of a run: a line per start-up phase, one per step, warnings, and how it ended."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from rich.markup import escape

from common.checkpoints.integrity import latest_checkpoint
from common.cluster.watch import Problem
from common.console import QuietConsole, without_controls
from common.metrics.names import HEADLINES, Metric, check_health, friendly
from common.metrics.progress_line import format_duration, step_line
from common.notify.notifier import Notifier
from common.run_dir import LOG_FILE, read_metrics, read_run
from common.runner.failures import diagnose
from common.tail import MetricsTail, Tail

# What verl's trainers print when a phase begins, and how that reads in plain words.
PHASES: tuple[tuple[str, str], ...] = (
    (r"Started a local Ray instance", "Ray is up; verl starts its trainer"),
    (r"train and validate dataloader initialized, (.*)", "Data loaded: {0}"),
    (r"actor and ref model engine initialized", "Model loaded for training and as reference"),
    (r"LLMServerManager: \[", "Rollout engine is up"),
    (r"all initialize finished, ready to fit", "Ready; validating the model as it is"),
    (r"Total steps: \d+, num_warmup_steps", "Model and optimiser are ready"),
    (r"Found latest checkpoint: \S*global_step_(\d+)", "Resuming from the checkpoint of step {0}"),
    (r"Resuming from \S*global_step_(\d+)", "Resuming from the checkpoint of step {0}"),
    (r"Tracker (\w+): (.*)", "Tracker {0}: {1}"),
)
# At the start of a line, behind Ray's prefix: an answer of the model that has these words is not verl's word.
TOTAL_STEPS = re.compile(
    r"(?:\x1b\[\d{1,3}m)?(?:\([^()]{1,80} pid=\d{1,10}[^()]{0,60}\))?(?:\x1b\[0m)? ?"
    r"(?:INFO:[^()]{1,60}:)?(?:Total training steps: (\d{1,12})(?!\d)|Total steps: (\d{1,12}), num_warmup_steps)"
)
VALIDATIONS = tuple(metric for metric in HEADLINES if metric.validates)
LOWER = {metric.short for metric in VALIDATIONS if metric.better == "lower"}
QUICK_STEP = 1.0  # seconds; of steps that are quicker only some get a line
LONGEST_LINE = 4096  # characters looked at; a phase is said in fewer
HISTORY = 40  # steps that the health rules look back on


class Terminal:
    """Prints the progress of one attempt.

    Args:
        run_dir: Its run directory.
        verbose: Print the raw log too.
        max_response_length: ``MAX_RESPONSE_LENGTH`` in tokens, None for SFT.
        notifier: Told of warnings and best scores, None for nobody.
    """

    def __init__(self, run_dir: Path, verbose: bool, max_response_length: int | None, notifier: Notifier | None = None):
        self.console = QuietConsole(highlight=False, soft_wrap=True)
        self.run_dir, self.notifier = run_dir, notifier
        self.failure = ""  # what `failed` has printed, for a message
        self.verbose = verbose
        self.max_response_length = max_response_length
        self.started = time.monotonic()
        self.total_steps: int | None = None
        self.seen: set[str] = set()
        self.history: list[dict[str, float]] = []
        self.first_rewards: list[float] = []
        self.validations: list[tuple[int, str, float]] = []
        self.warned: set[str] = set()
        self.arrivals: deque[float] = deque(maxlen=11)
        self.last_printed = 0.0
        self.said: set[str] = set()
        self.bad_lines = 0  # of the metrics
        self.status = self.console.status("starting", spinner="dots") if self.console.is_terminal else None
        if self.status and not verbose:
            self.status.start()

    def phase(self, text: str) -> None:
        """Print a phase with the time since the start."""
        self.console.print(f"[dim]{format_duration(time.monotonic() - self.started):>6}[/dim]  {escape(text)}")
        self._set_status(text)

    def _set_status(self, text: str) -> None:
        if self.status:
            self.status.update(escape(text))

    def look(self, log: Tail, metrics: MetricsTail) -> None:
        """Show what is new in the log and in the metrics. Whatever is wrong with them, the run continues."""
        for show in (lambda: self.log_lines(log.lines()), lambda: self.records(metrics.records())):
            try:
                show()
            except Exception as error:
                self._say_once("view", f"a part of the output cannot be shown ({type(error).__name__}: {error})")
        if metrics.bad:
            words = "a line of the metrics is not a record and was skipped; more are counted at the end"
            self._say_once("metrics", words)
            self.bad_lines = metrics.bad

    def _say_once(self, kind: str, text: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            self.console.print(f"[yellow]warning:[/yellow] {escape(text)}")

    def log_lines(self, lines: list[str]) -> None:
        """Look through new lines of the log for phases."""
        for line in lines:
            if self.verbose:
                self.console.out(without_controls(line), highlight=False)
            line = line[:LONGEST_LINE]
            # The trainer says both before the model says anything: what comes later may be an answer with its words.
            if self.total_steps is None and (match := TOTAL_STEPS.match(line)):
                self.total_steps = int(match[1] or match[2])
            for pattern, text in () if self.arrivals or self.validations else PHASES:
                match = pattern not in self.seen and re.search(pattern, line)
                if match:
                    self.seen.add(pattern)
                    self.phase(text.format(*match.groups()))

    def records(self, records: list[dict[str, Any]]) -> None:
        """Print new metrics."""
        for record in records:
            values = friendly(record["data"])
            if any(name in values for name in ("policy_loss", "loss")):
                self._step(record["step"], values)
            elif values:
                self._validation(record["step"], values)
        self._warn()

    def _step(self, step: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        self.arrivals.append(now)
        self.history = [*self.history, values][-HISTORY:]
        if "reward_mean" in values:
            self.first_rewards = (self.first_rewards + [values["reward_mean"]])[:3]
        self._note_validation(step, values)
        pace = (now - self.arrivals[0]) / (len(self.arrivals) - 1) if len(self.arrivals) > 1 else None
        left = None if pace is None or self.total_steps is None else pace * (self.total_steps - step)
        line = step_line(step, self.total_steps, values, values.get("step_time", pace), left, markup=True)
        self._set_status(f"step {step} of {self.total_steps or '?'}")
        last = step == self.total_steps
        if now - self.last_printed >= QUICK_STEP or last or "val_score" in values:
            self.last_printed = now
            self.console.print(line)

    def _validation(self, step: int, values: dict[str, float]) -> None:
        self._note_validation(step, values)
        if self.history:  # SFT reports the loss of a step and of its validation apart; the rules want one history
            self.history[-1] = {**self.history[-1], **values}
        shown = " | ".join(f"{words} {value:.4g}" for _, words, value in self.validations[-1:])
        self.console.print(f"[bold]{'Before training' if step == 0 else f'Step {step}'}[/bold] | {shown}")

    def _note_validation(self, step: int, values: dict[str, float]) -> None:
        # Of a preference run, how often the chosen answer wins says more than the loss.
        for metric in VALIDATIONS:
            if metric.name in values:
                self.validations.append((step, metric.short, values[metric.name]))
                if self.notifier and self.notifier.on:
                    self._tell_best(metric, step, values[metric.name])
                return

    def _tell_best(self, metric: Metric, step: int, score: float) -> None:
        """A message of a score that is better than all of the run before it, in any attempt."""
        named = ((record["step"], friendly(record["data"])) for record in read_metrics(self.run_dir))
        before = [values[metric.name] for at, values in named if at < step and metric.name in values]
        pick, better = (min, score.__lt__) if metric.better == "lower" else (max, score.__gt__)
        if before and better(pick(before)):
            self.notifier.best(step, metric.short, score)

    def _warn(self) -> None:
        if not self.history:
            return
        warnings = check_health(self.history, self.max_response_length)
        for warning in warnings:
            if warning.name not in self.warned:
                self.console.print(f"[yellow]warning:[/yellow] {escape(str(warning))}")
                if self.notifier:
                    self.notifier.warning(warning.name, str(warning))
        self.warned = {warning.name for warning in warnings}

    # ---- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the moving line."""
        if self.status:
            self.status.stop()

    def outcome(self) -> str:
        """Before, after and best of a run and how long it took, for a message."""
        lines = [f"{name} {change}" + (f" {note}" if "best" in note else "") for name, change, note in self._figures()]
        return "\n".join([*lines, f"{(time.monotonic() - self.started) / 60:.1f} minutes"])

    def _figures(self) -> list[tuple[str, str, str]]:
        """What a run is judged by: its name, its values before and after, and a note in brackets."""
        found = []
        rewards = [values["reward_mean"] for values in self.history if "reward_mean" in values][-3:]
        if rewards:
            first, last = (sum(part) / len(part) for part in (self.first_rewards, rewards))
            found.append(("mean reward", f"{first:.3f} -> {last:.3f}", "(first and last 3 steps)"))
        if self.validations:
            pick = min if self.validations[-1][1] in LOWER else max
            best = pick(self.validations, key=lambda entry: entry[2])
            _, words, last = self.validations[-1]
            if len(self.validations) == 1:  # no "before" to compare with
                found.append((words, f"{last:.3f}", f"(the only one, at step {best[0]})"))
            else:
                change = f"{self.validations[0][2]:.3f} -> {last:.3f}"
                found.append((words, change, f"(best {best[2]:.3f} at step {best[0]})"))
        return found

    def summary(self, stopped: str | None = None, show_files: bool = True) -> None:
        """Print what a run has reached and what to do next.

        Args:
            stopped: Why it ended before its last step, None when it did not.
            show_files: Name the model, the curves and what to do next.
        """
        seconds = format_duration(time.monotonic() - self.started)
        steps = f"{self.total_steps} steps, " if self.total_steps else ""
        if stopped:
            self.console.print(f"\n[bold yellow]Stopped early[/bold yellow] at {escape(stopped)}")
        else:
            self.console.print(f"\n[bold green]Finished[/bold green] in {seconds} ({steps}run {self.run_dir.name})")
        for name, change, note in self._figures():
            self.console.print(f"  {name:<19} {change}  {note}")
        if self.bad_lines:
            self.console.print(f"  {'metrics':<19} {self.bad_lines} lines were not records and were skipped")
        if not show_files:
            return
        folder = _relative(self.run_dir)
        self.console.print(f"  {'model':<19} {folder}/model")
        self.console.print(f"  {'curves':<19} {folder}/charts/metrics.png")
        for line in next_steps(self.run_dir):
            self.console.print(escape(line))

    def failed(self, status: int, elsewhere: Problem | None = None) -> str:
        """Print why a run failed; returns the cause.

        Args:
            status: Exit status.
            elsewhere: What was wrong on another machine; unless it is an echo, the log here tells symptoms only.
        """
        log = self.run_dir / LOG_FILE
        if elsewhere and not elsewhere.echo:
            self.console.print(f"\n[bold red]Failed[/bold red] with exit status {status}: {escape(elsewhere.text)}")
            self.failure = elsewhere.text
            self.console.print(f"  logs: {_relative(log)}; of the other machines: train.node<rank>.log next to it")
            return elsewhere.text
        diagnosis = diagnose(log)
        where = f"{_relative(log)}" + (f", line {diagnosis.line}" if diagnosis.line else "")
        self.console.print(f"\n[bold red]Failed[/bold red] with exit status {status}: {escape(diagnosis.cause)}")
        tried = self._numbers(diagnosis.cause)
        parts = (diagnosis.cause, diagnosis.fix and f"fix: {diagnosis.fix}", *(f"try: {text}" for text in tried))
        self.failure = "\n".join([*filter(None, parts), f"log: {where}"])
        if diagnosis.fix:
            self.console.print(f"  fix: {escape(diagnosis.fix)}")
        for text in tried:
            self.console.print(f"  try: {escape(text)}")
        self.console.print(f"  log: {where}")
        if elsewhere:
            self.console.print(f"  also: {escape(elsewhere.text)}")
        return diagnosis.cause

    def _numbers(self, cause: str) -> list[str]:
        """Knobs with values to try, as the preflight has planned them for this failure."""
        tries = read_run(self.run_dir).get("numbers_to_try", {})
        return [text for start, texts in tries.items() if cause.startswith(start) for text in texts]

    def stopped(self, resume: str) -> None:
        """Print from where a run that was stopped can be resumed."""
        found = latest_checkpoint(self.run_dir)
        where = f"from the checkpoint of step {found[0]}" if found else "from the start (no checkpoint yet)"
        self.console.print(f"\n[bold yellow]Stopped.[/bold yellow] To resume {where}:\n  {resume}")
        if found:
            export = f"{program('python')} -m common.checkpoints merge {_relative(self.run_dir)}"
            self.console.print(f"For its model as it is now:\n  {export}")


def next_steps(run_dir: Path) -> list[str]:
    """What a person does next: compare the model with the one before (or use a reward model), and look at the page."""
    folder, run = _relative(run_dir), read_run(run_dir)
    models = (
        f"--model_path {shlex.quote(folder)} --compare {shlex.quote(run.get('knobs', {}).get('MODEL_PATH', 'demo'))}"
    )
    use = f"./test.sh {models} --batch --greedy --output_file {shlex.quote(f'{folder}/before_and_after.xlsx')}"
    if run.get("algorithm") == "reward_model":
        use = f"REWARD=model REWARD_MODEL_PATH={shlex.quote(f'{folder}/model')} ./ppo/train.sh"
    page = f"{program('python')} monitor/app.py --log_dir {shlex.quote(_relative(run_dir.parent))}"
    return [
        "Next:",
        f"  {use}",
        f"  {page}  # every curve and sample, on http://127.0.0.1:7860",
    ]


def program(name: str) -> str:
    """A program of this environment as a person would type it from the repository root."""
    path = Path(sys.executable).parent / name
    return _relative(path) if ".venv" in path.parts else name


def _relative(path: Path) -> str:
    """A path as a person would type it from the repository root."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
