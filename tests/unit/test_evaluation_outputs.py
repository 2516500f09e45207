"""The files that an evaluation writes, read back with openpyxl, csv and json."""

import csv
import json
import time

import openpyxl
import pytest
from openpyxl.utils.escape import unescape

from common.csv_text import csv_text
from common.evaluation.engines.engine import Answer
from common.evaluation.engines.recorded import deliver_recorded
from common.evaluation.questions import Question
from common.evaluation.report.excel_text import LONGEST, cell_text, units
from common.evaluation.report.outputs import check_output, write_report
from common.evaluation.report.report import Report
from common.evaluation.report.results import ModelResults
from common.evaluation.settings import EvaluationError

NASTY = "=cmd|' /C calc'!A0\x1b[31m\x00 _x0041_ \ud800 文字 😀\r\n+1"


def report(count=4, n=1, others=(), texts=None, scores=None, **columns):
    questions = [
        Question(row, row + 1, [{"role": "user", "content": f"question {row}"}], row + 1, "1", columns=columns)
        for row in range(count)
    ]
    models = []
    for number, name in enumerate(["new", *others]):
        model = ModelResults(name, name, f"/models/{name}", "transformers 5.9.0", tokens=100, seconds=2.0)
        for row in range(count):
            for sample in range(n):
                model.answers[row, sample] = Answer(row, sample, texts[row] if texts else f"{row}", row + 1, 5)
                right = scores[number][row] if scores else float(row % 2)
                model.scores[row, sample] = {"score": right, "parts": {"acc": right, "format": 1.0}}
        models.append(model)
    return Report(questions, models, n, {"model": "new"})


def read_sheet(path, name):
    sheet = openpyxl.load_workbook(path)[name]
    header, *rows = sheet.iter_rows(values_only=True)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_every_kind_holds_the_same_rows(tmp_path):
    rows = {}
    for kind in ("xlsx", "json", "jsonl", "csv"):
        path = tmp_path / f"r.{kind}"
        write_report(report(level="easy"), path)
        if kind == "xlsx":
            rows[kind] = read_sheet(path, "Results")
        elif kind == "csv":
            rows[kind] = list(csv.DictReader(path.open(encoding="utf-8-sig", newline="")))
        else:
            text = path.read_text()
            rows[kind] = json.loads(text)["results"] if kind == "json" else list(map(json.loads, text.splitlines()))
    assert rows["xlsx"] == rows["json"] == rows["jsonl"]
    assert rows["xlsx"][1] == {
        "id": 2,
        "prompt": "question 1",
        "ground_truth": "1",
        "response": "1",
        "result": "right",
        "score": 1,
        "reward.format": 1,
        "tokens": 2,
        "finish": "stop",
        "level": "easy",
    }
    assert [{key: str(value) for key, value in row.items()} for row in rows["jsonl"]] == rows["csv"]
    assert json.loads((tmp_path / "r.summary.json").read_text())["models"][0]["accuracy"] == 0.5


def test_nothing_in_a_cell_is_a_formula_or_breaks_the_file(tmp_path):
    texts = [NASTY, "=1+1", "@SUM(A1)", "https://example.com"]
    path = tmp_path / "r.xlsx"
    write_report(report(texts=texts, evil=NASTY), path)
    sheet = openpyxl.load_workbook(path)["Results"]
    assert all(cell.data_type != "f" and cell.hyperlink is None for row in sheet.iter_rows() for cell in row)
    read = [row["response"] for row in read_sheet(path, "Results")]
    assert read[1:] == texts[1:]
    # Excel reads _x0041_ as a character, so the underscore is escaped, which openpyxl leaves to its caller.
    assert unescape(read[0]) == "=cmd|' /C calc'!A0\u241b[31m\u2400 _x0041_ \ufffd 文字 😀\n+1"
    write_report(report(texts=texts), tmp_path / "r.csv")
    cells = [row["response"] for row in csv.DictReader((tmp_path / "r.csv").open(encoding="utf-8-sig", newline=""))]
    assert [cell[0] for cell in cells] == ["'", "'", "'", "h"]
    assert csv_text("-5") == "-5" and csv_text("-5+cmd") == "'-5+cmd"


ANSWERS = ["-1/2", "=1+1", "'-1/2", "''=x", "'quoted'", "-5", "+7", "@a", "a\nb", ' "x", y ', "\tx", "", "x/2", "'"]
ANSWERS += ["a;=5+5", "\uff1d1", "| a | b |"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "xlsx"])
def test_the_kits_own_results_are_read_back_as_they_were(tmp_path, kind):
    """Scored again, or compared with, the answers have to be the same."""
    path = tmp_path / f"r.{kind}"
    made = report(len(ANSWERS), texts=ANSWERS)
    for question in made.questions:
        question.messages = [{"role": "user", "content": f"- simplify {question.row}"}]
    write_report(made, path)
    read = {}
    wanted = [(row, 0) for row in range(len(ANSWERS))]
    deliver_recorded(
        path, made.questions, wanted, lambda answer: read.update({answer.row: (answer.text, answer.error)})
    )
    there = [number for number, text in enumerate(ANSWERS) if text or kind != "xlsx"]  # Excel knows no empty text
    assert [read[number] for number in there] == [(ANSWERS[number], None) for number in there]


