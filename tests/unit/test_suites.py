"""test.sh --suite: rows of every set as questions, right and wrong answers told apart, one workbook."""

import json
import re

import openpyxl
import pytest
from verl.utils.reward_score import math_reward

from common.evaluation import run_model
from common.evaluation.engines.engine import Answer, Meter
from common.evaluation.settings import EvaluationError, Settings
from common.evaluation.suites.catalog import SETS, SUITES, choose
from common.evaluation.suites.load import load
from common.evaluation.suites.published import PUBLISHED
from common.evaluation.suites.run import settings_of
from common.rewards.compose import FUNCTIONS
from common.test_model import main
from tests.benchmark_files import ROWS, write_sets


class Prepared:
    """An engine that answers each set with a right or a wrong answer, by a share that belongs to the model."""

    loads = []

    def __init__(self, backend, source, tokenizer, settings, stop):
        self.name, self.version, self.settings, self.meter = "prepared", "1", settings, Meter()
        self.decode, self.source = tokenizer.decode, source
        self.asked = []
        Prepared.loads.append(source.given)

    def answer(self, asks, deliver):
        for ask in asks:
            self.asked.append((self.decode(ask.prompt_ids), ask.max_tokens, self.settings.temperature))
            name = next((n for n, row in ROWS.items() if str(next(iter(_texts(row[0])))) in self.asked[-1][0]), None)
            if name is None:
                deliver(Answer(ask.row, ask.sample, r"\boxed{180}", 5))
                continue
            right = ROWS[name][1 if ask.sample % 4 or self.source.given == "demo" else 2]
            deliver(Answer(ask.row, ask.sample, right[0], 5))

    def close(self):
        Prepared.last = self


def _texts(row):
    return [str(row[key]) for key in ("question", "Question", "problem", "input", "text", "prompt") if key in row]


@pytest.fixture
def answers(monkeypatch):
    Prepared.loads = []
    monkeypatch.setattr(run_model, "make_engine", Prepared)


def cells(sheet):
    return [[cell.value for cell in row] for row in sheet.iter_rows()]


