"""Real DPO runs on the CPU, a few steps each."""

import json
import os
import subprocess
import sys

import pytest

from common.metrics.names import friendly
from common.preflight.knobs import read_knobs
from common.preflight.resolved import process_environment
from common.run_dir import read_metrics, read_run
from tests.conftest import ROOT
from tests.e2e.test_training import curve, finish, load

pytestmark = pytest.mark.e2e
LOG_2 = 0.693147
MUON = [
    "engine.strategy=fsdp2",
    "optim.optimizer_impl=common.optimizers",
    "optim.optimizer=MuonWithAdamW",
    "optim.override_optimizer_config={vocabulary: 512}",
]


def test_a_run_writes_everything(train, run_dir):
    knobs = {"TOTAL_STEPS": 4, "BATCH_SIZE": 8, "TEST_FREQ": 2, "SAVE_FREQ": 2, "LORA_RANK": 8, "REFERENCE": "adapter"}
    done = finish(train, "dpo", run_dir, **knobs)
    assert "Before training | validation accuracy 0.5" in done.stdout and "Step 4/4 | loss" in done.stdout
    assert read_run(run_dir)["state"] == "finished"
    first = friendly(next(record["data"] for record in read_metrics(run_dir) if record["step"] == 1))
    names = ("loss", "reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward", "chosen_logp", "grad_norm")
    assert set(names) <= set(first)
    losses = list(curve(run_dir, "loss").values())
    assert losses[0] == pytest.approx(LOG_2, abs=1e-4) and losses[-1] < LOG_2
    rows = [json.loads(line) for line in (run_dir / "validation" / "margins_4.jsonl").read_text().splitlines()]
    assert len(rows) == 40 and rows[0]["margin"] < rows[-1]["margin"]
    base, trained = load(ROOT / "common" / "demo_model" / "model"), load(run_dir / "model")
    moved = [name for name, value in trained.state_dict().items() if not value.equal(base.state_dict()[name])]
    assert trained.num_parameters() == 854_144 and any("q_proj" in name for name in moved)  # the adapter is folded in


