"""Stands in for a trainer's launcher: makes the files of a run, waits, ends as it is told. Run by a train.sh.

The knob WANDB_PROJECT tells it what to do: ``seconds=0.5,end=finish``; WANDB_ENTITY is a file to which it appends a
line when it begins and one when it ends.
"""

import json
import os
import signal
import sys
import time


def started():
    """Seconds since 1970 at which this process began, from /proc as psutil has it."""
    ticks = float(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
    boot = next(float(line.split()[1]) for line in open("/proc/stat") if line.startswith("btime"))
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def write(path, content):
    with open(path + ".new", "w") as stream:
        json.dump(content, stream)
    os.rename(path + ".new", path)


def note(word):
    if os.environ.get("WANDB_ENTITY"):
        with open(os.environ["WANDB_ENTITY"], "a") as stream:
            where = f"{os.environ['DEVICE']} {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}"
            stream.write(f"{word} {os.environ['EXPERIMENT_NAME']} {where}\n")


def main():
    told = dict(part.split("=") for part in os.environ["WANDB_PROJECT"].split(",") if "=" in part)
    if told.get("end") == "preflight":
        print("error: MODEL_PATH=/nowhere: no such folder; give a folder or an id", file=sys.stderr)
        return 2
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    note("begin")
    folder = os.path.join(os.environ["OUTPUTS_DIR"], os.environ["EXPERIMENT_NAME"])
    os.makedirs(folder, exist_ok=True)
    run = {
        "name": os.environ["EXPERIMENT_NAME"],
        "job_uuid": os.environ["JOB_UUID"],
        "job_launch": os.environ["JOB_LAUNCH"],
        "algorithm": "grpo",
        "model": os.environ["MODEL_PATH"],
        "model_name": "demo",
        "state": "running",
        "reason": None,
        "pid": os.getpid(),
        "pid_started": started(),
        "host": os.uname().nodename,
        "started": "2026-11-27T12:00:00+00:00",
        "knobs": {"TOTAL_STEPS": "4", "MODEL_PATH": os.environ["MODEL_PATH"]},
    }
    write(os.path.join(folder, "run.json"), run)
    with open(os.path.join(folder, "train.log"), "a") as log:
        log.write("# attempt 1, now: stand-in\nüben\n")
    seconds, steps = float(told.get("seconds", 0)), int(told.get("steps", 3))
    with open(os.path.join(folder, "metrics.jsonl"), "a", buffering=1) as metrics:
        for step in range(1, steps + 1):
            data = {"critic/score/mean": 0.1 * step, "actor/pg_loss": 0.5 - 0.1 * step, "actor/entropy": None}
            if step % 2 == 0:
                data["val-core/gsm8k/acc/mean@1"] = 0.25 * step
            metrics.write(json.dumps({"step": step, "data": data}) + "\n")
            end = time.time() + seconds / steps
            while time.time() < end and not stopped:
                time.sleep(0.01)
    state = "stopped" if stopped else {"fail": "failed"}.get(told.get("end", ""), "finished")
    reason = {"stopped": "SIGTERM", "failed": "CUDA out of memory"}.get(state)
    if told.get("end") == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    write(os.path.join(folder, "run.json"), {**run, "state": state, "reason": reason, "exit_status": 0})
    note("end")
    return 0


sys.exit(main())
