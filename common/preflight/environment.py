"""What is around a run: GPU memory and who holds it, disk, ports, Ray, variables that break a run."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.cluster.names import joins_ray
from common.notify.send import LEVEL, LEVELS, URLS, addresses
from common.plan.machine import GIB
from common.preflight.gpus import DriverError, nvidia_smi, visible
from common.preflight.knobs import SUPERVISED, Knobs
from common.preflight.machine import Machine, has_package
from common.preflight.model import ModelInfo

SHARED_MEMORY = Path("/dev/shm")
BFLOAT16_FROM = 8.0  # compute capability
RAY_SECONDS = 20.0  # until a machine that has joined Ray is in its status
SOCKET_PATH_LIMIT = 60  # characters of Ray's folder: a socket's whole path may have 107


@dataclass(frozen=True)
class GpuUse:
    """One GPU as it is now: its number, free bytes, and who holds the rest."""

    index: str
    free: int
    total: int
    holders: tuple[str, ...] = ()


def check_environment(knobs: Knobs, machine: Machine, model: ModelInfo | None, outputs: Path) -> None:
    """All of it; for a machine that is planned only what does not depend on this one."""
    check_packages(knobs, machine.planned)
    check_variables(knobs, model, os.environ)
    check_notify(knobs, os.environ)
    if machine.planned:
        return
    check_disk(knobs, model, outputs)
    check_shared_memory(knobs)
    check_ports(knobs)
    check_ray(knobs)
    if knobs["DEVICE"] == "cuda":
        check_capability(knobs, machine.capability)
        check_compiler(knobs)
        check_gpu_use(knobs, gpu_use())


def check_notify(knobs: Knobs, environment: Mapping[str, str]) -> None:
    """``NOTIFY_URLS`` can be sent to; no address is shown, as it holds the key."""
    found, level = addresses(environment), environment.get(LEVEL, LEVELS[0])
    if level not in LEVELS:
        knobs.error(LEVEL, f"must be {' | '.join(LEVELS)}", value=level)
    if not found:
        return
    if not has_package("apprise"):
        fix = "pip install --no-deps -r requirements/lock-notify.txt"
        knobs.error(URLS, "messages are sent by the package apprise, which is not installed", fix, value="***")
        return
    import apprise

    for number, address in enumerate(found, 1):
        if apprise.Apprise.instantiate(address, suppress_exceptions=True) is None:
            shown = f"{address.partition('://')[0][:20]}://***"
            fix = "see https://github.com/caronc/apprise/wiki"
            knobs.error(URLS, f"address {number} is none that Apprise knows", fix, value=shown)


def check_packages(knobs: Knobs, planned: bool = False) -> None:
    """Packages that a run imports after minutes."""
    needed = (
        {} if knobs.algorithm in SUPERVISED else {"transfer_queue": "verl's RL trainer", "ray": "verl's RL trainer"}
    )
    if knobs.number("LORA_RANK"):
        needed["peft"] = f"LORA_RANK={knobs['LORA_RANK']}"
    for package, user in needed.items():
        if not has_package(package):
            knobs.error("", f"{user} needs the Python package {package}", "run ./setup_env.sh")
    engine = knobs.values.get("ROLLOUT_ENGINE")
    if engine in ("vllm", "sglang") and knobs["DEVICE"] == "cuda" and not (has_package(engine) or planned):
        knobs.error("ROLLOUT_ENGINE", "it is not installed", f"run ./setup_env.sh --engine {engine}", value=engine)


def check_capability(knobs: Knobs, capability: float | None) -> None:
    """GPUs without bfloat16, in which verl trains and generates: V100 (7.0), T4 and RTX 20 (7.5)."""
    if capability is not None and capability < BFLOAT16_FROM:
        knobs.error(
            "DEVICE",
            f"this GPU has compute capability {capability} and no bfloat16, which verl trains in",
            f"use one with {BFLOAT16_FROM} or more (RTX 30, A10, A100 and newer), or DEVICE=cpu for a small model",
            value="cuda",
        )


def check_compiler(knobs: Knobs) -> None:
    """Triton compiles the launcher of its kernels at first use: vLLM's, and those that verl compiles."""
    problem, fix = "", ""
    if not (os.environ.get("CC") or any(shutil.which(name) for name in ("gcc", "clang"))):
        problem, fix = "there is no C compiler", "apt-get install gcc"
    elif not (header := Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        problem, fix = f"{header} is not there", f"apt-get install python{sysconfig.get_python_version()}-dev"
    if problem:
        note = knobs.error if knobs.values.get("ROLLOUT_ENGINE") in ("vllm", "sglang") else knobs.warn
        note("DEVICE", f"{problem}, and Triton compiles its kernels' launchers with it", fix, value="cuda")


def check_variables(knobs: Knobs, model: ModelInfo | None, environment: Mapping[str, str]) -> None:
    """Environment variables that make a run fail later, or do nothing."""
    if environment.get("ROCR_VISIBLE_DEVICES") and environment.get("CUDA_VISIBLE_DEVICES"):
        knobs.error(
            "ROCR_VISIBLE_DEVICES",
            "verl stops when it and CUDA_VISIBLE_DEVICES are set",
            "unset one of them",
            value=environment["ROCR_VISIBLE_DEVICES"],
        )
    allocator = environment.get("PYTORCH_CUDA_ALLOC_CONF", "") + environment.get("PYTORCH_ALLOC_CONF", "")
    if "expandable_segments:True" in allocator and knobs.values.get("ROLLOUT_ENGINE") == "vllm":
        knobs.error(
            "PYTORCH_CUDA_ALLOC_CONF", "vLLM cannot sleep with expandable segments", "unset it", value=allocator
        )
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if environment.get(name) in ("1", "true")]
    if offline and model is not None and not model.config:
        knobs.error(
            "MODEL_PATH",
            f"not on this machine, and {offline[0]} forbids to download it",
            "give a folder",
            value=model.path,
        )
    folder = environment.get("RAY_TMPDIR", "")
    if len(folder) > SOCKET_PATH_LIMIT and knobs.algorithm not in SUPERVISED:
        knobs.error(
            "RAY_TMPDIR", "too long for Ray's sockets", f"use a path below {SOCKET_PATH_LIMIT} characters", value=folder
        )
    joins = joins_ray({**environment, "NNODES": knobs["NNODES"]}, knobs.algorithm)
    if environment.get("RAY_ADDRESS") not in (None, "", "local") and not joins:
        knobs.warn(
            "RAY_ADDRESS",
            "the run starts its own Ray",
            f"to join that one add +ray_kwargs.ray_init.address={environment['RAY_ADDRESS']}",
            value=environment["RAY_ADDRESS"],
        )
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible and knobs["DEVICE"] == "cuda":
        names = [name.strip() for name in visible.split(",") if name.strip()]
        if len(set(names)) < len(names):
            knobs.error("CUDA_VISIBLE_DEVICES", "names a GPU twice", "name each once", value=visible)


