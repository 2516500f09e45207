"""Each reader at the edge of its buffer: wherever a file is cut into pieces, the same rows come out."""

import csv
import gzip
import io
import json

import pytest

from common.data.readers import files, json_reader
from common.data.readers.files import DataError
from common.data.readers.records import read_records

ROWS = [
    {"q": "苹果 😀 \u2028 é", "n": -12.5e3, "deep": {"list": [1, [2, {"a": None}]], "t": True}},
    {"q": 'quoted \\"x\\" \\\\ "y" {[,]}', "n": 1234567890123456789012345, "deep": {}},
    {"q": "", "n": 0, "deep": {"list": []}},
    {"q": "line\nline\r\nline\ttab", "n": 0.1, "deep": None},
]
TABLE = [
    {"q": "苹果 😀 \u2028 é", "a": ' "quoted", and ; '},
    {"q": "line\nline\r\nline", "a": ""},
    {"q": '"', "a": '""'},
    {"q": "x", "a": "-1,5"},
]


def as_lines(rows, ascii_only=False):
    return "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)


def as_csv(rows, separator=",", end="\r\n"):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


FILES = {
    "list": ("d.json", json.dumps(ROWS, ensure_ascii=False), ROWS),
    "list with escapes": ("d.jsonl", json.dumps(ROWS), ROWS),
    "indented list": ("d.jsonl", json.dumps(ROWS, ensure_ascii=False, indent=1), ROWS),
    "windows list": ("d.json", json.dumps(ROWS, indent=1).replace("\n", "\r\n"), ROWS),
    "lines named json": ("d.json", as_lines(ROWS), ROWS),
    "lines": ("d.jsonl", as_lines(ROWS, True) + "\n", ROWS),
    "windows lines": ("d.jsonl", as_lines(ROWS).replace("\n", "\r\n"), ROWS),
    "old mac lines": ("d.jsonl", as_lines(ROWS).replace("\n", "\r"), ROWS),
    "empty lines between": ("d.json", as_lines(ROWS).replace("\n", "\n \n\n") + "\n\n ", ROWS),
    "objects with commas": ("d.jsonl", as_lines(ROWS).replace("\n", ",\n"), ROWS),
    "indented objects": ("d.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS), ROWS),
    "objects on one line": ("d.json", "".join(json.dumps(row) for row in ROWS), ROWS),
    "list in an object": ("d.json", json.dumps({"data": ROWS}, ensure_ascii=False, indent=1), ROWS),
    "csv": ("d.csv", as_csv(TABLE), TABLE),
    "csv with semicolons": ("d.csv", as_csv(TABLE, ";", "\n"), TABLE),
    "tsv": ("d.tsv", as_csv(TABLE, "\t", "\n"), TABLE),
    "old mac csv": ("d.csv", as_csv(TABLE[2:], ",", "\r"), TABLE[2:]),
}


@pytest.fixture
def cut(monkeypatch):
    """Cut files into pieces of so many bytes, and read rows of so many characters at first."""

    def set_sizes(size):
        monkeypatch.setattr(files, "CHUNK", size)
        monkeypatch.setattr(json_reader, "MIB", 1)

    return set_sizes


@pytest.mark.parametrize("form", FILES)
def test_cut_anywhere(tmp_path, cut, form):
    name, text, rows = FILES[form]
    for encoding in (None, "utf-8-sig", "utf-16", "gb18030"):
        path = tmp_path / name
        data = text.encode(encoding or "utf-8")
        path.write_bytes(data)
        given = None if encoding in (None, "utf-8-sig") else encoding
        for size in range(1, len(data) + 2):
            if given and size > 40:
                break
            cut(size)
            assert [record.row for record in read_records(path, given)] == rows, size


@pytest.mark.parametrize("form", FILES)
def test_packed_and_cut(tmp_path, cut, form):
    name, text, rows = FILES[form]
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(text.encode()))
    for size in (1, 2, 3, 5, 64):
        cut(size)
        assert [record.row for record in read_records(path)] == rows
        assert [record.row for record in read_records(path, "utf-8")] == rows


def test_places_do_not_depend_on_the_pieces(tmp_path, cut):
    path = tmp_path / "d.json"
    path.write_text('[\n{"a": 1},\n\n {"a":\n "2"}, {"a": 3},\n{"a": 4}\n]')
    for size in range(1, 60):
        cut(size)
        assert [record.place for record in read_records(path)] == [2, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("d.json", b'[{"a": "1"},\n{"a": "\xff"}]', r"line 2: is not UTF-8 \(byte 0xff at 8\)"),
        ("d.json", '[{"a": "1"},\n{"a": "中国"}]'.encode("gbk"), r"line 2: is not UTF-8 .* give --encoding gb18030"),
        ("d.csv", b'q,a\n1,2\n3,\xe4\xb8', r"line 3: is not UTF-8 \(byte 0xe4 at 3\)"),
        ("d.json", b'[{"a": 1},\n{"a": 2},\n{"a": }]', "line 3: is not JSON"),
        ("d.json", b'[{"a": 1},\n{"a": 2}\n{"a": 3}]', "line 3: expected a comma"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_at_its_place(tmp_path, cut, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    for size in range(1, len(data) + 1):
        cut(size)
        with pytest.raises(DataError, match=words):
            list(read_records(path))


def test_a_long_list_on_one_line(tmp_path, cut, monkeypatch):
    """A list without line ends may be longer than any row."""
    monkeypatch.setattr(files, "MAX_ROW", 1000)
    cut(64)
    path = tmp_path / "d.json"
    rows = [{"text": "x" * 90, "n": n} for n in range(100)]
    path.write_text(json.dumps(rows))
    assert [record.row for record in read_records(path)] == rows
    path.write_text(json.dumps([*rows, {"text": "x" * 5000}, *rows]))
    with pytest.raises(DataError, match="line 1: a row is longer than"):
        list(read_records(path))