def test_a_suite_becomes_one_workbook(tmp_path, answers, capsys):
    data = write_sets(tmp_path / "data", "bbh", "aime24")
    out = tmp_path / "out.xlsx"
    assert main(["--model_path", "demo", "--suite", "bbh,aime24", "--data", str(data), "--output_file", str(out)]) == 0
    said = capsys.readouterr().out
    assert "the set has 6,511" in said and "0.95" in said and "avg@64, maj@64, pass@64" in said
    book = openpyxl.load_workbook(out)
    assert set(book.sheetnames) == {"bbh", "aime24", "Overview"}
    rows = cells(book["Overview"])
    scores = {row[0]: row for row in rows if row[1] == "demo"}
    assert (
        scores["BIG-Bench Hard"][3] == 1.0
        and scores["AIME 2024"][9] == 64
        and scores["AIME 2024"][2].startswith("avg@64")
    )
    assert ["DeepSeek-R1", 0.798] in [row[1:3] for row in rows]
    assert any(row[0] == "sha256 of files and prompt" and len(row[1]) == 64 for row in rows)
    assert len(cells(book["aime24"])) == 65 and cells(book["aime24"])[1][0] == 60
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert summary["aime24"]["models"][0]["name"] == "demo"
    assert summary["aime24"]["models"][0]["accuracy"] == 1.0 and summary["bbh"]["published"][0]["score"] == 87.5
    assert Prepared.loads == ["demo"]  # for both sets
    assert {(longest > 4000, warm) for _, longest, warm in Prepared.last.asked} == {(False, 0.0), (False, 0.6)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.summary.json", "out.xlsx"]


def test_two_models_and_settings_that_hold_for_every_set(tmp_path, answers, capsys):
    from tests.tiny_models import write_tiny_model

    other = write_tiny_model("qwen2", tmp_path / "other")
    data, out = write_sets(tmp_path / "data", "cmmlu", "bbh"), tmp_path / "out.xlsx"
    options = [
        "--data",
        str(data),
        "--output_file",
        str(out),
        "--n",
        "4",
        "--temperature=0.5",
        "--max-new-tokens",
        "64",
    ]
    assert main(["--model_path", "demo", "--compare", str(other), "--suite", "cmmlu,bbh", *options]) == 0
    rows = cells(openpyxl.load_workbook(out)["Overview"])
    scores = {(row[0], row[1]): row for row in rows if row[9] == 4}
    assert scores["CMMLU", "demo"][3] == 1 and scores["CMMLU", "other"][3] == 0.75
    assert scores["CMMLU", "demo"][2] == "avg@4, maj@4" and scores["CMMLU", "other"][7] == 1
    assert ["CMMLU", "demo", "other", 0.25] in [row[:4] for row in rows]
    assert {(longest, warm) for _, longest, warm in Prepared.last.asked} == {(64, 0.5)}
    assert len(Prepared.loads) == 2


def test_an_interrupted_suite_resumes(tmp_path, answers, monkeypatch, capsys):
    data, out = write_sets(tmp_path / "data", "bbh", "cmmlu"), tmp_path / "out.xlsx"
    command = ["--model_path", "demo", "--suite", "bbh,cmmlu", "--data", str(data), "--output_file", str(out)]
    whole = Prepared.answer

    def breaks(engine, asks, deliver):
        if "一加一" in engine.decode(asks[0].prompt_ids):
            raise KeyboardInterrupt
        whole(engine, asks, deliver)

    monkeypatch.setattr(Prepared, "answer", breaks)
    assert main(command) == 130 and not out.exists()
    monkeypatch.setattr(Prepared, "answer", whole)
    assert main(command) == 0
    assert len(Prepared.last.asked) == 1  # the other set's answer was there


@pytest.mark.parametrize("name", [name for name in SETS if name != "ifeval"])
def test_right_and_wrong_answers_of_every_set(tmp_path, name):
    """By the reward of the set, on a row in the set's published form."""
    bench = SETS[name]
    question = load(bench, write_sets(tmp_path, name), limit=1).questions[0]
    assert question.problem is None and len(question.messages[0]["content"]) > 20
    if bench.reward == "humaneval":
        from common.evaluation.suites.humaneval import compute_score as reward
    else:
        reward = FUNCTIONS[bench.reward]
    for wanted, answers in zip((1.0, 0.0), ROWS[name][1:], strict=True):
        for answer in answers:
            found = reward(name, answer, question.ground_truth, **bench.reward_kwargs)
            assert found["acc"] == wanted, answer


def test_every_set_says_where_it_comes_from():
    assert SUITES == ("math", "reasoning", "chinese", "code", "instructions")
    for bench in SETS.values():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", bench.hugging_face) and bench.licence and bench.paper and bench.metric
        assert re.fullmatch(r"[0-9a-f]{40}|main|refs/convert/parquet", bench.revision)
        settings_of(bench, Settings(), {})
        settings_of(bench, Settings(), {"temperature": 0.0})
    assert set(PUBLISHED) <= set(SETS)
    assert all(0 < one.score < 100 and one.source for some in PUBLISHED.values() for one in some)
    assert [bench.name for bench in choose("code, gsm8k,code")] == ["humaneval", "mbpp", "gsm8k"]


def test_the_order_of_options_does_not_tell_the_answer():
    from common.evaluation.suites.rows import read_item

    truths = [read_item("gpqa", ROWS["gpqa"][0], number, "").truth for number in range(400)]
    assert all(truths.count(letter) > 70 for letter in "ABCD")
    assert truths == [read_item("gpqa", ROWS["gpqa"][0], number, "").truth for number in range(400)]


def test_subjects_are_the_folders(tmp_path):
    row = json.dumps(ROWS["ceval"][0], ensure_ascii=False)
    for subject in ("law", "physics"):
        for split in ("val", "dev"):
            (tmp_path / "ceval" / subject).mkdir(parents=True, exist_ok=True)
            (tmp_path / "ceval" / subject / f"{split}-00000-of-00001.jsonl").write_text(row + "\n")
    loaded = load(SETS["ceval"], tmp_path)
    assert [question.ability for question in loaded.questions] == ["law", "physics"]
    assert "一道law的单项选择题" in loaded.questions[0].messages[0]["content"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--suite", "maths"], "--suite maths: not known; suites are math, reasoning"),
        (["--suite", "math", "--data", "DATA"], "a file math500.jsonl is in it"),
        (["--suite", "gsm8k", "--data", "nowhere"], "--data nowhere: no such folder"),
        (["--suite", "gsm8k", "--data", "DATA", "--input_file", "x.json"], "--input_file is for --batch"),
        (["--suite", "gsm8k", "--data", "DATA", "--reward", "exact"], "--reward is for --batch"),
        (["--suite", "gsm8k", "--data", "DATA", "--output_file", "x.csv"], "a suite goes into a workbook"),
        (["--suite", "gsm8k", "--data", "DATA", "--greedy", "--n", "4"], "greedy answers to one prompt"),
        (["--suite", "mbpp", "--data", "DATA"], "is no row of mbpp"),
        (["--data", "DATA"], "--data is for --suite"),
        (["--suite", "gsm8k", "--limit", "0"], "--limit 0"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(tmp_path, answers, capsys, options, words):
    data = write_sets(tmp_path / "data", "gsm8k")
    (data / "mbpp.jsonl").write_text('{"question": "x"}\n')
    options = [str(data) if option == "DATA" else option for option in options]
    assert main(["--model_path", "demo", *options]) == 2
    assert words in capsys.readouterr().err and not Prepared.loads


def test_the_grader_of_ifeval_is_asked_for_by_name(tmp_path, answers, capsys):
    data = write_sets(tmp_path / "data", "ifeval")
    status = main(["--model_path", "demo", "--suite", "instructions", "--data", str(data)])
    assert status == 2 and "requirements/lm-eval.txt" in capsys.readouterr().err


def test_boxed_answers_score_as_the_grader_of_math():
    """On answers that Hendrycks' grader (in verl's copy) decides by text alone; benchmarks/graders.py has more."""
    for truth in ("7", r"\frac{3}{8}", r"2\sqrt{3}", "(1, 2)", "3x + 4"):
        for answer in (truth, truth.replace("3", "31").replace("1", "11")):
            text = f"We find that it is \\boxed{{{answer}}}."
            assert FUNCTIONS["math"]("math500", text, truth)["acc"] == math_reward.compute_score(text, truth)


def test_a_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="openai/gsm8k on Hugging Face, split test"):
        load(SETS["gsm8k"], tmp_path)


def test_brackets_are_compared_exactly_and_words_are_not(tmp_path):
    from common.evaluation.suites.run import _rewards

    rows = [{"input": "Close ( [ <", "target": "] >"}, {"input": "Who?", "target": "(A)"}]
    (tmp_path / "bbh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load(SETS["bbh"], tmp_path)
    brackets, words = [
        lambda answer, one=one, spec=spec: FUNCTIONS[spec.name]("bbh", answer, one.ground_truth)["acc"]
        for one, spec in zip(loaded.questions, _rewards(loaded).specs, strict=True)
    ]
    assert brackets("So the answer is ) >.") == 0.0 and brackets("So the answer is ] >.") == 1.0
    assert words("So the answer is A.") == 1.0 and words("So the answer is (B).") == 0.0


def test_rows_are_told_apart_by_their_ids(tmp_path):
    rows = [{"id": number, "problem": f"{number} + 1?", "answer": 1.0} for number in (0, 1)]
    (tmp_path / "amc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [one.id for one in load(SETS["amc"], tmp_path).questions] == [0, 1]
    for subject in ("law", "physics"):
        (tmp_path / "ceval" / subject).mkdir(parents=True)
        row = json.dumps({**ROWS["ceval"][0], "id": 0}, ensure_ascii=False)
        (tmp_path / "ceval" / subject / "val-00000-of-00001.jsonl").write_text(row + "\n")
    assert [one.id for one in load(SETS["ceval"], tmp_path).questions] == [1, 2]
