"""Facts that several rooms use are written in one place."""

import re
from types import SimpleNamespace

import pytest

import common.reward_functions as face
from common.files import ROOT
from common.hf_engine.end_tokens import end_ids
from common.metrics.names import BY_NAME, HEADLINES, METRICS, VALIDATION_OF
from common.rewards.compose import FUNCTIONS, NEEDS_NO_TRUTH
from monitor import store
from monitor.change_token import Asked, tokens, tokens_of
from monitor.page import TABS, TOKENS


def test_every_reward_of_the_table_is_on_the_face_under_its_name():
    assert set(face.__all__) == set(FUNCTIONS)
    assert all(getattr(face, name) is reward and reward.__name__ == name for name, reward in FUNCTIONS.items())


def test_only_rewards_of_form_do_without_a_ground_truth():
    assert NEEDS_NO_TRUTH == {"format_match", "soft_overlong", "linear_length", "repetition", "language"}


def test_an_answer_ends_at_the_tokens_of_the_config_and_of_the_tokenizer():
    assert end_ids(SimpleNamespace(eos_token_id=[1, 2]), SimpleNamespace(eos_token_id=3)) == {1, 2, 3}
    assert end_ids(SimpleNamespace(eos_token_id=None), SimpleNamespace(eos_token_id=3)) == {3}


def test_a_validation_has_the_metric_that_it_measures_and_the_same_better_way():
    assert VALIDATION_OF == {
        "reward_mean": "val_score",
        "loss": "val_loss",
        "reward_accuracy": "val_accuracy",
        "reward_margin": "val_margin",
        "success": "val_success",
    }
    assert all(
        BY_NAME[trained].better == BY_NAME[validated].better != "" for trained, validated in VALIDATION_OF.items()
    )
    assert all(metric.better in ("", "higher", "lower") for metric in METRICS)


def test_a_run_is_judged_by_validation_before_training_and_each_has_a_place_and_words():
    assert [metric.name for metric in HEADLINES[:3]] == ["val_score", "val_accuracy", "val_loss"]
    assert len({metric.headline for metric in HEADLINES}) == len(HEADLINES)
    assert all(bool(metric.short) == bool(metric.validates) for metric in HEADLINES)


def test_no_other_file_lists_what_a_validation_is():
    lists = re.compile(
        r"""(?<!Metric)[(\[{]\s*['"]val_(?:score|loss|accuracy)['"]\s*,|['"]val_loss['"]\s*==|== ['"]val_loss['"]"""
    )
    files = [path for room in ("common", "monitor", "gspo") for path in (ROOT / room).rglob("*.py")]
    found = [str(path.relative_to(ROOT)) for path in files if lists.search(path.read_text(encoding="utf-8"))]
    assert set(found) <= {"common/metrics/progress_line.py"}  # its order and its formats are its own


def test_the_token_of_each_tab_changes_with_what_it_shows_and_only_then(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SCAN_SECONDS", 0.0)
    monkeypatch.setattr(store, "POLL_SECONDS", 0.0)
    run = tmp_path / "one"
    (run / "rollouts").mkdir(parents=True)
    (run / "run.json").write_text('{"state": "finished", "algorithm": "grpo"}', encoding="utf-8")
    (run / "metrics.jsonl").write_text('{"step": 1, "data": {"train/loss": 2.0}}\n', encoding="utf-8")
    (run / "train.log").write_text("a\n", encoding="utf-8")
    moments = [SimpleNamespace(time=1.0)]
    asked = Asked(store.Monitor(tmp_path), SimpleNamespace(moments=moments), "one", ["one"])
    tokens(TOKENS, "curves", asked)  # the first look reads the run
    before = {tab: tokens(TOKENS, tab, asked)[1] for tab in TABS}
    assert before == {tab: tokens(TOKENS, tab, asked)[1] for tab in TABS}
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 2, "data": {"train/loss": 1.0}}\n')
    (run / "train.log").write_text("a\nb\n", encoding="utf-8")
    (run / "rollouts" / "1.jsonl").write_text("{}\n", encoding="utf-8")
    moments.append(SimpleNamespace(time=2.0))
    after = {tab: tokens(TOKENS, tab, asked)[1] for tab in TABS}
    assert [tab for tab in TABS if before[tab] == after[tab]] == []


def test_a_tab_without_a_token_ends_the_start_of_the_monitor():
    with pytest.raises(TypeError, match="tab 'new' would never be filled again"):
        tokens_of({**TABS, "new": SimpleNamespace(build=lambda page: None)})
