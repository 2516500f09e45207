"""The preflight's look at what is around a run, and its command line."""

import json
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from common.demo_model import DEMO_MODEL_DIR
from common.plan.fit import judge
from common.plan.machine import GIB, parse_gpus
from common.plan.memory import Setup
from common.plan.weights import read_weights
from common.preflight import environment, gpus, machine
from common.preflight.auto import resolve_hardware
from common.preflight.checks import check_hardware
from common.preflight.environment import GpuUse, check_disk, check_gpu_use, check_ports, check_ray, check_variables
from common.preflight.knobs import read_knobs
from common.preflight.model import ModelInfo
from common.preflight.rates import check_rate, usual_range
from common.preflight.report import rows_of
from common.preflight.resolved import engine_environment
from tests.conftest import ROOT
from tests.published_models import MODELS

BIG = ModelInfo("/models/big", {"vocab_size": 152_000}, 7_600_000_000, "x")


def knobs_of(algorithm="grpo", arguments=(), **values):
    knobs = read_knobs(algorithm, {name: str(value) for name, value in values.items()}, arguments)
    knobs.errors.clear()
    return knobs


def test_a_gpu_that_somebody_holds_is_named_with_the_holder():
    knobs = knobs_of(N_GPUS=2, DEVICE="cuda")
    free = GpuUse("0", 79 * GIB, 80 * GIB)
    check_gpu_use(knobs, [free, GpuUse("1", 10 * GIB, 80 * GIB, ("python (pid 4711) 70000 MiB",))])
    assert len(knobs.errors) == 1 and "GPU 1 has 10 of 80 GiB" in knobs.errors[0] and "pid 4711" in knobs.errors[0]
    fine = knobs_of(N_GPUS=1, DEVICE="cuda")
    check_gpu_use(fine, [free, GpuUse("1", 0, 80 * GIB)])
    assert fine.errors == []


def test_nvidia_smi_is_read_as_it_writes(monkeypatch):
    said = {
        "--query-gpu": "0, GPU-aa, 1000, 81559\n1, GPU-bb, 81000, 81559\n",
        "--query-compute-apps": "GPU-aa, 4711, /usr/bin/python, 80000\n",
    }

    def smi(command, **kwargs):
        return subprocess.CompletedProcess(command, 0, said[command[1].split("=")[0]], "")

    monkeypatch.setattr(gpus.shutil, "which", lambda name: name)
    monkeypatch.setattr(gpus.subprocess, "run", smi)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    zero, one = environment.gpu_use()
    assert zero.holders == ("/usr/bin/python (pid 4711) 80000 MiB",) and one.holders == () and one.free == 81000 * 2**20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.index for gpu in environment.gpu_use()] == ["1"]


@pytest.mark.parametrize(
    ("cards", "memory", "least"),
    [
        ("0, GPU-aa, 81559, 9.0\n1, GPU-bb, 15360, 7.5\n", (81559 * 2**20, 15360 * 2**20), 7.5),
        ("0, GPU-aa, 81559, [N/A]\n", (81559 * 2**20,), None),  # an old driver
    ],
)
def test_the_least_compute_capability_counts(monkeypatch, cards, memory, least):
    monkeypatch.setattr(gpus.shutil, "which", lambda name: name)
    done = subprocess.CompletedProcess([], 0, cards, "")
    monkeypatch.setattr(gpus.subprocess, "run", lambda *command, **options: done)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here = machine.this_machine()
    assert (here.gpu_memory, here.capability) == (memory, least)