def train_in_turn(folder, runs, processes=1, algorithm="dpo"):
    """Losses of several runs, one after the other in the same processes."""
    knobs = read_knobs(algorithm, {"DEVICE": "cpu", "ATTENTION": "sdpa_varlen"})  # registered by a separate module
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, **process_environment(knobs), "ALGORITHM": algorithm, "SEED": "1"}
    environment["RUN_DIR"] = str(folder)
    done = subprocess.run(
        [*command, "-m", "tests.e2e.dpo_losses", str(folder), json.dumps(runs)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.split("RESULTS ")[1].splitlines()[0])


def test_the_same_losses_however_they_are_computed(tmp_path):
    """Batches, reference, ranks and a resume move nothing; a reference from the table of another run neither."""
    runs = {
        "plain": ["algorithm.reference=precompute"],
        "frozen": ["algorithm.reference=model"],
        "fixed": ["data.use_dynamic_bsz=false", "data.micro_batch_size_per_gpu=2"],  # the others pack by tokens
        "padded": ["model.use_remove_padding=false", "++model.override_config.attn_implementation=sdpa"],
        "half": ["algorithm.reference=precompute", "trainer.total_training_steps=2"],
        "resumed": ["algorithm.reference=precompute", "folder=half"],
        **{name: [f"algorithm.loss_type={name}", "optim.lr=1e-4"] for name in ("ipo", "orpo")},
    }
    found = train_in_turn(tmp_path, runs)
    found["two ranks"] = train_in_turn(tmp_path / "..", {"two": ["algorithm.reference=precompute"]}, 2)["two"]
    plain = found["plain"]["train/loss"]
    assert len(plain) == 4 and plain[0] == pytest.approx(LOG_2, abs=1e-6) and plain[-1] < LOG_2 - 0.01
    assert found["plain"]["val/rewards/accuracies"][0] == 0.5
    for name in ("frozen", "fixed", "padded", "two ranks"):
        assert found[name]["train/loss"] == pytest.approx(plain, abs=1e-4), name
        assert found[name]["val/loss"] == pytest.approx(found["plain"]["val/loss"], abs=1e-4), name
    for name in ("ipo", "orpo"):  # one with a reference per token, one without
        assert found[name]["val/loss"][-1] < found[name]["val/loss"][0], name
    assert found["half"]["train/loss"] + found["resumed"]["train/loss"] == pytest.approx(plain, abs=1e-4)


@pytest.mark.nightly
def test_kto_the_same_losses_however_they_are_computed(tmp_path):
    """As for pairs; LoRA's frozen base as the reference too, and the distance of all ranks."""
    kto = ["algorithm.loss_type=kto", "algorithm.beta=0.5", "optim.lr=1e-4"]
    runs = {
        "plain": ["algorithm.reference=precompute"],
        "frozen": ["algorithm.reference=model"],
        "fixed": ["data.use_dynamic_bsz=false", "data.micro_batch_size_per_gpu=2"],
        "half": ["algorithm.reference=precompute", "trainer.total_training_steps=2"],
        "resumed": ["algorithm.reference=precompute", "folder=half"],
        "adapter": ["algorithm.reference=adapter", "model.lora_rank=8", "model.lora_alpha=16", "optim.lr=1e-3"],
    }
    found = train_in_turn(tmp_path, {name: kto + more for name, more in runs.items()})
    found["two ranks"] = train_in_turn(tmp_path / "..", {"two": [*kto, "algorithm.reference=precompute"]}, 2)["two"]
    plain = found["plain"]["train/loss"]
    assert len(plain) == 4 and plain[0] == pytest.approx(0.5, abs=1e-6)  # the model is the reference
    assert found["plain"]["val/loss"][-1] < 0.5 - 0.001  # of one batch it depends on how many of its answers are good
    assert max(found["plain"]["kto/distance"]) > 0
    for name in ("frozen", "fixed", "two ranks"):
        for key in ("train/loss", "val/loss", "kto/distance"):
            assert found[name][key] == pytest.approx(found["plain"][key], abs=1e-4), (name, key)
    assert found["half"]["train/loss"] + found["resumed"]["train/loss"] == pytest.approx(plain, abs=1e-4)
    assert found["adapter"]["val/loss"][-1] < found["adapter"]["val/loss"][0]


@pytest.mark.nightly
def test_a_reward_model_has_the_same_losses_however_it_is_trained(tmp_path):
    """Batches, ranks and a resume move nothing; LoRA learns too."""
    kind = ["kind=reward_model", "optim.lr=5e-4"]
    runs = {
        "plain": [],
        "fixed": ["data.use_dynamic_bsz=false", "data.micro_batch_size_per_gpu=2"],
        "half": ["trainer.total_training_steps=2"],
        "resumed": ["folder=half"],
        "adapter": ["model.lora_rank=8", "model.lora_alpha=16", "optim.lr=2e-3"],
        "muon": MUON,
        "muon half": [*MUON, "trainer.total_training_steps=2"],
        "muon resumed": [*MUON, "folder=muon half"],
    }
    found = train_in_turn(tmp_path, {name: kind + more for name, more in runs.items()}, algorithm="reward_model")
    found["two ranks"] = train_in_turn(tmp_path / "..", {"two": kind}, 2, "reward_model")["two"]
    found["muon on two ranks"] = train_in_turn(tmp_path / "..", {"muon2": kind + MUON}, 2, "reward_model")["muon2"]
    plain = found["plain"]
    assert plain["val/loss"][-1] < plain["val/loss"][0] and len(plain["train/loss"]) == 4
    for name in ("fixed", "two ranks"):
        for key in ("train/loss", "val/loss"):
            assert found[name][key] == pytest.approx(plain[key], abs=1e-4), (name, key)
    assert found["half"]["train/loss"] + found["resumed"]["train/loss"] == pytest.approx(plain["train/loss"], abs=1e-4)
    assert found["adapter"]["val/loss"][-1] < found["adapter"]["val/loss"][0]
    muon = found["muon"]["train/loss"]
    assert abs(muon[-1] - plain["train/loss"][-1]) > 1e-4  # it is another optimiser
    assert found["muon half"]["train/loss"] + found["muon resumed"]["train/loss"] == pytest.approx(muon, abs=1e-4)
    assert found["muon on two ranks"]["train/loss"] == pytest.approx(muon, abs=2e-3)  # Newton-Schulz is in bfloat16
