"""What the tests of single modules share."""

import pytest


@pytest.fixture(autouse=True)
def not_composed(request, monkeypatch):
    """Tests of the preflight's single checks do not need the composed config, which takes seconds each time."""
    if "test_preflight" in request.module.__name__:
        from common.preflight import command

        monkeypatch.setattr(command, "compose", lambda knobs, run_dir: None)
