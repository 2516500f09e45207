"""The same SFT with FSDP1, with sequences shared by two processes and with the chunked head: the curve of FSDP2."""

import shutil

import pytest

from common.run_dir import read_metrics
from tests.conftest import ROOT
from tests.e2e.test_training import finish

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

STEPS = {"BATCH_SIZE": 16, "TOTAL_STEPS": 4, "SAVE_FREQ": 2, "PREFLIGHT": "fast"}
WAYS = {
    "fsdp1": {"TRAIN_ENGINE": "fsdp", "N_GPUS": 2},
    "fsdp1-shared-chunked": {
        "TRAIN_ENGINE": "fsdp",
        "N_GPUS": 2,
        "SEQUENCE_PARALLEL": 2,
        "FUSED_KERNELS": "true",
    },
    "shared": {"N_GPUS": 2, "SEQUENCE_PARALLEL": 2},
    "chunked-padded": {"N_GPUS": 2, "FUSED_KERNELS": "true", "ATTENTION": "sdpa"},
}


def values(folder):
    names = ("train/loss", "train/grad_norm", "val/loss")
    return {
        (record["step"], name): record["data"][name]
        for record in read_metrics(folder)
        for name in names
        if name in record["data"]
    }


@pytest.fixture(scope="module")
def of_fsdp2():
    """Where the values of the plain run are kept, once it has been made."""
    return {}


@pytest.fixture
def expected(of_fsdp2, train):
    """Loss and gradient norm of each step with FSDP2 on one process."""
    if not of_fsdp2:
        folder = ROOT / "outputs" / "test-engines-plain"
        shutil.rmtree(folder, ignore_errors=True)
        finish(train, "sft", folder, **STEPS)
        of_fsdp2.update(values(folder))
        shutil.rmtree(folder)
    return of_fsdp2


@pytest.mark.parametrize("way", WAYS)
def test_each_way_trains_as_the_plain_one(train, run_dir, expected, way):
    finish(train, "sft", run_dir, **STEPS, **WAYS[way])
    assert len(expected) >= 9 and values(run_dir) == pytest.approx(expected, rel=1e-4)
