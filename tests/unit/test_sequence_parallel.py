"""Sequence parallel: two processes that share each sequence compute what one computes."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from common.plan.advice import numbers_to_try
from common.plan.fit import choose, sequence_sizes
from common.plan.machine import parse_gpus
from common.plan.memory import Setup, memory_of
from common.plan.weights import read_weights
from common.preflight.auto import VARLEN_FAMILIES
from tests.conftest import ROOT
from tests.published_models import MODELS
from tests.unit.small_models import small_config

TWO = {"num_attention_heads": 4, "num_key_value_heads": 2}
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
PROBED = {
    "a key-value head for each process": {"model_type": "qwen2", **TWO},
    "two for each": {"model_type": "qwen3", "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8},
    "one for both": {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 1},
    "a sliding window": {"model_type": "qwen2", **TWO, **SLIDING},
}
PROBED |= {family: small_config(family) for family in VARLEN_FAMILIES}


def torchrun(script, processes, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--local-addr=127.0.0.1", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", f"--nproc-per-node={processes}", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "out.json"
    script = ROOT / "tests" / "unit" / "sequence_probe.py"
    torchrun(script, 2, PROBE_OUT=str(out), PROBE_MODELS=json.dumps(PROBED))
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", PROBED)
def test_loss_and_gradients_are_those_of_one_process(probed, name):
    loss, gradient = probed[name]
    assert loss < 1e-5 and gradient < 1e-5


# ---- the plan ------------------------------------------------------------------------------------------------------


def long_run(sequence, gpus="8x80GB", name="Qwen2.5-7B", **settings):
    return Setup(read_weights(MODELS[name][0]), parse_gpus(gpus), 0, sequence, rollout=False, flash=False, **settings)


def test_sizes_are_those_that_verl_asserts():
    assert sequence_sizes(28, 4, 8) == (1, 2, 4)  # 8 does not divide 28 heads
    assert sequence_sizes(64, 8, 8) == (1, 2, 4, 8)
    assert sequence_sizes(16, 2, 8) == (1, 2, 4, 8)  # 2 key-value heads are repeated for 4 and 8
    assert sequence_sizes(12, 4, 12) == (1, 2, 4, 12)  # 3 and 6 neither divide 4 nor are multiples of it


def test_a_sequence_is_shared_only_where_it_has_no_room():
    """7B in float32 on 8 GPUs leaves about 55 of 79 GiB; 10 bytes a logit and the layers are 1.9 MiB a token."""
    sizes = (1, 2, 4)
    short = choose(long_run(8192, sequence_sizes=sizes))
    assert (short.setup.sequence_parallel, short.fits) == (1, "yes")
    long = choose(long_run(65536, sequence_sizes=sizes))
    assert (long.setup.sequence_parallel, long.fits) == (4, "yes") and long.setup.tokens >= 65536 / 4
    assert choose(long_run(65536)).fits == "no"
    nowhere = choose(long_run(2_000_000, sequence_sizes=sizes))
    assert (nowhere.setup.sequence_parallel, nowhere.fits) == (1, "no")


def test_a_token_budget_that_is_set_is_kept_and_the_sequence_shared():
    setup = replace(long_run(16384, sequence_sizes=(1, 2, 4)), tokens=8192)
    fit = choose(setup, frozenset({"tokens"}))
    assert (fit.setup.sequence_parallel, fit.setup.tokens) == (2, 8192)
    assert choose(setup, frozenset({"tokens", "sequence_parallel"})).setup.sequence_parallel == 1


def test_each_gpu_pays_for_its_part():
    setup = replace(long_run(16384, sequence_sizes=(1, 2)), tokens=16384)
    half = replace(setup, sequence_parallel=2, tokens=8192)
    one, two = memory_of(setup).training, memory_of(half).training
    assert two["activations"] == one["activations"] / 2 and two["logits"] == one["logits"] / 2
    assert two["weights"] == one["weights"]


def test_after_running_out_of_memory_it_is_offered():
    setup = replace(long_run(8192, sequence_sizes=(1, 2, 4)), tokens=8192)
    knobs = {"TOKENS_PER_GPU": "8192", "MAX_LENGTH": "8192", "SEQUENCE_PARALLEL": "1", "OFFLOAD": "full"}
    first = numbers_to_try("The GPU ran out of memory", knobs, setup)[0]
    assert first.startswith("SEQUENCE_PARALLEL=2 (now 1) with TOKENS_PER_GPU=4096, saves ")
    knobs |= {"SEQUENCE_PARALLEL": "2"}
    assert numbers_to_try("The GPU ran out of memory", knobs, setup)[0].startswith("TOKENS_PER_GPU=4096 (now 8192)")
