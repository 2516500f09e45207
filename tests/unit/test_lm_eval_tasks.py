"""--suite lm-eval:TASKS: the harness's results as a report; where it is installed, its own answers and scores."""

import importlib.util
import json

import openpyxl
import pytest

from common.evaluation.engines.engine import Answer
from common.evaluation.lm_eval_tasks.model import asked_as
from common.evaluation.lm_eval_tasks.results import Asked, task_result
from common.evaluation.settings import Settings
from common.test_model import main

FACTS = {"lm-eval": "0"}
has_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="requirements/lm-eval.txt")
TASK = """task: local_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: {kind}
test_split: test
doc_to_text: "{{{{question}}}}"
{rest}
"""
GENERATE = """doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 16}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: number, filter: [{function: regex, regex_pattern: "(\\\\d+)", group_select: -1}, {function: take_first}]}"""
CHOOSE = """doc_to_choice: ["{{answer}}", "no"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"""


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


def harness(tmp_path, kind, rest, **options):
    """The harness's own model on the demo, and the kit's workbook of the same task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from common.demo_model import DEMO_MODEL_DIR

    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in ((2, 3), (10, 4), (7, 8), (21, 2))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "local.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl", kind=kind, rest=rest))
    own = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={DEMO_MODEL_DIR},dtype=float32",
        device="cpu",
        tasks=["local_sums"],
        batch_size=2,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    out = tmp_path / "out.xlsx"
    base = ["--model_path", "demo", "--suite", "lm-eval:local_sums", "--data", str(tmp_path)]
    assert main([*base, "--output_file", str(out)]) == 0
    sheet = list(openpyxl.load_workbook(out)["local_sums"].iter_rows(values_only=True))
    return (
        own,
        [dict(zip(sheet[0], row, strict=True)) for row in sheet[1:]],
        json.loads((tmp_path / "out.summary.json").read_text()),
    )


@has_harness
def test_answers_and_scores_are_the_harness_s_own(tmp_path):
    own, rows, summary = harness(tmp_path, "generate_until", GENERATE)
    samples = own["samples"]["local_sums"]
    assert [row["response"] for row in rows] == [one["resps"][0][0] for one in samples]
    assert [row["score"] for row in rows] == [one["exact_match"] for one in samples]
    accuracy = own["results"]["local_sums"]["exact_match,number"]
    assert summary["local_sums"]["models"][0]["accuracy"] == accuracy and 0 < accuracy


@has_harness
def test_log_likelihoods_are_the_harness_s_own(tmp_path):
    own, rows, _ = harness(tmp_path, "multiple_choice", CHOOSE)
    for row, one in zip(rows, own["samples"]["local_sums"], strict=True):
        assert row["score"] == one["acc"]
        assert all(f"{answers[0][0]:.4f}"[:-1] in row["response"] for answers in one["resps"])


@has_harness
def test_a_task_that_is_not_there_or_asks_for_beams(tmp_path, capsys):
    assert main(["--model_path", "demo", "--suite", "lm-eval:no_such_task", "--data", str(tmp_path)]) == 2
    assert "has no such task" in capsys.readouterr().err
    from common.evaluation.lm_eval_tasks.model import understood

    with pytest.raises(ValueError, match="num_beams"):
        understood({"num_beams": 4}, "<|im_end|>", 256, 0)
    how = understood({"until": "\n", "max_gen_toks": 7}, "<|im_end|>", 256, 0)
    assert (how.stop, how.max_tokens, how.settings.greedy) == (("\n", "<|im_end|>"), 7, True)
