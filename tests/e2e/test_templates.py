"""Two steps of SFT with each of the public chat templates, through sft/train.sh, on the demo model."""

import json
import math
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.demo_model import DEMO_MODEL_DIR
from common.run_dir import read_metrics, read_run
from tests.conftest import ROOT
from tests.e2e.test_training import finish

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]
TEMPLATES = sorted((ROOT / "tests" / "data" / "chat_templates").glob("*.jinja"))


def conversations(number: int) -> list[dict]:
    """Of one turn, and of two for every second row; no system message, which some templates refuse."""
    said = [
        {"role": "user", "content": f"What is {number} + 1?"},
        {"role": "assistant", "content": f"The answer is {number + 1}."},
        {"role": "user", "content": f"And {number} + 2?"},
        {"role": "assistant", "content": f"The answer is {number + 2}."},
    ]
    return said[: 2 + 2 * (number % 2)]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_two_steps(train, run_dir, tmp_path, template):
    model = shutil.copytree(DEMO_MODEL_DIR, tmp_path / "model")
    (model / "chat_template.jinja").write_text(template.read_text())
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|im_start|>"}))
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": conversations(number)} for number in range(48)]), rows)
    knobs = {"MODEL_PATH": model, "TRAIN_DATA": rows, "VAL_DATA": rows, "LEARNING_RATE": "1e-3"}
    finish(train, "sft", run_dir, TOTAL_STEPS=2, BATCH_SIZE=16, LR_SCHEDULER="constant", WARMUP_RATIO=0, **knobs)
    steps = [record["data"] for record in read_metrics(run_dir) if "train/loss" in record["data"]]
    assert read_run(run_dir)["state"] == "finished" and len(steps) == 2
    for name in ("train/loss", "train/grad_norm"):  # something is learnt in each step
        assert all(math.isfinite(step[name]) and step[name] > 0 for step in steps), name
