"""Learning rate schedules, the weight of the value loss, validation metrics of one's choice."""

from __future__ import annotations

import json
import types

import cloudpickle
import pytest
import torch

from common.metrics.named_validation import compute, parse
from common.preflight.knobs import ROOT, knobs_of_keys
from common.run_dir import metrics_path
from common.schedules.plateau import PlateauSchedule, scores_everywhere
from common.schedules.scores import Scores, read_scores, score_of
from common.verl_ext import schedule, value_coef

PEAK = 1e-3


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def built(monkeypatch, name, total=20, warmup=0, key="constant"):
    """The rates of a schedule after each step, as shares of the peak."""
    monkeypatch.setenv("LR_SCHEDULER", name)
    config = types.SimpleNamespace(
        lr_scheduler_type=key, total_training_steps=total, lr_warmup_steps=warmup, lr_warmup_steps_ratio=0.0
    )
    engine = types.SimpleNamespace(optimizer_config=config, rank=0)
    return schedule.replacement(lambda self, optimizer: "verl's own")(engine, optimizer())


def rates(scheduler, steps):
    found = []
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
        found.append(scheduler.get_last_lr()[0] / PEAK)
    return found


def test_linear_climbs_and_falls(monkeypatch):
    expected = [step / 4 for step in range(1, 5)] + [(20 - step) / 16 for step in range(5, 21)]
    assert rates(built(monkeypatch, "linear", warmup=4), 20) == pytest.approx(expected)


def test_wsd_falls_in_its_last_fifth(monkeypatch):
    expected = [0.5, 1.0, *[1.0] * 14, 0.75, 0.5, 0.25, 0.0]
    assert rates(built(monkeypatch, "wsd", warmup=2), 20) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("name", "key"), [("constant", "constant"), ("cosine", "cosine"), ("linear", "cosine")])
def test_what_verl_knows_and_what_its_key_says_is_left_to_it(monkeypatch, name, key):
    assert built(monkeypatch, name, key=key) == "verl's own"


def test_verls_key_as_an_argument_counts_as_the_knob():
    assert (
        knobs_of_keys(ROOT / "grpo" / "train.sh")["actor_rollout_ref.actor.optim.lr_scheduler_type"] == "LR_SCHEDULER"
    )
    assert knobs_of_keys(ROOT / "sft" / "train.sh")["optim.lr_scheduler_type"] == "LR_SCHEDULER"


# ---- plateau --------------------------------------------------------------------------------------------------------


def plateau(scores):
    return PlateauSchedule(optimizer(), 2, lambda: scores)


def test_plateau_halves_when_the_score_stops():
    scores: dict[int, float] = {}
    scheduler, found = plateau(scores), []
    for step, score in enumerate([0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.4, 0.5], 1):
        scores[step] = score
        found += rates(scheduler, 1)
    # warm-up of 2; the third validation without a better score (the 6th) halves
    assert found == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("losses", [[4.0] * 4, [4.0, 4.00001, 4.00002, 4.00003], [4.0, 3.99999, 3.99998, 3.99997]])
def test_plateau_halves_when_a_loss_stops_to_fall(losses):
    """Its sign is turned, so that higher is better; a share of a negative best would lie on the wrong side of it."""
    scores: dict[int, float] = {}
    scheduler, found = plateau(scores), []
    for step, loss in enumerate(losses, 1):
        scores[step] = -loss
        found += rates(scheduler, 1)
    assert found == [0.5, 1.0, 1.0, 0.5]


def test_plateau_resumes_with_the_same_rate():
    values = [0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.2, 0.1]
    whole, scores = plateau(all_scores := {}), {}
    expected = []
    for step, score in enumerate(values, 1):
        all_scores[step] = score
        expected += rates(whole, 1)
    assert expected[-1] == 0.25
    for stop in range(1, 9):
        scores.clear()
        first = plateau(scores)
        for step, score in enumerate(values[:stop], 1):
            scores[step] = score
            rates(first, 1)
        state = torch.load(_saved(first.state_dict()), weights_only=False)
        again = plateau(scores)
        again.load_state_dict(state)
        found = []
        for step, score in enumerate(values[stop:], stop + 1):
            scores[step] = score
            found += rates(again, 1)
        assert found == expected[stop:], stop


