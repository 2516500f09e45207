"""The hub's part against a hub on this machine that speaks the real one's HTTP, and preparing from local copies."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest

from common.data.catalog import KNOWN
from common.data.hub import is_hub_id, split_files
from common.data.readers.files import DataError
from common.data_utils import main

COMMIT = "a" * 40
FILES = {
    "models/org/tiny": {
        "config.json": b"{}",
        "model.safetensors": b"w" * 50_000,
        "pytorch_model.bin": b"a pickle",
        "original/consolidated.pth": b"a pickle",
    },
    "datasets/openai/gsm8k": {
        "README.md": b"no data",
        "main/train.jsonl": b'{"question": "1+1?", "answer": "It is\\n#### 2"}\n',
        "main/test.jsonl": b'{"question": "1+2?", "answer": "It is\\n#### 3"}\n',
        "socratic/train.jsonl": b'{"question": "other", "answer": "x"}\n',
    },
}


class Hub(BaseHTTPRequestHandler):
    """The few paths of the hub's API that a snapshot needs; keeps what was asked for."""

    asked: list[str] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(self.path.split("?")[0]).strip("/")
        self.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        for repository, files in FILES.items():
            kind, name = repository.split("/", 1)
            if path.startswith(f"api/{repository}"):
                if "/tree/" in path:
                    tree = [
                        {"type": "file", "path": file, "size": len(data), "oid": "b" * 40}
                        for file, data in files.items()
                    ]
                    return self.send(json.dumps(tree).encode())
                siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
                return self.send(
                    json.dumps({"id": name, "sha": COMMIT, "private": False, "siblings": siblings}).encode()
                )
            start = ("" if kind == "models" else "datasets/") + name + "/resolve/"
            if path.startswith(start):
                file = path[len(start) :].split("/", 1)[1]
                return self.send(files[file], etag=hashlib.sha256(files[file]).hexdigest())
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, data, etag=None):
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if etag:
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[start:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tmp_path):
    """Run a command against the hub; returns the finished process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()

    def run(*arguments, endpoint=f"http://127.0.0.1:{server.server_port}"):
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_secret"}
        command = [sys.executable, "-m", "common.data_utils", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    yield run
    server.shutdown()
    server.server_close()


def test_download_takes_the_safe_weights_and_goes_on(hub, tmp_path):
    target = tmp_path / "tiny"
    done = hub("download", "org/tiny", "--to", str(target))
    assert done.returncode == 0, done.stderr
    assert f"MODEL_PATH={target}" in done.stdout.replace("\n", "")
    there = {
        str(path.relative_to(target)) for path in target.rglob("*") if path.is_file() and ".cache" not in path.parts
    }
    assert there == {"config.json", "model.safetensors"}
    assert "hf_secret" not in done.stdout + done.stderr
    Hub.asked.clear()
    (target / "config.json").unlink()
    assert hub("download", "org/tiny", "--to", str(target)).returncode == 0
    fetched = [line for line in Hub.asked if line.startswith("GET") and "resolve" in line]
    assert len(fetched) == 1 and "config.json" in fetched[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["download", "org/missing", "--to", "m"], "org/missing: huggingface says RepositoryNotFoundError"),
        (["download", "notanid", "--to", "m"], "not the id of a model"),
        (["convert", "org/missing", "o.parquet"], "org/missing: huggingface says"),
    ],
)
def test_what_the_hub_does_not_have(hub, tmp_path, monkeypatch, arguments, words):
    arguments = [str(tmp_path / part) if part in ("m", "o.parquet") else part for part in arguments]
    done = hub(*arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "o.parquet").exists()


def test_no_network_says_what_to_do(hub, tmp_path):
    done = hub("download", "org/tiny", "--to", str(tmp_path / "m"), endpoint="http://127.0.0.1:9")
    assert done.returncode == 2 and "set HF_ENDPOINT to a mirror" in done.stderr and "Traceback" not in done.stderr


def test_prepare_from_the_hub(hub, tmp_path):
    done = hub("prepare", "gsm8k", "--to", str(tmp_path / "g"))
    assert done.returncode == 0, done.stderr
    train, validation = (pq.read_table(tmp_path / "g" / f"{name}.parquet").to_pylist() for name in ("train", "val"))
    assert [row["reward_model"]["ground_truth"] for row in (*train, *validation)] == ["2", "3"]
    assert train[0]["data_source"] == "openai/gsm8k" and "####" in train[0]["prompt"][0]["content"]


def test_convert_from_the_hub(hub, tmp_path):
    done = hub("convert", "openai/gsm8k", str(tmp_path / "o.parquet"), "--split", "test", "--algo", "grpo")
    assert done.returncode == 0, done.stderr
    (row,) = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert row["data_source"] == "openai/gsm8k" and row["reward_model"]["ground_truth"] == "3"


def test_prepare_from_a_local_copy(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    pair = {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}
    rows = "".join(json.dumps({**pair, "chosen": pair["chosen"] + str(i)}) + "\n" for i in range(300))
    (copy / "train.jsonl").write_text(rows.replace("Human: Q", "Human: Q1"))
    (copy / "test.jsonl").write_text(rows)
    assert main(["prepare", "hh-rlhf", "--from", str(copy), "--to", str(tmp_path / "out"), "--max-rows", "7"]) == 0
    assert [len(pq.read_table(tmp_path / "out" / f"{name}.parquet")) for name in ("train", "val")] == [7, 7]
    assert pq.read_schema(tmp_path / "out" / "train.parquet").names == ["prompt", "chosen", "rejected"]


def test_only_one_split_there(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    rows = [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(1000)]
    (copy / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["prepare", "gsm8k", "--from", str(copy), "--to", str(tmp_path / "out")]) == 0
    sizes = [len(pq.read_table(tmp_path / "out" / f"{name}.parquet")) for name in ("train", "val")]
    assert sum(sizes) == 1000 and 2 <= sizes[1] <= 25


def test_files_of_a_split(tmp_path):
    for name in (
        "main/train-00000-of-00002.parquet",
        "main/train-00001-of-00002.parquet",
        "main/test.parquet",
        "latest.json",
        "x/train.jsonl",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [path.name for path in split_files(tmp_path, "train")] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert [path.parent.name for path in split_files(tmp_path, "train", "x")] == ["x"]
    assert [path.name for path in split_files(tmp_path, "test")] == ["test.parquet"]
    with pytest.raises(DataError, match="no file of the split validation; there are latest.json"):
        split_files(tmp_path, "validation")


def test_another_set_with_the_split_in_its_name_is_no_part_of_it(tmp_path):
    names = ["example_model_solutions", "test", "test_socratic", "train", "train_socratic"]
    for name in names:
        (tmp_path / f"{name}.jsonl").touch()
    assert [path.name for path in split_files(tmp_path, "test", "main")] == ["test.jsonl"]
    assert [path.name for path in split_files(tmp_path, "train", "main")] == ["train.jsonl"]
    assert [path.name for path in split_files(tmp_path, "test_socratic")] == ["test_socratic.jsonl"]
    (tmp_path / "train.jsonl").unlink()
    assert [path.name for path in split_files(tmp_path, "train")] == ["train_socratic.jsonl"]
    (tmp_path / "train_gen-00000-of-00001.jsonl").touch()
    with pytest.raises(DataError, match="several sets have train in their name .train_gen, train_socratic.; name one"):
        split_files(tmp_path, "train")


def test_splits_that_are_folders(tmp_path, caplog):
    for name in ("main/train/0000.parquet", "main/train/0001.parquet", "main/test/0000.parquet", "other/train/0.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in split_files(tmp_path, "train")] == ["0000.parquet", "0001.parquet"]
    assert caplog.text == ""
    (tmp_path / "socratic").mkdir()
    for folder in ("main", "socratic"):
        (tmp_path / folder / "train.parquet").touch()
    assert [path.parent.name for path in split_files(tmp_path, "train")] == ["main", "socratic"]
    assert "train is read from main, socratic; --split main/train reads one of them" in caplog.text
    assert [path.parent.name for path in split_files(tmp_path, "socratic/train")] == ["socratic"]


def test_prepare_gsm8k_from_its_own_repository(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for split in ("train", "test"):
        for other in ("", "_socratic"):
            row = {"question": f"{split} {other} 1+1?", "answer": "It is\n#### 2"}
            (copy / f"{split}{other}.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["prepare", "gsm8k", "--from", str(copy), "--to", str(tmp_path / "out")]) == 0
    asked = [pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist() for name in ("train", "val")]
    assert [[row["prompt"][-1]["content"] for row in rows] for rows in asked] == [["train  1+1?"], ["test  1+1?"]]


def test_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/x.json").touch()
    assert is_hub_id("openai/gsm8k") and not is_hub_id("data/x.json") and not is_hub_id("x.json")
    assert all(is_hub_id(known.hugging_face) for known in KNOWN.values())


def test_modelscope_that_is_not_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    assert main(["download", "org/tiny", "--hub", "modelscope", "--to", str(tmp_path / "m")]) == 2
    assert "pip install --no-deps -r requirements/lock-modelscope.txt" in capsys.readouterr().err