@pytest.mark.parametrize(
    ("status", "said", "problem"),
    [
        (18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580", "Failed to init"),
        (9, "", "exit status 9"),
        (6, "No devices were found", ""),
    ],
)
def test_a_driver_that_fails_is_not_a_machine_without_gpus(monkeypatch, status, said, problem):
    """DEVICE=auto must not become the CPU; who asks for the CPU gets it."""
    monkeypatch.setattr(gpus.shutil, "which", lambda name: name)
    done = subprocess.CompletedProcess([], status, said, "")
    monkeypatch.setattr(gpus.subprocess, "run", lambda *command, **options: done)
    here = machine.this_machine()
    assert here.gpu_memory == () and problem in here.gpu_problem and bool(problem) == bool(here.gpu_problem)
    for device, wrong in (("auto", bool(problem)), ("cpu", False)):
        knobs = knobs_of(DEVICE=device)
        resolve_hardware(knobs, here)
        check_hardware(knobs, here)
        said = [f"nvidia-smi fails: {problem}" in error and "DEVICE=cpu" in error for error in knobs.errors]
        assert said == [True] * wrong


@pytest.mark.parametrize(("capability", "refused"), [(7.0, True), (7.5, True), (8.0, False), (12.0, False)])
def test_a_gpu_without_bfloat16_is_refused(capability, refused):
    knobs = knobs_of(DEVICE="cuda")
    environment.check_capability(knobs, capability)
    assert [f"compute capability {capability}" in error for error in knobs.errors] == [True] * refused


def test_what_triton_compiles_with_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    headers = {"include": str(tmp_path)}
    monkeypatch.setattr(environment.sysconfig, "get_paths", lambda: headers)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    bare = knobs_of(DEVICE="cuda", ROLLOUT_ENGINE="vllm")
    environment.check_compiler(bare)
    assert "no C compiler" in bare.errors[0]
    monkeypatch.setattr(environment.shutil, "which", lambda name: f"/usr/bin/{name}")
    sft = knobs_of("sft", DEVICE="cuda")
    environment.check_compiler(sft)
    assert not sft.errors and "Python.h is not there" in sft.warnings[0]
    (tmp_path / "Python.h").touch()
    whole = knobs_of(DEVICE="cuda", ROLLOUT_ENGINE="vllm")
    environment.check_compiler(whole)
    assert whole.errors == whole.warnings == []


def test_the_engine_is_sized_from_the_plan():
    knobs = knobs_of()
    assert engine_environment(knobs) == {}
    for name, answers, seqs, eager in (("Qwen2.5-0.5B", 64, "256", "false"), ("Qwen2.5-7B", 480, "480", "false")):
        setup = Setup(read_weights(MODELS[name][0]), parse_gpus("8x80GB"), 4096, 1536, answers=answers)
        knobs.plan = judge(replace(setup, utilization=0.7))
        assert engine_environment(knobs) == {"MAX_NUM_SEQS": seqs, "ENFORCE_EAGER": eager}


def test_checkpoints_that_do_not_fit_on_the_disk(monkeypatch, tmp_path):
    """Three checkpoints of 12 bytes a parameter and the merged model of 2: 270 GiB for 7.6e9."""
    knobs = knobs_of(KEEP_CHECKPOINTS=2, TOTAL_STEPS=100, SAVE_FREQ=20)
    usage = environment.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: usage._replace(free=100 * GIB))
    check_disk(knobs, BIG, tmp_path / "outputs")
    assert "KEEP_CHECKPOINTS=2" in knobs.errors[0] and "need 269.0 GiB" in knobs.errors[0]
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: usage._replace(free=1000 * GIB))
    fine = knobs_of(KEEP_CHECKPOINTS=2, TOTAL_STEPS=100, SAVE_FREQ=20)
    check_disk(fine, BIG, tmp_path / "outputs")
    assert fine.errors == [] and fine.facts[0][0] == "disk"


def test_a_port_that_is_taken_and_a_ray_that_is_not_there():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        knobs = knobs_of(arguments=[f"+ray_kwargs.ray_init.dashboard_port={port}"])
        check_ports(knobs)
        assert f"dashboard_port={port}" in knobs.errors[0]
    knobs = knobs_of(arguments=["+ray_kwargs.ray_init.address=127.0.0.1:1"])
    check_ray(knobs)
    assert "no Ray cluster answers" in knobs.errors[0]


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, "expandable segments"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids"),
        ({"ROCR_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "0"}, "ROCR_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, "names a GPU twice"),
        ({"RAY_TMPDIR": "/x" * 40}, "too long for Ray's sockets"),
    ],
)
def test_variables_that_break_a_run(variables, word):
    knobs = knobs_of(DEVICE="cuda", ROLLOUT_ENGINE="vllm")
    check_variables(knobs, ModelInfo("Qwen/not-here", {}, 0, None), variables)
    assert len(knobs.errors) == 1 and word in knobs.errors[0]


