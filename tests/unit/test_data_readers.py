"""Files of every kind are read row by row; what is wrong with one is said with file, place and reason."""

import gzip
import json

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data import files
from common.data.files import DataError
from common.data.readers import read_records

ROWS = [
    {"question": "1+1?", "answer": "2"},
    {"question": "苹果有几个? \u2028 😀", "answer": "一共 1,200 个\n#### 1,200"},
]


def write(path, rows):
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if name.endswith(".xlsx"):
        book = openpyxl.Workbook()
        book.active.append(list(rows[0]))
        for row in rows:
            book.active.append(list(row.values()))
        book.save(path)
        return path
    if name.endswith(".json"):
        text = json.dumps(rows, ensure_ascii=False, indent=1)
    elif name.endswith(".jsonl"):
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    else:
        separator = "\t" if name.endswith(".tsv") else ","
        quoted = [['"' + value.replace('"', '""') + '"' for value in row.values()] for row in rows]
        text = "\n".join(separator.join(cells) for cells in [list(rows[0]), *quoted])
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    "name",
    ["d.json", "d.jsonl", "d.ndjson", "d.csv", "d.tsv", "d.parquet", "d.xlsx", "d.json.gz", "d.jsonl.gz", "d.csv.gz"],
)
def test_every_kind_gives_the_same_rows(tmp_path, name):
    path = write(tmp_path / name.replace("ndjson", "jsonl"), ROWS)
    if "ndjson" in name:
        path = path.rename(tmp_path / name)
    assert [record.row for record in read_records(path)] == ROWS


@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d.csv"])
@pytest.mark.parametrize("change", ["byte order mark", "windows line ends", "utf-16", "gb18030"])
def test_encodings_and_line_ends(tmp_path, name, change):
    rows = [{"question": "你好", "answer": "二"}, {"question": "再见", "answer": "三"}]
    path = write(tmp_path / name, rows)
    text = path.read_text(encoding="utf-8")
    encoding = None
    if change == "byte order mark":
        path.write_text(text, encoding="utf-8-sig")
    elif change == "windows line ends":
        path.write_bytes(text.replace("\n", "\r\n").encode() + b"\r\n")
    else:
        path.write_text(text, encoding=change)
        encoding = change
    assert [record.row for record in read_records(path, encoding)] == rows


def test_jsonl_names_the_line_and_goes_on(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(
        b'{"a": 1}\n\n{"a": \n["x"]\n{"a": "\xb0\xa1"}\n{"a": "\xff"}\n{"a": NaN}\nnull\n'
        + b"[" * 100_000
        + b'\n{"a": 9}'
    )
    found = {record.place: record.problem or record.row for record in read_records(path)}
    assert found[1] == {"a": 1} and found[10] == {"a": 9}
    assert found[3].startswith("is not JSON")
    assert found[4] == "holds a list; each line must be an object {...}"
    assert "not UTF-8 (byte 0xb0 at 8)" in found[5] and "gb18030" in found[5]
    assert "not UTF-8" in found[6] and "gb18030" not in found[6]
    assert found[7] == {"a": None}
    assert found[8] == "holds null; each line must be an object {...}"
    assert found[9] in ("is nested too deeply", found[9]) and found[9].startswith("is n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1},\n{"a": }]', "line 2: is not JSON"),
        ('[{"a": 1},\n{"a": 2}', "line 2: the list is not closed"),
        ('[{"a": 1}\n{"a": 2}]', "line 2: expected a comma"),
        ('[{"a": 1},\n 7]', "line 2: expected a row {...}, found '7]"),
        ('[{"a": 1}]\n\n[', "line 3: there is more behind the end of the list"),
        ('{"a": [{"x": 1}], "b": [{"x": 2}]}', "holds 2 lists of rows (a, b)"),
        ("", None),
    ],
)
def test_json_names_the_line(tmp_path, text, words):
    path = tmp_path / "d.json"
    path.write_text(text)
    if words is None:
        assert list(read_records(path)) == []
        return
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_json_that_is_not_a_list(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('{"version": 1, "data": [{"a": 1}, {"a": 2}]}')
    assert [record.row for record in read_records(path)] == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert [(record.place, record.row) for record in read_records(path)] == [(1, {"a": 1}), (2, {"a": 2})]
    path.write_text('{"messages": [{"role": "user", "content": "x"}]}')
    assert [record.row for record in read_records(path)] == [{"messages": [{"role": "user", "content": "x"}]}]


def test_rows_longer_than_a_piece_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 2**16 + 1)
    rows = [{"text": "é" * size, "n": size} for size in (3, 1_000_000, 5, 3_000_000)]
    for name in ("d.json", "d.jsonl"):
        assert [record.row for record in read_records(write(tmp_path / name, rows))] == rows


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("d.csv", "\n1,2", "line 1: is empty"),
        ("d.csv", "a,a\n1,2", "two columns have the same name"),
        ("d.csv", 'a,b\n1,"2', "is a quotation mark not closed?"),
        ("d.txt", "x", "cannot read .txt; known are json, jsonl"),
        ("d.jsonl.gz", "not gzip", "not a whole gzip file"),
        ("d.xlsx", "not a zip", "not a whole xlsx file"),
        ("d.parquet", "not parquet", "not a whole parquet file"),
    ],
)
def test_broken_files(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=words.replace("?", r"\?").replace("(", r"\(")) as caught:
        list(read_records(path))
    assert name in str(caught.value)


def test_csv_with_too_many_values(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text('a;b\n1;"x\ny"\n1;2;3\n5;6\n')
    first, second, third = read_records(path)
    assert (first.place, first.row) == (2, {"a": "1", "b": "x\ny"})
    assert second.place == 4 and "has 3 values for 2 columns" in second.problem
    assert (third.place, third.row) == (5, {"a": "5", "b": "6"})


def test_a_gzip_cut_off(tmp_path):
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 100_000)[:-50])
    with pytest.raises(DataError, match="not a whole gzip file"):
        list(read_records(path))


def test_zip_bombs_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RATIO_COUNTS_FROM", 2**20)
    monkeypatch.setattr(files, "MAX_ROW", 2**20)
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 4_000_000))
    records = read_records(path)
    with pytest.raises(DataError, match="unpacks to more than 200 times its size, as zip bombs do"):
        for number, _ in enumerate(records):
            assert number < 4_000_000
    path.write_bytes(gzip.compress(b" " * 9 * 2**20))
    with pytest.raises(DataError, match="zip bombs|line 1: longer than 1 MiB"):
        list(read_records(path))
    plain = tmp_path / "d.jsonl"
    plain.write_bytes(b" " * 9 * 2**20)
    with pytest.raises(DataError, match="line 1: longer than 1 MiB"):
        list(read_records(plain))


def test_xlsx_bomb(tmp_path, monkeypatch):
    path = write(tmp_path / "d.xlsx", [{"a": "x" * 100}] * 3000)
    monkeypatch.setattr(files, "RATIO_COUNTS_FROM", 1000)
    monkeypatch.setattr(files, "MAX_RATIO", 2)
    with pytest.raises(DataError, match="as zip bombs do"):
        list(read_records(path))
