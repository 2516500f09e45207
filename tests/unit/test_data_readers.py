"""Files of every kind are read row by row; what is wrong with one is said with file, place and reason."""

import gzip
import json
import time

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data.readers import files
from common.data.readers.files import DataError
from common.data.readers.records import read_records

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


TWO = [{"q": "1+1?", "a": "2"}, {"q": "1+2?", "a": "3"}]


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
@pytest.mark.parametrize(
    ("text", "rows", "words"),
    [
        (json.dumps({"version": 1, "data": TWO}), TWO, "the rows are the list data; next to it, not read: version"),
        (json.dumps({"data": TWO}), TWO, None),
        (json.dumps({"data": [*TWO]}, indent=1), TWO, None),
        (json.dumps({"x.json": TWO[0], "y.json": TWO[1]}), [{"key": "x.json", **TWO[0]}, {"key": "y.json", **TWO[1]}],
         "the rows are the values of one object; their keys are the column key"),
        (json.dumps({"data": {"x": TWO[0], "y": TWO[1]}}), [{"key": "x", **TWO[0]}, {"key": "y", **TWO[1]}], "key"),
        (json.dumps({"q": {"0": "1+1?", "1": "1+2?"}, "a": {"0": "2", "1": "3"}}), TWO, None),  # pandas: columns
        (json.dumps({"0": TWO[0], "1": TWO[1]}), [{"key": "0", **TWO[0]}, {"key": "1", **TWO[1]}], "key"),  # index
        (json.dumps({"columns": ["q", "a"], "index": [0, 1], "data": [["1+1?", "2"], ["1+2?", "3"]]}), TWO, None),
        (json.dumps({"columns": [0], "data": [["x"]]}), [{"0": "x"}], None),  # pandas, without names
        *((json.dumps(one), [one], None) for one in ({"columns": 5, "data": [1]}, {"columns": [None], "data": [[1]]},
          {"columns": ["a"], "data": 5}, {"columns": [["a"]], "data": [[1]]}, {"columns": ["a"], "data": ["x"]})),
        (json.dumps({"q": ["1+1?", "1+2?"], "a": ["2", "3"]}), TWO, None),  # datasets: to_dict
        ('{"q": "1+1?", "a": "2"}\n{"q": "1+2?", "a": "3"}', TWO, None),
    ],
)  # fmt: skip
def test_objects_that_hold_rows(tmp_path, name, text, rows, words):
    path = tmp_path / name
    path.write_text(text)
    said = []
    assert [record.row for record in read_records(path, say=said.append)] == rows
    assert len(said) == bool(words) and (not words or words in said[0])


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"question": "q", "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]},
        {"chosen": [{"role": "assistant", "content": "x"}], "rejected": [{"role": "assistant", "content": "y"}]},
        {"Prompt": "q", "extra": {"a": 1}},
        {"prompt": {"role": "user"}, "info": {"a": {"b": 1}}},
        {"a": 1},
    ],
)
def test_one_object_that_is_a_row(tmp_path, row):
    for name, indent in (("d.json", 1), ("d.json", None), ("d.jsonl", None), ("d.jsonl", 2)):
        path = tmp_path / name
        path.write_text(json.dumps(row, indent=indent))
        assert [record.row for record in read_records(path)] == [row]


def test_one_object_of_many_texts_is_refused_in_a_line(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({f"question {i}": "answer" for i in range(5000)}))
    with pytest.raises(DataError, match="holds one object with 5,000 keys .* and no rows; give a list") as caught:
        list(read_records(path))
    assert len(str(caught.value)) - len(str(path)) < 250


def test_a_broken_first_line_is_one_bad_row(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": 1,\n{"a": 2}\n{"a": 3}\n')
    first, *others = read_records(path)
    assert first.problem.startswith("is not JSON") and [record.row for record in others] == [{"a": 2}, {"a": 3}]


def test_an_indented_object_that_is_broken_is_one_error(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{\n "a": 1,\n "b": x\n}\n{\n "a": 2\n}\n')
    with pytest.raises(DataError, match="line 3: is not JSON"):
        list(read_records(path))


def test_numbers_keep_their_digits_and_nan_is_nothing(tmp_path):
    path = tmp_path / "d.jsonl"
    big = 2**70 + 1
    lines = [f'{{"q": "x", "truth": {big}}}', f'{{"q": "x", "scored": {{"truth": [{big}]}}}}', '{"q": "x", "f": 0.5}']
    lines += ['{"q": NaN, "deep": [NaN, {"b": -Infinity}]}']
    for text in ("\n".join(lines), f"[{','.join(lines)}]"):
        path.write_text(text)
        first, second, third, fourth = (record.row for record in read_records(path))
        assert first["truth"] == big and second["scored"]["truth"] == [big] and third["f"] == 0.5
        assert fourth == {"q": None, "deep": [None, {"b": float("-inf")}]}


def test_nan_in_parquet_is_nothing(tmp_path):
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"q": ["x", "y"], "f": [float("nan"), 0.5], "n": [1, None]}), path)
    assert [record.row for record in read_records(path)] == [
        {"q": "x", "f": None, "n": 1},
        {"q": "y", "f": 0.5, "n": None},
    ]


