"""Runs over two machines made of namespaces: ``python -m tests.two_machines [CHECK ...]``, as root.

``tests/namespaces.py`` makes the machines. ``.ci/nightly`` runs all of it, about an hour.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from common.checkpoints.integrity import latest_checkpoint
from common.checkpoints.layout import checkpoints_of
from common.run_dir import read_metrics
from tests.namespaces import ADDRESSES, SHARED, Machines

FEW = {"TOTAL_STEPS": 2, "SAVE_FREQ": 1, "TEST_FREQ": 2, "BATCH_SIZE": 8}
LONG = FEW | {"TOTAL_STEPS": 4000, "TOTAL_EPOCHS": 100}
ROUNDS = FEW | {"BATCH_SIZE": 16, "PAIR_MARGIN": 0.1}
ON_CPU = {"NNODES": 2, "N_GPUS": 1, "DEVICE": "cpu", "USE_WANDB": "false", "PREFLIGHT": "fast"}
RAY = "ray start --block --disable-usage-stats --num-gpus=1 --num-cpus=64"


def ends(launchers: list[subprocess.Popen], seconds: float) -> list[int]:
    """Exit statuses."""
    until = time.monotonic() + seconds
    return [launcher.wait(max(1.0, until - time.monotonic())) for launcher in launchers]


def wait_for(machines: Machines, words: str, launcher: subprocess.Popen, name: str = "a", seconds: float = 600) -> None:
    """Wait until a machine has printed something."""
    until = time.monotonic() + seconds
    while words not in machines.said(name):
        assert launcher.poll() is None and time.monotonic() < until, machines.said("a") + machines.said("b")
        time.sleep(0.5)


def figures(machines: Machines, name: str, *names: str) -> list[list[float | None]]:
    """Of each step of a run."""
    return [[record["data"].get(one) for one in names] for record in read_metrics(machines.folder(name))]


# ---- what trains -------------------------------------------------------------------------------------------------


def trains(machines: Machines, algorithm: str, **knobs: object) -> None:
    """It trains, saves, and resumes; both machines hold a piece of each checkpoint."""
    for steps in (2, 3):
        launchers = machines.train(algorithm, EXPERIMENT_NAME=algorithm, **(FEW | {"TOTAL_STEPS": steps} | knobs))
        assert ends(launchers, 1200) == [0, 0], machines.said("a") + machines.said("b")
    assert "from the checkpoint of step 2" in machines.said("a"), machines.said("a")
    run_json = machines.run_json(algorithm)
    assert run_json["state"] == "finished" and run_json["attempt"] == 2, run_json
    assert [one["host"] for one in run_json["machines"]] == ["machine-a", "machine-b"]
    assert {one["interface"] for one in run_json["machines"]} == {"eth0"}
    folder = machines.folder(algorithm)
    assert [one.world_size for one in checkpoints_of(folder)] == [2] * len(checkpoints_of(folder)) != []
    steps = [record["step"] for record in read_metrics(folder)]
    assert [step for step in steps if step] == [1, 2, 3], steps
    assert (folder / "model" / "config.json").is_file()
    print(f"    steps {steps}, checkpoints of 2 machines: {[one.step for one in checkpoints_of(folder)]}", flush=True)


def equals_one_machine(machines: Machines) -> None:
    """SFT on two machines with a process each is that of one machine with two, in every digit."""
    measured = ("train/loss", "train/grad_norm", "val/loss")
    assert ends(machines.train("sft", EXPERIMENT_NAME="two", **FEW), 600) == [0, 0], machines.said("a")
    alone = machines.train("sft", "a", EXPERIMENT_NAME="one", **(FEW | {"NNODES": 1, "N_GPUS": 2}))
    assert ends(alone, 600) == [0], machines.said("a")
    two, one = (figures(machines, name, *measured) for name in ("two", "one"))
    assert two == one and two[0][0] is not None, (two, one)
    print(f"    {two}", flush=True)


def rounds(machines: Machines) -> None:
    """GSPO's two rounds; each stage is a run on both machines."""
    launchers = machines.train("gspo", EXPERIMENT_NAME="rounds", **(ROUNDS | {"SELF_PLAY_ROUNDS": 2}))
    assert ends(launchers, 1800) == [0, 0], machines.said("a") + machines.said("b")
    run_json = machines.run_json("rounds")
    names = [stage["name"] for stage in run_json["stages"]]
    assert run_json["state"] == "finished", run_json
    assert names == ["round-1/rl", "round-1/preference", "round-2/rl", "round-2/preference"], names
    assert (machines.folder("rounds") / "model" / "config.json").is_file()
    for name in names:
        stage = json.loads((machines.folder("rounds") / name / "run.json").read_text())
        assert [one["host"] for one in stage["machines"]] == ["machine-a", "machine-b"], stage
    print(f"    {names}", flush=True)


