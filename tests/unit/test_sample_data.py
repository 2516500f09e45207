"""The sample sets: right answers, no leak into validation, and what verl's own dataset makes of them."""

import re
import runpy

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from common.answers.final import hash_line
from common.demo_model import DEMO_MODEL_DIR
from dpo.data import make_data as dpo_data
from grpo.data import make_data as grpo_data
from grpo.reward_func import compute_score
from sft.data import make_data as sft_data
from tests.conftest import ROOT

SPLITS = ("train", "val")


def read(algorithm, split):
    return pq.read_table(ROOT / algorithm / "data" / f"{split}.parquet").to_pylist()


def numbers(text):
    return tuple(int(number) for number in re.findall(r"\d+", text))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)


@pytest.mark.parametrize("algorithm", ["sft", "grpo", "dpo", "ppo", "ppo/reward_model"])
@pytest.mark.parametrize("split", SPLITS)
def test_files_are_small(algorithm, split):
    assert (ROOT / algorithm / "data" / f"{split}.parquet").stat().st_size < 100_000


@pytest.mark.parametrize("split", SPLITS)
def test_make_data_writes_what_is_shipped(split):
    assert read("grpo", split) == grpo_data.make_splits()[split] == read("ppo", split)
    assert [row["messages"] for row in read("sft", split)] == sft_data.make_splits()[split]
    assert read("dpo", split) == dpo_data.make_splits()[split]


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "grpo", "ppo", "gspo", "ppo/reward_model"])
def test_make_data_command(algorithm, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_data", "--out", str(tmp_path / "new")])
    runpy.run_module(f"{algorithm.replace('/', '.')}.data.make_data", run_name="__main__")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["train.parquet", "val.parquet"]
    for split in SPLITS:
        assert pq.read_table(tmp_path / "new" / f"{split}.parquet").to_pylist() == read(algorithm, split)


def test_grpo_row_as_documented():
    a, b = numbers(read("grpo", "train")[0]["prompt"][0]["content"])
    assert read("grpo", "train")[0] == {
        "data_source": "demo/sums",
        "prompt": [{"role": "user", "content": f"What is {a} + {b}?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(a + b)},
        "extra_info": {"index": 0, "split": "train"},
    }


def test_grpo_answers_and_splits():
    pairs = {}
    for split, count in (("train", 2048), ("val", 128)):
        rows = read("grpo", split)
        pairs[split] = [numbers(row["prompt"][0]["content"]) for row in rows]
        assert len(rows) == count == len(set(pairs[split]))
        assert [row["extra_info"]["index"] for row in rows] == list(range(count))
        for row, (a, b) in zip(rows, pairs[split], strict=True):
            assert row["reward_model"]["ground_truth"] == str(a + b)
            assert compute_score(row["data_source"], f"#### {a + b}", row["reward_model"]["ground_truth"])["acc"] == 1
    unordered = {split: {tuple(sorted(pair)) for pair in pairs[split]} for split in SPLITS}
    assert not unordered["train"] & unordered["val"]


def check_answer(question, answer):
    """Works the question out anew, from its words."""
    first, second = numbers(question)
    if " - " in question:
        expected = first - second
    else:
        expected = max(first, second) if "larger" in question else min(first, second)
    assert hash_line(answer) == str(expected)
    working, last = answer.split("\n")
    left, sign, right = working.split()[:3]
    holds = {"-": int(left) - int(right) == expected, ">": int(left) > int(right), "<": int(left) < int(right)}
    assert holds[sign] and last == f"#### {expected}"
    assert {int(left), int(right)} == {first, second}


def test_sft_answers():
    for split in SPLITS:
        for row in read("sft", split):
            turns = [message for message in row["messages"] if message["role"] != "system"]
            for question, answer in zip(turns[::2], turns[1::2], strict=True):
                assert (question["role"], answer["role"]) == ("user", "assistant")
                check_answer(question["content"], answer["content"])


def test_sft_splits():
    asked = {
        split: {
            tuple(sorted(numbers(message["content"])))
            for row in read("sft", split)
            for message in row["messages"]
            if message["role"] == "user"
        }
        for split in SPLITS
    }
    assert not asked["train"] & asked["val"]
    assert (len(read("sft", "train")), len(read("sft", "val"))) == (4096, 192)


def test_sft_kinds_of_rows():
    """Most rows are one question; about a tenth have a system turn and about 15% two questions."""
    kinds = ["".join(message["role"][0] for message in row["messages"]) for row in read("sft", "train")]
    share = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert share == pytest.approx({"ua": 0.75, "sua": 0.10, "uaua": 0.15}, abs=0.02)


def test_lengths_with_the_demo_tokenizer(tokenizer):
    """The figures that common/demo_model/README.md gives."""

    def longest(conversations, **options):
        texts = [tokenizer.apply_chat_template(c, tokenize=False, **options) for c in conversations]
        return max(len(ids) for ids in tokenizer(texts)["input_ids"])

    sft = [row["messages"] for split in SPLITS for row in read("sft", split)]
    grpo = [row["prompt"] for split in SPLITS for row in read("grpo", split)]
    assert longest(sft) == 64
    assert longest(grpo, add_generation_prompt=True) == 18


def test_verl_trains_on_the_answers_only(tokenizer):
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    config = {"pad_mode": "no_padding", "max_length": 64, "truncation": "error"}
    dataset = MultiTurnSFTDataset(str(ROOT / "sft/data/val.parquet"), tokenizer, config)
    for index, row in enumerate(read("sft", "val")):
        item = dataset[index]
        trained = tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert trained == "".join(f"{answer}<|im_end|>\n" for answer in answers)


def test_dpo_answers_and_splits():
    asked = {}
    for split, count in (("train", 1024), ("val", 128)):
        rows = read("dpo", split)
        asked[split] = {numbers(row["prompt"][0]["content"]) for row in rows}
        assert len(rows) == len(asked[split]) == count
        plain = 0
        for row in rows:
            a, b = numbers(row["prompt"][0]["content"])
            assert row["chosen"][0]["content"] == f"{a} + {b} = {a + b}\n#### {a + b}"
            other = row["rejected"][0]["content"]
            plain += other == f"The answer is {a + b}."
            assert other.startswith("The answer is") or hash_line(other) != str(a + b)
        assert 0.4 < plain / count < 0.6
    assert not asked["train"] & asked["val"]


def test_the_reward_models_pairs():
    """The chosen answer is right and in form; the rejected one is the plain sentence or has another number."""
    asked = {}
    for split in SPLITS:
        rows = read("ppo/reward_model", split)
        kinds = {"form": 0, "number": 0}
        for row in rows:
            a, b = numbers(row["prompt"][0]["content"])
            chosen, rejected = (row[side][0]["content"] for side in ("chosen", "rejected"))
            assert chosen == f"{a} + {b} = {a + b}\n#### {a + b}"
            if rejected == f"The answer is {a + b}.":
                kinds["form"] += 1
            else:
                wrong = int(hash_line(rejected))
                assert rejected == f"{a} + {b} = {wrong}\n#### {wrong}" and wrong != a + b
                kinds["number"] += 1
        asked[split] = {numbers(row["prompt"][0]["content"]) for row in rows}
        assert kinds == {"train": {"form": 2048, "number": 6144}, "val": {"form": 64, "number": 64}}[split]
    assert len(asked["train"]) == 2048 and asked["train"].isdisjoint(asked["val"])
