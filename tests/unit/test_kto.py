"""KTO: rows of marked answers, the answers to other prompts, the loss against arithmetic by hand, the launch."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from verl.utils import tensordict_utils as tu

from common.data_utils import json_to_parquet
from common.demo_model import DEMO_MODEL_DIR
from dpo.dataset import PairCollator
from dpo.kto import AnswerDataset, AnswerOptions, AnswerRecords, answer_loss, every_other, means, partners
from dpo.table import write_answers

LIMITS = OmegaConf.create({"max_prompt_length": 100, "max_response_length": 100})
THUMBS = [{"prompt": f"What is {n} + 1?", "completion": f"It is {n + n % 2}.", "label": n % 2 == 1} for n in range(40)]
PAIR = {"prompt": "What is 1 + 2?", "chosen": "3", "rejected": "It is 4."}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)


@pytest.fixture
def dataset(tmp_path, tokenizer):
    def build(rows, mismatched=True):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
        return AnswerDataset([str(tmp_path / "rows.parquet")], tokenizer, LIMITS, mismatched)

    return build


def test_a_file_of_thumbs_becomes_rows(tmp_path):
    source = tmp_path / "thumbs.jsonl"
    source.write_text("".join(json.dumps({**row, "label": int(row["label"])}) + "\n" for row in THUMBS))
    json_to_parquet(source, tmp_path / "train.parquet", "kto")
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert [row["label"] for row in rows] == [row["label"] for row in THUMBS]
    assert rows[3]["prompt"] == [{"role": "user", "content": "What is 3 + 1?"}]
    assert rows[3]["completion"] == [{"role": "assistant", "content": "It is 4."}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "completion": "a"}, "label: missing; kto needs true for a good answer"),
        ({"prompt": "q", "label": True}, "completion: missing; kto learns from answers"),
    ],
)
def test_what_a_row_lacks_is_said(tmp_path, row, words):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=words):
        json_to_parquet(tmp_path / "rows.jsonl", tmp_path / "train.parquet", "kto")


def test_every_answer_is_the_partner_of_one_to_another_prompt():
    assert partners("abcd") == [3, 0, 1, 2]  # where all prompts differ it is the answer before, as in TRL
    for prompts in ("aabb", "abcabca", "aaabbbc", "abbacddc"):
        found = partners(prompts)
        assert sorted(found) == list(range(len(prompts))), prompts
        assert all(prompts[one] != prompts[other] for one, other in enumerate(found)), prompts
    with pytest.raises(ValueError, match="3 of 5 answers are to one prompt"):
        partners("aabca")


def test_sequences(dataset, tokenizer):
    """An answer behind its prompt, beside it the other answer behind the same prompt; a pair is one of each kind."""
    alone = [{**row, **dict.fromkeys(("chosen", "rejected"))} for row in THUMBS[5:8]]
    rows = dataset([{**dict.fromkeys(THUMBS[1]), **PAIR}, *alone])
    assert rows.wanted.tolist() == [True, False, True, False, True]
    texts = [[tokenizer.decode(side["input_ids"]) for side in rows[index]] for index in range(5)]
    answers = ["3", "It is 4.", "It is 6.", "It is 6.", "It is 8."]
    prompts = [answer.removesuffix(f"{said}<|im_end|>") for said, (answer, _) in zip(answers, texts, strict=True)]
    assert prompts[0] == prompts[1] and "What is 1 + 2?" in prompts[0] and "What is 5 + 1?" in prompts[2]
    others = [text[1].removeprefix(prompt) for prompt, text in zip(prompts, texts, strict=True)]
    assert others == [f"{answers[index]}<|im_end|>" for index in (3, 4, 0, 1, 2)]


def test_one_prompt_has_no_distance(dataset):
    rows = [{"prompt": "q", "completion": str(n), "label": n < 2} for n in range(4)]
    with pytest.raises(ValueError, match="4 of 4 answers are to one prompt.*LOSS_TYPE=apo_zero_unpaired"):
        dataset(rows)
    assert dataset(rows, mismatched=False).wanted.tolist() == [True, True, False, False]


def test_the_loss_against_arithmetic_by_hand(dataset):
    """Two micro-batches on one of two ranks: shares that add up, each answer by equations 7 and 8 of the paper."""
    rows = dataset(THUMBS[:4])
    options = AnswerOptions("kto", 0.5, desirable_weight=1.5, undesirable_weight=0.7)
    distance, reference = 0.3, torch.tensor([-2.0, -1.0, -4.0, -3.0], dtype=torch.float64)
    torch.manual_seed(0)
    shares, losses = 0.0, []
    for part in ([0, 1], [2, 3]):
        batch = PairCollator()([rows[index] for index in part])
        answers = every_other(tu.get_tensordict(batch, {"global_batch_size": 4, "dp_size": 2}), 0)
        answers["wanted"], answers["ref_logps"] = rows.wanted[part], reference[part]
        tu.assign_non_tensor(answers, distance=distance)
        logps = [-torch.rand(len(ids)).double() for ids in answers["input_ids"].unbind()]
        output = {"log_probs": torch.nested.as_nested_tensor(logps, layout=torch.jagged)}
        loss, records = answer_loss(options, output, answers)
        shares += loss.item()
        losses += records["answer_loss"]
        for place, index in enumerate(part):
            mask = answers["loss_mask"].unbind()[place].bool()
            ratio = logps[place][:-1][mask[1:]].sum().item() - reference[index].item()
            side, weight = (1, 1.5) if rows.wanted[index] else (-1, 0.7)
            expected = weight * (1 - 1 / (1 + math.exp(-0.5 * side * (ratio - distance))))
            assert records["answer_loss"][place] == pytest.approx(expected)
            assert records["reward"][place] == pytest.approx(0.5 * ratio)
    assert shares == pytest.approx(sum(losses) / 4 * 2)


def test_metrics():
    records = AnswerRecords([0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, -1.0], [-1.0] * 4, [1.0, 1.0, 0.0, 0.0])
    found = means(records)
    assert found["loss"] == pytest.approx(0.25) and found["rewards/margins"] == pytest.approx(1.0)
    assert found["rewards/accuracies"] == (1 + 1 + 0.5 + 1) / 4
    good = means(AnswerRecords([0], [0.1], [1.0], [-1.0], [1.0]))
    assert set(good) == {"loss", "rewards/chosen", "logps/chosen"}


def test_table_of_answers(tmp_path, dataset):
    records = AnswerRecords([0, 1, 2], [0.0] * 3, [3.0, -2.0, 0.5], [-1.0] * 3, [0.0, 1.0, 0.0])
    lines = [json.loads(line) for line in write_answers(tmp_path, 5, records, dataset(THUMBS[:3])).open()]
    assert [line["reward"] for line in lines] == [3.0, -2.0, 0.5]  # a bad answer that is liked most comes first
    assert lines[0]["completion"][0]["content"] == "It is 0." and lines[1]["label"] is True


def test_launch_with_a_file_of_thumbs(check, tmp_path):
    """Three good answers of four: the bad ones count three times as much; batches hold answers, not pairs."""
    rows = [{**row, "label": index % 4 != 0} for index, row in enumerate(THUMBS)]
    (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    knobs = check("dpo", TRAIN_DATA="thumbs.jsonl", LOSS_TYPE="kto", EXPERIMENT_NAME="mine")
    assert knobs.errors == []
    assert knobs["DESIRABLE_WEIGHT"] == "1.0" and 2.5 < float(knobs["UNDESIRABLE_WEIGHT"]) < 3.5
    pairs = check("dpo", LOSS_TYPE="kto")
    assert pairs.errors == [] and pairs["DESIRABLE_WEIGHT"] == pairs["UNDESIRABLE_WEIGHT"] == "1.0"
    assert "2,048 rows" in pairs.reasons["BATCH_SIZE"]  # the sample's 1024 pairs


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"LOSS_TYPE": "kto", "REFERENCE": "none"}, "REFERENCE=none: LOSS_TYPE=kto measures answers"),
        ({"LOSS_TYPE": "kto", "NLL_COEF": "1.0"}, "NLL_COEF=1.0: LOSS_TYPE=kto does not read it"),
        ({"LOSS_TYPE": "kto", "LENGTH_NORMALIZE": "true"}, "LENGTH_NORMALIZE=true"),
        ({"DESIRABLE_WEIGHT": "2"}, "DESIRABLE_WEIGHT=2: LOSS_TYPE=sigmoid compares pairs"),
    ],
)
def test_knobs_that_do_not_go_together(check, knobs, words):
    assert any(words in str(error) for error in check("dpo", **knobs).errors)
