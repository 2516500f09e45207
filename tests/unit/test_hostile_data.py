"""Data and templates of strangers: memory and time follow the file's size, and a sentence says what is wrong."""

import gzip
import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data.readers.files import DataError
from common.data.readers.records import read_records
from common.data.templates import trial as template_trial
from common.data.templates.trial import DangerousTemplate, check_template

ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
import resource, sys
from itertools import islice
from pathlib import Path
import pyarrow.parquet
from common.data.readers.records import read_records
peak = lambda who: resource.getrusage(who).ru_maxrss // 1024
before = peak(resource.RUSAGE_SELF)
print(sum(1 for _ in islice(read_records(Path(sys.argv[1])), 1)))
from common.data.readers import parquet_reader
for worker in parquet_reader._idle:
    worker.stop()
print(max(peak(resource.RUSAGE_SELF) - before, peak(resource.RUSAGE_CHILDREN)))
"""


def parquet(path, column, **options):
    table = pa.table({"text": column})
    pq.write_table(table, path, compression="zstd", write_statistics=False, store_schema=False, **options)
    return path


def test_one_row_of_a_small_parquet_bomb_takes_little_memory(tmp_path):
    path = parquet(tmp_path / "bomb.parquet", pa.array(["a" * 2**16] * 4096))
    assert path.stat().st_size < 300
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True, cwd=ROOT)
    rows, mib = map(int, done.stdout.split())
    assert rows == 1 and mib < 300


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (lambda: pa.array(["a" * 2**16] * 5000), r"row 4096: the rows up to it become 256 MiB"),
        (lambda: pa.array(["b"] * 300 + ["a" * 2**20] * 400), r"more than 256 MiB \(200 times the file\)"),
        (lambda: pa.array([[1] * 10_000_000]), r"row 1: becomes \d+ MiB, and a row may have 64 MiB"),
        (lambda: pa.array([[None] * 10_000_000], pa.list_(pa.null())), r"row 1: becomes \d+ MiB"),
        (lambda: pa.array(["a" * (600 * 2**20)]), r"need more than 1,024 MiB to decode, as zip bombs do; if you trust"),
    ],
)
def test_rows_of_parquet_that_become_too_large_are_refused(tmp_path, column, said):
    path = parquet(tmp_path / "x.parquet", column(), dictionary_pagesize_limit=2**26)
    with pytest.raises(DataError, match=said) as error:
        for _ in read_records(path):
            pass
    assert str(error.value).startswith(f"{path}: ")


def test_a_reading_that_was_left_does_not_disturb_the_next(tmp_path):
    first = parquet(tmp_path / "1.parquet", pa.array(["a"] * 10_000))
    second = parquet(tmp_path / "2.parquet", pa.array(["b"] * 10))
    rows = read_records(first)
    assert next(rows).row == {"text": "a"}
    assert [record.row["text"] for record in read_records(second)] == ["b"] * 10
    assert sum(1 for _ in rows) == 9_999
    rows = read_records(first)
    next(rows)
    rows.close()
    assert [record.place for record in read_records(second)] == list(range(1, 11))


def xlsx(path, rows, before="", behind=""):
    book, whole = openpyxl.Workbook(), io.BytesIO()
    book.save(whole)
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    head = '<row r="1"><c r="A1" t="inlineStr"><is><t>question</t></is></c></row>'
    sheet = f'<worksheet xmlns="{space}">{before}<sheetData>{head}{rows}</sheetData>{behind}</worksheet>'
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, sheet if name == "xl/worksheets/sheet1.xml" else source.read(name))
    return path


def cell(row, text="x", column="A"):
    return f'<row r="{row}"><c r="{column}{row}" t="inlineStr"><is><t>{text}</t></is></c></row>'


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("rows", "behind", "said"),
    [
        (cell(2) + '<row r="999999999999"><c><v>1</v></c></row>', "", "names a row behind 1,048,576, the last"),
        (
            "".join(cell(row, column="XFD") for row in range(2, 1500)),
            "",
            r"row \d+: .* cells, nearly all",
        ),
        (cell(2), '<mergeCells><mergeCell ref="A2:A999999999"/></mergeCells>', "cannot be read behind row 2"),
        ('<row r="two"><c><v>1</v></c></row>', "", "cannot be read behind row 1"),
        (cell(2, "x" * 70_000_000), "", "row 2: becomes 66 MiB, and a row may have 64 MiB"),
    ],
)
def test_an_excel_file_that_names_far_cells_ends_soon(tmp_path, rows, behind, said):
    path = xlsx(tmp_path / "x.xlsx", rows, behind=behind)
    started = time.monotonic()
    with pytest.raises(DataError, match=said):
        list(read_records(path))
    assert time.monotonic() - started < 15


def test_what_an_excel_file_says_of_its_size_does_not_count(tmp_path):
    path = xlsx(tmp_path / "x.xlsx", cell(200_000), before='<dimension ref="A1:XFD1048576"/>')
    assert [(record.place, record.row) for record in read_records(path)] == [(200_000, {"question": "x"})]


def test_a_gzip_bomb_ends_at_the_same_place_with_an_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.readers.files.RATIO_COUNTS_FROM", 2**23)
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 2**20 * 2))
    for encoding in (None, "gb18030"):
        with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
            for _ in read_records(path, encoding):
                pass


def test_a_first_line_of_200000_names_is_read_at_once(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(",".join(f"c{n}" for n in range(200_000)) + "\n")
    started = time.monotonic()
    assert list(read_records(path)) == [] and time.monotonic() - started < 5


@pytest.mark.parametrize("depth", [90, 101, 900, 5000])
def test_deep_rows_are_named_and_the_others_read(tmp_path, depth):
    from common.preflight.data import read_file

    path = tmp_path / "x.jsonl"
    deep = '{"question": "a", "x": ' + "[" * depth + "]" * depth + "}"
    path.write_text(f'{{"question": "a"}}\n{deep}\n{{"question": "b"}}\n')
    problems = [record.problem for record in read_records(path)]
    if depth < 100:
        assert problems == [None] * 3 and read_file(path).rows == 3
        return
    assert problems[::2] == [None, None] and "is nested too deeply (a value may have 100" in problems[1]
    with pytest.raises(ValueError, match="line 2: is nested too deeply"):
        read_file(path)


def test_deep_json_in_a_text_is_a_bad_row(tmp_path):
    from common.data.convert import BadRows, Options, Source, convert

    path = tmp_path / "x.jsonl"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path.write_text(json.dumps({"messages": talk, "tools": "[" * 5000 + "]" * 5000}) + "\n")
    with pytest.raises(BadRows, match="tools: is not JSON: is nested too deeply"):
        convert([Source(path)], tmp_path / "out.parquet", Options(algorithm="sft"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "takes longer than 1.5 s"),
        ("{{ 'x' * 10**9 }}", "needs more than 256 MiB"),
        ("{% set n = 10**9 + messages|length %}{{ 'x' * n }}", "needs more than 256 MiB"),
        ("{{ messages[0]['content'] * 10**7 }}", "writes 10,000,000 characters"),
    ],
)
def test_a_chat_template_that_takes_too_much_is_refused(monkeypatch, template, said):
    monkeypatch.setattr(template_trial, "LIMIT_S", 1.5)
    with pytest.raises(DangerousTemplate, match=said):
        check_template(template)


def test_a_template_that_only_refuses_or_cannot_be_compiled_passes_the_trial():
    check_template("{{ raise_exception('no') }}")
    check_template("{% if %}")


def test_training_reads_no_parquet_that_the_door_refuses_and_all_others_alike(tmp_path):
    from common.data.verl_datasets import _table_of

    bomb = parquet(tmp_path / "bomb.parquet", pa.array(["a" * 2**16] * 5000), dictionary_pagesize_limit=2**26)
    with pytest.raises(DataError, match="the rows up to it become 256 MiB"):
        _table_of(str(bomb))
    talk = [{"role": "user", "content": "问"}, {"role": "assistant", "content": None}]
    rows = [{"messages": talk * (1 + n % 3), "n": n, "tools": None if n % 2 else "[]"} for n in range(10_000)]
    for count in (0, 1, 10_000):
        good = tmp_path / f"{count}.parquet"
        pq.write_table(pa.Table.from_pylist(rows).slice(0, count), good, row_group_size=3_000)
        assert _table_of(str(good)).equals(pq.read_table(good), check_metadata=True)


def test_prompts_are_read_within_the_same_limits_and_are_verls_rows(tmp_path, monkeypatch):
    import datasets
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from common.data.verl_datasets import PromptDataset
    from common.demo_model import DEMO_MODEL_DIR

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    bomb = parquet(tmp_path / "bomb.parquet", pa.array(["a" * 2**16] * 5000), dictionary_pagesize_limit=2**26)
    config = OmegaConf.create(
        {"max_prompt_length": 64, "filter_overlong_prompts_workers": 2, "seed": 3, "shuffle": True}
    )
    with pytest.raises(DataError, match="the rows up to it become 256 MiB"):
        PromptDataset(str(bomb), tokenizer, config)
    row = {"reward_model": {"ground_truth": "2", "style": "rule"}, "data_source": "kit", "extra_info": {"index": 1}}
    rows = [{**row, "prompt": [{"role": "user", "content": "1 " * (n % 80)}], "n": n} for n in range(400)]
    files = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    pq.write_table(pa.Table.from_pylist(rows[:300]), files[0], row_group_size=70)
    pq.write_table(pa.Table.from_pylist(rows[300:]), files[1])
    kept = {}
    for most in (-1, 50):
        ours, verls = (kind(list(files), tokenizer, config, max_samples=most) for kind in (PromptDataset, RLHFDataset))
        assert 0 < len(ours) < len(rows)
        assert ours.dataframe.features == verls.dataframe.features
        assert ours.dataframe.to_list() == verls.dataframe.to_list()
        kept[most] = ours.dataframe.to_list()
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(files[0]).slice(0, 0), empty)
    assert PromptDataset([*files, str(empty)], tokenizer, config).dataframe.to_list() == kept[-1]
    assert not list(cache.glob("verl-kit-*"))
    assert ours[3]["raw_prompt"] == verls[3]["raw_prompt"]
