"""Bad launches are stopped with the right knob named, good ones pass: the table, in one process.

The config of each algorithm is composed once, for real; rows change it as their knobs and arguments would. The same
table with every row started as a person does: benchmarks/preflight_table.py.
"""

import pytest

from common.plan.machine import parse_gpus
from common.preflight import checks
from common.preflight.findings import Finding
from common.preflight.knobs import read_knobs
from common.preflight.machine import planned_machine
from tests.preflight_table import BAD, GOOD, make_files
from tests.unit.conftest import LAPTOP


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    make_files(folder)
    return folder


@pytest.fixture
def findings(monkeypatch, tmp_path, files, composed):
    """Check a row; returns its knobs with what was found."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("CALLER_DIR", str(files))

    def run(row):
        environment = {name: value.replace("{tmp}", str(files)) for name, value in row.knobs.items()}
        knobs = read_knobs(row.algorithm, environment, row.arguments)
        checks.check(knobs, planned_machine(parse_gpus(row.gpus)) if row.gpus else LAPTOP)
        return knobs

    return run


def test_the_table_is_as_long_as_promised():
    assert len(BAD) >= 60 and len(GOOD) >= 25


@pytest.mark.parametrize("name", BAD)
def test_a_bad_launch_is_stopped_and_the_right_knob_named(findings, name):
    knobs = findings(BAD[name])
    errors = knobs.errors
    assert all(isinstance(one, Finding) and (one.fix or one.problem) for one in [*errors, *knobs.warnings])
    assert any(all(word in error for word in BAD[name].words) for error in errors), errors


@pytest.mark.parametrize("name", GOOD)
def test_a_good_launch_passes(findings, name):
    assert findings(GOOD[name]).errors == []
