"""The parser of training logs: every format, every verl release, damaged lines, speed."""

from __future__ import annotations

import json
import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_log_parser import one_round
from common.verl_ext.version import pinned
from monitor.log_parser import LogParser
from tests.conftest import ROOT

CONSOLE = ROOT / "tests" / "data" / "console"
VERSIONS = sorted(path.stem.removeprefix("verl-") for path in CONSOLE.glob("verl-*.log") if "ray" not in path.stem)


def parse(text):
    return LogParser().feed(text if isinstance(text, bytes) else text.encode())


def same(found, expected, decimals=None):
    if math.isnan(expected):
        return math.isnan(found)
    return found == expected or (decimals is not None and abs(found - expected) <= 0.5 * 10**-decimals + 1e-12)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_each_verl_release_prints(version):
    expected = json.loads((CONSOLE / "expected.json").read_text())
    found = parse((CONSOLE / f"verl-{version}.log").read_bytes())
    assert [step for step, _ in found] == [step for step, _ in expected]
    decimals = 3 if version == "0.3.0" else 6 if version else None  # 0.3 rounds; float32 prints seven digits
    for (_, data), (_, want) in zip(found, expected, strict=True):
        assert data.keys() == want.keys()
        wrong = {name for name in want if not same(data[name], float(want[name]), decimals)}
        assert not wrong


def test_the_versions_are_there():
    assert {"0.3.0", "0.6.1", "0.7.1", "0.8.0", pinned()} <= set(VERSIONS)


def test_a_real_log_with_ray_prefixes_and_colours():
    found = parse((CONSOLE / f"verl-{pinned()}-ray.log").read_bytes())
    assert [step for step, _ in found] == [0, 1, 2, 3, 4, 5]
    assert len(found[1][1]) == 94
    assert found[1][1]["critic/score/mean"] == 0.3828125
    assert found[1][1]["training/global_step"] == 1


FORMATS = {
    '{"step":5,"data":{"a":1.5,"b":null}}': (5, {"a": 1.5, "b": None}),
    '{"step": 5, "loss": 0.25}': (5, {"loss": 0.25}),
    '{"step": 5, "data": {"a": Infinity}}': (5, {"a": math.inf}),
    "step:34 - actor/pg_loss:-0.01 - x:np.float64(0.1) - y:np.int64(3)": (
        34,
        {"actor/pg_loss": -0.01, "x": 0.1, "y": 3},
    ),
    "(TaskRunner pid=9) step:3 - a:1e-06 [repeated 2x across cluster]": (3, {"a": 1e-06}),
    "\x1b[36m(TaskRunner pid=9)\x1b[0m step:3 - a:inf - b:-inf": (3, {"a": math.inf, "b": -math.inf}),
    "Training Progress:  3%| | 3/100 [00:05<02:45,  1.7s/it]step:3 - a:1": (3, {"a": 1}),
    "step:3 - a:tensor(0.25, device='cuda:0') - b:2": (3, {"a": 0.25, "b": 2}),
    "step:3 - val-core/my - data/acc/mean@1:0.5": (3, {"val-core/my - data/acc/mean@1": 0.5}),
    "Step 100/10000 | Loss: 0.234 | Reward: 0.856 | KL: 0.0012 | LR: 9.8e-7": (
        100,
        {"loss": 0.234, "reward_mean": 0.856, "kl_divergence": 0.0012, "learning_rate": 9.8e-7},
    ),
    "Epoch 1/3: PL:0.3245 VL:0.1234 R:1.56 A:0.23 E:0.678 LR:1.00e-06": (
        1,
        {
            "policy_loss": 0.3245,
            "value_loss": 0.1234,
            "reward_mean": 1.56,
            "advantage_mean": 0.23,
            "entropy": 0.678,
            "learning_rate": 1e-06,
        },
    ),
    "Step 1/29: reward_mean=0.15, kl_mean=0.05, actor_loss=2.31 [15.2s]": (
        1,
        {"reward_mean": 0.15, "kl_divergence": 0.05, "policy_loss": 2.31, "step_time": 15.2},
    ),
    "Step 12/24 | reward 0.710 | policy loss 0.0123 | KL 0.0021 | entropy 0.310 | lr 1e-04 | 2.4 s | ETA 0:29": (
        12,
        {
            "reward_mean": 0.71,
            "policy_loss": 0.0123,
            "kl_divergence": 0.0021,
            "entropy": 0.31,
            "learning_rate": 1e-4,
            "step_time": 2.4,
        },
    ),
    "{'loss': 0.5234, 'grad_norm': 1.25, 'learning_rate': 1e-06, 'epoch': 0.1}": (
        1,
        {"loss": 0.5234, "grad_norm": 1.25, "learning_rate": 1e-06, "epoch": 0.1},
    ),
    "{'loss': '0.5234', 'epoch': '0.1'}": (1, {"loss": 0.5234, "epoch": 0.1}),
}


@pytest.mark.parametrize("line", FORMATS)
def test_one_line_of_each_format(line):
    assert parse(line) == [FORMATS[line]]


