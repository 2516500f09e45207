"""Who may ask: other sites, other names, tokens, and addresses beyond this machine."""

import base64
import os
import stat
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from training_platform.api.tokens import Tokens


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "0.0.0.0:8000", ""])
def test_only_the_names_of_this_machine(platform, host):
    answer = platform.client.get("/api/jobs", headers={"Host": host})
    assert answer.status_code == 421 and answer.json()["error"]["code"] == "wrong_host"
    assert platform.client.get("/api/jobs", headers={"Host": "localhost:5173"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another service of this machine
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
def test_another_site_starts_and_reads_nothing(platform, headers):
    """Also what has no body, and so no Content-Type that would stop it."""
    uuid = platform.submit(start=False)
    for method, path in (("POST", f"/api/jobs/{uuid}/start"), ("GET", "/api/jobs"), ("DELETE", f"/api/jobs/{uuid}")):
        answer = platform.client.request(method, path, headers=headers)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "other_site", (method, path)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert platform.job(uuid)["state"] == "created"


def test_the_page_itself_and_a_link_to_it(platform):
    own = {"Origin": platform.url, "Sec-Fetch-Site": "same-origin"}
    assert platform.client.get("/api/jobs", headers=own).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    answer = platform.client.get("/docs", headers=link)
    assert answer.status_code == 200 and "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_tokens(make_platform, tmp_path):
    folder = tmp_path / "outputs" / ".platform"
    reader, writer = (Tokens(folder).add(name, name) for name in ("read", "write"))
    kept = (folder / "tokens.json").read_text()
    assert reader not in kept and writer not in kept  # hashes only
    platform = make_platform(needs_token=True, token="from-the-environment")

    def ask(method, token):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = {"json": {"algorithm": "grpo"}} if method == "POST" else {}
        return platform.client.request(method, "/api/jobs", headers=headers, **body).status_code

    assert [ask("GET", token) for token in ("", "x", reader, writer, "from-the-environment")] == [
        401,
        401,
        200,
        200,
        200,
    ]
    assert [ask("POST", token) for token in ("", "x", reader, writer)] == [401, 401, 403, 201]
    assert platform.client.get("/api/jobs", headers={"X-API-Key": reader}).status_code == 200
    basic = base64.b64encode(f"anyone:{reader}".encode()).decode()
    assert platform.client.get("/api/jobs", headers={"Authorization": f"Basic {basic}"}).status_code == 200
    assert platform.client.get("/api/jobs", headers={"Authorization": "Basic ???"}).status_code == 401
    assert platform.client.get("/api/health").status_code == 200
    late = Tokens(folder).add("late", "write")  # while the server runs
    assert ask("POST", late) == 201
    Tokens(folder).remove("late")
    assert ask("POST", late) == 401


def test_tokens_that_cannot_be(tmp_path):
    tokens = Tokens(tmp_path)
    tokens.add("li", "read")
    with pytest.raises(ValueError, match="has a token"):
        tokens.add("li", "write")
    with pytest.raises(ValueError, match="--role admin"):
        tokens.add("wu", "admin")
    with pytest.raises(ValueError, match="a name has"):
        tokens.add("../wu", "read")
    with pytest.raises(ValueError, match="no token; there are: li"):
        tokens.remove("wu")


def test_no_server_for_others_without_a_token(tmp_path):
    command = [sys.executable, "-m", "training_platform", "serve", "--outputs", str(tmp_path), "--host", "0.0.0.0"]
    environment = {name: value for name, value in os.environ.items() if name != "PLATFORM_TOKEN"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "make a token first" in done.stderr


def test_the_database_is_its_owners_alone(platform):
    folder = platform.options["outputs"] / ".platform"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
