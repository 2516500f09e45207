"""Validation names every bad row; what it writes with --fix is clean; preview shows what verl learns from."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data.convert import Source
from common.data.validate import validate
from common.data_utils import main
from common.demo_model import DEMO_MODEL_DIR

TEMPLATES = Path(__file__).resolve().parents[1] / "data" / "chat_templates"

USER, ANSWER = {"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}


def rl(prompt, truth="2", style="rule", source="d"):
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": prompt}],
        "ability": "general",
        "reward_model": {"style": style, "ground_truth": truth},
        "extra_info": {"index": 0},
    }


def parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_every_bad_row_is_named(tmp_path, capsys):
    path = parquet(
        tmp_path / "d.parquet", [rl("a"), rl("b", ""), rl("c", "", "model"), rl(" "), rl("a"), rl("d", source="")]
    )
    assert main(["validate", str(path), "--algo", "grpo"]) == 1
    out = capsys.readouterr().out
    assert "d.parquet: row 2: reward_model: ground_truth is missing" in out
    assert "d.parquet: row 4: prompt: message 1 (user) is empty" in out
    assert "d.parquet: row 6: data_source" in out
    assert "6 rows read, 1 repeated, 3 bad" in out


def test_ppo_may_lack_the_truth(tmp_path):
    found = validate(Source(parquet(tmp_path / "d.parquet", [rl("a", "")])), "ppo")
    assert found.report.rows_bad == 0 and found.report.notes.total() == 1


def test_preference_rows(tmp_path):
    row = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    path = tmp_path / "d.jsonl"
    rows = [row, {**row, "rejected": "A"}, {**row, "chosen": ""}, row]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = validate(Source(path), "dpo")
    assert found.refused == {
        2: "chosen, rejected: are the same",
        3: "chosen: is empty",
        4: "duplicate of 1",
    }


def test_rows_that_stand_in_the_validation_file(tmp_path, capsys):
    train = parquet(tmp_path / "train.parquet", [rl("a"), rl("b"), rl("c")])
    val = parquet(tmp_path / "val.parquet", [rl("x"), rl("b", "3")])
    assert main(["validate", str(train), "--algo", "grpo", "--against", str(val)]) == 1
    assert "row 2: prompt: is in val.parquet too, at 2" in capsys.readouterr().out
    assert (
        main(["validate", str(val), "--algo", "grpo", "--against", str(parquet(tmp_path / "o.parquet", [rl("a")]))])
        == 0
    )


def test_fix_writes_the_good_rows_as_they_are(tmp_path, capsys):
    rows = [rl("a"), rl("b", ""), rl("a"), rl("c")]
    path = parquet(tmp_path / "d.parquet", rows)
    assert main(["validate", str(path), "--algo", "grpo", "--fix"]) == 0
    assert pq.read_table(tmp_path / "d.good.parquet").to_pylist() == [rows[0], rows[3]]
    assert pq.read_schema(tmp_path / "d.good.parquet").equals(pq.read_schema(path))
    bad = [json.loads(line) for line in (tmp_path / "d.bad.jsonl").read_text().splitlines()]
    assert [(row["place"], row["problem"].split(":")[0]) for row in bad] == [(2, "reward_model"), (3, "duplicate of 1")]
    assert main(["validate", str(tmp_path / "d.good.parquet"), "--algo", "grpo"]) == 0
    assert pq.read_table(path).to_pylist() == rows


def test_fix_of_another_file_converts_it(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("question,answer\nQ,A\nQ,A\n,B\n")
    assert main(["validate", str(path), "--algo", "sft", "--fix"]) == 0
    assert len(pq.read_table(tmp_path / "d.good.parquet")) == 1


def test_lengths_and_the_limit_to_set(tmp_path, capsys):
    from transformers import AutoTokenizer

    from common.demo_model import DEMO_MODEL_DIR

    prompts = ["What is 1 + 1?"] * 98 + ["1 " * 300] * 2
    path = parquet(tmp_path / "d.parquet", [rl(f"{prompt} {i}") for i, prompt in enumerate(prompts)])
    assert main(["validate", str(path), "--algo", "grpo", "--model", "demo", "--limit", "100"]) == 0
    out = capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    messages = [[{"role": "user", "content": f"{prompt} {i}"}] for i, prompt in enumerate(prompts)]
    lengths = [
        len(ids) for ids in tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ]
    assert f"longest {max(lengths):,}" in out and "MAX_PROMPT_LENGTH=100: 2 rows (2.0%) are longer" in out
    proposal = int(re.search(r"set MAX_PROMPT_LENGTH=(\d+)", out).group(1))
    assert sum(length <= proposal for length in lengths) >= 99 and proposal % 32 == 0


def test_preview_marks_what_verl_learns(tmp_path, capsys):
    path = tmp_path / "d.jsonl"
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    talk = [USER, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "3"}, ANSWER]
    path.write_text(json.dumps({"messages": talk, "tools": [{"name": "add"}]}))
    assert main(["preview", str(path), "--algo", "sft"]) == 0
    out = capsys.readouterr().out.replace("\n", "")
    learnt = re.findall("⟦(.*?)⟧", out)
    assert learnt == [
        "learnt",
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|im_end|>',
        "2<|im_end|>",
    ]
    assert '{"type": "function", "function": {"name": "add"}}' in out and "tool3" in out


@pytest.mark.parametrize("algorithm", ["grpo", "dpo"])
def test_preview_of_the_other_rows(tmp_path, capsys, algorithm):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"prompt": "Q", "chosen": "good", "rejected": "bad"}))
    assert main(["preview", str(path), "--algo", algorithm]) == 0
    out = capsys.readouterr().out
    assert "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant" in out and "good" in out
    assert ("⟦bad<|im_end|>⟧" in out) == (algorithm == "dpo")  # with the end token, as the trainer learns it


@pytest.fixture
def gemma(tmp_path):
    """The demo's tokenizer with Gemma's chat template, which has no system role."""
    for file in DEMO_MODEL_DIR.glob("*token*"):
        shutil.copy(file, tmp_path)
    shutil.copy(TEMPLATES / "gemma.jinja", tmp_path / "chat_template.jinja")
    return str(tmp_path)


SYSTEM = {"role": "system", "content": "Be brief."}


def test_rows_that_the_template_cannot_show_are_bad(tmp_path, capsys, gemma):
    rows = [[USER, ANSWER], [SYSTEM, USER, ANSWER], [USER, ANSWER, USER, ANSWER]]
    path = parquet(tmp_path / "d.parquet", [{"messages": messages} for messages in rows])
    assert main(["validate", str(path), "--algo", "sft", "--model", gemma]) == 1
    out = capsys.readouterr().out
    assert "row 2: the chat template cannot show it: System role not supported" in " ".join(out.split())
    assert main(["validate", str(path), "--algo", "sft", "--model", gemma, "--fix"]) == 0
    kept = pq.read_table(tmp_path / "d.good.parquet").to_pylist()
    assert [row["messages"] for row in kept] == [rows[0], rows[2]]


def test_preview_names_what_cannot_be_shown_and_goes_on(tmp_path, capsys, gemma):
    path = parquet(tmp_path / "d.parquet", [{"messages": [SYSTEM, USER, ANSWER]}, {"messages": [USER, ANSWER]}])
    assert main(["preview", str(path), "--algo", "sft", "--model", gemma]) == 0
    out = capsys.readouterr().out
    assert "cannot be shown: the chat template cannot show it: System role" in " ".join(out.split())
    assert "⟦2<end_of_turn>⟧" in out


def test_stats(tmp_path, capsys):
    path = tmp_path / "d.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "x"}], "n": 1}\n{"messages": null, "n": "y"}\nbroken\n')
    assert main(["stats", str(path)]) == 0
    out = capsys.readouterr().out
    assert "3 rows, 1 unreadable" in out and "int 1, text 1" in out and "roles: user 1" in out


def test_a_model_without_a_chat_template(tmp_path, capsys):
    path = parquet(tmp_path / "d.parquet", [rl("a")])
    assert main(["validate", str(path), "--algo", "grpo", "--model", str(tmp_path / "no")]) == 2
    assert "its tokenizer cannot be loaded" in capsys.readouterr().err