def rounds_go_on(machines: Machines) -> None:
    """GSPO stopped in its preference stage ends on both machines, and goes on there when it is started again."""
    knobs = ROUNDS | {"SELF_PLAY_ROUNDS": 1, "EXPERIMENT_NAME": "stopped"}
    first, second = machines.train("gspo", **knobs)
    until = time.monotonic() + 1200
    while not (machines.folder("stopped") / "round-1" / "preference" / "run.json").is_file():
        assert first.poll() is None and time.monotonic() < until, machines.said("a") + machines.said("b")
        time.sleep(0.2)
    asked = time.monotonic()
    machines.signal(first, signal.SIGTERM)
    statuses = ends([first, second], 60)
    print(f"    stopped after {time.monotonic() - asked:.0f} s: {statuses}", flush=True)
    assert statuses == [143, 143], machines.said("a") + machines.said("b")
    assert ends(machines.train("gspo", **knobs), 1200) == [0, 0], machines.said("a") + machines.said("b")
    run_json = machines.run_json("stopped")
    assert run_json["state"] == "finished" and run_json["attempt"] == 2, run_json
    again = json.loads((machines.folder("stopped") / "round-1" / "rl" / "run.json").read_text())
    assert again["attempt"] == 1, again


def ray_up(machines: Machines, **head: str) -> None:
    """Start a Ray over both machines as a user does."""
    options = " ".join(f"--{name.replace('_', '-')}={value}" for name, value in head.items())
    one = f". .venv/bin/activate && exec {RAY} --head --port=6379 --node-ip-address={ADDRESSES['a']} {options}"
    two = f". .venv/bin/activate && exec {RAY} --address={ADDRESSES['a']}:6379 --node-ip-address={ADDRESSES['b']}"
    for name, command in (("a", one), ("b", two)):
        raylet = machines.start(name, command, f"ray-{name}")
        wait_for(machines, "Ray runtime started", raylet, f"ray-{name}", 120)


def ray_down(machines: Machines) -> None:
    """End it at once: a head that is asked to waits for a minute."""
    for name in "ab":
        machines.power_off(name)
        machines.up(name)


def joined(machines: Machines) -> None:
    """(a) PPO, started on one machine of a Ray that is there, trains on both and resumes."""
    ray_up(machines, include_dashboard="false")
    try:
        knobs = FEW | ON_CPU | {"RAY_ADDRESS": "auto", "OUTPUTS_DIR": f"{SHARED}/outputs", "EXPERIMENT_NAME": "joined"}
        for steps in (2, 3):
            launcher = machines.start("a", "exec ./ppo/train.sh", **(knobs | {"TOTAL_STEPS": steps}))
            assert ends([launcher], 600) == [0], machines.said("a")
            assert "2 machines of the Ray at auto" in machines.said("a"), machines.said("a")
            seen_in_both(machines, "joined", steps)
        assert "from the checkpoint of step 2" in machines.said("a"), machines.said("a")
    finally:
        ray_down(machines)


def job(machines: Machines) -> None:
    """(b) ``ray job submit`` ships the kit to a Ray that is there."""
    ray_up(machines, include_dashboard="true", dashboard_port="8265")
    try:
        knobs = FEW | ON_CPU | {"OUTPUTS_DIR": f"{SHARED}/outputs", "EXPERIMENT_NAME": "job"}
        words = " ".join(f"{name}={value}" for name, value in knobs.items())
        ready = "until ray job list --address=http://127.0.0.1:8265; do sleep 2; done"
        submit = "exec ray job submit --address=http://127.0.0.1:8265 --working-dir ."
        launcher = machines.start("a", f". .venv/bin/activate; {ready}; {submit} -- env {words} ./grpo/train.sh")
        assert ends([launcher], 600) == [0], machines.said("a")
        seen_in_both(machines, "job", 2)
    finally:
        ray_down(machines)


