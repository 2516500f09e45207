"""GSPO's rounds without training: rows sorted, pairs harvested, curves joined, stages' knobs."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from common.data.checks import structure
from common.data.rollouts import dumped_texts
from common.data.self_play import is_pair, is_prompt
from common.demo_model import DEMO_MODEL_DIR
from common.metrics.names import friendly
from common.preflight.knobs import read_block
from common.preflight.self_play import stage_names
from common.run_dir import read_metrics
from gspo.curve import JoinedCurve, scores
from gspo.data import make_data
from gspo.harvest import harvest
from gspo.split import held_out, pairs_of, prompts_of, write
from gspo.stages import PREFERENCE, RL, Stage, stage_environment, stages_of
from tests.conftest import ROOT

PROMPT = {
    "data_source": "demo/sums",
    "prompt": [{"role": "user", "content": "What is 1 + 2?"}],
    "reward_model": {"style": "rule", "ground_truth": "3"},
}
PAIR = {"prompt": "Explain recursion.", "chosen": "A function that calls itself.", "rejected": "Loops."}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)


# ---- rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "prompt", "pair"),
    [
        (PROMPT, True, False),
        (PROMPT | {"self_play": True}, True, False),
        (PAIR, False, True),
        (PAIR | {"self_play": False}, False, True),
        (PROMPT | PAIR | {"self_play": True, "prompt": PROMPT["prompt"]}, True, True),
    ],
)
def test_kinds_of_rows(row, prompt, pair):
    assert (is_prompt(row), is_pair(row)) == (prompt, pair)
    assert structure("gspo", row) is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": []}, "prompt: is missing"),
        (PROMPT | {"chosen": "A"}, "rejected: is missing next to chosen"),
        (PROMPT | {"self_play": False}, "self_play: is false and there is no pair"),
        (PAIR | {"self_play": True}, "data_source"),
        ({"prompt": PROMPT["prompt"]}, "data_source"),
        (PAIR | {"chosen": [{"role": "nobody", "content": "x"}]}, "nobody"),
    ],
)
def test_rows_that_are_neither_are_named(row, words):
    assert words in structure("gspo", row)


def test_sample_data_is_what_make_data_writes_and_no_validation_sum_is_trained_on():
    splits = make_data.make_splits()
    for split, rows in splits.items():
        assert pq.read_table(ROOT / "gspo" / "data" / f"{split}.parquet").to_pylist() == rows
        assert all(structure("gspo", row) is None for row in rows)
    kinds = [(is_prompt(row), is_pair(row)) for row in splits["train"]]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        (True, False): 1024,
        (False, True): 192,
        (True, True): 64,
    }
    asked = [{row["prompt"][0]["content"] for row in splits[split]} for split in ("train", "val")]
    assert not asked[0] & asked[1]


def test_mixed_files_are_sorted(tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in (PROMPT, PAIR)))
    files = [ROOT / "gspo" / "data" / "val.parquet", lines]
    prompts, pairs = prompts_of(files), pairs_of(files)
    assert (len(prompts), len(pairs)) == (129, 49)
    assert pairs[-1] == {
        "prompt": [{"role": "user", "content": PAIR["prompt"]}],
        "chosen": [{"role": "assistant", "content": PAIR["chosen"]}],
        "rejected": [{"role": "assistant", "content": PAIR["rejected"]}],
    }
    written = pq.read_table(write(prompts, tmp_path / "prompts.parquet")).to_pylist()
    assert "chosen" not in written[0] and written[-1]["reward_model"]["ground_truth"] == "3"


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (2, 1), (16, 15), (160, 150)])
def test_some_pairs_are_held_out(count, kept):
    train, validation = held_out([{"prompt": f"What is {number}?", "n": number} for number in range(count)])
    assert len(train) == kept and validation
    assert count == 1 or not [pair for pair in train if pair in validation]


def test_pairs_of_one_prompt_are_held_out_together():
    pairs = [{"prompt": f"What is {number // 4}?", "n": number} for number in range(64)]
    train, validation = held_out(pairs)
    assert len(validation) == 4 and len({pair["prompt"] for pair in validation}) == 1
    assert sorted(pair["n"] for pair in train + validation) == list(range(64))


# ---- the harvest -------------------------------------------------------------------------------------------------


def dump(folder, step, groups):
    """A dump as verl writes it: {uid: [(output, score), ...]} of one prompt."""
    folder.mkdir(exist_ok=True)
    lines = [
        {"input": text, "output": output, "score": score, "step": step, "uid": f"{uid}_{session}_0", "gts": "3"}
        for uid, (text, answers) in groups.items()
        for session, (output, score) in enumerate(answers)
    ]
    (folder / f"{step}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_pairs_are_the_best_and_the_worst_of_a_group(tmp_path, tokenizer):
    known = dumped_texts([PROMPT["prompt"]], tokenizer)
    text = next(iter(known))
    assert "What is 1 + 2?" in text and "<|im_start|>" not in text
    good, bad, middle = ("1 + 2 = 3\n#### 3", 1.1), ("It is 4.", 0.0), ("#### 4", 0.1)
    groups = {
        "a-b-c": (text, [middle, bad, good, good]),
        "close": (text, [bad, middle]),
        "other": ("user\nsomething else\nassistant\n", [good, bad]),
        "long": (text, [("1 + 2 = 3 and 4 and so on and on and on and on\n#### 3", 1.1), bad]),
        "padding": (text, [good, bad]),
    }
    groups = {("pad1" if uid == "padding" else uid): group for uid, group in groups.items()}
    dump(tmp_path / "rollouts", 2, groups)
    dump(tmp_path / "rollouts", 10, {"again": (text, [good, bad])})
    found = harvest(tmp_path / "rollouts", known, 0.5, tokenizer, max_tokens=24)
    assert found.pairs == [
        {
            "prompt": PROMPT["prompt"],
            "chosen": [{"role": "assistant", "content": good[0]}],
            "rejected": [{"role": "assistant", "content": bad[0]}],
        }
    ]
    assert (found.groups, found.close, found.unknown, found.cut, found.repeated) == (5, 1, 1, 1, 1)
    assert "1 pairs from 5 groups" in found.words() and "1 too close" in found.words()


# ---- stages and the joined curve ---------------------------------------------------------------------------------


def test_stages_of_a_run():
    assert stage_names(2) == [stage.name for stage in stages_of(2)]
    assert [stage.name for stage in stages_of(2)] == [
        "round-1/rl",
        "round-1/preference",
        "round-2/rl",
        "round-2/preference",
    ]


def test_a_stage_gets_the_knobs_of_the_run(tmp_path, monkeypatch):
    knobs = read_block(ROOT / "gspo" / "train.sh") | {"WANDB_RUN_NAME": "mine", "LEARNING_RATE": "1e-4", "SEED": "3"}
    knobs |= {"PREFERENCE_LEARNING_RATE": "3e-4", "LORA_ADAPTER_PATH": "/adapter", "BETA": "0.3"}
    for name in ("RUN_DIR", "TRAIN_DATA", "ALGORITHM", "VERL_USE_EXTERNAL_MODULES", "REWARD_FUNC_PATH"):
        monkeypatch.setenv(name, "left over")
    rl = stage_environment(Stage(2, RL), tmp_path, knobs, "/model", {})
    assert rl["SELF_PLAY_ROUNDS"] == "1" and rl["HARVEST_PAIRS"] == "false" and rl["SEED"] == "4"
    assert rl["MODEL_PATH"] == "/model" and rl["LEARNING_RATE"] == "1e-4" and rl["LORA_ADAPTER_PATH"] == ""
    assert rl["OUTPUTS_DIR"] == str(tmp_path / "round-2") and rl["EXPERIMENT_NAME"] == "rl"
    assert rl["TRAIN_DATA"] == str(tmp_path / "data" / "prompts.train.parquet")
    assert not {"RUN_DIR", "ALGORITHM", "VERL_USE_EXTERNAL_MODULES"} & set(rl)
    first = stage_environment(Stage(1, RL), tmp_path, knobs, "/model", {})
    assert first["LORA_ADAPTER_PATH"] == "/adapter"
    preference = stage_environment(Stage(1, PREFERENCE), tmp_path, knobs, "/model", {"TRAIN_DATA": "p"})
    assert preference["LEARNING_RATE"] == "3e-4" and preference["BETA"] == "0.3" and preference["TRAIN_DATA"] == "p"
    assert set(preference) & {"REWARD_FUNC_PATH", "ROLLOUT_N"} == set()
    unknown = [name for name in preference if name in knobs and name not in read_block(ROOT / "dpo" / "train.sh")]
    assert unknown == []


def lines(*records):
    return "".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in records)


def test_the_curve_counts_on_over_stages_and_attempts(tmp_path):
    score = "val-core/demo/acc/mean@1"
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    (one / "metrics.jsonl").write_text(lines((0, {score: 0.2}), (1, {"actor/pg_loss": 1}), (2, {"actor/pg_loss": 2})))
    (one / "metrics.2.jsonl").write_text(lines((2, {"actor/pg_loss": 3, score: 0.6}), (3, {"actor/pg_loss": 4})))
    for folder, step in ((one, 3), (two, 1)):
        (folder / "rollouts").mkdir(parents=True)
        (folder / "rollouts" / f"{step}.jsonl").write_text(folder.name)
    run = tmp_path / "run"
    run.mkdir()
    curve = JoinedCurve(run)
    curve.rebuild([one, two])
    samples = {path.name: path.read_text() for path in (run / "rollouts").iterdir()}
    assert samples == {"3.jsonl": "one", "4.jsonl": "two"}
    curve.begin(two)
    (two / "train.log").write_text("a line\n")
    (two / "metrics.jsonl").write_text(lines((1, {"train/loss": 5})))
    curve.follow()
    with (two / "metrics.jsonl").open("a") as stream:
        stream.write(lines((2, {"train/loss": 6})))
    curve.end()
    expected = [(0, None), (1, 1), (2, 3), (3, 4), (4, 5), (5, 6)]

    def loss(record):
        return record["data"].get("actor/pg_loss", record["data"].get("train/loss"))

    assert [(record["step"], loss(record)) for record in read_metrics(run)] == expected
    assert curve.offset == 5 and (run / "train.log").read_text() == "a line\n"
    curve.begin(two)  # started again: steps 2 and 3 of the second attempt
    (two / "metrics.2.jsonl").write_text(lines((2, {"train/loss": 7}), (3, {"train/loss": 8})))
    curve.end()
    assert [(r["step"], loss(r)) for r in read_metrics(run)][-2:] == [(5, 7), (6, 8)] and curve.offset == 6
    assert scores(one) == {"measure": "val_score", "first": 0.2, "last": 0.6}
    assert scores(two) == {} and friendly({score: 0.2}) == {"val_score": 0.2}