def checkpoint_bytes(knobs: Knobs, model: ModelInfo | None) -> tuple[float, float]:
    """Bytes of one checkpoint and of the merged model, 0 when the size of the model is not known."""
    size = model.parameters if model else 0
    if knobs.plan:
        return sum(knobs.plan.memory.checkpoint.values()), 2.0 * knobs.plan.setup.model.parameters
    return (4.2 if knobs.number("LORA_RANK") else 12.0) * size, 2.0 * size


def check_disk(knobs: Knobs, model: ModelInfo | None, outputs: Path) -> None:
    """Room for the checkpoints to come."""
    folder = next(path for path in (outputs, *outputs.parents) if path.exists())
    if not os.access(folder, os.W_OK):
        knobs.error("EXPERIMENT_NAME", f"{folder} cannot be written to", "change its owner")
        return
    one, merged = checkpoint_bytes(knobs, model)
    keep, total, every = knobs.number("KEEP_CHECKPOINTS"), knobs.number("TOTAL_STEPS"), knobs.number("SAVE_FREQ")
    saves = -(-total // every) if total and every else keep
    need = one * min(saves, keep + 1) + merged  # verl removes an old one after the new one is written
    free = shutil.disk_usage(folder).free
    knobs.facts.append(("disk", f"{need / GIB:.1f} GiB of {free / GIB:.0f}", "checkpoints and the merged model"))
    if need > 0.8 * free:
        (knobs.error if need > free else knobs.warn)(
            "KEEP_CHECKPOINTS",
            f"the checkpoints and the model need {need / GIB:.1f} GiB, {folder} has {free / GIB:.1f}",
            "lower it, save less often (SAVE_FREQ), or link outputs/ to another disk",
        )


def check_shared_memory(knobs: Knobs) -> None:
    """Ray and data loaders pass their data through /dev/shm."""
    if not SHARED_MEMORY.is_dir() or knobs.algorithm in SUPERVISED:
        return
    usage = shutil.disk_usage(SHARED_MEMORY)
    if usage.free < 256 * 2**20:
        knobs.error(
            "",
            f"{SHARED_MEMORY}: {usage.free / 2**20:.0f} MiB are free and Ray keeps objects there",
            "empty it, or start the container with --shm-size=16g",
        )
    elif usage.total < 4 * GIB and knobs["DEVICE"] == "cuda":
        knobs.warn("", f"{SHARED_MEMORY}: {usage.total / GIB:.1f} GiB", "start the container with --shm-size=16g")


def check_ports(knobs: Knobs) -> None:
    """Ports that an argument names; all others are chosen when they are needed."""
    for argument in knobs.arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if key.endswith(("dashboard_port", "prometheus.port")) and value.isdigit():
            if not 0 < int(value) < 65536 or not _is_free(int(value)):
                knobs.error(key, "this port is taken, or is none", "choose another", value=value)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def check_ray(knobs: Knobs) -> None:
    """A Ray cluster that an argument or ``RAY_ADDRESS`` joins: is it there, and has it the GPUs?"""
    key = "ray_kwargs.ray_init.address"
    address = next((text.partition("=")[2] for text in knobs.arguments if text.lstrip("+").startswith(f"{key}=")), None)
    if address is None and joins_ray({**os.environ, "NNODES": knobs["NNODES"]}, knobs.algorithm):
        key, address = "RAY_ADDRESS", os.environ["RAY_ADDRESS"]
    if address in (None, "", "local", "null"):
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files < 1024 and knobs.algorithm not in SUPERVISED:
            knobs.warn("", f"ulimit -n is {files} and Ray opens many files", "run ulimit -n 65536 first")
        return
    ray = str(Path(sys.executable).parent / "ray")  # the environment need not be active
    command = [ray, "status"] + ([] if address == "auto" else ["--address", address])
    gpus = knobs.number("N_GPUS") * knobs.number("NNODES")
    found = _ray_gpus(command, gpus)
    if found is None:
        knobs.error(
            key, "no Ray cluster answers there", "start one with ray start --head, or leave it out", value=address
        )
        return
    there, used = found
    if there - used < gpus:
        knobs.error(
            "N_GPUS", f"the Ray cluster at {address} has {there:g} GPUs, {used:g} in use", "ask for fewer", value=gpus
        )


def _ray_gpus(command: list[str], wanted: int) -> tuple[float, float] | None:
    """GPUs of a Ray and those in use, None where it does not answer.

    What ``ray status`` says is some seconds old, and a machine that has just joined is missing in it: it is asked again
    for `RAY_SECONDS` where there are fewer than wanted.
    """
    until = time.monotonic() + RAY_SECONDS
    while True:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=90)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        match = re.search(r"([\d.]+)/([\d.]+) GPU", done.stdout)
        there, used = (float(match[2]), float(match[1])) if match else (0.0, 0.0)
        if there - used >= wanted or time.monotonic() > until:
            return there, used
        time.sleep(1)


