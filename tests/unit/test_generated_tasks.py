"""Tasks of reasoning-gym with a stand-in for the package, which is optional: rows, scores, what is not evaluated."""

import inspect
import json
import os
import sys
import time
import types

import pyarrow.parquet as pq
import pytest

from common.data import generator
from common.data_utils import main
from common.reward_functions import by_data_source, reasoning_gym
from common.rewards import generated
from common.rewards.generated import is_safe
from common.worker import Worker


class Sums:
    """Sums of two numbers; its scorer evaluates the answer, as the package's countdown does."""

    def __init__(self, seed, size, largest=9):
        self.seed, self.largest = seed, largest

    def __getitem__(self, index):
        a, b = (self.seed + index) % (self.largest + 1), index % 7
        return {"question": f"{a} + {b}?", "answer": str(a + b), "metadata": {"pair": (a, b)}}

    def score_answer(self, answer, entry):
        assert isinstance(entry["metadata"]["pair"], tuple)  # a list after a file
        return 1.0 if eval(answer) == sum(entry["metadata"]["pair"]) else 0.05


def create_dataset(name, **settings):
    if name != "countdown":
        raise ValueError(f"Dataset '{name}' not registered")
    return Sums(**settings)


@pytest.fixture(autouse=True)
def package(monkeypatch, tmp_path_factory):
    """The package here, and as files for the process that scores expressions."""
    site = tmp_path_factory.mktemp("site")
    (site / "reasoning_gym.py").write_text("\n\n".join(map(inspect.getsource, (Sums, create_dataset))))
    about = site / f"reasoning_gym-{generator.VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: reasoning-gym\nVersion: {generator.VERSION}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    worker = Worker("common.rewards.generated_worker")
    monkeypatch.setattr(generated, "_worker", worker)
    monkeypatch.setitem(sys.modules, "reasoning_gym", types.SimpleNamespace(create_dataset=create_dataset))
    monkeypatch.setattr(generator, "version", lambda name: generator.VERSION)
    for cached in (generator.generated, generator.dataset_of):
        cached.cache_clear()
    yield
    worker.stop()
    for cached in (generator.generated, generator.dataset_of):
        cached.cache_clear()


def prepared(tmp_path, *options):
    assert main(["prepare", "reasoning-gym:countdown", "--to", str(tmp_path / "out"), *options]) == 0
    return [pq.read_table(tmp_path / "out" / f"{side}.parquet").to_pylist() for side in ("train", "val")]


def test_rows_and_their_scores(tmp_path):
    train, val = prepared(tmp_path, "--size", "30", "--seed", "3")
    assert len(train) == 30 and len(val) == 32
    asked = [{row["prompt"][-1]["content"] for row in side} for side in (train, val)]
    assert len(asked[0]) == 30 and not asked[0] & asked[1]
    for row in train[:5]:
        a, b = map(int, row["prompt"][-1]["content"].rstrip("?").split(" + "))
        truth = row["reward_model"]["ground_truth"]
        right = reasoning_gym(row["data_source"], f"<think>9</think>So <answer>{a + b}</answer>", truth)
        assert right == {"score": 1.0, "acc": 1.0, "format": 1.0}
        assert reasoning_gym("x", f"{a}+{b}", truth) == {"score": 1.0, "acc": 1.0, "format": 0.0}
        assert reasoning_gym("x", f"<answer>{a + b + 1}</answer>", truth)["score"] == 0.05
        assert by_data_source(row["data_source"], f"<answer>{a + b}</answer>", truth)["score"] == 1.0
        for nothing in ("", None, "<think>no end"):
            assert reasoning_gym("x", nothing, truth)["score"] == 0.0


def test_settings_of_a_task_are_kept(tmp_path):
    train, _ = prepared(tmp_path, "--size", "2", "--config", '{"largest": 99}')
    truth = json.loads(train[0]["reward_model"]["ground_truth"])
    assert truth["config"] == {"largest": 99}
    assert reasoning_gym("x", truth["answer"], truth)["score"] == 1.0


