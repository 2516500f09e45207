"""serve.sh on transformers, asked by the openai package: pieces, stop, logprobs, seeds, many at once, who leaves."""

import asyncio
import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch
import uvicorn

from common.evaluation.settings import EvaluationError
from common.serving import cli
from common.serving.app import Routes
from common.serving.engines import Place, lay_out, sglang_command, vllm_command
from common.serving.guard import MAX_BODY
from common.serving.wanted import Refused, read_wanted
from common.serving.worker import Generation
from tests.conftest import free_port

SUMS = [f"What is {a} + {b}?" for a in range(11, 19) for b in range(21, 29)]
KEY = "a-long-random-word"


def start(*options, key=""):
    """A server in this process; returns its port, the workers and what ends it."""
    port = free_port()
    arguments = cli.build_parser().parse_args([*options, "--port", str(port)])
    app = cli.build_app(arguments, cli.find_all(arguments.models, arguments.name), key)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()

    def end():
        server.should_exit = True
        thread.join(20)

    return port, end


@pytest.fixture(scope="module")
def port():
    port, end = start("demo", "demo", "--name", "demo", "twin", "--max_new_tokens", "48")
    yield port
    end()


@pytest.fixture(scope="module")
def client(port):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


def chat(client, text, **options):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="demo", messages=messages, **{"temperature": 0, **options})


def settled(port):
    """Whether nothing is being answered any more, within 10 seconds."""
    for _ in range(200):
        models = httpx.get(f"http://127.0.0.1:{port}/health").json()["models"]
        if not any(model["running"] or model["waiting"] for model in models):
            return True
        time.sleep(0.05)
    return False


def test_64_at_once_give_the_greedy_answers_of_test_sh(client, tmp_path):
    from common.test_model import main

    rows, answers = tmp_path / "q.json", tmp_path / "a.jsonl"
    rows.write_text(json.dumps([{"prompt": text} for text in SUMS]))
    options = ["--batch", "--greedy", "--max_new_tokens", "48", "--reward", "none", "--output_file", str(answers)]
    assert main(["--model_path", "demo", "--input_file", str(rows), *options]) == 0
    wanted = [json.loads(line)["response"] for line in answers.read_text().splitlines()]
    with ThreadPoolExecutor(64) as pool:
        got = list(pool.map(lambda text: chat(client, text).choices[0].message.content, SUMS))
    assert got == wanted and len(set(got)) >= 15  # sums from 32 to 46


def test_pieces_add_up_and_end_with_the_counts(client):
    whole = chat(client, SUMS[0])
    parts = list(chat(client, SUMS[0], stream=True, stream_options={"include_usage": True}))
    assert parts[0].choices[0].delta.role == "assistant" and len(parts) > 4
    texts = [part.choices[0].delta.content or "" for part in parts[:-1]]
    assert "".join(texts) == whole.choices[0].message.content and sum(map(bool, texts)) > 3
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert parts[-1].usage == whole.usage and whole.usage.completion_tokens > 4