def test_an_answer_that_was_cut_for_a_cell_is_not_scored_again(tmp_path):
    made = report(1, texts=["x" * 40_000])
    write_report(made, tmp_path / "r.xlsx")
    with pytest.raises(EvaluationError, match=r"row 1 was cut .* score the \.jsonl"):
        deliver_recorded(tmp_path / "r.xlsx", made.questions, [(0, 0)], print)


@pytest.mark.parametrize("character", ["a", "文", "😀"])
def test_long_texts_are_cut_at_what_excel_holds(character):
    text, cut = cell_text(character * 40_000)
    assert cut and units(text) <= LONGEST and text.endswith("JSONL holds them all]")
    whole = character * (LONGEST // units(character))
    assert cell_text(whole) == (whole, False)


def test_a_comparison_has_a_sheet_of_changes_and_a_test(tmp_path):
    scores = [[1.0] * 7 + [0.0], [0.0] * 6 + [1.0, 1.0]]
    made = report(8, others=["old"], scores=scores)
    [comparison] = made.comparisons
    assert (comparison.better, comparison.worse, comparison.pairs) == (6, 1, 8)
    assert comparison.p_value == pytest.approx(2 * 8 / 2**7)  # binomial, 7 trials, at most 1
    assert comparison.verdict == "no significant difference"
    write_report(made, tmp_path / "r.xlsx")
    changes = read_sheet(tmp_path / "r.xlsx", "Changes")
    assert [row["change"] for row in changes] == ["worse"] + ["better"] * 6
    first = read_sheet(tmp_path / "r.xlsx", "Results")[0]
    assert (first["result [new]"], first["result [old]"], first["against [old]"]) == ("right", "wrong", "better")


def test_several_answers_have_pass_at_k_and_a_majority():
    made = report(1, n=4)
    values = [1.0, 0.0, 0.0, 0.0]
    for sample, value in enumerate(values):
        made.models[0].answers[0, sample].text = "7" if value else "8"
        made.models[0].scores[0, sample] = {"score": value, "parts": {}}
    made = Report(made.questions, made.models, 4, {})
    overall = made.summaries[0].overall
    assert overall.accuracy == 0.25 and overall.majority == 0.0
    assert overall.pass_at == pytest.approx({1: 0.25, 2: 0.5, 4: 1.0})


def test_scores_between_right_and_wrong_are_means(tmp_path):
    made = report(3, scores=[[0.2, 0.5, -1.0]])
    assert not made.binary and made.summaries[0].overall.accuracy == pytest.approx(-0.1)
    assert "result" not in [column.name for column in made.columns()]
    write_report(made, tmp_path / "r.xlsx")


def test_the_summary_has_charts(tmp_path):
    import zipfile

    write_report(report(others=["old"]), tmp_path / "r.xlsx")
    names = zipfile.ZipFile(tmp_path / "r.xlsx").namelist()
    assert {"xl/charts/chart1.xml", "xl/charts/chart2.xml"} <= set(names)
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    assert book.sheetnames == ["Results", "Changes", "Summary"] and book.active.title == "Summary"
    assert book["Results"].freeze_panes == "B2" and book["Results"].auto_filter.ref


def test_more_rows_than_a_sheet_holds_go_on_in_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("common.evaluation.report.excel.MAX_ROWS", 3)
    write_report(report(7), tmp_path / "r.xlsx")
    sizes = [len(read_sheet(tmp_path / "r.xlsx", name)) for name in ("Results", "Results 2", "Results 3")]
    assert sizes == [3, 3, 1]


def test_outputs_that_cannot_be_written_are_refused_before(tmp_path):
    (tmp_path / "folder.xlsx").mkdir()
    (tmp_path / ".~lock.open.xlsx#").touch()
    (tmp_path / "file").touch()
    for name, message in [
        ("r.txt", "cannot write .txt"),
        ("folder.xlsx", "is a folder"),
        ("open.xlsx", "is open in a spreadsheet"),
        ("file/r.xlsx", "cannot be written"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            check_output(tmp_path / name)
    assert check_output(tmp_path / "new" / "r.xlsx").parent.is_dir()


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("earlier")
    made = report()
    made.settings = {("no", "key"): 1}
    with pytest.raises(TypeError):
        write_report(made, path)
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_ten_thousand_rows_take_seconds(tmp_path):
    started = time.perf_counter()
    write_report(report(10_000, texts=["It is 12.\n#### 12 " * 10] * 10_000), tmp_path / "r.xlsx")
    assert time.perf_counter() - started < 30
