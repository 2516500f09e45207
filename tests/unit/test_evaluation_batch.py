"""Batch evaluation of the demo model, from the command line to the file."""

import json
import os
import signal
import subprocess
import sys
import time

import openpyxl
import pytest
import torch
from xlsxwriter.exceptions import FileCreateError

from common.demo_model import DEMO_MODEL_DIR
from common.evaluation.cli import main
from common.evaluation.engines import transformers_engine
from common.hf_engine import generation
from tests.conftest import ROOT

VAL = ROOT / "grpo" / "data" / "val.parquet"


def evaluate(tmp_path, *arguments, model="demo", file=VAL, name="r.jsonl", status=0):
    """Run ``test.sh --batch`` in this process; returns the rows."""
    output = tmp_path / name
    options = ["--model_path", model, "--batch", "--input_file", str(file), "--output_file", str(output)]
    assert main([*options, *map(str, arguments)]) == status
    return [json.loads(line) for line in output.read_text().splitlines()] if status == 0 and name[-1] == "l" else None


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Questions of mixed length with what ``model.generate`` answers to each alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR, dtype=torch.float32).eval()
    rows, answers = [], []
    for number in range(24):
        text = f"What is {number} + {3 * number % 50}?" if number % 3 else "Let's think. " * number + "Add 3 and 4."
        rows.append({"prompt": text, "ground_truth": str(number + 3 * number % 50)})
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        out = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
        answers.append((tokenizer.decode(out, skip_special_tokens=True), len(out)))
    path = tmp_path_factory.mktemp("mixed") / "mixed.json"
    path.write_text(json.dumps(rows))
    return path, answers


def test_greedy_answers_are_those_of_one_by_one_generation(tmp_path, mixed):
    path, answers = mixed
    rows = evaluate(tmp_path, "--greedy", "--max_new_tokens", 24, file=path)
    assert [(row["response"], row["tokens"]) for row in rows] == answers


def test_the_demo_scores_what_verl_says(tmp_path, capsys):
    """verl's own validation of the untrained demo on this file is 0.2656 (README, Start)."""
    evaluate(tmp_path, "--greedy", name="r.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "r.xlsx")["Summary"]
    assert any(cell.value == pytest.approx(0.265625) for row in sheet.iter_rows() for cell in row)
    assert "26.6%" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["r.xlsx"]


def test_samples_have_seeds_of_their_own_whatever_the_batch(tmp_path, mixed):
    options = ["--n", 3, "--seed", 5, "--max_new_tokens", 16]
    rows = evaluate(tmp_path, *options, file=mixed[0])
    assert [row["sample"] for row in rows] == [1, 2, 3] * 24
    few = evaluate(tmp_path, *options, "--batch_tokens", 200, file=mixed[0])
    assert [row["response"] for row in rows] == [row["response"] for row in few]
    other = evaluate(tmp_path, *options[:3], 6, "--max_new_tokens", 16, file=mixed[0])
    assert [row["response"] for row in rows] != [row["response"] for row in other]
    assert len({row["response"] for row in rows[:30]}) > 10


def test_stop_texts_end_an_answer_and_are_not_part_of_it(tmp_path, mixed):
    whole = evaluate(tmp_path, "--greedy", "--max_new_tokens", 24, file=mixed[0])
    cut = evaluate(tmp_path, "--greedy", "--max_new_tokens", 24, "--stop", " is ", "--stop", "+ 1", file=mixed[0])
    for one, other in zip(whole, cut, strict=True):
        ends = [place for place in map(one["response"].find, (" is ", "+ 1")) if place >= 0]
        assert other["response"] == (one["response"][: min(ends)] if ends else one["response"])
        assert not ends or (other["finish"] == "stop" and other["tokens"] <= one["tokens"])
    assert any(other["response"] != one["response"] for one, other in zip(whole, cut, strict=True))


def test_several_processes_answer_the_same(tmp_path, mixed):
    rows = evaluate(tmp_path, "--greedy", "--max_new_tokens", 24, "--device", "cpu", "--gpus", 2, file=mixed[0])
    assert [(row["response"], row["tokens"]) for row in rows] == mixed[1]


def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path, mixed, monkeypatch):
    path, answers = mixed
    sizes = []

    def breaks_on_many(model, batch, *arguments):
        sizes.append(len(batch))
        if len(batch) > 5:
            generation.generate(model, batch[:2], *arguments)  # two had finished when memory ran out
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        generation.generate(model, batch, *arguments)

    monkeypatch.setattr(transformers_engine, "generate", breaks_on_many)
    rows = evaluate(tmp_path, "--greedy", "--max_new_tokens", 24, file=path)
    assert [(row["response"], row["tokens"]) for row in rows] == answers
    assert sizes[0] > 5 >= sizes[-1]


