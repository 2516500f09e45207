"""The engines that are not transformers: a server of our own, and stand-ins with the signatures of vLLM and SGLang."""

import asyncio
import json
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from common.evaluation.cli import main
from common.evaluation.engines.vllm_engine import lora_rank_limit, memory_hint
from common.evaluation.settings import EvaluationError
from tests.conftest import ROOT

VAL = ROOT / "grpo" / "data" / "val.parquet"


def sum_of(text):
    """What the stand-ins answer to "What is 2 + 3?"."""
    numbers = [int(word.strip("?.")) for word in text.split() if word.strip("?.").isdigit()]
    return f"#### {sum(numbers)}"


class Handler(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that can add; every fifth request fails once."""

    def log_message(self, *_):
        pass

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers["Authorization"] == "Bearer wrong":
            self.reply(401, {"error": {"message": "no"}})
        else:
            self.reply(200, {"object": "list", "data": [{"id": "adder", "object": "model"}]})

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.server.state
        state["requests"].append(given)
        if state["gone"] and len(state["requests"]) > state["gone"]:
            return self.reply(400, {"error": {"message": "the model went away"}})
        if len(state["requests"]) % 5 == 0 and not given.get("stream"):
            return self.reply(503, {"error": {"message": "busy"}})
        text = sum_of(given["messages"][-1]["content"])
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
        about = {"id": "1", "created": 1, "model": "adder"}
        if not given.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            return self.reply(200, {**about, "object": "chat.completion", "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in text.split(" "):
            choice = {"index": 0, "delta": {"content": piece + " "}, "finish_reason": None}
            part = {**about, "object": "chat.completion.chunk", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(part)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.state = {"requests": [], "gone": 0}
    made.url = f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def batch(tmp_path, *arguments, status=0):
    output = tmp_path / "r.jsonl"
    options = ["--batch", "--input_file", str(VAL), "--limit", "24", "--output_file", str(output), "--greedy"]
    assert main([*options, *arguments]) == status
    return [json.loads(line) for line in output.read_text().splitlines()] if status == 0 else None


def test_a_server_answers_and_failures_are_tried_again(tmp_path, server):
    rows = batch(tmp_path, "--server", server.url, "--system", "Be brief.", "--stop", "END", "--thinking", "off")
    assert all(row["result"] == "right" and "error" not in row for row in rows)
    assert len(server.state["requests"]) > 24
    first = server.state["requests"][0]
    assert (first["model"], first["temperature"], first["stop"]) == ("adder", 0.0, ["END"])
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    assert first["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_server_that_goes_away_loses_nothing(tmp_path, server, capsys, monkeypatch):
    monkeypatch.setattr("common.evaluation.engines.server_engine.LOST", 3)
    server.state["gone"] = 12
    batch(tmp_path, "--server", server.url, "--concurrency", "2", status=2)
    assert "the last 3 requests failed" in capsys.readouterr().err
    server.state["gone"] = 0
    before = len(server.state["requests"])
    rows = batch(tmp_path, "--server", server.url)
    assert all(row["result"] == "right" for row in rows)
    assert "resuming, " in capsys.readouterr().out and len(server.state["requests"]) - before < 24


def test_a_chat_with_a_server(server, monkeypatch, capsys):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("What is 20 + 3?\n"))
    assert main(["--server", server.url]) == 0
    assert "#### 23" in capsys.readouterr().out


def test_servers_that_cannot_be_used(tmp_path, server, capsys, monkeypatch):
    for arguments, message in [
        (["--server", "127.0.0.1:1"], "must begin with http"),
        (["--server", "http://127.0.0.1:9"], "does not answer"),
        (["--server", server.url, "--server_model", "other"], "has adder"),
        (["--server", server.url, "--compare", "demo"], "--compare"),
        (["--server", server.url, "--template", "llama"], "--template llama"),
    ]:
        batch(tmp_path, *arguments, status=2)
        assert message in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    batch(tmp_path, "--server", server.url, status=2)
    error = capsys.readouterr().err
    assert "refuses the key" in error and "wrong" not in error


def module(name, **parts):
    made = types.ModuleType(name)
    made.__spec__ = types.SimpleNamespace(name=name)
    vars(made).update(parts)
    return made


def fake_vllm(seen):
    """The parts of vLLM 0.24 and 0.27 that are used."""
    from transformers import AutoTokenizer

    from common.demo_model import DEMO_MODEL_DIR

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)

    class Engine:
        def __init__(self):
            self.waiting = {}

        def add_request(self, name, prompt, params, lora_request=None):
            if len(prompt["prompt_token_ids"]) > 100:
                raise ValueError("longer than the maximum model length")
            self.waiting[name] = prompt["prompt_token_ids"]
            seen["params"] = params

        def has_unfinished_requests(self):
            return bool(self.waiting)

        def step(self):
            name, ids = self.waiting.popitem()  # in another order than they came
            text = sum_of(tokenizer.decode(ids, skip_special_tokens=True))
            output = types.SimpleNamespace(text=text, token_ids=[1, 2, 3], finish_reason="stop")
            return [types.SimpleNamespace(request_id=name, finished=True, outputs=[output])]

    class LLM:
        def __init__(self, **options):
            seen["options"] = options
            self.llm_engine = Engine()

    kinds = types.SimpleNamespace(FINAL_ONLY=2, CUMULATIVE=0)
    return {
        "vllm": module("vllm", __version__="0", LLM=LLM, SamplingParams=lambda **values: values),
        "vllm.inputs": module("vllm.inputs", TokensPrompt=dict),
        "vllm.sampling_params": module("vllm.sampling_params", RequestOutputKind=kinds),
    }


def fake_sglang(seen):
    """The parts of SGLang 0.5.12 that are used."""
    from transformers import AutoTokenizer

    from common.demo_model import DEMO_MODEL_DIR

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)

    class Engine:
        def __init__(self, **options):
            seen["options"] = options
            self.loop = asyncio.new_event_loop()

        async def async_generate(self, input_ids, sampling_params, lora_path=None, rid=None, stream=False):
            seen["params"] = sampling_params
            text = sum_of(tokenizer.decode(input_ids, skip_special_tokens=True))
            facts = {"completion_tokens": 3, "finish_reason": {"type": "stop"}}
            if not stream:
                return {"text": text, "meta_info": facts}

            async def pieces():
                for end in range(1, len(text) + 1):
                    yield {"text": text[:end], "meta_info": facts}

            return pieces()

        def shutdown(self):
            self.loop.close()

    return {"sglang": module("sglang", __version__="0", Engine=Engine)}


@pytest.mark.parametrize(("rank", "limit"), [(1, 1), (4, 8), (8, 8), (16, 16), (24, 32), (512, 512)])
def test_vllm_has_room_for_an_adapter_of_any_rank(rank, limit):
    assert lora_rank_limit(rank) == limit


def test_an_adapter_above_the_ranks_of_vllm_is_refused():
    with pytest.raises(EvaluationError, match="rank 600"):
        lora_rank_limit(600)


def test_the_hint_says_which_way_to_turn_the_share():
    free = "Free memory on device cuda:0 (5.1/79.1 GiB) on startup is less than desired GPU memory utilization"
    assert "lower --gpu_memory_utilization" in memory_hint(free)
    little = "To serve at least one request, 36.0 GiB KV cache is needed, larger than the available KV cache memory"
    assert "Raise --gpu_memory_utilization" in memory_hint(little)
    assert memory_hint("no such file") == ""


@pytest.mark.parametrize(("option", "fake"), [("--use_vllm", fake_vllm), ("--use_sglang", fake_sglang)])
def test_offline_engines_get_the_settings_and_their_answers_come_back(tmp_path, monkeypatch, capsys, option, fake):
    import io

    seen = {}
    for name, made in fake(seen).items():
        monkeypatch.setitem(sys.modules, name, made)
    rows = batch(tmp_path, "--model_path", "demo", option, "--stop", "END", "--gpu_memory_utilization", "0.5")
    assert all(row["result"] == "right" and row["tokens"] == 3 for row in rows)
    assert seen["params"]["temperature"] == 0.0 and seen["params"]["stop"] == ["END"]
    assert 0.5 in seen["options"].values()
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is 20 + 3?\n"))
    assert main(["--model_path", "demo", option]) == 0
    assert "#### 23" in capsys.readouterr().out
