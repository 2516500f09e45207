"""Reward models: whole conversations, the loss against arithmetic by hand, what a score is worth, the launch."""

import math
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from verl.utils import tensordict_utils as tu

from common.checkpoints.model_class import auto_class
from common.demo_model import DEMO_MODEL_DIR
from common.preflight.knobs import script_of
from common.preflight.ppo import SCORE_HEADS, VALUE_HEADS
from common.run_dir import resume_command
from dpo.dataset import PairCollator
from dpo.pairs import reward_means
from ppo.reward_model.scores import ScoreOptions, ScoreRecords, quality, score_loss
from ppo.reward_model.trainer import ConversationPairs, as_classifier
from tests.conftest import ROOT

PAIRS = [
    {"prompt": f"What is {n} + 1?", "chosen": f"{n + 1}", "rejected": f"It is {n}.", "margin": 0.5 * n}
    for n in range(3)
]
LIMITS = {"max_prompt_length": 100, "max_response_length": 100}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)


@pytest.fixture
def dataset(tmp_path, tokenizer):
    def build(rows, **limits):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
        return ConversationPairs([str(tmp_path / "rows.parquet")], tokenizer, OmegaConf.create({**LIMITS, **limits}))

    return build


def test_a_score_is_read_where_the_served_model_reads_it(dataset, tokenizer):
    """The ids are those of the conversation as verl's reward loop writes it, with what stands behind the answer."""
    pairs = dataset(PAIRS)
    for row, sides in zip(PAIRS, pairs.pairs, strict=True):
        for answer, side in zip((row["chosen"], row["rejected"]), sides, strict=True):
            talk = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": answer}]
            text = tokenizer.apply_chat_template(talk, add_generation_prompt=False, tokenize=False)
            assert side.ids == tokenizer(text)["input_ids"]
    assert pairs.margins.tolist() == [0.0, 0.5, 1.0]


def test_half_answers_are_left_out_and_long_prompts_lose_their_beginning(dataset, capsys):
    whole = dataset(PAIRS[:1])
    long = {**PAIRS[0], "rejected": "It is nothing that anybody would say in so few words as I have here."}
    answer = len(whole.pairs[0][1].answer)  # "It is 0." and its end
    cut = dataset([PAIRS[0], long], max_prompt_length=5, max_response_length=answer)
    assert "1 with answers above the limit" in capsys.readouterr().out and len(cut) == 1
    for side, uncut in zip(cut.pairs[0], whole.pairs[0], strict=True):
        assert side.ids == uncut.ids[-len(side.ids) :] and len(side.ids) <= 5 + answer
    with pytest.raises(ValueError, match="no pair to learn from; left out: 0 with equal answers, 1 with answers above"):
        dataset([long], max_response_length=answer)


def test_the_loss_against_arithmetic_by_hand(dataset):
    """Two micro-batches on one of two ranks; values at other tokens than the last say nothing."""
    pairs, shares, found = dataset(PAIRS[:2]), 0.0, []
    scores = [(0.5, -0.25), (1.0, 2.0)]
    for index, both in enumerate(scores):
        batch = PairCollator()([pairs[index]])
        data = tu.get_tensordict(batch, {"global_batch_size": 2, "dp_size": 2})
        data["margin"] = pairs.margins[data["pair"]]
        values = [torch.randn(len(ids)) for ids in batch["input_ids"].unbind()]
        for value, score in zip(values, both, strict=True):
            value[-1] = score
        output = {"values": torch.nested.as_nested_tensor(values, layout=torch.jagged)}
        loss, records = score_loss(ScoreOptions(center_coef=0.1), output, data)
        shares += loss.item()
        found += records["pair_loss"]
        unmoved = score_loss(ScoreOptions(center_coef=0.0, margin=False), output, data)[1]["pair_loss"]
        assert unmoved == pytest.approx([math.log1p(math.exp(-(both[0] - both[1])))])
    expected = [
        math.log1p(math.exp(-(w - r - m))) + 0.1 * (w + r) ** 2 for (w, r), m in zip(scores, (0.0, 0.5), strict=True)
    ]
    assert found == pytest.approx(expected)
    assert shares == pytest.approx(sum(expected) / 2 * 2)


