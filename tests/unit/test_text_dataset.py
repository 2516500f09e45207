"""Continued pretraining: raw texts packed, all learnt, none seeing another; what the preflight makes of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.utils.dataset.dataset_utils import DatasetPadMode

import common.hf_engine.varlen_attention  # noqa: F401  (registers sdpa_varlen)
from common.data.text_dataset import TextDataset
from common.data_utils import main
from common.demo_model import DEMO_MODEL_DIR

TEXTS = ["1 + 2 = 3", "The answer is 44.", "7", "40 - 2 = 38 and 38 < 40. " * 3, "What is 5 + 6?"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)


@pytest.fixture
def file(tmp_path):
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def packed(file, tokenizer, length, **settings):
    config = OmegaConf.create({"max_length": length, "pad_mode": DatasetPadMode.NO_PADDING, **settings})
    return TextDataset([str(file)], tokenizer, config)


def test_every_token_is_there_once_with_an_end_behind_each_text(file, tokenizer):
    rows = list(packed(file, tokenizer, 16))
    ids = torch.cat([row["input_ids"] for row in rows]).tolist()
    wanted = [one for text in TEXTS for one in (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)]
    assert ids == wanted and len(ids) % 16 > 1
    assert [len(row["input_ids"]) for row in rows[:-1]] == [16] * (len(ids) // 16)
    ends = [place for place, one in enumerate(ids) if one == tokenizer.eos_token_id]
    starts = {0, *(place + 1 for place in ends), *range(0, len(ids), 16)} - {len(ids)}
    mask = torch.cat([row["loss_mask"] for row in rows]).tolist()
    assert [place for place, learnt in enumerate(mask) if not learnt] == sorted(starts)
    positions = torch.cat([row["position_ids"] for row in rows]).tolist()
    assert all((at == 0) == (place in starts) for place, at in enumerate(positions))
    assert all(b == a + 1 for a, b in zip(positions, positions[1:], strict=False) if b)


def test_a_single_token_at_the_end_is_no_sequence(file, tokenizer):
    tokens = len(packed(file, tokenizer, 1000)[0]["input_ids"])
    assert len(packed(file, tokenizer, tokens - 1)) == 1 and len(packed(file, tokenizer, tokens - 2)) == 2


def test_no_text_sees_another(file, tokenizer):
    """The logits of each text in a packed sequence are those of the text alone, with attention without padding."""
    load = AutoModelForCausalLM.from_pretrained
    model = load(DEMO_MODEL_DIR, dtype=torch.float32, attn_implementation="sdpa_varlen").eval()
    alone = load(DEMO_MODEL_DIR, dtype=torch.float32, attn_implementation="eager").eval()
    row = packed(file, tokenizer, 1000)[0]
    with torch.no_grad():
        together = model(row["input_ids"][None], position_ids=row["position_ids"][None], use_cache=False).logits[0]
        starts = [*(row["position_ids"] == 0).nonzero().flatten().tolist(), len(row["input_ids"])]
        assert len(starts) == len(TEXTS) + 1
        for start, end in zip(starts, starts[1:], strict=False):
            one = alone(row["input_ids"][None, start:end]).logits[0]
            torch.testing.assert_close(together[start:end], one, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_packed(file, tokenizer):
    with pytest.raises(ValueError, match="no_padding"):
        packed(file, tokenizer, 16, pad_mode=DatasetPadMode.RIGHT)
    endless = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    endless.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        packed(file, endless, 16)


def test_texts_through_the_door(tmp_path, capsys):
    file = tmp_path / "in.jsonl"
    rows = [{"text": text, "url": "u"} for text in TEXTS] + [{"text": " ", "url": "u"}, {"text": "7", "url": "v"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = tmp_path / "out.parquet"
    assert main(["convert", str(file), str(target), "--algo", "text"]) == 1
    assert "text: must hold a text" in capsys.readouterr().out and not target.exists()
    assert main(["convert", str(file), str(target), "--algo", "text", "--skip-bad", "--dedup"]) == 0
    assert pq.read_table(target).to_pylist() == [{"text": text} for text in TEXTS]
    assert "column url is not used" in capsys.readouterr().out
    assert main(["validate", str(target), "--algo", "text", "--model", "demo"]) == 0
    assert "MAX_LENGTH" in capsys.readouterr().out
    assert main(["preview", str(target), "--algo", "text", "-n", "1"]) == 0
    assert "all of it learnt" in capsys.readouterr().out
    alone = tmp_path / "alone.jsonl"
    alone.write_text(json.dumps({"text": "7"}) + "\n")
    assert main(["convert", str(alone), str(target), "--algo", "sft"]) == 1
    assert "give --algo text" in " ".join(capsys.readouterr().out.split())


def test_a_launch_counts_sequences_and_not_texts(check, tmp_path, tokenizer):
    texts = [{"text": f"{number} + 1 = {number + 1}. " * 4} for number in range(1200)]
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "t.parquet")
    knobs = check("sft", DATA_FORM="text", TRAIN_DATA="t.parquet", MAX_LENGTH="64", TOTAL_EPOCHS="1")
    assert knobs.errors == []
    tokens = sum(len(tokenizer(row["text"])["input_ids"]) + 1 for row in texts)
    steps, batch = int(knobs["TOTAL_STEPS"]), int(knobs["BATCH_SIZE"])
    assert steps * batch <= tokens // 64 * 15 / 16 + batch and steps * batch > tokens // 64 * 0.8
    assert check("sft", DATA_FORM="text", TRAIN_DATA="t.parquet").values["MAX_LENGTH"] == "2048"
    warned = check("sft", DATA_FORM="text", TRAIN_DATA="t.parquet", MAX_LENGTH="64", ATTENTION="sdpa").warnings
    assert any("see the texts before theirs" in str(one) for one in warned)
