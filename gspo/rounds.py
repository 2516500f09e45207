"""Rounds of self-play, started by gspo/train.sh once its knobs are resolved: ``python -m gspo.rounds [key=value ...]``.

A round is an RL stage (gspo/train.sh with one round) and a preference stage (dpo/train.sh on the pairs of the data and
those of the round's answers). Each stage is a separate run in ``<run>/round-<k>/<stage>``, so checks, checkpoints and
resuming are those of every run. The run itself holds the joined curve and the last model.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from common import machine_use, run_data
from common.cluster.board import leave
from common.cluster.names import launchers_of, machines_wanted
from common.cluster.watch import Watch, open_watch
from common.console import QuietConsole
from common.data.rollouts import dumped_texts
from common.files import write_atomically
from common.metrics.progress_line import format_duration
from common.notify.notifier import Notifier
from common.preflight.knobs import read_block
from common.run_dir import read_run, resume_command, update_run
from common.runner import processes
from common.runner.attempt import ROOT, describe_run, draw, listen, now, script_head
from common.runner.heartbeat import Heartbeat
from common.runner.terminal import next_steps
from gspo import harvest, split
from gspo.curve import JoinedCurve, scores
from gspo.follower import Follower, stage_key, stage_port
from gspo.stages import PREFERENCE, RL, Stage, stage_environment, stages_of

POLL_SECONDS = 0.3
STATUS_STOPPED = 128


class Rounds:
    """All stages of a run, one after the other.

    Args:
        run_dir: Of the run.
        knobs: As resolved.
        arguments: ``key=value`` arguments for verl, which go to the RL stages.
        watch: Of the launchers of several machines.
    """

    def __init__(self, run_dir: Path, knobs: dict[str, str], arguments: list[str], watch: Watch | None = None):
        self.watch, self.announced = watch, 0
        self.run_dir, self.knobs, self.arguments = run_dir, knobs, arguments
        self.stages = stages_of(int(knobs["SELF_PLAY_ROUNDS"]))
        self.console = QuietConsole(highlight=False, soft_wrap=True)
        self.curve = JoinedCurve(run_dir)
        self.stop_signal: int | None = None
        self.child: subprocess.Popen | None = None
        self.started = time.monotonic()

    def run(self) -> int:
        """Run the stages that are not done; returns the exit status for the shell."""
        done = self._open()
        listen(self._on_signal)
        heartbeat = Heartbeat(self.run_dir)
        if self.watch:
            machine_use.record(self.run_dir, self.watch.cluster.rank)
        try:
            status = self._run_stages(done)
        except Exception as error:  # the last state is always written
            update_run(
                self.run_dir, state="failed", reason=f"{type(error).__name__}: {error}", ended=now(), exit_status=1
            )
            raise
        finally:
            heartbeat.stop()
        return self._close(status, done)

    def _run_stages(self, done: dict[str, dict]) -> int:
        """Run what is not in ``done`` and note it there; returns the exit status."""
        status = 0
        for index, stage in enumerate(self.stages):
            if stage.name in done:
                continue
            status = self._run_stage(index, stage) if self.stop_signal is None else 0
            if self.stop_signal is not None:
                status = STATUS_STOPPED + self.stop_signal
            if status:
                break
            entry = {"name": stage.name, **asdict(stage), "state": "finished"}
            done[stage.name] = {**entry, **self.note, **scores(self._folder(stage))}
            update_run(self.run_dir, stages=list(done.values()))
            self._tidy(index)
            self.curve.rebuild([self._folder(one) for one in self.stages])
            draw(self.run_dir, self.console)
        return status

    # ---- the run's files ---------------------------------------------------------------------------------

    def _open(self) -> dict[str, dict]:
        """Make the run directory, or continue in it; returns the stages that are done."""
        before = read_run(self.run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        run_data.place(self.run_dir, os.environ)
        done = {entry["name"]: entry for entry in before.get("stages", [])}
        attempt = before.get("attempt", 0) + 1
        facts = describe_run(self.run_dir, self.knobs, "gspo", attempt)
        update_run(self.run_dir, **facts, stages=list(done.values()))
        write_atomically(self.run_dir / "command.sh", self.script(), executable=True)
        self._write_data()
        self.curve.rebuild([self._folder(stage) for stage in self.stages])
        return done

    def script(self) -> str:
        """The run as a script that does it again, or resumes it."""
        names = (name for name in read_block(ROOT / "gspo" / "train.sh") if self.knobs.get(name))
        exports = [f"export {name}={shlex.quote(self.knobs[name])}" for name in names]
        command = shlex.join(["exec", "./gspo/train.sh", *self.arguments])
        return "\n".join([*script_head(), *exports, command]) + "\n"

    def _write_data(self) -> None:
        """Sort the rows of the data into prompts and pairs."""
        for kind, knob in (("train", "TRAIN_DATA"), ("val", "VAL_DATA")):
            files = [Path(path) for path in self.knobs[knob].split(",")]
            split.write(split.prompts_of(files), self.run_dir / "data" / f"prompts.{kind}.parquet")
            pairs = split.pairs_of(files)
            if pairs:
                split.write(pairs, self.run_dir / "data" / f"pairs.{kind}.parquet")

    def _folder(self, stage: Stage) -> Path:
        return self.run_dir / stage.folder

    def _model_before(self, index: int) -> str:
        """The model that a stage starts from: that of the stage before, or of the run where more rounds were added."""
        for folder in (self.run_dir / stage.folder for stage in reversed(self.stages[:index])):
            if (folder / "model" / "config.json").is_file():
                return str(folder / "model")
        own = self.run_dir / "model"
        return str(own) if index and (own / "config.json").is_file() else self.knobs["MODEL_PATH"]

    # ---- one stage ---------------------------------------------------------------------------------------

    def _run_stage(self, index: int, stage: Stage) -> int:
        """Run a stage to its end; returns its exit status. One that was done but not noted is not run again."""
        self.note: dict[str, object] = {}
        title = f"Round {stage.round} of {self.knobs['SELF_PLAY_ROUNDS']}, {stage.kind} stage"
        data = {}
        if stage.kind == PREFERENCE:
            data = self._pairs(stage)
            if not data:
                self.console.print(f"\n[bold]{title}[/bold]: left out, there is no pair to learn from")
                self.note["state"] = "left out"
                return 0
        folder = self._folder(stage)
        if read_run(folder).get("state") == "finished" and (folder / "model" / "config.json").is_file():
            return 0
        self.console.print(f"\n[bold]{title}[/bold]: {escape(str(self.note.get('pairs', stage.words)))}")
        model = self._model_before(index)
        environment = stage_environment(stage, self.run_dir, self.knobs, model, data)
        arguments = self.arguments if stage.kind == RL else []
        if self.watch:
            environment |= stage_port(self.watch.cluster)
            self.watch.announce(stage_key(self.announced), "gspo" if stage.kind == RL else "dpo")
            self.announced += 1
        self.child = subprocess.Popen(
            [str(self.script_of(stage)), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            preexec_fn=processes.die_with_parent,
        )
        self.curve.begin(folder)
        while self.child.poll() is None:
            self.curve.follow()
            self._look_at_machines()
            time.sleep(POLL_SECONDS)
        self.curve.end()
        return self.child.returncode

    def _look_at_machines(self) -> None:
        """Stop where a person has stopped it on another machine; that one is gone is the stage's own to notice."""
        problem = self.watch.problem() if self.watch else None
        if problem and problem.stop_signal and self.stop_signal is None:
            self._on_signal(problem.stop_signal, None)

    def script_of(self, stage: Stage) -> Path:
        """The train.sh that a stage runs."""
        return ROOT / ("gspo" if stage.kind == RL else "dpo") / "train.sh"

    def _pairs(self, stage: Stage) -> dict[str, str]:
        """Write the pairs of a preference stage; returns the knobs that name them, empty when there are none."""
        files = [path for path in [self.run_dir / "data" / "pairs.train.parquet"] if path.is_file()]
        pairs = split.pairs_of(files)
        words = f"{len(pairs):,} pairs of the data"
        if self.knobs["HARVEST_PAIRS"] == "true":
            found = self._harvest(stage)
            pairs += found.pairs
            words += f", {found.words()} of this round's answers"
        self.note["pairs"] = words
        if not pairs:
            return {}
        folder = self.run_dir / f"round-{stage.round}" / "data"
        validation = self.run_dir / "data" / "pairs.val.parquet"
        if not validation.is_file():
            pairs, kept = split.held_out(pairs)
            validation = split.write(kept, folder / "pairs.val.parquet")
        return {"TRAIN_DATA": str(split.write(pairs, folder / "pairs.train.parquet")), "VAL_DATA": str(validation)}

    def _harvest(self, stage: Stage) -> harvest.Harvest:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.knobs["MODEL_PATH"], trust_remote_code=False)
        prompts = [row["prompt"] for row in split.rows_of([self.run_dir / "data" / "prompts.train.parquet"])]
        return harvest.harvest(
            self.run_dir / f"round-{stage.round}" / RL / "rollouts",
            dumped_texts(prompts, tokenizer),
            float(self.knobs["PAIR_MARGIN"]),
            tokenizer,
            int(self.knobs["MAX_RESPONSE_LENGTH"]),
        )

    def _tidy(self, index: int) -> None:
        """Keep the disk bounded: of the stages that are done only the last one's model stays."""
        for number, stage in enumerate(self.stages[: index + 1]):
            folder = self._folder(stage)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            newer = any((self._folder(later) / "model").is_dir() for later in self.stages[number + 1 : index + 1])
            if newer:
                shutil.rmtree(folder / "model", ignore_errors=True)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stop_signal = number
        if self.child and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)

    # ---- the end -----------------------------------------------------------------------------------------

    def _close(self, status: int, done: dict[str, dict]) -> int:
        """Put the model in its place, draw, write the last state, say how it ended."""
        folders = [self._folder(stage) for stage in self.stages]
        self.curve.rebuild(folders)
        if status == 0:
            state, reason = "finished", None
            self._keep_model()
        elif self.stop_signal is not None:
            state, reason = "stopped", signal.Signals(self.stop_signal).name
        else:
            failed = next(stage for stage in self.stages if stage.name not in done)
            cause = read_run(self._folder(failed)).get("reason") or "its knobs were refused"
            state, reason = "failed", f"{failed.name}: {cause}"
        update_run(self.run_dir, state=state, reason=reason, ended=now(), exit_status=status)
        if self.watch:
            self.watch.tell_end(status, reason or "")
        if state == "finished":  # a stage that fails says so itself
            notifier = Notifier(self.run_dir, os.environ, "gspo")
            minutes = f"{len(done)} stages, {(time.monotonic() - self.started) / 60:.1f} minutes"
            notifier.tell(f"finished:{read_run(self.run_dir).get('attempt', 1)}", "finished", minutes)
            notifier.close()
        draw(self.run_dir, self.console)
        self._say(state, done)
        return status

    def _keep_model(self) -> None:
        """Move the last stage's model to the run's own ``model/``."""
        from common.checkpoints.merge import replace_folder

        models = [self._folder(stage) / "model" for stage in self.stages]
        last = [model for model in models if (model / "config.json").is_file()]
        if last:
            replace_folder(last[-1], self.run_dir / "model")

    def _say(self, state: str, done: dict[str, dict]) -> None:
        shown = os.path.relpath(self.run_dir, ROOT)
        if state != "finished":
            self.console.print(
                f"\n[bold yellow]{state.capitalize()}.[/bold yellow] To resume at the stage that was cut:"
            )
            self.console.print(f"  {resume_command(self.run_dir, 'gspo')}")
            return
        seconds = format_duration(time.monotonic() - self.started)
        self.console.print(f"\n[bold green]Finished[/bold green] in {seconds} (run {self.run_dir.name})")
        for entry in done.values():
            if "first" in entry:
                self.console.print(
                    f"  round {entry['round']}, {entry['kind']:<11} {entry['measure']} "
                    f"{entry['first']:.3f} -> {entry['last']:.3f}"
                )
        self.console.print(f"  model   {shown}/model\n  curves  {shown}/charts/metrics.png")
        for line in next_steps(self.run_dir):
            self.console.print(escape(line))


def main() -> int:
    """Run the rounds that gspo/train.sh has prepared."""
    run_dir, knobs = Path(os.environ["RUN_DIR"]), json.loads(os.environ["KNOBS_JSON"])
    cluster = launchers_of(os.environ)
    if cluster and cluster.rank:
        return Follower(cluster, sys.argv[1:], os.environ).run()
    watch = open_watch(cluster, os.environ) if cluster else None
    return Rounds(run_dir, knobs, sys.argv[1:], watch).run()


if __name__ == "__main__":
    (leave if machines_wanted(os.environ) > 1 else sys.exit)(main())
