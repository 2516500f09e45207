"""Next to lm-evaluation-harness itself: test_lm_eval.py runs these with an environment that has it."""

import json

import openpyxl
import pytest

from common.test_model import main

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


def test_answers_and_scores_are_the_harness_s_own(tmp_path):
    own, rows, summary = harness(tmp_path, "generate_until", GENERATE)
    samples = own["samples"]["local_sums"]
    assert [row["response"] for row in rows] == [one["resps"][0][0] for one in samples]
    assert [row["score"] for row in rows] == [one["exact_match"] for one in samples]
    accuracy = own["results"]["local_sums"]["exact_match,number"]
    assert summary["local_sums"]["models"][0]["accuracy"] == accuracy and 0 < accuracy


def test_log_likelihoods_are_the_harness_s_own(tmp_path):
    own, rows, _ = harness(tmp_path, "multiple_choice", CHOOSE)
    for row, one in zip(rows, own["samples"]["local_sums"], strict=True):
        assert row["score"] == one["acc"]
        assert all(f"{answers[0][0]:.4f}"[:-1] in row["response"] for answers in one["resps"])


def test_a_task_that_is_not_there_or_asks_for_beams(tmp_path, capsys):
    assert main(["--model_path", "demo", "--suite", "lm-eval:no_such_task", "--data", str(tmp_path)]) == 2
    assert "has no such task" in capsys.readouterr().err
    from common.evaluation.lm_eval_tasks.model import understood

    with pytest.raises(ValueError, match="num_beams"):
        understood({"num_beams": 4}, "<|im_end|>", 256, 0)
    how = understood({"until": "\n", "max_gen_toks": 7}, "<|im_end|>", 256, 0)
    assert (how.stop, how.max_tokens, how.settings.greedy) == (("\n", "<|im_end|>"), 7, True)
