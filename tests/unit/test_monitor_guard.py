"""The monitor against foreign pages: routes that nobody needs, other Hosts and Origins, headers."""

from __future__ import annotations

import re

import httpx
import pytest
from gradio_client import Client

from common.web import split_host
from monitor.server import build_app
from tests.unit.test_monitor_page import Server
from tests.unit.test_monitor_runs import make_run, step


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    run = make_run(root, "good", [step(1, loss=0.5)])
    (run / "train.log").write_text("a line of the log\n")
    running = Server(build_app(root, allowed_hosts=["gpu-box", "proxy.lan:443", "[fe80::1]"], port=7860))
    yield running.url
    running.server.should_exit = True
    running.join(10)


UNUSED = (
    "GET /en/gradio_api/file=https://example.com/x.png",
    "GET /en/gradio_api/file=/etc/hostname",
    "GET /en/gradio_api/proxy=https://x.hf.space/a",
    "GET /en/gradio_api/deep_link",
    "GET /en/monitoring",
    "GET /en/gradio_api/runs",
    "GET /en/gradio_api/run-history/records",
    "POST /en/gradio_api/run-history/connect",
    "POST /en/gradio_api/upload",
    "POST /zh/gradio_api/upload",
    "POST /en/gradio_api/process_recording",
    "POST /en/gradio_api/component_server",
    "POST /en/gradio_api/vibe-edit",
    "POST /en/gradio_api/stream/a",
    "POST /csv",
    "GET /en/gradio_api/run/fill_log",
)


@pytest.mark.parametrize("request_line", UNUSED)
def test_what_the_page_does_not_use_is_not_there(server, request_line):
    method, path = request_line.split()
    files = {"files": ("a.html", b"<script>1</script>")} if path.endswith("upload") else None
    assert httpx.request(method, server + path, files=files).status_code == 404


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
def test_other_methods(server, method):
    assert httpx.request(method, f"{server}/en/").status_code == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:7860", 421),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:7860", 421),
        ("127.0.0.1@evil.example", 421),
        ("gpu-box:1234", 421),  # another port than the monitor's
        ("proxy.lan:7860", 421),
        ("0.0.0.0:7860", 421),
        ("", 421),
        ("localhost:7860", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:9999", 200),  # a port that ssh -L forwards
        ("[::1]:7860", 200),
        ("gpu-box:7860", 200),
        ("GPU-Box", 200),
        ("proxy.lan:443", 200),
        ("[fe80::1]:7860", 200),
    ],
)
def test_only_the_names_of_this_machine(server, host, status):
    """A site that gives its own name the monitor's address (DNS rebinding) reads nothing."""
    answer = httpx.get(f"{server}/csv", params={"run": "good"}, headers={"Host": host})
    assert answer.status_code == status and ("0.5" in answer.text) == (status == 200)


ASK = {"json": {"data": ["good", "", ""]}}
LOG = "/en/gradio_api/run/fill_log"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another service of this machine
        {"Origin": "https://evil.example", "Host": "gpu-box:7860"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
def test_another_site_gets_nothing(server, headers):
    answer = httpx.post(server + LOG, headers=headers, **ASK)
    assert answer.status_code == 403 and "a line of the log" not in answer.text
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    for path in ("/csv?run=good", "/png?run=good", "/news?tab=runs", "/en/config", "/en/gradio_api/queue/data"):
        assert httpx.get(server + path, headers=headers).status_code == 403


def test_the_page_itself_and_a_link_to_it(server):
    own = {"Origin": server, "Sec-Fetch-Site": "same-origin"}
    assert "a line of the log" in httpx.post(server + LOG, headers=own, **ASK).text
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert httpx.get(f"{server}/en/?run=good", headers=link).status_code == 200
    framed = {**link, "Sec-Fetch-Dest": "iframe"}
    assert httpx.get(f"{server}/en/?run=good", headers=framed).status_code == 403


def test_every_answer_has_the_headers(server):
    for path in ("/en/", "/csv?run=good", "/news?tab=runs", "/assets/plotly.min.js", "/nothing"):
        headers = httpx.get(server + path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control-")]


def test_a_request_that_is_too_long(server):
    assert httpx.post(server + LOG, json={"data": ["x" * 2_000_000, "", ""]}).status_code == 413

    def pieces():
        for _ in range(40):
            yield b"x" * 100_000

    try:  # no length given
        status = httpx.post(server + LOG, content=pieces(), headers={"Content-Type": "application/json"}).status_code
    except httpx.HTTPError:  # cut off while sending
        status = 400
    assert status >= 400


def test_gradio_client_still_works(server):
    """The documented way for scripts: what a tab shows, through Gradio's queue."""
    client = Client(f"{server}/en/", verbose=False)
    assert "a line of the log" in str(client.predict("good", "", "", api_name="/fill_log"))


def test_all_that_the_page_loads_is_let_through(server):
    page = httpx.get(f"{server}/en/").text
    found = set(re.findall(r'(?:src|href)="([^"#]+)"', page))
    assert any("assets/" in name for name in found)
    for name in found - {
        "/manifest.json"
    }:  # of Gradio's app mode, which is off: it is not there without the guard either
        assert httpx.get(httpx.URL(f"{server}/en/").join(name)).status_code == 200, name


def test_hosts():
    assert split_host("a.b:80") == ("a.b", 80) and split_host("[::1]") == ("::1", None)
    assert split_host("a b") == split_host("a:b") == split_host("http://a") == split_host("::1") == ("", None)


def test_too_many_metrics_in_a_picture(server):
    many = [f"m{n}" for n in range(61)]
    assert httpx.get(f"{server}/png", params={"run": "good", "metric": many}).status_code == 413