def gpu_use() -> list[GpuUse]:
    """Free memory of each visible GPU, and the processes that hold the rest."""
    try:
        rows = visible(nvidia_smi("--query-gpu=index,uuid,memory.free,memory.total"))
        held = nvidia_smi("--query-compute-apps=gpu_uuid,pid,process_name,used_memory")
    except DriverError:  # said by check_hardware
        return []
    found = []
    for index, uuid, free, total in rows:
        holders = tuple(f"{name} (pid {pid}) {size} MiB" for gpu, pid, name, size in held if gpu == uuid)
        found.append(GpuUse(index, int(free) * 2**20, int(total) * 2**20, holders))
    return found


def check_gpu_use(knobs: Knobs, gpus: list[GpuUse]) -> None:
    """Free memory against the plan; names who holds the rest."""
    need = knobs.plan.memory.peak if knobs.plan else 0.5 * min((gpu.total for gpu in gpus), default=0)
    for gpu in gpus[: knobs.number("N_GPUS") or None]:
        if gpu.free >= min(need, 0.95 * gpu.total):
            continue
        who = "; ".join(gpu.holders) or "a process that nvidia-smi does not name (another container?)"
        knobs.error(
            "N_GPUS",
            f"GPU {gpu.index} has {gpu.free / GIB:.0f} of {gpu.total / GIB:.0f} GiB free and about "
            f"{need / GIB:.0f} are needed; {who} holds the rest",
            "stop it, or set CUDA_VISIBLE_DEVICES to others",
        )
