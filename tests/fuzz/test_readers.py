"""Whatever bytes are in a file or a reply: each reader ends within a second and 300 MiB, with an error it names.

FUZZ_SEED=7 .venv/bin/python -m pytest tests/fuzz                  other inputs than always
FUZZ_SEED=7 .venv/bin/python -m pytest tests/fuzz -m nightly       those of a night again
"""

import os
import secrets
import time

import pytest

from tests.fuzz.driver import run
from tests.fuzz.readers import READERS

SEED = int(os.environ.get("FUZZ_SEED", 0))  # 0: always the same inputs by day, new ones each night
SECONDS = 2.0  # of a reader in each run
NIGHT_SECONDS = 600 / len(READERS)
BATCH_SECONDS = 10.0  # of one process; what a reader keeps from one input to the next ends with it
MOST_FAILURES = 5  # of a reader in a night


@pytest.mark.parametrize("name", READERS)
def test_reader_stands_any_bytes(name, tmp_path):
    done, failure = run(name, SEED or 1, 0, READERS[name].count, SECONDS, tmp_path)
    if failure:
        pytest.fail(str(failure), pytrace=False)
    assert done > 20  # a reader that is slow to begin with would try nothing


@pytest.mark.nightly
@pytest.mark.parametrize("name", READERS)
def test_reader_stands_other_bytes_each_night(name, tmp_path, capsys):
    seed = SEED or secrets.randbits(32)
    end, done, failures = time.monotonic() + NIGHT_SECONDS, 0, []
    while (left := end - time.monotonic()) > 0 and len(failures) < MOST_FAILURES:
        done, failure = run(name, seed, done, 10**9, min(left, BATCH_SECONDS), tmp_path)
        failures += [str(failure)] if failure else []
    with capsys.disabled():
        print(f"\n{name}: {done:,} inputs, FUZZ_SEED={seed}")
    if failures:
        pytest.fail("\n\n".join(failures), pytrace=False)
