"""Pairs as token sequences, the log-probabilities of their answers, and what is reported of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from verl.utils import tensordict_utils as tu

from common.demo_model import DEMO_MODEL_DIR
from dpo.dataset import PairCollator, PreferenceDataset
from dpo.losses import LossOptions
from dpo.pairs import PairRecords, answer_logps, gather_records, means, pair_loss
from dpo.table import write_margins

USER = {"role": "user", "content": "What is 1 + 2?"}
LIMITS = {"max_prompt_length": 100, "max_response_length": 100}


def answer(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)


@pytest.fixture
def dataset(tmp_path, tokenizer):
    def build(rows, **limits):
        file = tmp_path / "pairs.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
        return PreferenceDataset([str(file)], tokenizer, OmegaConf.create({**LIMITS, **limits}))

    return build


ROWS = [
    {"prompt": [USER], "chosen": answer("3"), "rejected": answer("It is 4.")},
    {
        "prompt": [{"role": "system", "content": "S"}, USER, *answer("3"), USER],
        "chosen": answer("3!"),
        "rejected": answer("?"),
    },
]


def test_sequences_are_what_the_template_writes(dataset, tokenizer):
    pairs = dataset(ROWS)
    for row, (chosen, rejected) in zip(ROWS, (pairs[0], pairs[1]), strict=True):
        for side, item in (("chosen", chosen), ("rejected", rejected)):
            whole = tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)
            assert tokenizer.decode(item["input_ids"]) == whole.removesuffix("\n")
            learnt = item["input_ids"][item["loss_mask"].bool()]
            assert tokenizer.decode(learnt) == row[side][0]["content"] + "<|im_end|>"


def test_texts_are_messages(dataset):
    texts = dataset([{"prompt": USER["content"], "chosen": "3", "rejected": "It is 4."}])
    assert texts.pairs == dataset(ROWS[:1]).pairs


def test_long_prompts_keep_their_end_and_long_answers_their_beginning(dataset, capsys):
    whole = dataset(ROWS[:1]).pairs[0]
    for side, uncut in zip(dataset(ROWS[:1], max_prompt_length=5, max_response_length=2).pairs[0], whole, strict=True):
        answer = uncut.mask.index(1)
        assert (side.ids, side.mask) == (uncut.ids[answer - 5 : answer + 2], [0] * 5 + [1] * 2)
    assert "cut to the length limits: 1" in capsys.readouterr().out


def test_pairs_that_teach_nothing_are_left_out_and_counted(dataset, capsys):
    equal = {"prompt": [USER], "chosen": answer("3"), "rejected": answer("3")}
    pairs = dataset([equal, ROWS[0]])
    assert len(pairs) == 1 and "equal answers left out: 1" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no pair to learn from"):
        dataset([equal])


def test_answer_logps_against_a_loop():
    lengths, answers = (5, 3, 7), (2, 1, 4)
    torch.manual_seed(0)
    rows = [torch.randn(n) for n in lengths]
    masks = [torch.tensor([0] * (n - a) + [1] * a) for n, a in zip(lengths, answers, strict=True)]
    nested = [torch.nested.as_nested_tensor(side, layout=torch.jagged) for side in (rows, masks)]
    # the token at t is predicted at t - 1
    expected = [row[n - a - 1 : n - 1].sum().item() for row, n, a in zip(rows, lengths, answers, strict=True)]
    assert answer_logps(*nested).tolist() == pytest.approx(expected)


def test_micro_batches_add_up_to_the_mean(dataset):
    """The shares of two micro-batches on one of two ranks, times the ranks, are the mean over the whole batch."""
    pairs = dataset(ROWS)
    torch.manual_seed(0)
    shares, records = [], []
    for index in (0, 1):
        batch = PairCollator()([pairs[index]])
        logps = [-torch.rand(len(ids)) for ids in batch["input_ids"].unbind()]
        data = tu.get_tensordict(
            tensor_dict={**batch, "ref_logps": torch.tensor([-1.0, -2.0])},
            non_tensor_dict={"global_batch_size": 4, "dp_size": 2},
        )
        output = {"log_probs": torch.nested.as_nested_tensor(logps, layout=torch.jagged)}
        loss, found = pair_loss(LossOptions(), output, data)
        shares.append(loss.item())
        records.append(found)
    merged = gather_records({name: [[one[name]] for one in records] for name in PairRecords.__dataclass_fields__})
    assert sum(shares) == pytest.approx(sum(merged.pair_loss) / 4 * 2)
    assert merged.pair == [0, 1] and merged.chosen_tokens == [2.0, 3.0]


RECORDS = PairRecords(
    [0, 1, 2], [0.1, 0.2, 0.6], [1.0, 0.0, -1.0], [0.5, 0.0, 0.0], [-1.0] * 3, [-2.0] * 3, [1.0] * 3, [1.0] * 3
)


def test_means():
    found = means(RECORDS)
    assert found["loss"] == pytest.approx(0.3) and found["rewards/accuracies"] == 0.5  # one, half a tie, none
    assert found["rewards/margins"] == pytest.approx((0.5 + 0 - 1) / 3) and found["logps/rejected"] == -2.0


def test_table_of_margins(tmp_path, dataset):
    file = write_margins(tmp_path / "validation", 5, PairRecords(**{**vars(RECORDS), "pair": [0, 1, 0]}), dataset(ROWS))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["margin"] for row in rows] == [-1.0, 0.0, 0.5]
    assert rows[0]["chosen"] == answer("3") and rows[1]["prompt"][0]["role"] == "system"


def test_results_of_tools_in_an_answer_are_not_learnt(dataset, tokenizer):
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    chosen = [called, {"role": "tool", "content": "7"}, *answer("Seven.")]
    item = dataset([{"prompt": [USER], "chosen": chosen, "rejected": answer("Six.")}])[0][0]
    learnt = tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
    assert "7" in tokenizer.decode(item["input_ids"])
    assert "7" not in learnt and learnt.endswith("<|im_end|>Seven.<|im_end|>") and "add" in learnt