def _saved(state):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_scores_of_a_resumed_run_are_those_up_to_its_checkpoint(tmp_path, monkeypatch):
    records = [{"step": step, "data": {"val-core/x/acc/mean@1": step / 10}} for step in (0, 5, 10)]
    metrics_path(tmp_path, 1).write_text("".join(json.dumps(record) + "\n" for record in records))
    kept = Scores(tmp_path, resumed=5, test_freq=5)
    assert read_scores(tmp_path) == {0: 0.0, 5: 0.5}
    kept.log({"val-core/x/acc/mean@1": 0.55}, step=5)  # a resumed RL run validates again
    kept.log({"actor/pg_loss": 0.1}, step=6)
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    assert scores_everywhere() == {0: 0.0, 5: 0.55}
    between = Scores(tmp_path, resumed=7, test_freq=5)
    between.log({"val-core/x/acc/mean@1": 0.9}, step=7)  # the run that was not interrupted would not have looked
    assert read_scores(tmp_path) == {0: 0.0, 5: 0.5}
    assert Scores(tmp_path, resumed=0, test_freq=5).scores == {} == read_scores(tmp_path)  # started anew


@pytest.mark.parametrize(
    ("data", "score"),
    [
        ({"val-core/x/acc/mean@1": 0.5, "critic/score/mean": 0.1}, 0.5),
        ({"val/loss": 2.0}, -2.0),
        ({"train/loss": 2.0}, None),
        ({"val/loss": float("nan")}, None),
    ],
)
def test_what_counts_as_the_score(data, score):
    assert score_of(data) == score


# ---- value loss -----------------------------------------------------------------------------------------------------


def test_the_value_loss_is_weighted_once_also_in_a_worker(monkeypatch):
    import verl.workers.utils.losses as losses

    monkeypatch.setenv("VALUE_LOSS_COEF", "0.5")
    monkeypatch.setattr(losses, "value_loss", lambda config: (torch.tensor(4.0), {"critic/vf_loss": 4.0}))
    weighted = value_coef.replacement(losses.value_loss)
    monkeypatch.setattr(losses, "value_loss", weighted)  # as in the trainer and in each worker
    sent = cloudpickle.loads(cloudpickle.dumps(weighted))
    loss, metrics = sent(config=None)
    assert float(loss) == 2.0 and metrics == {"critic/vf_loss": 4.0}


def test_verls_own_value_loss_travels_with_the_function_and_not_by_its_name(monkeypatch):
    """By its name a worker, whose verl is replaced too, would find the weighted one and weigh twice."""
    import verl.workers.utils.losses as losses

    weighted = value_coef.replacement(losses.value_loss)
    monkeypatch.setattr(losses, "value_loss", weighted)
    sent = cloudpickle.loads(cloudpickle.dumps(weighted))
    inner = dict(zip(sent.__code__.co_freevars, sent.__closure__, strict=True))["original"].cell_contents
    assert inner.__name__ == "value_loss" and inner is not weighted


# ---- validation metrics ---------------------------------------------------------------------------------------------

VALIDATION = {
    "val-core/math/acc/mean@4": 0.25, "val-core/math/acc/best@4/mean": 0.75, "val-aux/math/acc/best@2/mean": 0.5,
    "val-aux/code/acc/best@2/mean": 0.3, "val-aux/math/format/mean@4": 0.8, "val-aux/a/b/format/mean@4": 0.4,
    "val-core/math/acc/maj@4/mean": 0.6, "val-aux/math/format/std@4": 9.0,
}  # fmt: skip


def test_named_metrics_are_means_over_the_sources():
    wanted = parse("format:mean, pass4=acc:best@4,acc:best@2,vote=acc:maj@4")
    assert compute(wanted, VALIDATION) == pytest.approx(
        {"val/format_mean": 0.6, "val/pass4": 0.75, "val/acc_best2": 0.4, "val/vote": 0.6}
    )
    assert compute(parse(""), VALIDATION) == {}


def test_what_the_reward_does_not_return_is_an_error_that_names_what_there_is():
    with pytest.raises(ValueError, match=r"no validation has acc:best@8; there are .*math/acc/best@4/mean"):
        compute(parse("acc:best@8"), VALIDATION)


@pytest.mark.parametrize("text", ["format", "acc:best", "acc:max@4", "acc:best@0", "x=acc:mean,x=format:mean"])
def test_bad_metrics_are_refused(text):
    with pytest.raises(ValueError):
        parse(text)
