"""The matrix of architectures: SFT, DPO, GRPO (all weights and LoRA), merge and test.sh with each, real runs.

About an hour on two cores; the table of the last run: docs/measured.md.
"""

import pytest

from benchmarks.architectures import USUAL, measure, problems
from tests.tiny_models import ARCHITECTURES

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("architectures")


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_run_computes_what_plain_transformers_computes(out, kind, name):
    found = measure(kind, name, out, "hf")
    assert problems(found) == [] and len(found["figures"]) >= 3
