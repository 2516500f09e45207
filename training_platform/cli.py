"""The commands next to `serve`: what the API does, from a terminal."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from common.small_files import read_yaml
from training_platform.api import serve
from training_platform.api.tokens import ROLES, Tokens
from training_platform.client import Job, PlatformClient, PlatformError
from training_platform.sweep import jobs_of

SHOWN = ("step", "reward_mean", "val_score", "loss", "policy_loss", "kl_divergence", "entropy", "step_time")


def add_commands(commands: Any) -> None:
    """Adds them to the parser; each has a function of its name here."""
    submit = commands.add_parser("submit", help="create a job: submit job.yaml, submit algorithm=grpo num_gpus=0")
    submit.add_argument("fields", nargs="+", metavar="FILE or FIELD=VALUE", help="KNOB=VALUE too, ROLLOUT_N=8")
    submit.add_argument("--hold", action="store_true", help="create it and do not queue it")
    check = commands.add_parser("check", help="the preflight and the plan of a job that is not made")
    check.add_argument("fields", nargs="+", metavar="FILE or FIELD=VALUE")
    listed = commands.add_parser("list", help="jobs and runs, newest first")
    listed.add_argument("--state")
    listed.add_argument("--limit", type=int, default=50)
    for name, about in (("show", "all about a job, as JSON"), ("start", "queue a job"), ("resume", "queue it again")):
        commands.add_parser(name, help=about).add_argument("job")
    stop = commands.add_parser("stop", help="stop a job; its run leaves a checkpoint")
    stop.add_argument("job")
    stop.add_argument("--force", action="store_true", help="kill it when it has not ended after 30 s")
    restart = commands.add_parser("restart", help="resume from the newest checkpoint, a step or the start")
    restart.add_argument("job")
    restart.add_argument("--from", dest="start_at", default="latest", help="latest, scratch or a step")
    restart.add_argument(
        "--set", dest="knobs", action="append", default=[], metavar="KNOB=VALUE", help="may be repeated"
    )
    delete = commands.add_parser("delete", help="forget a job")
    delete.add_argument("job")
    delete.add_argument("--files", action="store_true", help="remove its run directory too")
    logs = commands.add_parser("logs", help="print the log of a job")
    logs.add_argument("job")
    logs.add_argument("-f", "--follow", action="store_true", help="until the job ends")
    metrics = commands.add_parser("metrics", help="the last steps of a job")
    metrics.add_argument("job")
    metrics.add_argument("--last", type=int, default=20)
    commands.add_parser("checkpoints", help="the checkpoints of a job").add_argument("job")
    commands.add_parser("queue", help="who has which slots, and who waits")
    commands.add_parser("sweep", help="make many jobs of one file").add_argument("file", type=Path)
    token = commands.add_parser("token", help="who may use the server from elsewhere")
    token.add_argument("action", choices=("add", "list", "remove"))
    token.add_argument("name", nargs="?")
    token.add_argument("--role", default="read", help=" or ".join(ROLES))
    serve.add_folders(token)


def run(options: argparse.Namespace) -> int:
    """Runs a command; returns the exit status."""
    try:
        if options.command == "token":
            return token(options)
        with PlatformClient(options.url) as platform:
            return COMMANDS[options.command](platform, options) or 0
    except PlatformError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def fields_of(parts: list[str]) -> dict[str, Any]:
    """The request that files and ``field=value`` mean; the later one wins, names in capitals are knobs.

    Raises:
        ValueError: If a file holds no mapping.
    """
    found: dict[str, Any] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            read = read_yaml(part)
            if not isinstance(read, dict):
                raise ValueError(f"{part}: holds no fields of a job, as algorithm: grpo")
            found |= read
        elif name.isupper():
            found["knobs"] = {**found.get("knobs", {}), name: value}
        else:
            found[name] = yaml.safe_load(value)
    return found


def submit(platform: PlatformClient, options: argparse.Namespace) -> None:
    """Creates a job."""
    _say(platform.submit(**{"start": not options.hold, **fields_of(options.fields)}))


def check(platform: PlatformClient, options: argparse.Namespace) -> int:
    """The preflight's findings; the status is 0 when the job can start."""
    found = platform.check(**fields_of(options.fields))
    for kind in ("error", "warning"):
        for text in found[f"{kind}s"]:
            print(f"{kind}: {text}")
    print("it can start" if found["ok"] else "it cannot start")
    return 0 if found["ok"] else 2


def listed(platform: PlatformClient, options: argparse.Namespace) -> None:
    """A table of jobs."""
    query = {"limit": options.limit, **({"state": options.state} if options.state else {})}
    rows = [
        [job.state, job.name, job.data["algorithm"], job.data["owner"], str(job.data["priority"]), job.uuid]
        for job in platform.jobs(**query)
    ]
    _table(("state", "name", "algorithm", "owner", "priority", "id"), rows)


