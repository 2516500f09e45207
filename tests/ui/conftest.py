"""What the browser's tests share."""

from __future__ import annotations

import pytest

from monitor.server import build_app
from tests.unit.test_monitor_page import Server


@pytest.fixture(scope="module")
def url(logs):
    """Address of a monitor over the folder that the test file's `logs` made."""
    server = Server(build_app(logs))
    yield server.url
    server.server.should_exit = True
