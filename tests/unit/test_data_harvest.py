"""``data_utils harvest``: answers of an RL run become rows for sft, dpo and kto."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data_utils import main
from common.demo_model import DEMO_MODEL_DIR
from common.run_dir import update_run

PROMPTS = [[{"role": "user", "content": f"What is {n} + 1?"}] for n in range(3)]
# Step 1: answers to all prompts; step 2: to the first again. uid_session_index as verl writes it.
ANSWERS = {
    1: {0: [("right", 1.0), ("wrong", 0.0), ("right", 1.0)], 1: [("close", 0.9), ("near", 0.7)], 2: [("bad", 0.0)]},
    2: {0: [("also right", 1.0), ("wrong", 0.0)], 1: [("word " * 30, 1.0), ("never", 0.0)]},
}


@pytest.fixture
def run(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    folder = tmp_path / "run"
    (folder / "rollouts").mkdir(parents=True)
    data = tmp_path / "prompts.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": prompt} for prompt in PROMPTS]), data)
    knobs = {"TRAIN_DATA": str(data), "MAX_RESPONSE_LENGTH": "24"}
    update_run(folder, algorithm="grpo", model="demo", knobs=knobs)
    for step, groups in ANSWERS.items():
        lines = [{"uid": "pad_0_0", "input": "", "output": "", "score": 9.0}]
        for number, answers in groups.items():
            ids = tokenizer.apply_chat_template(PROMPTS[number], add_generation_prompt=True)["input_ids"]
            shown = tokenizer.decode(ids, skip_special_tokens=True)
            lines += [
                {"uid": f"u{number}_0_{at}", "input": shown, "output": output, "score": score}
                for at, (output, score) in enumerate(answers)
            ]
        (folder / "rollouts" / f"{step}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def rows_of(run, *options):
    target = run.parent / "out.parquet"
    assert main(["harvest", str(run), str(target), *options]) == 0
    return pq.read_table(target).to_pylist()


def said(messages):
    return messages[-1]["content"]


def test_the_best_answers_for_sft(run, capsys):
    rows = rows_of(run, "--min-score", "0.9")
    assert [said(row["messages"]) for row in rows] == ["right", "close"]
    assert rows[0]["messages"][0] == PROMPTS[0][0] and rows[1]["messages"][0] == PROMPTS[1][0]
    shown = capsys.readouterr().out
    assert "1 answers cut at the length limit" in shown and "1 groups without a good answer" in shown
    several = rows_of(run, "--min-score", "0.6", "--best", "2")
    assert [said(row["messages"]) for row in several] == ["right", "close", "near", "also right"]
    assert [said(row["messages"]) for row in rows_of(run, "--min-score", "1", "--from-step", "2")] == ["also right"]


def test_pairs_and_labels(run):
    pairs = rows_of(run, "--min-score", "0.5", "--algo", "dpo")
    assert [(said(row["chosen"]), said(row["rejected"])) for row in pairs] == [
        ("right", "wrong"),
        ("also right", "wrong"),
    ]
    near = rows_of(run, "--min-score", "0.5", "--algo", "dpo", "--margin", "0.1")
    assert ("close", "near") in [(said(row["chosen"]), said(row["rejected"])) for row in near]
    labels = rows_of(run, "--min-score", "0.8", "--algo", "kto")
    expected = {
        "right": True,
        "wrong": False,
        "close": True,
        "near": False,
        "bad": False,
        "also right": True,
        "never": False,
    }
    assert {said(row["completion"]): row["label"] for row in labels} == expected and len(labels) == len(expected)


def test_what_cannot_be_harvested(run, tmp_path, capsys):
    target = str(tmp_path / "out.parquet")
    for change, words in (
        ({}, "no answer is good enough (--min-score 2)"),
        ({"TOOLS_PATH": "tools.py"}, "answers with tools hold the tools' texts too"),
        ({"TRAIN_DATA": "/gone.parquet"}, "/gone.parquet: the run's TRAIN_DATA is gone"),
    ):
        update_run(run, knobs={"TRAIN_DATA": str(tmp_path / "prompts.parquet"), **change})
        assert main(["harvest", str(run), target, "--min-score", "2"]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert main(["harvest", str(tmp_path), target, "--min-score", "1"]) == 2
    assert "has no rollouts/*.jsonl" in " ".join(capsys.readouterr().err.split())


def test_an_answer_that_was_cut_is_not_rejected(run, capsys):
    file = run / "rollouts" / "1.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines.append({**lines[1], "uid": "u0_0_3", "output": "word " * 30, "score": -1.0})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = rows_of(run, "--min-score", "0.5", "--algo", "dpo")
    assert [said(row["rejected"]) for row in rows] == ["wrong", "wrong"]
    assert "2 answers cut at the length limit" in capsys.readouterr().out