def queued(machines: Machines) -> None:
    """(b) by the platform: its queue submits a job to a Ray that is there, and follows it to its end."""
    ray_up(machines, include_dashboard="true", dashboard_port="8265")
    try:
        ready = "until ray job list --address=http://127.0.0.1:8265; do sleep 2; done"
        platform = ".venv/bin/python -m training_platform"
        serve = f"exec {platform} serve --outputs={SHARED}/outputs --ray_address=http://127.0.0.1:8265"
        server = machines.start("a", f". .venv/bin/activate; {ready}; {serve}", "platform")
        wait_for(machines, "2 GPUs of the Ray at http://127.0.0.1:8265", server, "platform", 120)
        knobs = {name: value for name, value in (FEW | ON_CPU).items() if name not in ("NNODES", "PREFLIGHT")}
        words = " ".join(f"{name}={value}" for name, value in knobs.items())
        submit = f"{platform} submit algorithm=grpo name=queued nnodes=2 {words}"
        launcher = machines.start("a", f"{submit} && exec {platform} logs queued -f")
        assert ends([launcher], 600) == [0], machines.said("a") + machines.said("platform")
        seen_in_both(machines, "queued", 2)
        run_json = machines.run_json("queued")
        assert run_json["job_launch"] == "1" and run_json["job_uuid"] in machines.said("a"), run_json
    finally:
        ray_down(machines)


def seen_in_both(machines: Machines, name: str, steps: int) -> None:
    """The run has trained on two machines and left its model."""
    folder = machines.folder(name)
    run_json = machines.run_json(name)
    assert run_json["state"] == "finished", run_json
    assert [one["host"] for one in run_json["machines"]] == ["machine-a", "machine-b"]
    assert [record["step"] for record in read_metrics(folder)] == list(range(steps + 1))
    assert {one.world_size for one in checkpoints_of(folder)} == {2}
    assert {path.name for path in (folder / "machines").iterdir()} == {"0.jsonl", "1.jsonl"}
    print(f"    {name}: {steps} steps, each checkpoint of 2 machines", flush=True)
    assert (folder / "model" / "config.json").is_file()
    assert not list(folder.glob(".cluster-*"))


# ---- eight faults before the start ---------------------------------------------------------------------------


def refused(machines: Machines, words: str, names: str = "ab", b: dict | None = None, **settings: object) -> None:
    """It is refused before the start, with the same text and status on all."""
    launchers = machines.train("sft", names, b, EXPERIMENT_NAME="never", **(FEW | settings))
    assert ends(launchers, 240) == [2] * len(names), machines.said("a") + machines.said("b")
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


def other_versions(machines: Machines) -> None:
    """The second machine has another version of a package."""
    info = "/tmp/other/peft-0.0.1.dist-info"
    made = f"mkdir -p {info} && printf 'Metadata-Version: 2.1\\nName: peft\\nVersion: 0.0.1\\n' >{info}/METADATA"
    assert machines.start("b", made).wait() == 0
    refused(machines, "peft differs: ", b={"PYTHONPATH": "/tmp/other"})
    assert "0.0.1 on machine-b" in machines.said("a"), machines.said("a")


def fewer_gpus(machines: Machines) -> None:
    """The second machine has no GPU, the first one: its torch is told so, there are none here."""
    told = (
        "import sys\nif 'common.cluster' in sys.orig_argv:\n    import torch\n    torch.cuda.device_count = lambda: 1"
    )
    made = f"mkdir -p /tmp/gpu && cat >/tmp/gpu/sitecustomize.py <<'END'\n{told}\nEND"
    assert machines.start("a", made).wait() == 0
    knobs = {"DEVICE": "cuda", "PYTHONPATH": "/tmp/gpu"}
    refused(machines, "N_GPUS=1: fewer GPUs are visible: 0 on machine-b", **knobs)
    refused(machines, "the number of GPUs differs: 1 on machine-a", **knobs, N_GPUS="auto")


def never_comes(machines: Machines) -> None:
    """The second machine is not started."""
    refused(machines, "1 of NNODES=2 machines after 5 s: NODE_RANK=1 has not come", "a", CLUSTER_TIMEOUT=5)


def not_found(machines: Machines, words: str, **b: object) -> None:
    """The second machine does not find the first."""
    launchers = machines.train(
        "sft", EXPERIMENT_NAME="never", b={"CLUSTER_TIMEOUT": 5, **b}, **(FEW | {"CLUSTER_TIMEOUT": 20})
    )
    assert ends(launchers, 240) == [2, 2], machines.said("a") + machines.said("b")
    assert words in machines.said("b") and "NODE_RANK=1 has not come" in machines.said("a"), machines.said("b")


# ---- three faults in the middle ----------------------------------------------------------------------------------


def cut(machines: Machines, how: Callable[[subprocess.Popen], None], algorithm: str) -> str:
    """A machine goes in the middle: the other ends within 90 s, names it and the checkpoint, and does not say 0.

    Returns:
        The run's name.
    """
    name = f"cut{int(time.time())}"
    first, second = machines.train(algorithm, EXPERIMENT_NAME=name, **LONG)
    wait_for(machines, "Step 2/", first)
    how(second)
    gone = time.monotonic()
    status = first.wait(120)
    took = time.monotonic() - gone
    said = machines.said("a")
    assert status not in (0, None) and took < 90, (status, took, said)
    assert "machine-b (10.77.0.2)" in said and "is gone" in said and "from the checkpoint of step" in said, said
    run_json = machines.run_json(name)
    assert run_json["state"] == "failed" and "machine-b" in run_json["reason"], run_json
    print(f"    {algorithm}: status {status} after {took:.0f} s: {run_json['reason']}", flush=True)
    return name


