"""--suite lm-eval:TASKS: the harness's results as a report; where it is installed, its own answers and scores."""

import importlib.util

import pytest

from common.evaluation.engines.engine import Answer
from common.evaluation.lm_eval_tasks.model import asked_as
from common.evaluation.lm_eval_tasks.results import Asked, task_result
from common.evaluation.settings import Settings
from common.test_model import main

FACTS = {"lm-eval": "0"}


def answered(*samples):
    """The engine's answers: cut, of 2 tokens."""
    return {asked_as(one["arguments"][0]): Answer(9, 9, one["resps"][0][0], 2, 5, "length") for one in samples}


def sample(doc, text, target, filter_name, **values):
    arguments = [("Q" + str(doc), {"until": []})]
    base = {"doc_id": doc, "arguments": arguments, "resps": [[text]], "target": target, "filter": filter_name}
    return {**base, "metrics": list(values), **values}


def found(samples, figures, task="t"):
    config = {"dataset_path": "json", "test_split": "test", "generation_kwargs": {"max_gen_toks": 5}}
    return {
        "results": {task: {"alias": task, **figures}},
        "samples": {task: samples},
        "configs": {task: config},
        "versions": {task: 3},
        "n-shot": {task: 5},
    }


def test_two_filters_are_two_scores_of_one_row():
    samples = [sample(d, "so 4", "4", f, em=float(f == "strict" and d)) for f in ("strict", "loose") for d in (0, 1)]
    own = {"em,strict": 0.5, "em_stderr,strict": 0.25, "em,loose": 0.0}
    result = task_result(
        "t", [Asked("m", "m", "/m", "e", 1.0, found(samples, own), answered(*samples))], Settings(), FACTS
    )
    report = result.report
    assert [report.models[0].value((row, 0)) for row in (0, 1)] == [0.0, 1.0]
    assert report.summaries[0].overall.accuracy == 0.5 and result.bench.metric == "em,strict"
    assert report.models[0].scores[1, 0]["parts"] == {"em,strict": 1.0, "em,loose": 0.0}
    assert report.settings["lm-eval: m, em,strict"] == "0.5 ± 0.25" and report.settings["examples in the prompt"] == 5
    assert report.models[0].answers[1, 0] == Answer(1, 0, "so 4", 2, 5, "length")
    assert report.summaries[0].overall.cut == 1.0


def test_a_figure_that_is_no_mean_over_rows_is_not_made_one():
    samples = [sample(0, "x", "x", "none", ppl=(1.0, 2)), sample(1, "x", "x", "none", ppl=(3.0, 4))]
    result = task_result(
        "t", [Asked("m", "m", "", "e", 1.0, found(samples, {"ppl,none": 7.5}), answered(*samples))], Settings(), FACTS
    )
    assert not result.report.models[0].scores and "no mean over rows" in result.loaded.notes[0]
    assert result.report.settings["lm-eval: m, ppl,none"] == "7.5"
    samples = [sample(0, "x", "x", "none", f1=0.5), sample(1, "x", "x", "none", f1=0.5)]
    result = task_result(
        "t", [Asked("m", "m", "", "e", 1.0, found(samples, {"f1,none": 0.9}), answered(*samples))], Settings(), FACTS
    )
    assert not result.report.models[0].scores


@pytest.mark.parametrize(
    "options, said",
    [
        (["--suite", "lm-eval:t", "--server", "http://127.0.0.1:1"], "leave --server out"),
        (["--suite", "lm-eval:t", "--n", "4", "--temperature", "1"], "--n: has no effect"),
        (["--suite", "lm-eval:t", "--stop", "x"], "--stop: has no effect"),
        (["--suite", "lm-eval:t", "--data", "/no/such"], "no such folder"),
        (["--suite", "math,lm-eval:t"], "not known"),
    ],
)
def test_what_cannot_be_is_refused(options, said, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "lm_eval" or find(name, *rest))
    assert main(["--model_path", "demo", *options]) == 2
    assert said in capsys.readouterr().err


def test_without_the_harness_it_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert main(["--model_path", "demo", "--suite", "lm-eval:gsm8k"]) == 2
    assert "requirements/lm-eval.txt" in capsys.readouterr().err
