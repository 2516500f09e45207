"""Whatever bytes stand in a file or a reply: each reader ends within a second and 300 MiB, with an error it names.

FUZZ_SEED=7 .venv/bin/python -m pytest tests/fuzz                  other inputs than always
FUZZ_SEED=7 .venv/bin/python -m pytest tests/fuzz -m nightly       those of a night again
"""

import os
import secrets
import time

import pytest

from tests.fuzz.driver import run
from tests.fuzz.readers import READERS

SECONDS = 2.0  # of a reader in each run
NIGHT_SECONDS = 600 / len(READERS)
BATCH_SECONDS = 10.0  # of one process; what a reader keeps from one input to the next ends with it


@pytest.mark.parametrize("name", READERS)
def test_reader_stands_any_bytes(name, tmp_path):
    seed = int(os.environ.get("FUZZ_SEED", 1))
    done, failure = run(name, seed, 0, READERS[name].count, SECONDS, tmp_path)
    assert failure is None, f"FUZZ_SEED={seed} {failure}"
    assert done > 20  # a reader that is slow to begin with would try nothing


@pytest.mark.nightly
@pytest.mark.parametrize("name", READERS)
def test_reader_stands_other_bytes_each_night(name, tmp_path):
    seed = int(os.environ.get("FUZZ_SEED") or secrets.randbits(32))
    print(f"FUZZ_SEED={seed}")
    end, done, failures = time.monotonic() + NIGHT_SECONDS, 0, []
    while (left := end - time.monotonic()) > 0 and len(failures) < 5:
        done, failure = run(name, seed, done, 10**9, min(left, BATCH_SECONDS), tmp_path)
        failures += [failure] if failure else []
    found = "\n\n".join(map(str, failures))
    assert not failures, f"FUZZ_SEED={seed}, {done:,} inputs\n{found}"
