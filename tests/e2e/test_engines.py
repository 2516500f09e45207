"""The same SFT with FSDP1, with sequences shared by two processes and with the chunked head: the curve of FSDP2."""

import json
import shutil

import pytest

from common.run_dir import read_metrics
from tests.conftest import ROOT
from tests.e2e.test_training import finish, load, run_dir  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

STEPS = {"BATCH_SIZE": 16, "TOTAL_STEPS": 4, "SAVE_FREQ": 2, "PREFLIGHT": "fast"}
WAYS = {
    "FSDP1 on two processes": {"TRAIN_ENGINE": "fsdp", "N_GPUS": 2},
    "FSDP1, shared sequences, chunked head": {
        "TRAIN_ENGINE": "fsdp",
        "N_GPUS": 2,
        "SEQUENCE_PARALLEL": 2,
        "FUSED_KERNELS": "true",
    },
    "shared sequences": {"N_GPUS": 2, "SEQUENCE_PARALLEL": 2},
    "chunked head with padding on two processes": {"N_GPUS": 2, "FUSED_KERNELS": "true", "ATTENTION": "sdpa"},
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
def test_each_way_trains_as_the_plain_one(train, run_dir, expected, way):  # noqa: F811
    finish(train, "sft", run_dir, **STEPS, **WAYS[way])
    assert len(expected) >= 9 and values(run_dir) == pytest.approx(expected, rel=1e-4)


def test_fsdp1_resumes_where_it_was_and_its_model_is_that_of_fsdp2(train, run_dir, tmp_path):  # noqa: F811
    """Two steps, then two more, on two processes; the learning rate does not depend on the number of steps."""
    import torch

    plain = {**STEPS, "LR_SCHEDULER": "constant", "WARMUP_RATIO": 0}
    finish(train, "sft", run_dir, **plain)
    whole = load(run_dir / "model").state_dict()
    shutil.rmtree(run_dir)
    knobs = {**plain, "TRAIN_ENGINE": "fsdp", "N_GPUS": 2}
    finish(train, "sft", run_dir, **{**knobs, "TOTAL_STEPS": 2})
    shards = run_dir / "checkpoints" / "global_step_2"
    assert json.loads((shards / "fsdp_config.json").read_text()) == {"FSDP_version": 1, "world_size": 2}
    finish(train, "sft", run_dir, **knobs)
    resumed = load(run_dir / "model").state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, atol=2e-4, rtol=1e-3)