def show(platform: PlatformClient, options: argparse.Namespace) -> None:
    """A job as the API has it."""
    print(json.dumps(platform.job(options.job).data, indent=2, ensure_ascii=False))


def start(platform: PlatformClient, options: argparse.Namespace) -> None:
    """Queues a job."""
    _say(platform.job(options.job).start())


def stop(platform: PlatformClient, options: argparse.Namespace) -> None:
    """Stops a job."""
    _say(platform.job(options.job).stop(options.force))


def restart(platform: PlatformClient, options: argparse.Namespace) -> None:
    """Resumes a job."""
    at = int(options.start_at) if options.start_at.isdecimal() else options.start_at
    _say(platform.job(options.job).restart(at, **fields_of(options.knobs).get("knobs", {})))


def delete(platform: PlatformClient, options: argparse.Namespace) -> None:
    """Forgets a job."""
    platform.job(options.job).delete(options.files)


def logs(platform: PlatformClient, options: argparse.Namespace) -> int:
    """Prints the log; of a run that never began what its train.sh has said. Followed, the status is that of the job."""
    job = platform.job(options.job)
    if options.follow:
        for message in job.follow(["log", "state"]):
            if message.type == "log":
                print(message.data["text"], end="", flush=True)
        if job.refresh().data["reason_code"] == "preflight":
            print(job.log(source="launch")["text"], end="")
        return 0 if job.state == "finished" else 1
    source = "train" if job.data["run_dir"] else "launch"
    place = 0
    while (part := job.log(place, 1 << 20, source))["next_offset"] > place:
        print(part["text"], end="")
        place = part["next_offset"]
    return 0


def metrics(platform: PlatformClient, options: argparse.Namespace) -> None:
    """A table of the last steps."""
    rows = platform.job(options.job).metrics(last=options.last)
    names = [name for name in SHOWN if any(name in row for row in rows)]
    cells = [[f"{row[name]:.5g}" if row.get(name) is not None else "" for name in names] for row in rows]
    _table(names, cells)


def checkpoints(platform: PlatformClient, options: argparse.Namespace) -> None:
    """A table of checkpoints."""
    rows = []
    for one in platform.job(options.job).checkpoints():
        scores = ", ".join(
            f"{name} {value:.4g}" for name, value in (one["eval_results"] or {}).items() if value is not None
        )
        marks = ("best " if one["best"] else "") + "; ".join(one["problems"])
        rows.append([str(one["step"]), scores, marks, one["path"]])
    _table(("step", "scores", "", "path"), rows)


def queue(platform: PlatformClient, options: argparse.Namespace) -> None:
    """Who has what, and who waits."""
    found = platform.queue()
    _table(("slot", "state", "who"), [[s["slot"], s["state"], s["job"] or s["holder"] or ""] for s in found["slots"]])
    _table(("waits", "priority", "id"), [[j["name"], str(j["priority"]), j["uuid"]] for j in found["queued"]])


def sweep(platform: PlatformClient, options: argparse.Namespace) -> None:
    """Makes the jobs of a sweep; all of them are looked at before the first is queued."""
    made = [platform.submit(**{**fields, "start": False}) for fields in jobs_of(read_yaml(options.file))]
    for job in made:
        _say(job.start())


def token(options: argparse.Namespace) -> int:
    """Adds, lists or removes tokens; a running server sees it at once."""
    tokens = Tokens(options.database or options.outputs.absolute() / ".platform")
    if options.action == "list":
        _table(("name", "role", "made"), [[name, one["role"], one["created_at"]] for name, one in tokens.all().items()])
    elif not options.name:
        raise ValueError(f"token {options.action} NAME")
    elif options.action == "add":
        print(tokens.add(options.name, options.role))
        print("it is shown this once; give it as Authorization: Bearer TOKEN, or in PLATFORM_TOKEN", file=sys.stderr)
    else:
        tokens.remove(options.name)
    return 0


def _say(job: Job) -> None:
    print(f"{job.uuid}  {job.state}  {job.name}")
    for text in job.data["warnings"]:
        print(f"note: {text}", file=sys.stderr)


def _table(heads: Any, rows: list[list[str]]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in heads:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(table, soft_wrap=not console.is_terminal)


COMMANDS = {
    "submit": submit,
    "check": check,
    "list": listed,
    "show": show,
    "start": start,
    "resume": start,
    "stop": stop,
    "restart": restart,
    "delete": delete,
    "logs": logs,
    "metrics": metrics,
    "checkpoints": checkpoints,
    "queue": queue,
    "sweep": sweep,
}
