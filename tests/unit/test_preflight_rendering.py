"""Before the start: rows that the chat template cannot show, rows with nothing to learn, what a template leaves out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.demo_model import DEMO_MODEL_DIR
from common.preflight import checks, run_name
from common.preflight.knobs import read_knobs
from common.preflight.machine import Machine

TEMPLATES = Path(__file__).resolve().parents[1] / "data" / "chat_templates"
LAPTOP = Machine(gpu_memory=(), cores=2, memory=16 * 2**30)


@pytest.fixture
def check(monkeypatch, tmp_path):
    """The preflight of some rows under a chat template."""
    monkeypatch.setattr(run_name, "OUTPUTS", tmp_path / "outputs")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    def run(template, rows, algorithm="sft", **environment):
        model = tmp_path / "model"
        if template:
            shutil.copytree(DEMO_MODEL_DIR, model)
            text = TEMPLATES / f"{template}.jinja"
            shutil.copy(text, model / "chat_template.jinja") if text.is_file() else None
            if not text.is_file():
                (model / "chat_template.jinja").write_text(template)
            environment["MODEL_PATH"] = str(model)
        file = tmp_path / "mine.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
        knobs = read_knobs(
            algorithm, {"TRAIN_DATA": str(file), "VAL_DATA": str(file), "BATCH_SIZE": "2", **environment}
        )
        checks.check(knobs, LAPTOP)
        return knobs

    return run


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def talk(number, *before, **more):
    return [*before, said("user", f"Ask {number}."), said("assistant", f"Answer {number}.", **more)]


def of_train(texts):
    return [text for text in texts if text.startswith("TRAIN_DATA")]


def test_a_row_that_the_template_cannot_show_is_an_error_with_row_rule_and_fix(check):
    rows = [{"messages": talk(n)} for n in range(4)]
    rows[2] = {"messages": talk(2, said("system", "Be brief."))}
    rows[3] = {"messages": [said("user", "Hello."), *talk(3)]}
    (error,) = of_train(check("gemma", rows).errors)
    assert "row 3: the chat template cannot show it: System role not supported" in error
    assert "2 of 4 rows looked at" in error and "--fix" in error


@pytest.mark.parametrize("algorithm", ["dpo", "grpo", "ppo", "gspo"])
def test_prompts_and_pairs_too(check, algorithm):
    prompt = [said("system", "Be brief."), said("user", "Ask.")]
    row = {
        "data_source": "d",
        "prompt": prompt,
        "reward_model": {"style": "rule", "ground_truth": "1"},
        "extra_info": {"index": 0},
    }
    if algorithm == "dpo":
        row = {"prompt": prompt, "chosen": [said("assistant", "a")], "rejected": [said("assistant", "b")]}
    (error,) = of_train(check("gemma", [row] * 4, algorithm).errors)
    assert "row 1:" in error and "System role not supported (4 of 4 rows" in error


def lost(knobs):
    """What is said of the training data."""
    return [one.problem for one in knobs.warnings + knobs.errors if one.knob == "TRAIN_DATA"]


def test_thoughts_that_a_template_never_shows_are_an_error_unless_they_are_not_wanted(check):
    rows = [{"messages": talk(n, reasoning_content=f"Thought {n}.")} for n in range(4)]
    (error,) = check("llama3", rows).errors
    assert "shows no thought of any row" in error and "THINKING=false" in error


def test_thoughts_that_are_not_wanted_are_no_loss(check):
    rows = [{"messages": talk(n, reasoning_content=f"Thought {n}.")} for n in range(4)]
    knobs = check("llama3", rows, THINKING="false")
    assert lost(knobs) == [] and knobs.errors == []


def test_thoughts_of_pairs_count_too(check):
    sides = {side: [said("assistant", side, reasoning_content="Hm, so.")] for side in ("chosen", "rejected")}
    (error,) = check("llama3", [{"prompt": [said("user", f"Ask {n}.")], **sides} for n in range(4)], "dpo").errors
    assert "shows no thought of any row" in error


def test_a_prompt_of_which_the_template_drops_a_turn_is_an_error(check):
    without_system = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role + m.content }}<|im_end|>"
    without_system += "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    row = {"data_source": "d", "reward_model": {"style": "rule", "ground_truth": "1"}, "extra_info": {"index": 0}}
    row["prompt"] = [said("system", "Be brief."), said("user", "Ask.")]
    (error,) = of_train(check(without_system, [row] * 4, "grpo").errors)
    assert "row 1: the chat template leaves out the text of message 1 (system)" in error


def test_thoughts_of_earlier_turns_are_counted(check):
    rows = [{"messages": [*talk(1, reasoning_content="One."), *talk(2, reasoning_content="Two.")]}] * 4
    knobs = check("qwen3", rows)
    (warning,) = lost(knobs)
    assert warning == "the chat template leaves out thoughts of earlier turns in 4 of 4 rows looked at"
    assert knobs.errors == []


def test_texts_beside_tool_calls_are_counted(check):
    call = {"id": "call12345", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    calls = said("assistant", "I look it up.", tool_calls=[call])
    messages = [said("user", "Ask."), calls, said("tool", "3", tool_call_id="call12345"), said("assistant", "Three.")]
    tools = '[{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]'
    rows = [{"messages": messages, "tools": tools}] * 4
    (warning,) = lost(check("llama3_1", rows))
    assert warning == "the chat template leaves out text next to a tool call in 4 of 4 rows looked at"


def test_answers_without_an_end_are_counted(check):
    without_end = "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n\n' }}{% endfor %}"
    without_end += "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    knobs = check(without_end, [{"messages": talk(n)} for n in range(4)])
    (warning,) = lost(knobs)
    assert "answers of 4 of 4 rows looked at have no end" in warning and knobs.errors == []


def test_the_demo_loses_nothing(check):
    knobs = check("", [{"messages": [*talk(1, said("system", "S.")), *talk(2)]}] * 4)
    assert lost(knobs) == [] and knobs.errors == []