def test_a_prompt_that_never_fits_is_named_and_the_others_answered(tmp_path, mixed, monkeypatch):
    def breaks(model, batch, *arguments):
        if any(len(request.prompt_ids) > 60 for request in batch):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        generation.generate(model, batch, *arguments)

    monkeypatch.setattr(transformers_engine, "generate", breaks)
    rows = evaluate(tmp_path, "--greedy", "--max_new_tokens", 24, file=mixed[0])
    lost = [row for row in rows if row["error"]]
    assert 0 < len(lost) < 12 and "does not fit into memory" in lost[0]["error"]


def test_prompts_over_the_context_are_named(tmp_path):
    path = tmp_path / "long.json"
    path.write_text(json.dumps([{"prompt": "What is 1 + 1?"}, {"prompt": "1 + " * 4000}]))
    first, second = evaluate(tmp_path, "--greedy", file=path)
    assert first["error"] is None and "the model's context is 2,048" in second["error"]


def test_a_comparison_names_what_changed(tmp_path, mixed, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(DEMO_MODEL_DIR).save_pretrained(other)
    rows = evaluate(tmp_path, "--greedy", "--max_new_tokens", 24, "--compare", other, file=mixed[0])
    assert {row["against [other]"] for row in rows} >= {"better", "same"}
    assert "demo against other" in capsys.readouterr().out
    summary = json.loads((tmp_path / "r.summary.json").read_text())["comparisons"][0]
    assert summary["better"] == sum(row["against [other]"] == "better" for row in rows)
    evaluate(tmp_path, "--compare", "demo", status=2)
    assert "same model" in capsys.readouterr().err


def test_a_lora_adapter_is_folded_in(tmp_path, mixed):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = str(DEMO_MODEL_DIR)
    model.save_pretrained(tmp_path / "adapter")
    plain = evaluate(tmp_path, "--greedy", "--max_new_tokens", 8, file=mixed[0])
    adapted = evaluate(tmp_path, "--greedy", "--max_new_tokens", 8, file=mixed[0], model=str(tmp_path / "adapter"))
    assert [row["response"] for row in plain] != [row["response"] for row in adapted]


def command(tmp_path, *arguments):
    options = ["--model_path", "demo", "--batch", "--greedy", "--input_file", str(VAL), *arguments]
    return [sys.executable, "-m", "common.test_model", *options, "--output_file", str(tmp_path / "r.csv")]


def test_killed_and_started_again_writes_the_same_file(tmp_path, capsys):
    """kill -9 once some answers are there; the second start asks only the rest."""
    options = ["--batch_tokens", "3000", "--max_new_tokens", "100"]
    whole = tmp_path / "whole"
    whole.mkdir()
    subprocess.run(command(whole, *options), cwd=ROOT, check=True, capture_output=True, timeout=120)
    process = subprocess.Popen(command(tmp_path, *options), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(lines := partial_lines(tmp_path)) < 10:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    [partial] = tmp_path.glob(".*.partial.jsonl")
    with partial.open("ab") as stream:
        stream.write(b'{"row": 3, "sam')  # a torn line
    done = subprocess.run(
        command(tmp_path, *options), cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    )
    assert "resuming" in done.stdout and len(lines) >= 10
    assert (tmp_path / "r.csv").read_bytes() == (whole / "r.csv").read_bytes()
    assert not list(tmp_path.glob(".*partial*"))


def partial_lines(folder):
    return [line for path in folder.glob(".*.partial.jsonl") for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "--temperature -1.0: must be 0 (greedy) or more"),
        (["--n", "2", "--greedy"], "greedy answers to one prompt are all the same"),
        (["--use_vllm"], "./setup_env.sh --engine vllm"),
        (["--use-sglang"], "./setup_env.sh --engine sglang"),
        (["--reward", "gsm9k"], "gsm9k"),
        (["--model_path", "outputs/nothing-of-the-kind"], "no such folder or run"),
        (["--model_path", str(ROOT)], "is no model"),
        (["--output_file", "r.docx"], "cannot write .docx"),
        (["--input_file", "nowhere.json"], "no such file"),
    ],
)
def test_mistakes_end_before_a_model_is_loaded(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(transformers_engine, "load", None)
    options = ["--model_path", "demo", "--batch", "--input_file", str(VAL), "--output_file", str(tmp_path / "r.json")]
    assert main([*options, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_without_chat_template_needs_to_be_told(tmp_path, mixed, capsys):
    from transformers import AutoTokenizer

    folder = tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (folder / name).symlink_to(DEMO_MODEL_DIR / name)
    options = ["--greedy", "--max_new_tokens", 24]
    evaluate(tmp_path, *options, file=mixed[0], model=str(folder), status=2)
    assert "--template chatml" in capsys.readouterr().err
    rows = evaluate(tmp_path, *options, "--template", "chatml", file=mixed[0], model=str(folder))
    assert [(row["response"], row["tokens"]) for row in rows] == mixed[1]


REWARD = """
import time
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    if ground_truth == "{0}":
        {1}
    return {{"score": 0.5, "words": len(solution_str.split())}}
"""


@pytest.mark.parametrize(
    ("deed", "message"), [("raise KeyError('x')", "KeyError"), ("time.sleep(60)", "did not come back")]
)
def test_a_reward_that_fails_on_a_row_loses_that_score_only(tmp_path, monkeypatch, deed, message):
    monkeypatch.setattr("common.evaluation.scorer.LIMIT_S", 3.0)
    (tmp_path / "my_reward.py").write_text(REWARD.format("13", deed))
    rows = evaluate(tmp_path, "--greedy", "--limit", 4, "--reward", tmp_path / "my_reward.py")
    assert [row["score"] for row in rows] == [0.5, None, 0.5, 0.5]
    assert message in rows[1]["error"] and rows[0]["reward.words"] > 1


def test_a_reward_that_fails_at_once_stops_before_generation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transformers_engine, "load", None)
    (tmp_path / "my_reward.py").write_text(REWARD.format("62", "raise KeyError('x')"))
    evaluate(tmp_path, "--reward", tmp_path / "my_reward.py", status=2)
    assert "on row 1 it fails: KeyError" in capsys.readouterr().err


def test_a_full_disk_at_the_end_loses_nothing(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise FileCreateError(OSError(28, "No space left on device"))

    options = ["--greedy", "--limit", 8]
    with monkeypatch.context() as patch:
        patch.setattr("xlsxwriter.Workbook._store_workbook", full)
        evaluate(tmp_path, *options, name="r.xlsx", status=2)
    assert "No space left on device. All answers are kept" in capsys.readouterr().err
    monkeypatch.setattr(transformers_engine, "load", None)
    assert len(evaluate(tmp_path, *options)) == 8


def test_answers_that_are_there_already_are_scored_again(tmp_path, mixed, capsys):
    rows = evaluate(tmp_path, "--n", 2, "--max_new_tokens", 24, "--reward", "none", file=mixed[0])
    assert "score" not in rows[0]
    answers = tmp_path / "answers.jsonl"
    (tmp_path / "r.jsonl").rename(answers)
    again = evaluate(tmp_path, "--n", 2, file=mixed[0], model=str(answers))
    assert [row["response"] for row in again] == [row["response"] for row in rows]
    assert {row["result"] for row in again} == {"right", "wrong"}
    evaluate(tmp_path, "--n", 2, file=VAL, model=str(answers), status=2)
    assert "answers another question than row 1" in capsys.readouterr().err