def test_a_stop_text_is_never_shown_and_length_is_said(client):
    whole = chat(client, SUMS[0]).choices[0].message.content
    end = whole[len(whole) // 2 :][:3]
    cut = chat(client, SUMS[0], stop=[end]).choices[0]
    assert cut.message.content == whole[: whole.index(end)] and cut.finish_reason == "stop"
    parts = chat(client, SUMS[0], stop=end, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == cut.message.content
    short = chat(client, SUMS[0], max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2


def test_log_probabilities_are_those_of_the_model(client):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from common.demo_model import DEMO_MODEL_DIR

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR, dtype=torch.float32)
    found = chat(client, SUMS[0], logprobs=True, top_logprobs=3, temperature=1.5, seed=3).choices[0]
    messages = [{"role": "user", "content": SUMS[0]}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    for entry in found.logprobs.content:
        with torch.no_grad():
            row = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        best = row.topk(3)
        assert [top.token for top in entry.top_logprobs] == [tokenizer.decode([i]) for i in best.indices]
        assert torch.allclose(torch.tensor([top.logprob for top in entry.top_logprobs]), best.values, atol=1e-4)
        taken = [i for i in range(len(row)) if tokenizer.decode([i]) == entry.token and bytes(entry.bytes)]
        match = min(taken, key=lambda i: abs(float(row[i]) - entry.logprob))
        assert abs(float(row[match]) - entry.logprob) < 1e-4
        ids.append(match)
    streamed = chat(client, SUMS[0], logprobs=True, top_logprobs=3, temperature=1.5, seed=3, stream=True)
    logprobs = [part.choices[0].logprobs for part in streamed]
    assert [entry for one in logprobs if one for entry in one.content] == found.logprobs.content


def test_a_seed_gives_the_same_again_whatever_else_is_asked(client):
    def ask(seed, text=SUMS[0]):
        return [one.message.content for one in chat(client, text, seed=seed, temperature=2.0, n=3).choices]

    first = ask(7)
    with ThreadPoolExecutor(8) as pool:
        beside = [pool.submit(ask, seed, SUMS[seed]) for seed in range(7)]
        again = pool.submit(ask, 7).result()
        assert all(one.result() for one in beside)
    assert again == first and len(set(first)) == 3 and ask(8) != first


def test_completions_take_texts_and_ids(client):
    made = client.completions.create(model="twin", prompt=["12 + 30 =", [5, 6, 7]], temperature=0, n=2, logprobs=2)
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
    assert made.choices[0].text == made.choices[1].text and made.choices[2].text == made.choices[3].text
    assert made.usage.completion_tokens <= 4 * 16
    entries = made.choices[0].logprobs
    assert len(entries.tokens) == len(entries.token_logprobs) == len(entries.text_offset) and len(entries.tokens) > 0
    assert all(len(top) >= 2 for top in entries.top_logprobs)
    parts = client.completions.create(model="twin", prompt="12 + 30 =", temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in parts) == made.choices[0].text


def test_who_leaves_stops_the_work(port, client):
    """A long answer that nobody reads any more ends at once, streamed or not; others are answered."""
    body = {"model": "demo", "max_tokens": 400, "temperature": 5.0, "seed": 1, "n": 8}
    body["messages"] = [{"role": "user", "content": SUMS[0]}]
    for stream in (True, False):
        text = json.dumps(body | {"stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", port)) as caller:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n"
            caller.sendall(head.encode() + text)
            for _ in range(200):
                models = httpx.get(f"http://127.0.0.1:{port}/health").json()["models"]
                if models[0]["running"] == 8:
                    break
                time.sleep(0.005)
            assert models[0]["running"] == 8
        left = time.monotonic()
        assert settled(port)
        assert time.monotonic() - left < 2
    assert chat(client, SUMS[0]).choices[0].message.content


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": float("inf")}, "n"),
        ({"max_tokens": float("nan")}, "max_tokens"),
        ({"seed": -float("inf")}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "messages"),
        ({"temprature": 0}, "temprature"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
    ],
)
def test_what_would_change_the_answer_is_not_passed_over(options, param):
    body = {"model": "demo", "messages": [{"role": "user", "content": "x"}], **options}
    with pytest.raises(Refused) as refused:
        read_wanted(body, is_chat=True)
    assert refused.value.param == param and refused.value.status == 400


def test_what_asks_for_nothing_is_taken():
    body = {"model": "demo", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "user": "me"}
    body |= {"presence_penalty": 0, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}}
    wanted = read_wanted(body | {"max_tokens": None, "stop": "."}, is_chat=True)
    assert wanted.prompts == [[{"role": "user", "content": "a"}]] and wanted.stop == (".",)
    assert wanted.max_tokens is None and read_wanted({"model": "m", "prompt": "x"}, False).max_tokens == 16


def test_errors_as_clients_read_them(port, client):
    with pytest.raises(openai.NotFoundError, match="'nope' is not here; demo, twin is"):
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="more than the model's context") as error:
        chat(client, "1 " * 5000)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="beyond the vocabulary"):
        client.completions.create(model="demo", prompt=[10**6])
    url = f"http://127.0.0.1:{port}"
    assert httpx.post(f"{url}/v1/chat/completions", content=b"{").status_code == 400
    assert httpx.post(f"{url}/v1/chat/completions", content=b"[" * 100_000).status_code == 400
    assert httpx.get(f"{url}/nothing").json()["error"]["message"].startswith("GET /nothing: there is no such route")
    assert [model.id for model in client.models.list()] == ["demo", "twin"]