def test_the_step_of_a_trainer_dict_is_that_of_its_progress_bar():
    text = " 10%|x   | 10/100 [00:05<00:45,  2.0it/s]\r{'loss': 0.5, 'epoch': 0.1}\n"
    text += " 50%|x   | 4/8 [00:05<00:45,  2.0it/s]\r{'eval_loss': 0.7, 'epoch': 0.1}\n"
    parser = LogParser()
    assert parser.feed(text.encode()) == [(10, {"loss": 0.5, "epoch": 0.1}), (10, {"val_loss": 0.7, "epoch": 0.1})]
    assert parser.total_steps == 100


def test_several_loggers_in_one_file():
    text = 'step:1 - a:1\n{"step":1,"data":{"b":2}}\nStep 1/9 | Loss: 3\nloading weights ...\nstep:2 - a:4\n'
    assert parse(text) == [(1, {"a": 1}), (1, {"b": 2}), (1, {"loss": 3}), (2, {"a": 4})]


def test_of_torn_lines_what_is_whole_is_kept():
    assert parse('{"step":1,"data":{"a"{"step":2,"data":{"a":1}}') == [(2, {"a": 1})]
    assert parse('{"step":1,"data":{"a":1}}{"step":2,"data":{"a":2}}') == [(1, {"a": 1}), (2, {"a": 2})]
    assert parse("step:3 - a:1 - actor/pg_(WorkerDict pid=2) step:4 - a:2") == [(3, {"a": 1}), (4, {"a": 2})]
    assert parse("step:3 - a:1 - b:0.12(WorkerDict pid=1) loading") == [(3, {"a": 1})]  # 0.12 of perhaps 0.1234


@pytest.mark.parametrize(
    "line",
    ["training/global_step:34 - x:1", "Step 5/10: loading model", "epoch", '{"step":"x","data":{}}', "{}", "[1]"],
)
def test_lines_that_say_nothing(line):
    assert parse(line) == []


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_taken(data):
    for step, values in parse(data):
        assert isinstance(step, int) and isinstance(values, dict)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z][a-z_/@.0-9-]{0,20}", fullmatch=True), st.floats(), min_size=1, max_size=9))
def test_any_numbers_come_back_as_they_were_printed(data):
    line = "step:7 - " + " - ".join(f"{name}:{value!r}" for name, value in data.items())
    (step, found) = parse(line)[0]
    assert step == 7 and found.keys() == data.keys()
    assert all(same(found[name], value) for name, value in data.items())


def test_a_few_rounds_of_the_fuzzer(tmp_path):
    rng = random.Random(5)
    rounds = [one_round(rng, tmp_path) for _ in range(40)]
    assert sum(lines for _, lines, _ in rounds) > 200
    assert not any(lost for _, _, lost in rounds)


def test_faster_than_the_json_module_alone():
    data = {f"actor/metric_number_{number}": random.Random(number).random() for number in range(60)}
    line = json.dumps({"step": 5, "data": data}).encode()
    console = ("step:5 - " + " - ".join(f"{k}:{v}" for k, v in data.items())).encode()
    text, console_text = (line + b"\n") * 2000, (console + b"\n") * 2000

    def seconds(work):
        times = []
        for _ in range(3):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    stdlib = seconds(lambda: [json.loads(one) for one in text.splitlines()])
    assert seconds(lambda: parse(text)) < stdlib
    assert seconds(lambda: parse(console_text)) < 3 * stdlib


BARS = b"""Loading weights: 100%|##########| 338/338 [00:00<00:00, 1501.33it/s]
Evaluating: 100%|##########| 900/900 [00:00<00:00, 1501.33it/s]
 10%|#         | 10/100 [00:10<01:30,  1.00s/it]
{'loss': 0.5, 'epoch': 0.1}
Training:  20%|##        | 20/100 [00:20<01:20,  1.00s/it]
{'loss': 0.3, 'epoch': 0.2}
"""


def test_only_the_bar_of_the_training_tells_the_step():
    parser = LogParser()
    found = [(step, data["loss"]) for step, data in parser.feed(BARS)]
    assert found == [(10, 0.5), (20, 0.3)] and parser.total_steps == 100


def test_thousands_with_commas():
    parser = LogParser()
    assert parser.feed(b"Step 1,000/10,000 | Loss: 0.25\n") == [(1000, {"loss": 0.25})] and parser.total_steps == 10_000
    assert parser.feed(b"Step 3, 100 loss: 2\n")[0][0] == 3


@pytest.mark.parametrize("name", ["step", "_step", "global_step", "current_steps", "iteration"])
def test_what_files_call_the_step(name):
    assert LogParser().feed(b'{"%s": 7, "loss": 0.5}\n' % name.encode()) == [(7, {"loss": 0.5})]


def test_json_without_a_step_is_counted():
    lines = b'{"loss": 0.5, "lr": 0.1}\n{"note": "x"}\n{"loss": 0.25, "lr": 0.1}\n'
    assert LogParser().feed(lines) == [
        (1, {"loss": 0.5, "learning_rate": 0.1}),
        (2, {"loss": 0.25, "learning_rate": 0.1}),
    ]