@pytest.mark.parametrize(
    "answer",
    ["open('/etc/passwd')", "__import__('os')", "exec(1)", "lambda: 0", "9**9**9", "(9**9)**9999", "x.real", "a if 1"],
)
def test_what_could_run_as_a_program_is_not_evaluated(answer, tmp_path):
    truth = json.loads(prepared(tmp_path, "--size", "1")[0][0]["reward_model"]["ground_truth"])
    assert not is_safe("countdown", answer)
    assert reasoning_gym("x", answer, truth)["score"] == 0.0


@pytest.mark.parametrize("answer", ["9**(99*99*99*99*99)", "((((9**99)**99)**99)**99)", "1/0", "(1"])
def test_an_expression_without_an_end_scores_0(answer, tmp_path):
    truth = json.loads(prepared(tmp_path, "--size", "1")[0][0]["reward_model"]["ground_truth"])
    assert is_safe("countdown", answer)  # nobody can tell by a look at it
    begin = time.monotonic()
    assert reasoning_gym("x", answer, truth, timeout_s=0.5)["score"] == 0.0
    assert time.monotonic() - begin < 20
    assert reasoning_gym("x", truth["answer"], truth)["score"] == 1.0  # the next one finds a new process


def test_the_answers_alone_for_sft(tmp_path):
    """A start for a model that is never right: the question as it is trained on later, and its answer in the form."""
    train, val = prepared(tmp_path, "--size", "20", "--algo", "sft")
    assert len(train) == 20 and len(val) == 32
    for row in train:
        asked, answer = row["messages"][1]["content"], row["messages"][2]
        a, b = map(int, asked.rstrip("?").split(" + "))
        assert row["messages"][0]["role"] == "system" and answer["role"] == "assistant"
        assert answer["content"] == f"<answer>{a + b}</answer>"


def test_plain_answers_are_evaluated():
    for task, answers in {
        "countdown": ["94*4 - 61 - 6", "(3+5)/2"],
        "simple_integration": ["x**3/3 - 2*x**2 + C", "-3*sin(2*x) + exp(x) + C"],
        "n_queens": ["[['_', 'Q'], ['Q', '_']]", "_ Q\nQ _"],
        "leg_counting": ["anything (at all)"],
    }.items():
        assert all(is_safe(task, answer) for answer in answers), task
    assert not is_safe("n_queens", "[0]*10**9") and not is_safe("n_queens", "exit()")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("reasoning-gym:no_such: Dataset 'no_such' not registered", ["reasoning-gym:no_such"]),
        ("use grpo, ppo, gspo or sft", ["reasoning-gym:countdown", "--algo", "dpo"]),
        ("only 1 different questions in", ["reasoning-gym:countdown", "--config", '{"largest": 0}', "--seed", "0"]),
        ("nothing: not known; known are gsm8k", ["nothing"]),
    ],
)
def test_what_cannot_be_prepared(tmp_path, capsys, words, options, monkeypatch):
    monkeypatch.setattr(
        Sums, "__getitem__", lambda self, index: {"question": "the same", "answer": "1", "metadata": {}}
    )
    assert main(["prepare", *options, "--to", str(tmp_path / "out")]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "train.parquet").exists()


def test_another_package_is_refused(tmp_path, monkeypatch):
    truth = json.loads(prepared(tmp_path, "--size", "1")[0][0]["reward_model"]["ground_truth"])
    with pytest.raises(ValueError, match="generates another row 0 of countdown"):
        reasoning_gym("x", "1", {**truth, "answer": "another"})
    for cached in (generator.generated, generator.dataset_of):
        cached.cache_clear()
    monkeypatch.setattr(generator, "version", lambda name: "9.9")
    with pytest.raises(ValueError, match="reasoning-gym 9.9: the scorers of .* were checked"):
        reasoning_gym("x", "1", truth)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match="reasoning-gym is not installed.*requirements/reasoning-gym.txt"):
        reasoning_gym("x", "1", truth)
