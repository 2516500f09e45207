"""What the tests with real runs share."""

import os
import shutil

import pytest

from tests.conftest import ROOT


@pytest.fixture
def run_dir(request):
    """A run directory of the test's own under outputs/; removed at the end."""
    path = ROOT / "outputs" / f"test-{request.node.name.replace('[', '-').strip(']')}-{os.getpid()}"
    yield path
    shutil.rmtree(path, ignore_errors=True)
