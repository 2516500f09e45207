"""What the browser's tests share: a browser and a monitor for each test file."""

from __future__ import annotations

import shutil

import pytest

from monitor.server import build_app
from tests.platform.conftest import kit, make_platform
from tests.unit.test_monitor_page import Server

__all__ = ["kit", "make_platform"]  # fixtures of the platform, for the tests of its page
FOREIGN = "evil.example"  # the browser takes it for this machine
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")  # not the session: until it is closed, asyncio.run fails in every other test
def browser():
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.fail(f"no browser ({', '.join(CHROMIUM)}): apt-get install -y chromium fonts-noto-cjk, or -m 'not ui'")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=options)
        yield started
        started.close()


@pytest.fixture(scope="module")
def url(logs):
    """Address of a monitor over the folder that the test file's `logs` made."""
    server = Server(build_app(logs))
    yield server.url
    server.server.should_exit = True