@pytest.mark.parametrize(
    ("algorithm", "rate", "lora", "verdict"),
    [
        ("grpo", "1e-6", 0, ""), ("grpo", "3e-5", 32, ""), ("grpo", "5e-5", 0, "warning"), ("grpo", "1e-3", 0, "error"),
        ("sft", "1e-5", 0, ""), ("sft", "2e-4", 0, "warning"), ("sft", "1e-2", 0, "error"), ("dpo", "5e-7", 0, ""),
        ("dpo", "1e-3", 0, "error"), ("sft", "1e-9", 0, "warning"),
    ],
)  # fmt: skip
def test_learning_rates_of_a_7b_model(algorithm, rate, lora, verdict):
    knobs = knobs_of(algorithm, LEARNING_RATE=rate, LORA_RANK=lora)
    check_rate(knobs, BIG)
    assert (bool(knobs.errors), bool(knobs.warnings)) == (verdict == "error", verdict == "warning")


def test_small_models_take_higher_rates():
    assert usual_range("grpo", False, 900_000)[1] > 100 * usual_range("grpo", False, 7_000_000_000)[1]


def test_the_report_has_the_parts_of_a_finding_and_parses_nothing():
    """A fix with a semicolon before it, a value with ": " and "=": each part stays where it was put."""
    knobs = knobs_of(RESUME="/a=b: c")
    knobs.error("RESUME", "python (pid 7) holds it; it is not done", "stop it")
    knobs.warn("", "a note: of no knob; at all")
    rows = [row for row in rows_of(knobs) if row.verdict in ("error", "warning")]
    assert [(row.what, row.value, row.text, row.fix) for row in rows] == [
        ("", "", "a note: of no knob; at all", ""),
        ("RESUME", "/a=b: c", "python (pid 7) holds it; it is not done", "stop it"),
    ]
    assert knobs.errors == ["RESUME=/a=b: c: python (pid 7) holds it; it is not done; stop it"]


# ---- the command line ----------------------------------------------------------------------------------------------


def preflight(*arguments, **variables):
    import os

    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_API_KEY",)}
    return subprocess.run(
        [sys.executable, "-m", "common.preflight", *arguments],
        cwd=ROOT,
        env={**environment, "PREFLIGHT": "fast", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_json_for_a_machine_that_is_not_here(tmp_path):
    """Of the model only config.json and the tokenizer are there; the plan has every part."""
    from tests.published_models import MODELS

    for file in DEMO_MODEL_DIR.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(MODELS["Qwen3-32B"][0]))
    done = preflight("grpo", "--gpus", "2x8x80GB", "--json", MODEL_PATH=str(tmp_path))
    content = json.loads(done.stdout)
    assert done.returncode == 0 and content["ok"], content["rows"]
    assert content["plan"]["gpus"]["count"] == 16 and content["plan"]["parameters"] == 32_762_123_264
    assert content["plan"]["bytes"]["training"]["weights"] == 4 * 32_762_123_264 / 16
    assert content["knobs"]["NNODES"] == "2"
    assert preflight("grpo", "--gpus", "80GB").returncode == 2


def test_off_resolves_and_goes_on_whatever_is_wrong():
    done = preflight("sft", "--json", PREFLIGHT="off", LEARNING_RATE="0.9", MODEL_PATH="demo")
    content = json.loads(done.stdout)
    assert done.returncode == 0 and content["knobs"]["BATCH_SIZE"] != "auto"
    stopped = preflight("sft", "--json", LEARNING_RATE="9", MODEL_PATH="demo")
    rows = json.loads(stopped.stdout)["rows"]
    assert stopped.returncode == 2
    assert [row["what"] for row in rows if row["verdict"] == "error"] == ["LEARNING_RATE"]
