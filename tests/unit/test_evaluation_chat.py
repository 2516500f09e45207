"""The chat, driven through a pseudo-terminal as a person does."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from common.demo_model import DEMO_MODEL_DIR
from common.evaluation.cli import main
from common.evaluation.engines.engine import Pieces
from tests.conftest import ROOT

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]|[\r\x08]")


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, *arguments):
        self.parent, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "common.test_model", *map(str, arguments)],
            cwd=ROOT,
            stdin=child,
            stdout=child,
            stderr=child,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(child)
        self.raw, self.seen, self.arrivals = b"", 0, []

    @property
    def text(self):
        return ESCAPES.sub("", self.raw.decode(errors="replace"))

    def wait(self, pattern, seconds=60):
        """Read until a pattern stands behind what was read before; returns what came up to its end."""
        deadline = time.monotonic() + seconds
        while not (found := re.compile(pattern).search(self.text, self.seen)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text[self.seen :]!r}"
            assert self.process.poll() is None, self.text
            if select.select([self.parent], [], [], 0.05)[0]:
                self.raw += os.read(self.parent, 4096)
                self.arrivals.append((time.monotonic(), len(self.text)))
        part, self.seen = self.text[self.seen : found.end()], found.end()
        return part

    def send(self, text):
        os.write(self.parent, text.encode())

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        os.close(self.parent)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """The demo model with an end token that it never writes."""
    folder = tmp_path_factory.mktemp("endless")
    for file in DEMO_MODEL_DIR.iterdir():
        text = file.read_bytes()
        if file.name in ("config.json", "generation_config.json"):
            text = text.replace(b'"eos_token_id": 2', b'"eos_token_id": 1')
        if file.name == "tokenizer_config.json":
            text = text.replace(b'"eos_token": "<|im_end|>"', b'"eos_token": "<|im_start|>"')
        (folder / file.name).write_bytes(text)
    return folder


def test_a_conversation_at_a_terminal(tmp_path, endless):
    terminal = Terminal("--model_path", endless, "--greedy", "--max_new_tokens", 1500)
    try:
        terminal.wait("is ready")
        terminal.wait(">")
        # Chinese is typed, corrected with the backspace key, and arrives whole; the answer comes in pieces.
        terminal.send("请问五\x7f 7 + 8 等于多少？\r")
        terminal.wait("？")
        start = terminal.seen
        while sum(length > start for _, length in terminal.arrivals) < 5:  # streamed, not all at once
            terminal.wait("(?s:.)")
        # Ctrl-C stops the answer and not the program.
        terminal.send("\x03")
        stopped = terminal.wait(r"\[(\d+) tokens, .* stopped\]")
        assert 0 < int(re.search(r"\[(\d+) tokens", stopped)[1]) < 1500
        terminal.wait(">")
        # Ctrl-C at the prompt does not end it either.
        terminal.send("\x03")
        terminal.wait("leaves")
        terminal.wait(">")
        for line, shown in [
            ("/params max_new_tokens=12 temperature=0", "temperature=0.0, .*max_new_tokens=12"),
            ("/params temperature=cold", "is not a valid float"),
            ("/system 你是一个助手。", "system prompt: 你是一个助手。"),
            ("What is 3 + 4?", r"\[12 tokens, .*cut at max_new_tokens\]"),
            ("/retry", r"\[12 tokens, .*cut at max_new_tokens\]"),
            (f"/save {tmp_path}/chat.json", "saved"),
            ("/reset", "forgotten"),
            ("/retry", "no question yet"),
            ("/no", "there is no such command"),
        ]:
            terminal.send(line + "\r")
            terminal.wait(shown)
            terminal.wait(">")
        terminal.send("/exit\r")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.end()
    [saved] = json.loads((tmp_path / "chat.json").read_text())
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert saved["messages"][1]["content"] == "请问 7 + 8 等于多少？"
    assert saved["messages"][3]["content"] == "What is 3 + 4?"


def test_lines_from_a_pipe(monkeypatch, capsys, tmp_path):
    import io

    lines = f"What is 12 + 30?\n/params thinking=on\n/save {tmp_path}/c.json\n/save {tmp_path}/c.txt\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert main(["--model_path", "demo", "--single", "--greedy"]) == 0
    out = capsys.readouterr().out
    assert "42" in out and "thinking=on" in out and "ends in .json" in out
    assert json.loads((tmp_path / "c.json").read_text())[0]["messages"][0]["content"] == "What is 12 + 30?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_path", "demo", "--compare", "demo"], "--compare is for --batch"),
        (["--model_path", "demo", "--limit", "3"], "--limit is for --batch"),
        (["--model_path", "demo", "--reward", "math"], "--reward is for --batch"),
        (["--model_path", "demo", "--n", "2"], "--n 2"),
        ([], "--model_path is missing"),
    ],
)
def test_options_that_do_not_fit_a_chat(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_pieces_hold_back_half_characters_and_half_stop_texts():
    shown = []
    pieces = Pieces(lambda ids: "", ("\nUser:",), shown.append)
    for text in (
        "一",
        "一\ufffd",
        "一二",
        "一二\n",
        "一二\nUse",
        "一二\nUsed",
        "一二\nUsed\nUser",
        "一二\nUsed\nUser: x",
    ):
        pieces.update(text)
    assert shown == ["一", "二", "\nUsed"]
    pieces.update("一二\nUsed\nUser: x", last=True)
    assert "".join(shown) == "一二\nUsed"
