"""Texts in CSV files: none is computed by a spreadsheet, all come back."""

import csv
import io

import openpyxl
import pytest

from common.csv_text import csv_cell, csv_text, from_csv_text

FORMULAS = [
    "=1+1",
    "+cmd",
    "-a",
    "@SUM(A1)",
    "|calc",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "\u3000=1",  # an ideographic space
    "\uff1d1+1",
    "\uff0bcmd",
    "\uff0d1+cmd",
    "\uff20SUM(A1)",
    "\tx",
    "\rx",
    '"=1+1"',
    "'=1",
    "-5+cmd|' /C calc'!A0",
    "-1/2",
]
NUMBERS = ["-5", "+7", "-1,000.5", "-3%", "-1.5e-05", "+2E10", "12"]
PLAIN = ["", "a", "a=b", "1-2", "'", "'a'", "\n", "a\nb", ' "x", y ', "x; y", "文字", "a\x1bb", "\ud800"]
SEPARATED = [";=5+5", "a;=5+5;b", "x ; @a", ";;+1+a", "a;'=b", "';'=b", "=a;=b", ";-5", "1;2"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_a_quote(text):
    assert csv_text(text) == "'" + text


@pytest.mark.parametrize("text", NUMBERS + PLAIN)
def test_numbers_and_plain_texts_stay(text):
    assert csv_text(text) == text


def test_what_follows_a_semicolon_is_a_cell_too():
    """Excel cuts at it in many countries, also inside of quotes that do not begin a cell."""
    assert [csv_text(text) for text in SEPARATED] == [
        ";'=5+5", "a;'=5+5;b", "x ;' @a", ";;'+1+a", "a;''=b", "';''=b", "'=a;'=b", ";-5", "1;2"
    ]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS + NUMBERS + PLAIN + SEPARATED)
def test_each_text_comes_back(text):
    assert from_csv_text(csv_text(text)) == text
    line = f"{csv_cell(text)},{csv_cell(text)}\r\n"
    assert next(csv.reader(io.StringIO(line, newline=""))) == ([csv_text(text)] * 2)


def test_a_cell():
    assert [csv_cell(value) for value in (None, -5, -0.5, "-5", "a\rb", 'a"b', "a;b", "a\tb", " a")] == [
        "", "-5", "-0.5", "-5", '"a\rb"', '"a""b"', '"a;b"', '"a\tb"', '" a"'
    ]  # fmt: skip


def test_a_workbook_of_the_cells_holds_no_formula(tmp_path):
    """What a person gets who opens the CSV file with a spreadsheet and saves it as a workbook."""
    book = openpyxl.Workbook()
    for row in csv.reader(io.StringIO("".join(csv_cell(text) + "\r\n" for text in FORMULAS), newline="")):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    cells = [row[0] for row in openpyxl.load_workbook(tmp_path / "a.xlsx").active.iter_rows()]
    assert all(cell.data_type != "f" for cell in cells)
    assert [from_csv_text(cell.value) for cell in cells][:5] == FORMULAS[:5]