@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d.csv", "d.parquet", "d.xlsx", "d.jsonl.gz"])
def test_a_git_lfs_pointer_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n")
    with pytest.raises(DataError, match=f"is a Git LFS pointer and not the data.*git lfs pull --include .*{name}"):
        list(read_records(path))


def test_a_folder_of_files(tmp_path):
    for name in ("b.json", "a.json", "notes.md", ".hidden.json"):
        (tmp_path / name).write_text(json.dumps(TWO))
    assert [path.name for path in files.data_files(tmp_path)] == ["a.json", "b.json"]
    for name in ("train_1.json", "test.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(DataError, match=r"holds files of several splits \(test, train\)"):
        files.data_files(tmp_path)
    (tmp_path / "c.csv").touch()
    with pytest.raises(DataError, match="holds .csv and .json files"):
        files.data_files(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="is a folder without data files"):
        files.data_files(tmp_path / "none")


def test_many_columns_take_no_longer_for_each(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(",".join(f"c{number}" for number in range(50_000)) + "\n" + "," * 49_999 + "\n")
    start = time.process_time()
    assert len(next(read_records(path)).row) == 50_000
    assert time.process_time() - start < 2


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
        ("d.parquet", "not parquet", "not a parquet file that can be read"),
    ],
)
def test_broken_files(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=words.replace("?", r"\?").replace("(", r"\(")) as caught:
        list(read_records(path))
    assert name in str(caught.value)


def test_gzip_that_is_damaged_within(tmp_path):
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"q": 1}')[:10] + b"\xff" * 20)
    with pytest.raises(DataError, match="not a whole gzip file"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("text", "rows", "said_words"),
    [
        ("q,a\n1,2\n", [{"q": "1", "a": "2"}], None),
        ("q;a\n1,5;2,5\n", [{"q": "1,5", "a": "2,5"}], None),
        ("q\ta\nx, y; z\t2\n", [{"q": "x, y; z", "a": "2"}], None),
        ('"q, or not";a\n"x;y";2\n', [{"q, or not": "x;y", "a": "2"}], None),
        ("question\nhello, you\nbye\n", [{"question": "hello, you"}, {"question": "bye"}], None),
        ("sep=;\nq;a\n1;2\n", [{"q": "1", "a": "2"}], None),
        (",q,a\n0,1,2\n", [{"column1": "0", "q": "1", "a": "2"}], "columns without a name are called column1"),
        ("q,a,\n1,2,\n3,4,\n", [{"q": "1", "a": "2"}, {"q": "3", "a": "4"}], None),
        ("q,a\n\n1,2\n\n", [{"q": "1", "a": "2"}], None),
        ('q,a\n"x\n\ny","say ""hi"", you"\n', [{"q": "x\n\ny", "a": 'say "hi", you'}], None),
    ],
)
def test_csv_as_programs_write_it(tmp_path, text, rows, said_words):
    path, said = tmp_path / "d.csv", []
    path.write_bytes(text.encode())
    assert [record.row for record in read_records(path, say=said.append)] == rows
    assert len(said) == bool(said_words) and (not said_words or said_words in said[0])


def test_csv_without_a_header(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text('"What is 2, or 3?",A,"x, y",B\n"Why?\nHow?",C,z,D\n')
    assert [(record.place, record.row) for record in read_records(path, header=False)] == [
        (1, {"column1": "What is 2, or 3?", "column2": "A", "column3": "x, y", "column4": "B"}),
        (2, {"column1": "Why?\nHow?", "column2": "C", "column3": "z", "column4": "D"}),
    ]


def test_options_that_a_kind_does_not_have(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="--no-header is for CSV, TSV and xlsx files"):
        read_records(path, header=False)
    with pytest.raises(DataError, match="--sheet 2: only xlsx files have sheets"):
        read_records(path, sheet="2")


def test_csv_with_too_few_values(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a,b,c\n1,2,3\n1,2\n4,5,6\n")
    first, second, third = read_records(path)
    assert second.place == 3 and second.problem == "has 2 values for 3 columns"
    assert (first.row, third.row) == ({"a": "1", "b": "2", "c": "3"}, {"a": "4", "b": "5", "c": "6"})


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


TALKS = [
    '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
    '[{"from": "human", "value": "c"}]',
]


@pytest.mark.parametrize("text", ["\n".join(TALKS), f"[{', '.join(TALKS)}]", f"[\n{TALKS[0]},\n{TALKS[1]}\n]\n"])
def test_lists_of_messages_are_rows(tmp_path, text):
    """One conversation a line, or a list of conversations."""
    path = tmp_path / "talks.jsonl"
    path.write_text(text)
    rows = [record.row for record in read_records(path)]
    assert rows == [{"messages": json.loads(talk)} for talk in TALKS]
