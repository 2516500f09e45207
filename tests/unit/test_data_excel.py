"""Excel files as people and programs write them: what a person sees in a sheet is what a row holds, or it is said."""

import datetime
import re
import zipfile

import openpyxl
import pytest

from common.data.readers import excel_reader
from common.data.readers.files import DataError
from common.data.readers.records import read_records

HEAD = ["question", "answer"]


@pytest.fixture
def sheets(tmp_path):
    """Write an xlsx file of the given sheets (name to rows); ``change`` edits the book first."""

    def write(change=None, **sheets):
        book = openpyxl.Workbook()
        book.remove(book.active)
        for name, rows in sheets.items():
            sheet = book.create_sheet(name)
            for row in rows:
                sheet.append(row)
        if change:
            change(book)
        book.save(tmp_path / "d.xlsx")
        return tmp_path / "d.xlsx"

    return write


def read(path, **options):
    said = []
    records = list(read_records(path, say=said.append, **options))
    assert [record.problem for record in records] == [None] * len(records)
    return [record.row for record in records], said


def edit(path, pattern, by):
    """Change the XML of the first sheet, as other programs write it."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    text = parts["xl/worksheets/sheet1.xml"].decode()
    assert re.search(pattern, text)
    parts["xl/worksheets/sheet1.xml"] = re.sub(pattern, by, text).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def test_a_column_without_a_name_shifts_nothing(sheets):
    path = sheets(a=[[None, *HEAD, None], [0, "2+2?", "4", None], [1, "2+3?", "5", None]])
    rows, said = read(path)
    assert rows == [
        {"question": "2+2?", "answer": "4", "column1": 0},
        {"question": "2+3?", "answer": "5", "column1": 1},
    ]
    assert said == ["d.xlsx: column 1 has no name in the header; it is called column1"]


def test_a_row_wider_than_the_header(sheets):
    rows, said = read(sheets(a=[HEAD, ["q", "a"], ["q2", "a2", None, "more"], ["q3", "a3"]]))
    assert rows == [
        {"question": "q", "answer": "a"},
        {"question": "q2", "answer": "a2", "column4": "more"},
        {"question": "q3", "answer": "a3"},
    ]
    assert said == ["d.xlsx: column 4 has no name in the header; it is called column4"]


def test_other_sheets_are_named_and_can_be_chosen(sheets):
    path = sheets(first=[HEAD, ["2+2?", "4"]], more=[HEAD, ["3+3?", "6"], [None], ["4+4?", "8"]], empty=[])
    rows, said = read(path)
    assert rows == [{"question": "2+2?", "answer": "4"}]
    assert said == ["d.xlsx: only the sheet first is read; more (2 rows) is left out, see --sheet"]
    for sheet in ("more", "2", 2):
        rows, said = read(path, sheet=sheet)
        assert [row["answer"] for row in rows] == ["6", "8"] and said == []
    with pytest.raises(DataError, match="--sheet 4: not there; there are first, more, empty"):
        read(path, sheet="4")
    with pytest.raises(DataError, match="the sheet is empty"):
        read(path, sheet="empty")


def test_a_sheet_named_by_a_number(sheets):
    path = sheets(**{"2": [HEAD, ["of 2", "x"]], "1": [HEAD, ["of 1", "x"]]})
    assert read(path, sheet="1")[0][0]["question"] == "of 1"


def test_no_header(sheets):
    rows, said = read(sheets(a=[["2+2?", "4"], ["2+3?", None, "x"]]), header=False)
    assert rows == [{"column1": "2+2?", "column2": "4"}, {"column1": "2+3?", "column2": None, "column3": "x"}]
    assert said == []


def test_a_title_above_the_header(sheets):
    rows, said = read(sheets(a=[["Questions of 2024"], [], HEAD, ["2+2?", "4"]]))
    assert rows == [{"question": "2+2?", "answer": "4"}]
    assert said == ["d.xlsx: row 1 is taken for a title ('Questions of 2024'), not for the header"]
    rows, said = read(sheets(a=[["question"], ["2+2?"], ["3+3?"]]))
    assert rows == [{"question": "2+2?"}, {"question": "3+3?"}] and said == []
    assert list(read_records(sheets(a=[HEAD]))) == []


def test_empty_rows_are_passed_over_and_counted(sheets):
    path = sheets(a=[[None], [*HEAD, None, None], [], ["q", "a", None], [None, None], ["q2", None, None]])
    assert [(record.place, record.row) for record in read_records(path)] == [
        (4, {"question": "q", "answer": "a"}),
        (6, {"question": "q2", "answer": None}),
    ]


def test_values_as_a_person_sees_them(sheets):
    values = [
        ("007", "007"),
        (True, True),
        (3, 3),
        (2.0, 2),
        (0.5, 0.5),
        (1.1 * 3, 3.3),  # 3.3000000000000003 in the file, 3.3 on the screen
        (-0.1, -0.1),
        ("a_x000D_\nb", "a\r\nb"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.datetime(2024, 1, 2, 3, 4), "2024-01-02 03:04:00"),
    ]
    rows, said = read(sheets(a=[["v"], *([value] for value, _ in values)]))
    seen = [row["v"] for row in rows]
    assert seen == [value for _, value in values]
    assert [type(value) for value in seen] == [type(value) for _, value in values]
    assert said == ["d.xlsx: v: dates are written as 2024-01-02; Excel makes dates of 1/2 and the like"]


def test_errors_are_no_values(sheets):
    rows, said = read(sheets(a=[HEAD, ["q", "#N/A"], ["q2", "#DIV/0!"], ["#N/A is an error", "a"], ["q4", "#N/A"]]))
    assert [row["answer"] for row in rows] == [None, None, "a", None]
    assert said == [
        "d.xlsx: answer: cells with the Excel error #N/A are taken as empty",
        "d.xlsx: answer: cells with the Excel error #DIV/0! are taken as empty",
    ]


def test_formulas(sheets):
    rows = [["q", "a", "b"], [1, "=A2+1", "x"], [3, "=A3+1", "y"], [5, "=A4", "z"]]
    path = sheets(a=rows)
    bad = list(read_records(path))
    assert [record.row for record in bad] == [None] * 3
    assert bad[0].place == 2 and bad[0].problem.startswith("a: holds a formula without its result; open the file in")
    edit(path, r"(<f>A2\+1</f>)<v ?/>", r"\1<v>2</v>")
    edit(path, r'<c r="B4"><f>A4</f><v ?/>', r'<c r="B4" t="str"><f>A4</f><v></v>')
    two, none, empty = read_records(path)
    assert two.row == {"q": 1, "a": 2, "b": "x"} and none.problem
    assert empty.row == {"q": 5, "a": None, "b": "z"}  # a formula whose result is an empty text


def test_cells_merged_over_rows(sheets):
    def merge(book):
        book["a"].merge_cells("A2:A4")
        book["a"].merge_cells("B5:C5")
        book["a"].merge_cells("C6:D7")

    rows = [["context", "q", "a"], ["text", 1, 2], [None, 3, 4], [None, 5, 6], ["u", 7, None], ["v", 8, 9], ["w", 10]]
    found, said = read(sheets(merge, a=rows))
    assert [list(row.values()) for row in found] == [
        ["text", 1, 2],
        ["text", 3, 4],
        ["text", 5, 6],
        ["u", 7, None],
        ["v", 8, 9],
        ["w", 10, 9],
    ]
    assert said == ["d.xlsx: cells are merged over rows; each of the rows gets the value"]


def test_marks_are_found_wherever_the_sheet_is_cut(sheets, monkeypatch):
    path = sheets(lambda book: book["a"].merge_cells("A2:A12"), a=[["q", "a"], ["q", "=A2"], *[[None, 1]] * 10])
    sheet = openpyxl.load_workbook(path, read_only=True).worksheets[0]
    for size in (1, 2, 3, 7, 100, 10_000):
        monkeypatch.setattr(excel_reader, "MIB", size)
        assert excel_reader._marks(path, sheet) == (True, [(2, 12, 1)])


def test_a_wrong_size_in_the_file_loses_nothing(sheets):
    path = sheets(a=[HEAD, ["q", "a"], ["q2", "a2"]])
    edit(path, r'<dimension ref="[^"]*"', '<dimension ref="A1"')
    assert read(path)[0] == [{"question": "q", "answer": "a"}, {"question": "q2", "answer": "a2"}]


@pytest.mark.parametrize(
    ("pattern", "by"),
    [
        (r"</row>", ""),  # no XML
        (r"<v>[^<]*</v>", "<v>x</v>"),  # a number that is none
        (r"</sheetData>", '</sheetData><mergeCells><mergeCell ref="ABCDE1:ABCDE9"/></mergeCells>'),
    ],
)
def test_a_sheet_that_is_damaged_within_is_named(sheets, pattern, by):
    path = sheets(a=[HEAD, [1, 2]])
    edit(path, pattern, by)
    with pytest.raises(DataError, match=r"sheet a: cannot be read behind row \d .*; open the file in Excel"):
        read(path)


def test_a_zip_of_another_kind_is_refused(sheets):
    path = sheets(a=[["q"], [1]])
    data = path.read_bytes()
    entry = data.index(b"PK\x01\x02")
    path.write_bytes(data[: entry + 6] + b"\xff" + data[entry + 7 :])  # needs version 25.5
    with pytest.raises(DataError, match="not a whole xlsx file .zip file version 25.5"):
        read(path)


def test_two_columns_with_one_name(sheets):
    with pytest.raises(DataError, match="row 1: two columns have the same name: answer; rename one"):
        read(sheets(a=[["answer", "q", "answer"], [1, 2, 3]]))