def test_other_sites_and_names_are_refused(port):
    url = f"http://127.0.0.1:{port}/v1/models"
    assert httpx.get(url).status_code == 200
    assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 421
    assert httpx.get(url, headers={"Origin": "https://evil.example"}).status_code == 403
    with socket.create_connection(("127.0.0.1", port)) as caller:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
        caller.sendall(head.encode())
        assert caller.recv(100).startswith(b"HTTP/1.1 413")


def test_a_key_is_asked_for():
    port, end = start("demo", key=KEY)
    try:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}x"}).status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert httpx.get(f"{url}/health").json()["status"] == "ok"
    finally:
        end()


def test_a_model_that_fails_says_so_and_answers_the_next(client, monkeypatch):
    from common.serving import worker

    def broken(*_, **__):
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "generate", broken)
        with pytest.raises(openai.InternalServerError, match="RuntimeError: boom"):
            chat(client, SUMS[0])
        with pytest.raises(openai.APIError, match="RuntimeError: boom"):
            list(chat(client, SUMS[0], stream=True))
    assert chat(client, SUMS[0]).choices[0].message.content


@pytest.fixture
def lora_runs(tmp_path):
    """Two adapters over one base model and one over another, as folders."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_text("")
    for name, rank, over in (("a", 8, base), ("b", 20, base), ("c", 8, tmp_path)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(
            json.dumps({"r": rank, "base_model_name_or_path": str(over)})
        )
    return tmp_path


def test_adapters_over_one_base_model_are_one_server(lora_runs):
    a, b, c, base = (str(lora_runs / name) for name in ("a", "b", "c", "base"))
    place = Place("127.0.0.1", 9000, gpus=2)
    layout = lay_out(cli.find_all([a, b, base], []))
    command = vllm_command(layout, place)
    assert command[command.index("--model") + 1] == base and command[command.index("--served-model-name") + 1] == "base"
    assert command[command.index("--max-lora-rank") + 1] == "32" and command[command.index("--max-loras") + 1] == "2"
    modules = [json.loads(text) for text in command[command.index("--lora-modules") + 1 :]]
    assert modules == [{"name": "a", "path": a}, {"name": "b", "path": b}]
    assert command[command.index("--generation-config") + 1] == "vllm"
    assert f"a={a}" in sglang_command(layout, place) and "--tp-size" in sglang_command(layout, place)
    with pytest.raises(EvaluationError, match="their base models are"):
        lay_out(cli.find_all([a, c], []))
    with pytest.raises(EvaluationError, match="demo has no adapter"):
        lay_out(cli.find_all([a, "demo"], []))
    assert "--enable-lora" not in vllm_command(lay_out(cli.find_all([base], [])), place)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["demo", "--host", "0.0.0.0"], "set SERVE_API_KEY"),
        (["demo", "--engine", "sglang"], "sglang is not installed here"),
        (["demo", "demo"], "two models have the name demo"),
        (["demo", "--name", "a", "b"], "2 names for 1 models"),
        (["no/such/run"], "no/such/run"),
        (["demo", "--port", "0"], "--port 0"),
        (["demo", "--dry-run", "--engine", "transformers"], "--dry_run"),
        (["demo", "--gpus", "2", "--engine", "transformers"], "--gpus 2: the engine transformers does not take it"),
    ],
)
def test_mistakes_are_said_before_anything_is_loaded(options, words, capsys, monkeypatch):
    monkeypatch.delenv("SERVE_API_KEY", raising=False)
    monkeypatch.setattr("common.serving.worker.Worker.__init__", None)
    assert cli.main(options) == 2
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken(capsys):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        assert cli.main(["demo", "--engine", "transformers", "--port", str(held.getsockname()[1])]) == 2
    assert "cannot be opened" in capsys.readouterr().err


def idle_worker(monkeypatch, work):
    """A worker without a model whose thread does ``work``."""
    from common.serving import worker

    model = SimpleNamespace(generation_config=None, device=torch.device("cpu"))
    monkeypatch.setattr(worker, "load_tokenizer", lambda *_: SimpleNamespace(pad_token_id=0))
    monkeypatch.setattr(worker, "load", lambda *_: model)
    monkeypatch.setattr(worker, "end_ids", lambda *_: [])
    monkeypatch.setattr(worker.Worker, "_next_batch", work)
    return worker.Worker("demo", None, "cpu", "auto", 100)


def generation(pieces, prompt=4, room=4):
    from common.hf_engine.sampling import SamplingParams

    return Generation([1] * prompt, SamplingParams(0.0, 1.0, -1), room, [], emit=pieces.append)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_has_ended_refuses_and_tells_who_waits(monkeypatch):
    asked = threading.Event()

    def broken(self):
        asked.wait(10)
        raise RuntimeError("the device is gone")

    worker, pieces = idle_worker(monkeypatch, broken), []
    worker.submit(generation(pieces))
    asked.set()
    worker.thread.join(10)
    assert "the thread that answers has ended" in pieces[0].error
    with pytest.raises(Refused, match="demo: the thread that answers has ended") as refused:
        worker.submit(generation(pieces))
    assert refused.value.status == 503


def test_a_request_refused_midway_leaves_nothing_running():
    made, asked = [generation([]) for _ in range(3)], []

    def submit(one):
        if len(asked) == 2:
            raise Refused("too many", status=503)
        asked.append(one)

    worker = SimpleNamespace(submit=submit, tokenizer=SimpleNamespace(decode=str))
    served = SimpleNamespace(worker=worker, prompt_ids=lambda wanted: [[1]], generations=lambda *_: made)

    async def body():
        return json.dumps({"model": "demo", "prompt": "x", "n": 3}).encode()

    with pytest.raises(Refused, match="too many"):
        asyncio.run(Routes({"demo": served}).complete(SimpleNamespace(body=body), is_chat=False))
    assert len(asked) == 2 and all(one.aborted.is_set() for one in asked)


def test_out_of_memory_with_one_row_leaves_the_budget(monkeypatch):
    worker = idle_worker(monkeypatch, lambda self: sys.exit())
    pieces = []
    worker._fail([generation(pieces, prompt=400, room=600)], torch.OutOfMemoryError("CUDA out of memory"))
    assert worker.batch_tokens == 100 and "even alone: 1000 tokens" in pieces[0].error
    worker._fail(
        [generation(pieces, prompt=8, room=12) for _ in range(4)], torch.OutOfMemoryError("CUDA out of memory")
    )
    assert worker.batch_tokens == 40 and "ask again" in pieces[-1].error


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("option", ["thinking off", "template default", "device cpu", "max_new_tokens 9"])
def test_what_an_engine_would_pass_over_is_refused(option, engine, monkeypatch, capsys):
    monkeypatch.setattr(cli, "choose_engine", lambda wanted: wanted)
    name, value = option.split()
    assert cli.main(["demo", "--engine", engine, "--dry_run", f"--{name}", value]) == 2
    assert f"--{name} {value}: the engine {engine} does not take it" in capsys.readouterr().err


def test_defaults_are_no_option_of_another_engine(monkeypatch, capsys):
    monkeypatch.setattr(cli, "choose_engine", lambda wanted: wanted)
    words = ["demo", "--engine", "vllm", "--dry_run", "--thinking", "auto", "--max-new-tokens", "1024"]
    assert cli.main(words) == 0 and "demo" in capsys.readouterr().out
