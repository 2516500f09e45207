"""Converted data trains: conversations with tools reach the model through its chat template."""

import json

import pytest

from common.data_utils import json_to_parquet
from tests.e2e.test_training import finish

pytestmark = pytest.mark.e2e


def talks():
    """ShareGPT conversations, each with a tool of another shape; every fourth without."""
    for number in range(16):
        tool = {"name": f"lookup_{number}", "description": "d", "parameters": {f"key_{number}": {"type": "string"}}}
        call = json.dumps({"name": tool["name"], "arguments": {f"key_{number}": "x"}})
        turns = [("human", f"What is {number}?")]
        turns += [("function_call", call), ("observation", '{"found": 1}')] if number % 4 else []
        turns += [("gpt", f"It is {number}.")]
        tools = json.dumps([tool]) if number % 4 else ""
        yield {"conversations": [{"from": who, "value": text} for who, text in turns], "tools": tools}


@pytest.fixture
def files(tmp_path):
    """Convert the conversations for an algorithm; returns the knobs that name the files."""

    def convert(algorithm):
        source = tmp_path / "talks.jsonl"
        source.write_text("".join(json.dumps(talk) + "\n" for talk in talks()))
        train, val = tmp_path / f"{algorithm}.parquet", tmp_path / f"{algorithm}.val.parquet"
        written = json_to_parquet(source, train, algorithm, val_ratio=0.4, val_target=val)
        assert written == 16
        return {"TRAIN_DATA": train, "VAL_DATA": val}

    return convert


def test_sft_on_conversations_with_tools(train, run_dir, files):
    knobs = {"TOTAL_STEPS": 2, "BATCH_SIZE": 4, "TEST_FREQ": 2}
    done = finish(train, "sft", run_dir, **files("sft"), **knobs)
    assert "Step 2/2 | loss" in done.stdout
