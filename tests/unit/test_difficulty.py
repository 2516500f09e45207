"""``data_utils difficulty`` and DATA_ORDER: what a model finds hard, and rows in that order."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import AutoTokenizer
from verl.trainer.ppo.utils import create_rl_sampler

from common.data.convert import Source
from common.data.difficulty import Asked, Share, sort_by_difficulty
from common.data.order import order_of
from common.data.readers.files import DataError
from common.data.verl_datasets import PromptDataset
from common.data_utils import main
from common.demo_model import DEMO_MODEL_DIR

RIGHT = [0.0, 0.75, 0.25, 1.0, 0.5, 0.75]


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "in.jsonl"
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(len(RIGHT))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def measure(asked):
    assert asked.file.is_file() and asked.samples == 8
    return [Share(right, float(right > 0)) for right in RIGHT], lambda: None


def sorted_rows(questions, keep=None):
    target = questions.with_name("out.parquet")
    found = sort_by_difficulty(Source(questions), target, Asked("demo"), measure, keep)
    return [row for row in pq.read_table(target).to_pylist()], found


def asked_of(rows):
    return [row["prompt"][0]["content"] for row in rows]


def test_always_and_never_right_go_and_the_easiest_comes_first(questions):
    rows, found = sorted_rows(questions)
    assert asked_of(rows) == [f"What is {n} + 1?" for n in (1, 5, 4, 2)]
    assert [row["extra_info"]["difficulty"] for row in rows] == [0.25, 0.25, 0.5, 0.75]
    assert [row["extra_info"]["weight"] for row in rows] == [0.75, 0.75, 1.0, 0.75]
    assert rows[0]["reward_model"]["ground_truth"] == "2"
    assert found.left_out == {"too hard": 1, "too easy": 1}


def test_shares_to_keep(questions):
    assert asked_of(sorted_rows(questions, (0.5, 1.0))[0]) == [f"What is {n} + 1?" for n in (3, 1, 5, 4)]
    with pytest.raises(DataError, match="smaller one first"):
        sorted_rows(questions, (0.9, 0.1))
    with pytest.raises(DataError, match="1: too hard"):
        sort_by_difficulty(
            Source(questions),
            questions.with_name("none.parquet"),
            Asked("demo"),
            lambda asked: ([Share(0.0, 0.3), *[None] * 5], lambda: pytest.fail("nothing was written")),
        )
    assert not questions.with_name("none.parquet").exists()


def test_the_demo_model_answers(tmp_path, capsys):
    """The shares are those of the engine's own answers: a rule that is always right leaves nothing but the easy."""
    file = tmp_path / "in.jsonl"
    rows = [{"question": "What is 1 + 2?", "answer": "#### 3"}, {"question": "What is 70 - 90?", "answer": "#### -20"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--model", "demo", "--samples", "6", "--max-new-tokens", "20", "--keep", "0", "1", "--reward", "gsm8k"]
    assert main(["difficulty", str(file), str(tmp_path / "out.parquet"), *options]) == 0
    made = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["extra_info"]["difficulty"] for row in made][-1] == 1.0  # it knows no subtraction
    assert made[0]["prompt"][0]["content"] == "What is 1 + 2?" and made[0]["extra_info"]["difficulty"] < 1
    assert "DATA_ORDER=difficulty" in capsys.readouterr().out
    assert not list(tmp_path.glob(".*partial*"))
    assert main(["difficulty", str(file), str(tmp_path / "x.parquet")]) == 2
    assert main(["difficulty", str(file), str(tmp_path / "x.parquet"), "--model", str(tmp_path / "gone")]) == 2
    shown = capsys.readouterr().err
    assert "--model is missing" in shown and "gone" in shown


def test_weighted_rows_are_drawn_by_weight():
    weights = [{"weight": 0.0}, {"weight": 1.0}, {"weight": 3.0}] * 1000
    drawn = order_of(weights, "weighted", 1)
    assert drawn == order_of(weights, "weighted", 1) != order_of(weights, "weighted", 2)
    counts = [sum(index % 3 == kind for index in drawn) for kind in range(3)]
    assert counts[0] == 0 and len(drawn) == 3000
    assert counts[2] == pytest.approx(2250, abs=4 * (3000 * 0.25 * 0.75) ** 0.5)
    with pytest.raises(ValueError, match="1 of 2 rows have no extra_info.difficulty"):
        order_of([{"difficulty": 0.1}, {}], "difficulty", 1)


def dataset_of(file, order, validation=None):
    config = OmegaConf.create(
        {
            **{
                "train_files": [str(file)],
                "val_files": [],
                "order": order,
                "shuffle": order != "difficulty",
                "seed": 1,
            },
            **{"max_prompt_length": 64, "filter_overlong_prompts": True, "return_raw_chat": True},
        }
    )
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    return PromptDataset([str(validation or file)], tokenizer, config), config


def loader_of(dataset, config):
    return StatefulDataLoader(
        dataset, batch_size=3, sampler=create_rl_sampler(config, dataset), drop_last=True, collate_fn=list
    )


def indices(batch):
    return [row["extra_info"]["index"] for row in batch]


def test_a_run_in_order_resumes_where_it_was(tmp_path):
    """Rows of a file in no order; verl's own sampler and loader, saved after a batch and loaded into new ones."""
    hard = [0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.8]
    rows = [
        {
            "data_source": "d",
            "prompt": [{"role": "user", "content": f"What is {n} + 1?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(n + 1)},
            "extra_info": {"index": n, "difficulty": value},
        }
        for n, value in enumerate(hard)
    ]
    file, other = tmp_path / "t.parquet", tmp_path / "v.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    pq.write_table(pa.Table.from_pylist([{**row, "extra_info": {"index": 0}} for row in rows]), other)
    dataset, config = dataset_of(file, "difficulty")
    first, second = (indices(batch) for batch in loader_of(dataset, config))
    assert first + second == [1, 5, 3, 2, 4, 6]
    loader = loader_of(dataset, config)
    next(iter(loader))
    resumed = loader_of(*dataset_of(file, "difficulty"))
    resumed.load_state_dict(loader.state_dict())
    assert indices(next(iter(resumed))) == second
    assert len(dataset_of(file, "difficulty", validation=other)[0]) == 7  # validation needs no difficulty
    assert sorted(indices(dataset_of(file, "shuffled")[0])) == list(range(7))


def test_rows_without_a_difficulty_are_refused_before_the_launch(check):
    errors = [str(error) for error in check("grpo", DATA_ORDER="difficulty").errors]
    assert len(errors) == 1 and "no extra_info.difficulty" in errors[0]
