"""Trackers over a resume: every step is there, with the value of the attempt that the model comes from."""

from __future__ import annotations

import json
import os
import sys
import types

import pytest

from common.notify.notifier import Notifier
from common.preflight.knobs import read_knobs
from common.preflight.trackers import check_trackers, loggers, resolve_trackers
from common.run_dir import metrics_path, update_run
from common.trackers import backends, logins
from common.trackers.place import place_of, read_state, resumed_step
from common.trackers.rows import comparison, row_of, samples_of
from common.trackers.tracker import attach, send_files
from common.verl_ext.trackers import _drop_later


class Kept:
    """Stands in for a tracker: what it was given."""

    rows: list = []
    tables: list = []
    ended: list = []
    files_sent: tuple = ()

    def __init__(self, place):
        self.place = place
        place.note(id="x")

    def log(self, row, step):
        Kept.rows.append((step, row["train/loss"]))

    def samples(self, rows, step):
        Kept.tables.append((step, [row["output"] for row in rows]))

    def files(self, charts, compared, step):
        Kept.files_sent = (self.place.config, [path.name for path in charts], compared, step)

    def finish(self, *codes):
        Kept.ended.append(codes)


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    folder = tmp_path / "outputs" / "mine"
    folder.mkdir(parents=True)
    update_run(folder, id="abcd1234", algorithm="grpo", model_name="demo", knobs={"VARIANT": "grpo"})
    Kept.rows, Kept.tables, Kept.ended, Kept.files_sent = [], [], [], ()
    monkeypatch.setitem(backends.BACKENDS, "mlflow", Kept)
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    return folder


def log_file(run_dir, attempt, steps, offset=0.0):
    lines = [json.dumps({"step": step, "data": {"train/loss": step + offset}}) + "\n" for step in steps]
    metrics_path(run_dir, attempt).write_text("".join(lines))


def open_at(run_dir, resumed, name="mlflow"):
    path = f"{run_dir}/checkpoints/global_step_{resumed}" if resumed else None
    config = {"trainer": {"resume_mode": "resume_path" if resumed else "disable", "resume_from_path": path}}
    return attach([name], "project", "mine", config, run_dir)[name]


# ---- steps ----------------------------------------------------------------------------------------------------------


def test_a_tracker_that_was_closed_gets_only_what_is_new(run_dir):
    first = open_at(run_dir, 0)
    for step in (1, 2):
        first.log({"train/loss": float(step)}, step)
    first.finish()
    log_file(run_dir, 1, (1, 2))
    again = open_at(run_dir, 2)
    again.log({"train/loss": 30.0}, 3)
    assert Kept.rows == [(1, 1.0), (2, 2.0), (3, 30.0)] and read_state(run_dir)["mlflow"]["id"] == "x"


@pytest.mark.parametrize("known", [{}, {"mlflow": {"id": "x", "closed": False}}], ids=["new", "killed"])
def test_steps_before_the_checkpoint_are_sent_again_where_they_may_be_missing(run_dir, known):
    (run_dir / "trackers.json").write_text(json.dumps(known))
    log_file(run_dir, 1, (1, 2, 3, 4))
    open_at(run_dir, 3)
    assert Kept.rows == [(1, 1.0), (2, 2.0), (3, 3.0)]  # 4 is trained again


def test_going_back_is_known_from_the_steps_that_were_logged(run_dir):
    log_file(run_dir, 1, (1, 2, 3, 4))
    (run_dir / "trackers.json").write_text(json.dumps({"swanlab": {"id": "a", "closed": True}}))
    for resumed, back in ((2, True), (4, False)):
        config = {"trainer": {"resume_from_path": f"/x/global_step_{resumed}"}}
        assert place_of("swanlab", "p", "n", config, run_dir).goes_back is back


def test_swanlab_starts_a_run_of_all_steps_when_it_would_refuse_some(run_dir, monkeypatch):
    calls = []
    run = types.SimpleNamespace(log=lambda row, step: calls.append((step, row["train/loss"])), finish=lambda: None)
    module = types.SimpleNamespace(init=lambda **given: calls.append(given["id"]) or run)
    monkeypatch.setitem(sys.modules, "swanlab", module)
    monkeypatch.setenv("ATTEMPT", "2")
    log_file(run_dir, 1, (1, 2, 3, 4))
    (run_dir / "trackers.json").write_text(json.dumps({"swanlab": {"id": "abcd1234", "closed": True}}))
    open_at(run_dir, 2, "swanlab").log({"train/loss": 33.0}, 3)
    assert calls == ["abcd1234-2", (1, 1.0), (2, 2.0), (3, 33.0)]
    calls.clear()
    log_file(run_dir, 2, (3,), offset=30.0)
    (run_dir / "metrics.jsonl").write_text("")
    open_at(run_dir, 3, "swanlab")  # killed: what it had is not certain
    assert calls[0] == "abcd1234-2" and calls[1:] == [(3, 33.0)]


