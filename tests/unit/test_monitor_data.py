"""Samples, health, comparison, log, checkpoints and machine: what the tabs show, without the page."""

from __future__ import annotations

import json
import os
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from common.metrics.names import check_health, friendly
from monitor import log_tail, samples, system
from monitor.checkpoints import saved_in, signature
from monitor.columns import Columns
from monitor.compare import config_of, differences, knobs_of, reached
from monitor.health import find
from monitor.samples import choose, follow, group_of, question, read_step, share_of_flat_groups, steps_of


def columns_of(**metrics):
    columns = Columns()
    count = len(next(iter(metrics.values())))
    columns.add((n + 1, {name: float(values[n]) for name, values in metrics.items()}) for n in range(count))
    return columns


# ---- samples ---------------------------------------------------------------------------------------------


def dump(folder: Path, step: int, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{step}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def row(prompt, answer, score, uid="u", number=0, **parts):
    return {
        "input": prompt,
        "output": answer,
        "gts": "4",
        "score": score,
        "step": 1,
        "uid": f"{uid}_{number}_0",
        **parts,
    }


def test_samples_of_a_step(tmp_path):
    rows = [row("2+2?", "4", 1.0, "a", 0, acc=1.0), row("2+2?", "5", 0.0, "a", 1), row("3+3? 你好", "6", 0.5, "b", 0)]
    dump(tmp_path, 10, rows)
    dump(tmp_path, 9, rows)
    (tmp_path / "notes.txt").write_text("")
    assert steps_of(tmp_path) == [9, 10]
    found, wrong = read_step(tmp_path, 10)
    assert wrong == "" and [one.score for one in found] == [1.0, 0.0, 0.5]
    assert found[0].parts == {"acc": 1.0} and found[0].truth == "4"
    assert [one.answer for one in choose(found, "", "low")] == ["5", "6", "4"]
    assert [one.answer for one in choose(found, "你好", "high")] == ["6"]
    assert [one.answer for one in choose(found, "2+2 5", "file")] == ["5"]
    assert [one.answer for one in group_of(found, found[1])] == ["4", "5"]


def test_a_prompt_is_followed_through_the_training(tmp_path):
    for step in (1, 3, 20):
        dump(tmp_path, step, [row('say "hi"\n', f"hi {step}", step / 20), row("other", "x", 0.0)])
    dump(tmp_path, 4, [row("other", "x", 0.0)])
    found, complete = follow(tmp_path, 'say "hi"\n')
    assert complete and [(step, [one.answer for one in some]) for step, some in found] == [
        (1, ["hi 1"]),
        (3, ["hi 3"]),
        (20, ["hi 20"]),
    ]
    assert follow(tmp_path, "other", seconds=-1) == ([], False)


def test_damaged_samples(tmp_path, monkeypatch):
    dump(tmp_path, 1, [row("a", "b", None)])
    with (tmp_path / "1.jsonl").open("ab") as stream:
        stream.write(b'{"input": "torn\n\xff\xfe\n[1]\n')
    found, wrong = read_step(tmp_path, 1)
    assert [one.score for one in found] == [None] and wrong == "samples_damaged"
    assert read_step(tmp_path, 2) == ([], "samples_gone")
    monkeypatch.setattr(samples, "MAX_BYTES", 300)
    dump(tmp_path, 3, [row("a", "b" * 100, 1.0)] * 5)
    found, wrong = read_step(tmp_path, 3)
    assert 1 <= len(found) < 5 and wrong == "samples_cut"
    assert steps_of(tmp_path / "gone") == []


def test_the_question_of_a_chat():
    assert question("system\nBe kind.\nuser\nWhat is 7 + 5?\nassistant\n") == "What is 7 + 5?"
    assert question("user\nfirst\nassistant\nyes\nuser\nsecond\nassistant\n") == "second"
    assert question("no roles here") == "no roles here"


# ---- health ----------------------------------------------------------------------------------------------


def test_health_agrees_with_the_table_at_every_step():
    rng = np.random.default_rng(3)
    keys = {
        "critic/score/mean": np.where(np.arange(120) > 90, 0.0, rng.random(120) / 2),
        "critic/score/max": np.ones(120),
        "critic/score/min": np.zeros(120),
        "actor/kl_loss": np.abs(np.sin(np.arange(120) / 9)) * 0.2,
        "actor/entropy": np.linspace(0.5, 0.0, 120),
        "actor/pg_clipfrac": rng.random(120) * 0.6,
        "actor/grad_norm": np.where(np.arange(120) == 50, np.nan, 1.0),
    }
    columns = columns_of(**keys)
    history = [friendly({name: values[n] for name, values in keys.items()}) for n in range(120)]
    last = {warning.name for warning in check_health(history[-40:])}
    found = find(columns, None, None)
    now = {one.name for one in found if one.now and one.side}
    assert now == last and {"reward_mean", "entropy"} <= now
    for one in found:
        if one.side:
            said = {warning.name: warning for warning in check_health(history[max(0, one.last - 40) : one.last])}
            assert said[one.name].advice == one.advice
    assert [(one.first, one.last, one.side) for one in found if one.name == "grad_norm"] == [(51, 51, "nan")]
    past = [one for one in found if one.name == "kl_divergence"]
    assert len(past) > 1 and all(one.first <= one.last for one in past)
    assert [one.now for one in found] == sorted((one.now for one in found), reverse=True)


def test_health_of_a_long_run_is_quick():
    steps = 100_000
    columns = columns_of(
        **{"critic/score/mean": np.random.default_rng(1).random(steps), "actor/kl_loss": np.full(steps, 0.2)}
    )
    start = time.process_time()
    found = find(columns, None, None)
    assert time.process_time() - start < 2
    assert [(one.name, one.first) for one in found if one.name == "kl_divergence"] == [("kl_divergence", 3)]


def test_health_rules_of_more_than_one_metric(tmp_path):
    rng = np.random.default_rng(2)
    flat = columns_of(**{"critic/score/mean": 0.4 + rng.normal(0, 0.01, 60), "critic/score/max": np.ones(60)})
    assert "flat_reward" in {one.name for one in find(flat, None, None)}
    rising = columns_of(**{"critic/score/mean": np.linspace(0.1, 0.8, 60), "critic/score/max": np.ones(60)})
    assert "flat_reward" not in {one.name for one in find(rising, None, None)}
    solved = columns_of(**{"critic/score/mean": np.full(60, 0.97), "critic/score/max": np.ones(60)})
    assert "flat_reward" not in {one.name for one in find(solved, None, None)}
    slow = columns_of(**{"timing_s/step": [2.0] * 30 + [9.0] * 4 + [2.0] * 3})
    (finding,) = find(slow, None, None)
    assert (finding.name, finding.first, finding.last, finding.now, finding.value) == ("slow_steps", 31, 34, False, 4.5)
    rows = [row(f"q{n}", "x", float(n % 2), f"u{n}", k) for n in range(10) for k in range(4)]
    dump(tmp_path, 7, rows)
    assert share_of_flat_groups(read_step(tmp_path, 7)[0]) == 1.0
    found = {one.name: one for one in find(slow, None, tmp_path)}
    assert (found["flat_groups"].last, found["flat_groups"].value) == (7, 1.0)


# ---- comparison ------------------------------------------------------------------------------------------


def test_final_and_best():
    columns = columns_of(
        **{"critic/score/mean": [0.1, 0.9, 0.5], "train/loss": [3.0, 1.0, 2.0], "actor/entropy": [1, 2, 3]}
    )
    best = {name: reached(columns, name) for name in ("reward_mean", "loss", "entropy", "val_loss")}
    assert (best["reward_mean"].final, best["reward_mean"].best, best["reward_mean"].best_step) == (0.5, 0.9, 2)
    assert (best["loss"].best, best["loss"].best_step) == (1.0, 2)
    assert best["entropy"].best is None and best["entropy"].final == 3.0 and best["val_loss"] is None


def test_what_differs(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("actor: {lr: 1e-6, clip: 0.2}\ntrainer: {experiment_name: a, total_epochs: 3}\n")
    assert config_of(config) == {"actor.lr": "1e-6", "actor.clip": "0.2", "trainer.total_epochs": "3"}
    config.write_bytes(b"\xff\xfe: [")
    assert config_of(config) == {} and config_of(tmp_path / "gone") == {} and config_of(None) == {}
    knobs = [knobs_of({"knobs": {"LR": one, "SEED": "1", "EXPERIMENT_NAME": one}, "versions": 3}) for one in ("1", "2")]
    assert differences({"a": knobs[0], "b": knobs[1], "c": {}}) == [
        ("LR", ["1", "2", None]),
        ("SEED", ["1", "1", None]),
    ]


# ---- log -------------------------------------------------------------------------------------------------


def test_the_end_of_a_log(tmp_path):
    log = tmp_path / "train.log"
    log.write_bytes(
        b"\x1b[36m(TaskRunner pid=1)\x1b[0m hello\n" + b" 1/9\r 2/9\r 3/9\n" + b"\xff\x00binary\n" + b"x" * 5000 + b"\n"
    )
    found = log_tail.tail(log)
    assert found[:2] == ["(TaskRunner pid=1) hello", " 3/9"] and found[3].endswith("… (+3000)")
    assert log_tail.tail(log, 1)[0].startswith("xxx")


def test_a_search_finds_the_newest_first_and_every_line_once(tmp_path, monkeypatch):
    monkeypatch.setattr(log_tail, "_BLOCK", 50)
    log = tmp_path / "train.log"
    log.write_text(
        "".join(f"line {n} {'needle' if n % 7 == 0 else ''}\n" for n in range(200)) + "y" * 700 + " NEEDLE\nend"
    )
    found, complete = log_tail.search(log, "needle")
    assert complete and [hit.text.split()[1] for hit in found] == [str(n) for n in range(0, 200, 7)] + ["NEEDLE"]
    text = log.read_bytes()
    assert all(text[hit.offset :].startswith(hit.text[:20].encode()) for hit in found)
    assert log_tail.search(log, "nowhere") == ([], True)
    log.write_text("z" * 5000 + "\nend\n")  # a line longer than many blocks
    assert [hit.text for hit in log_tail.search(log, "end")[0]] == ["end"]
    assert max(len(block) for _, block in log_tail._blocks_from_the_end(log)) <= 10 * 50


def test_errors_first(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("UserWarning: veomni is not available: ModuleNotFoundError('veomni')\nall well\n")
    assert log_tail.errors(log, failed=False) == ([], None)
    with log.open("a") as stream:
        stream.write("Traceback (most recent call last):\n  File 'x', line 1, in f\ntorch.OutOfMemoryError: CUDA out\n")
    found, diagnosis = log_tail.errors(log, failed=False)
    assert found[-1].startswith("torch.OutOfMemoryError") and diagnosis.fix


# ---- checkpoints -----------------------------------------------------------------------------------------


def test_checkpoints(tmp_path):
    assert saved_in(tmp_path) == []
    for step in (10, 20, 9):
        folder = tmp_path / "checkpoints" / f"global_step_{step}"
        folder.mkdir(parents=True)
        (folder / "data.pt").write_bytes(b"x" * 1000 * step)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("20")
    (tmp_path / "checkpoints" / "global_step_x").mkdir()
    found = saved_in(tmp_path)
    assert [(one.step, one.size, one.latest) for one in found] == [
        (20, 20_000, True),
        (10, 10_000, False),
        (9, 9_000, False),
    ]
    assert all(one.problems for one in found)  # no shards in them
    before = signature(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert signature(tmp_path) != before
    assert saved_in(tmp_path)[0].step is None


# ---- machine ---------------------------------------------------------------------------------------------


def fake_nvml(broken=()):
    """NVML of a machine with two GPUs, of which the calls in `broken` are not supported."""
    module = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def answer(name, value):
        def call(*_):
            if name in broken:
                raise NVMLError("Not Supported")
            return value(*_) if callable(value) else value

        return call

    values = {
        "nvmlInit": None,
        "nvmlDeviceGetCount": 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": b"NVIDIA H100",
        "nvmlDeviceGetUtilizationRates": types.SimpleNamespace(gpu=87),
        "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(used=40 << 30, total=80 << 30),
        "nvmlDeviceGetPowerUsage": 350_500,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetComputeRunningProcesses": [types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=1 << 30)],
    }
    for name, value in values.items():
        setattr(module, name, answer(name, value))
    module.NVMLError, module.NVML_TEMPERATURE_GPU = NVMLError, 0
    return module


def test_gpus(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    sampler = system.Sampler(tmp_path / "not" / "there")
    sampler._open_nvml()
    moment = sampler.look()
    assert moment.memory_total > moment.memory > 0 and moment.disk_total > moment.disk > 0
    gpu = moment.gpus[1]
    assert (gpu.index, gpu.name, gpu.use, gpu.memory, gpu.temperature, gpu.power, gpu.limit) == (
        1,
        "NVIDIA H100",
        87,
        40 << 30,
        61,
        350.5,
        700.0,
    )
    assert gpu.processes[0].pid == os.getpid() and "python" in gpu.processes[0].name
    assert sampler.gpu_problem == ""


def test_a_gpu_that_does_not_tell_everything(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(("nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates")))
    sampler = system.Sampler(tmp_path)
    sampler._open_nvml()
    gpu = sampler.look().gpus[0]
    assert gpu.power is None and gpu.use is None and gpu.temperature == 61


@pytest.mark.parametrize("module", [None, fake_nvml(("nvmlInit",))], ids=["no library", "no driver"])
def test_a_machine_without_a_gpu_says_so(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    sampler = system.Sampler(tmp_path)
    sampler._open_nvml()
    assert sampler.look().gpus == () and sampler.gpu_problem
