"""OPENAI_API_KEY goes to the server that was named, to no other, and into no text or file."""

import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from common.evaluation.cli import main
from common.evaluation.engines import server_engine
from tests.conftest import ROOT

KEY = "sk-a-key-for-one-server"


class Handler(BaseHTTPRequestHandler):
    """Lists a model, and does with a question what `server.answer` says; writes down what it was asked."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append(dict(self.headers))
        self.send(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(dict(self.headers))
        self.send(*self.server.answer(self.headers))

    def send(self, status, value, **headers):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        if 300 <= status < 400:
            self.send_header("Location", self.server.elsewhere)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def servers(monkeypatch):
    """The server that is named, and another."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    for server in made:
        server.seen, server.answer = [], lambda headers: (400, {"error": {"message": "no"}})
        threading.Thread(target=server.serve_forever, daemon=True).start()
    made[0].elsewhere = f"http://127.0.0.1:{made[1].server_port}/v1/chat/completions"
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


def ask(tmp_path, server):
    options = ["--batch", "--input_file", str(ROOT / "grpo" / "data" / "val.parquet"), "--limit", "3"]
    url = f"http://127.0.0.1:{server.server_port}"
    return main([*options, "--output_file", str(tmp_path / "r.jsonl"), "--server", url, "--concurrency", "1"])


def texts(tmp_path, capfd):
    said = capfd.readouterr()
    return (
        said.out
        + said.err
        + "".join(path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    )


def test_where_the_key_goes_is_said_and_the_key_is_not(tmp_path, servers, capfd):
    ask(tmp_path, servers[0])
    said = texts(tmp_path, capfd)
    assert servers[0].seen[0]["Authorization"] == f"Bearer {KEY}"
    assert "OPENAI_API_KEY is sent to 127.0.0.1" in said and KEY not in said


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(tmp_path, servers, capfd, status):
    servers[0].answer = lambda headers: (status, {})
    ask(tmp_path, servers[0])
    assert len(servers[0].seen) >= 4 and servers[1].seen == []
    assert KEY not in texts(tmp_path, capfd)


@pytest.mark.parametrize(("status", "lost"), [(400, 20), (400, 2), (401, 20), (422, 20)])
def test_a_key_that_the_server_sends_back_is_in_no_error_and_no_file(
    tmp_path, servers, capfd, monkeypatch, status, lost
):
    monkeypatch.setattr(server_engine, "LOST", lost)
    servers[0].answer = lambda headers: (status, {"error": {"message": f"bad {headers['Authorization']}"}})
    ask(tmp_path, servers[0])
    said = texts(tmp_path, capfd)
    assert KEY not in said and (status == 401 or "bad Bearer ***" in said)


def test_nor_in_what_a_chat_shows(tmp_path, servers, capfd, monkeypatch):
    servers[0].answer = lambda headers: (400, {"error": {"message": f"bad {headers['Authorization']}"}})
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is 20 + 3?\n"))
    main(["--server", f"http://127.0.0.1:{servers[0].server_port}"])
    said = texts(tmp_path, capfd)
    assert KEY not in said and "bad Bearer ***" in said


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("https://api.example/v1", KEY, ["is sent to api.example"]),
        ("http://api.example/v1", KEY, ["is sent to api.example", "can be read on the way"]),
        ("http://localhost:8000/v1", KEY, ["is sent to localhost"]),
        ("http://[::1]:8000/v1", KEY, ["is sent to ::1"]),
        ("http://api.example/v1", server_engine.NO_KEY, []),
    ],
)
def test_a_key_that_goes_in_the_clear_to_another_machine_is_warned_of(capsys, url, key, said):
    server_engine._say_where_the_key_goes(url, key)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said) and all(words in line for words, line in zip(said, lines, strict=True))
    assert KEY not in "".join(lines)