def test_wandb_never_gets_a_step_of_its_own_axis(run_dir, monkeypatch):
    rows, defined = [], []
    run = types.SimpleNamespace(
        id="abcd1234",
        log=lambda row: rows.append(row),
        define_metric=lambda name, step_metric=None: defined.append((name, step_metric)),
    )
    given = {}
    module = types.SimpleNamespace(init=lambda **options: given.update(options) or run, Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", module)
    tracker = open_at(run_dir, 0, "wandb")
    tracker.log({"critic/score/mean": 0.5}, 7)
    sys.modules["wandb"].log({"val/generations": 1}, step=3)  # as verl logs its tables
    assert rows == [
        {"critic/score/mean": 0.5, "train/reward_mean": 0.5, "train/step": 7},
        {"val/generations": 1, "train/step": 3},
    ]
    assert defined == [("train/step", None), ("*", "train/step")]
    assert given["id"] == "abcd1234" and given["resume"] == "allow" and set(given["tags"]) == {"grpo", "demo"}


def test_a_tracker_that_fails_ends_no_training(run_dir, monkeypatch, capsys):
    def log(self, row, step):
        raise OSError("no network")

    monkeypatch.setattr(Kept, "log", log)
    tracker = open_at(run_dir, 0)
    for step in range(3):
        tracker.log({"train/loss": 1.0}, step)
    said = capsys.readouterr().out
    assert said.count("Tracker mlflow: OSError: no network") == 1

    def refuse(place):
        raise RuntimeError("bad address")

    monkeypatch.setitem(backends.BACKENDS, "mlflow", refuse)
    assert attach(["mlflow"], "p", "n", {}, run_dir) == {}
    assert "Tracker mlflow: RuntimeError: bad address (the run continues without it)" in capsys.readouterr().out


# ---- what is sent ---------------------------------------------------------------------------------------------------


def test_the_names_that_users_know_are_beside_verls():
    data = {
        "critic/score/mean": 0.5, "actor/pg_loss": 0.1, "critic/vf_loss": 0.2, "actor/kl_loss": 0.01,
        "actor/entropy": 1.5, "val-core/math/acc/mean@1": 0.25, "text": "left out", "done": True,
    }  # fmt: skip
    row = row_of(data, gpu=87.5)
    promised = {
        "train/reward_mean": 0.5, "train/policy_loss": 0.1, "train/value_loss": 0.2, "train/kl_divergence": 0.01,
        "train/entropy": 1.5, "system/gpu_utilization": 87.5, "val/score": 0.25,
    }  # fmt: skip
    assert row == {key: value for key, value in data.items() if key not in ("text", "done")} | promised


def test_answers_of_a_validation_are_sent_when_they_are_whole(run_dir):
    (run_dir / "validation").mkdir()
    tracker = open_at(run_dir, 0)
    tracker.log({"train/loss": 1.0, "val-core/x/reward/mean@1": 0.5}, 5)
    rows = [{"input": "q", "output": f"a{n}", "score": 1} for n in range(30)]
    (run_dir / "validation" / "5.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Kept.tables == []
    tracker.log({"train/loss": 1.0}, 6)
    assert Kept.tables == [(5, [f"a{n}" for n in range(20)])]
    (run_dir / "validation" / "5.jsonl").write_text('{"input": "q", "outp')
    assert samples_of(run_dir, 5) == []


def test_the_last_files_come_with_verls_configuration_and_the_last_step(run_dir):
    """A tracker that is opened for them with an empty configuration would lose the one it has."""
    tracker = open_at(run_dir, 0)
    log_file(run_dir, 1, [1, 2, 3])
    tracker.finish()
    (run_dir / "charts").mkdir()
    (run_dir / "charts" / "metrics.png").touch()
    send_files("mlflow", "project", "mine", run_dir)
    assert Kept.files_sent == (
        {"trainer": {"resume_mode": "disable", "resume_from_path": None}}, ["metrics.png"],
        [{"metric": "loss", "before": 1.0, "after": 3.0, "best": 1.0, "best_step": 1}], 3,
    )  # fmt: skip


def test_the_comparison_has_before_after_and_best():
    scores = {0: 0.1, 5: 0.9, 10: 0.4}
    records = [{"step": step, "data": {"val-core/x/reward/mean@1": score}} for step, score in scores.items()]
    assert comparison(records) == [{"metric": "val_score", "before": 0.1, "after": 0.4, "best": 0.9, "best_step": 5}]


def test_tensorboard_drops_the_steps_that_are_trained_again(tmp_path):
    """With its own reader: of an attempt that went back only the later value of a step is left."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    attempts = [((1, 2, 3, 4), 0), ((3, 4, 5), 2)]
    for attempt, (steps, resumed) in enumerate(attempts):
        writer = SummaryWriter(str(tmp_path), filename_suffix=f".{attempt}")
        _drop_later(writer, resumed)
        for step in steps:
            writer.add_scalar("loss", step + 10 * attempt, step)
        writer.close()
    read = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in read] == [(1, 1), (2, 2), (3, 13), (4, 14), (5, 15)]


def test_a_run_that_begins_again_in_spite_of_its_checkpoint_has_resumed_from_none():
    trainer = {"resume_mode": "resume_path", "resume_from_path": "/x/global_step_40"}
    assert resumed_step(trainer) == 40
    assert resumed_step({**trainer, "resume_mode": "disable"}) == resumed_step({}) == 0


# ---- the knob -------------------------------------------------------------------------------------------------------


@pytest.fixture
def knobs(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "SWANLAB_API_KEY", "SWANLAB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NETRC", "SWANLAB_ROOT", "CLEARML_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setattr(logins.Service, "is_installed", True)

    def read(**given):
        found = read_knobs("grpo", given)
        check_trackers(found)
        resolve_trackers(found)
        return found

    return read


@pytest.mark.parametrize(
    ("given", "environment", "expected", "use_wandb"),
    [
        ({}, {}, "none", "false"),
        ({}, {"WANDB_API_KEY": "k", "MLFLOW_TRACKING_URI": "http://m"}, "wandb,mlflow", "true"),
        ({"TRACKERS": "none"}, {"WANDB_API_KEY": "k"}, "none", "false"),
        ({"TRACKERS": "trackio, mlflow"}, {}, "trackio,mlflow", "false"),
        ({"TRACKERS": "mlflow,"}, {}, "mlflow", "false"),
        ({"TRACKERS": "mlflow,trackio,mlflow"}, {}, "mlflow,trackio", "false"),
        ({"USE_WANDB": "true"}, {"WANDB_MODE": "offline"}, "wandb", "true"),
        ({"USE_WANDB": "true", "TRACKERS": "mlflow"}, {"WANDB_API_KEY": "k"}, "wandb,mlflow", "true"),
        ({"USE_WANDB": "false"}, {"WANDB_API_KEY": "k"}, "none", "false"),
    ],
)
def test_which_trackers_a_run_has(knobs, monkeypatch, given, environment, expected, use_wandb):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = knobs(**given)
    assert (found["TRACKERS"], found["USE_WANDB"], found.errors) == (expected, use_wandb, [])
    names = "" if expected == "none" else f",{expected}"
    assert loggers(found) == f"[console,file,tensorboard{names}]"


@pytest.mark.parametrize("name", ["found", "problem_of", "read_knobs", "Notifier"])
def test_the_environment_is_read_when_it_is_asked_for(knobs, monkeypatch, tmp_path, name):
    """datasets puts a copy into ``os.environ`` when it maps with several processes, as verl does to filter prompts."""
    later = {**os.environ, "SWANLAB_API_KEY": "k", "TRACKERS": "swanlab", "NOTIFY_URLS": "json://127.0.0.1:9/"}
    monkeypatch.setattr(os, "environ", later)
    seen = {
        "found": lambda: "swanlab" in logins.found(),
        "problem_of": lambda: logins.problem_of("swanlab") is None,
        "read_knobs": lambda: read_knobs("grpo")["TRACKERS"] == "swanlab",
        "Notifier": lambda: Notifier(tmp_path).on,
    }
    assert seen[name]()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"TRACKERS": "swanlab"}, "not logged in to swanlab"),
        ({"TRACKERS": "wandb"}, "not logged in to wandb"),
        ({"TRACKERS": "swanlabs"}, "did you mean swanlab?"),
        ({"TRACKERS": "wandb", "USE_WANDB": "false"}, "keeps it out"),
        ({"USE_WANDB": "true"}, "not logged in"),
    ],
)
def test_a_tracker_that_would_ask_is_refused(knobs, given, words):
    found = knobs(**given)
    assert any(words in str(error) for error in found.errors), found.errors


def test_a_tracker_that_is_not_installed_is_refused(knobs, monkeypatch):
    monkeypatch.setattr(logins.Service, "is_installed", False)
    assert "pip install trackio" in str(knobs(TRACKERS="trackio").errors[0])