def nothing_left(machines: Machines, name: str, since: float) -> None:
    """No process of a run is left on a machine, 90 s after its other one has gone."""
    while left := machines.processes(name):
        assert time.monotonic() - since < 90, left
        time.sleep(1)


def resumes(machines: Machines, algorithm: str, name: str) -> None:
    """Started again under its name it goes on from its checkpoint."""
    step, _ = latest_checkpoint(machines.folder(name))
    launchers = machines.train(
        algorithm, EXPERIMENT_NAME=name, **(FEW | {"TOTAL_STEPS": step + 1, "TOTAL_EPOCHS": 100})
    )
    assert ends(launchers, 600) == [0, 0], machines.said("a") + machines.said("b")
    assert f"from the checkpoint of step {step}" in machines.said("a"), machines.said("a")
    assert machines.run_json(name)["state"] == "finished"
    print(f"    resumed from step {step}", flush=True)


def killed(machines: Machines, algorithm: str) -> None:
    """The second launcher is killed."""
    name = cut(machines, lambda launcher: machines.signal(launcher, signal.SIGKILL), algorithm)
    for machine in "ab":
        nothing_left(machines, machine, time.monotonic() - 60)
    resumes(machines, algorithm, name)


def powered_off(machines: Machines, algorithm: str) -> None:
    """The second machine has no power any more."""
    name = cut(machines, lambda _: machines.power_off("b"), algorithm)
    nothing_left(machines, "a", time.monotonic() - 60)
    machines.up("b")
    resumes(machines, algorithm, name)


def cable_pulled(machines: Machines, algorithm: str) -> None:
    """Nothing comes from the second machine any more."""
    pulled = time.monotonic()

    def pull(_: subprocess.Popen) -> None:
        nonlocal pulled
        pulled = time.monotonic()
        machines.cable("b", "down")

    try:
        name = cut(machines, pull, algorithm)
        assert machines.launchers[-1].wait(120) not in (0, None)
        print(f"    the other: after {time.monotonic() - pulled:.0f} s", flush=True)
        assert time.monotonic() - pulled < 90
        assert "machine-a (10.77.0.1)" in machines.said("b") and "is gone" in machines.said("b"), machines.said("b")
        for machine in "ab":
            nothing_left(machines, machine, pulled)
    finally:
        machines.cable("b", "up")
    resumes(machines, algorithm, name)


CHECKS: dict[str, Callable[[Machines], None]] = {
    "a folder that is not shared": lambda m: refused(m, "OUTPUTS_DIR=/tmp/runs is not", OUTPUTS_DIR="/tmp/runs"),
    "another commit": other_commit,
    "other package versions": other_versions,
    "fewer GPUs": fewer_gpus,
    "a shut port": lambda m: not_found(m, "refused", MASTER_PORT=29777),
    "a wrong MASTER_ADDR": lambda m: not_found(m, "MASTER_ADDR=10.77.0.9", MASTER_ADDR="10.77.0.9"),
    "a machine that never comes": never_comes,
    "a host name that does not resolve": lambda m: not_found(m, "does not resolve", MASTER_ADDR="machine-a"),
    "sft": lambda m: trains(m, "sft"),
    "sft equals one machine": equals_one_machine,
    "dpo": lambda m: trains(m, "dpo"),
    "grpo": lambda m: trains(m, "grpo"),
    "ppo": lambda m: trains(m, "ppo"),
    "gspo": rounds,
    "gspo goes on": rounds_go_on,
    "ray": joined,
    "ray job": job,
    "ray job by the platform": queued,
    "sft, process killed": lambda m: killed(m, "sft"),
    "sft, power off": lambda m: powered_off(m, "sft"),
    "sft, cable pulled": lambda m: cable_pulled(m, "sft"),
    "grpo, process killed": lambda m: killed(m, "grpo"),
    "grpo, power off": lambda m: powered_off(m, "grpo"),
    "grpo, cable pulled": lambda m: cable_pulled(m, "grpo"),
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the machines go with it
    failed = []
    with Machines() as machines:
        for name in names:
            started = time.monotonic()
            try:
                CHECKS[name](machines)
                print(f"passed  {name} ({time.monotonic() - started:.0f} s)", flush=True)
            except (AssertionError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
                failed.append(name)
                print(f"FAILED  {name}: {str(error)[-3000:]}", flush=True)
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