def test_what_the_scores_are_worth():
    """Four pairs: two right and sure, one wrong and sure, one tie; the longer chosen answers are the right ones."""
    records = ScoreRecords(
        [0, 1, 2, 3], [0.1] * 4, [2.0, 2.0, 0.0, 1.0], [0.0, 0.0, 2.0, 1.0], [9, 9, 5, 7], [5, 5, 9, 7]
    )
    assert reward_means(records)["rewards/accuracies"] == (1 + 1 + 0 + 0.5) / 4
    found = quality(records)
    sure = 1 / (1 + math.exp(-2))  # three pairs, of which two are right; the tie is half right and said so
    assert found["calibration/error"] == pytest.approx(3 / 4 * abs(sure - 2 / 3))
    assert found["length/accuracy_longer"] == 1.0 and found["length/accuracy_shorter"] == 0.0
    assert found["length/correlation"] == pytest.approx(1.0)
    alike = quality(ScoreRecords([0, 1], [0.1] * 2, [1.0, 2.0], [0.0, 0.0], [5, 5], [5, 5]))
    assert set(alike) == {"calibration/error"}  # length says nothing where it does not differ


def test_a_value_model_becomes_a_classifier():
    """Its last token's value without the bias is the score that transformers' classifier gives."""
    from transformers import AutoModelForTokenClassification, Qwen2Config, Qwen2ForSequenceClassification

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
    config = Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2, num_labels=1, pad_token_id=None)
    module = as_classifier(AutoModelForTokenClassification.from_config(config).eval(), pad_token_id=3)
    assert module.config.architectures == ["Qwen2ForSequenceClassification"] and module.config.pad_token_id == 3
    classifier = Qwen2ForSequenceClassification(module.config).eval()
    classifier.load_state_dict(module.state_dict())  # no name is missing, none is left over
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(module(ids).logits[0, -1], classifier(ids).logits[0])
    with pytest.raises(ValueError, match="has no head `score`"):
        as_classifier(types.SimpleNamespace(score=None), 3)


def test_its_checkpoint_is_loaded_as_a_classifier(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen2ForSequenceClassification"]}')
    assert auto_class(tmp_path).__name__ == "AutoModelForSequenceClassification"


def test_the_families_are_those_with_one_head_for_both():
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification
    from transformers.modeling_layers import GenericForSequenceClassification, GenericForTokenClassification
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def generic(kind):
        config = CONFIG_MAPPING[kind]
        ways = (
            (AutoModelForTokenClassification, GenericForTokenClassification),
            (AutoModelForSequenceClassification, GenericForSequenceClassification),
        )
        return all(
            config in auto._model_mapping and issubclass(auto._model_mapping[config], base) for auto, base in ways
        )

    assert [kind for kind in VALUE_HEADS if generic(kind)] == list(SCORE_HEADS)


def test_launch(check, tmp_path):
    knobs = check("reward_model")
    assert knobs.errors == [] and knobs["MARGIN"] == "false"
    assert knobs["VAL_DATA"].endswith("ppo/reward_model/data/val.parquet") and knobs["LEARNING_RATE"] == "5e-4"
    pq.write_table(pa.Table.from_pylist(PAIRS * 20), tmp_path / "mine.parquet")
    mine = check("reward_model", TRAIN_DATA="mine.parquet", VAL_DATA="mine.parquet", EXPERIMENT_NAME="rm")
    assert mine.errors == [] and mine["MARGIN"] == "true"
    assert script_of("reward_model") == ROOT / "ppo" / "reward_model" / "train.sh"
    assert resume_command(ROOT / "outputs" / "rm", "reward_model") == "EXPERIMENT_NAME=rm ./ppo/reward_model/train.sh"


def test_margins_that_are_not_there(check):
    errors = [str(error) for error in check("reward_model", MARGIN="true").errors]
    assert any("MARGIN=true: no row looked at has a margin" in error for error in errors)


def test_every_knob_reaches_the_config(check, tmp_path, monkeypatch):
    """The command of the script composes against verl's own config, and its values arrive."""
    from common.preflight.command import launch_command
    from common.preflight.compose import after_options, compose_command

    knobs = check("reward_model", CENTER_COEF="0.25", MARGIN="false", EXPERIMENT_NAME="rm")
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    command = launch_command(knobs, tmp_path / "outputs" / "rm")
    config = compose_command(command)
    assert config.algorithm == {"center_coef": 0.25, "margin": False}
    assert "ppo.reward_model.main" in command and len(after_options(command)) > 20
