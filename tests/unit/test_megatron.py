"""TRAIN_ENGINE=megatron: sizes, the plan, the command against verl's schema, checkpoints. No run: that needs GPUs."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from functools import partial

import pytest
import torch

from common.checkpoints.integrity import mark_complete, newest_complete
from common.checkpoints.layout import checkpoint_at
from common.checkpoints.merge import is_current, merge
from common.demo_model import DEMO_MODEL_DIR
from common.files import ROOT
from common.plan import megatron
from common.plan.fit import choose
from common.plan.machine import GIB, Gpus, parse_gpus
from common.plan.megatron import Split
from common.plan.memory import Setup, memory_of
from common.plan.weights import Weight, read_weights
from common.preflight import command, engine_keys, run_name
from common.preflight.checks import check
from common.preflight.engine_keys import LEFT_OUT
from common.preflight.knobs import read_knobs
from common.preflight.machine import planned_machine
from common.preflight.megatron import choose_split
from tests.published_models import MODELS

EIGHT = Gpus(8, 1, 80 * GIB)
DENSE, SPARSE = (read_weights(MODELS[name][0]) for name in ("Qwen2.5-7B", "Qwen3-30B-A3B"))


@pytest.mark.parametrize(
    ("split", "model", "problem"),
    [
        ("4x2x1x1", DENSE, None),
        ("2x1x2x1", DENSE, None),
        ("4x1x1x8", SPARSE, "is 32, which does not divide 8"),
        ("1x1x1x8", SPARSE, None),
        ("1x1x1x3", SPARSE, "128 experts do not divide by 3"),
        ("1x1x1x2", DENSE, "no experts"),
        ("3x1x1x1", DENSE, "3 GPUs, which do not divide the 8"),
        ("8x1x1x1", DENSE, "28 attention heads do not divide by 8"),
        ("1x8x1x1", DENSE, "28 layers do not divide by 8 stages"),
    ],
)
def test_sizes_that_megatron_refuses_are_refused(split, model, problem):
    found = megatron.problem_of(Split.parse(split), model, EIGHT)
    assert found is None if problem is None else problem in found
    assert str(Split.parse(split)) == split


@pytest.mark.parametrize("text", ["4x2", "0x1x1x1", "4x2x1x1x1", "axbxcxd", "-1x1x1x1"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="four numbers"):
        Split.parse(text)


def test_the_plan_counts_what_a_gpu_holds():
    whole = megatron.states(DENSE, Split(), 1)
    assert whole == {
        "weights": 2 * DENSE.parameters,
        "gradients": 4 * DENSE.parameters,
        "optimizer": 12 * DENSE.parameters,
    }
    shared = megatron.states(DENSE, Split(tensor=4), 8)
    assert shared["weights"] == pytest.approx(whole["weights"] / 4, rel=1e-6)
    assert shared["optimizer"] == pytest.approx(whole["optimizer"] / 8, rel=1e-6)
    staged = megatron.states(DENSE, Split(tensor=2, pipeline=4), 8)
    one = DENSE.vocabulary * DENSE.hidden
    assert staged["weights"] == pytest.approx(2 * ((DENSE.parameters - DENSE.outside) / 8 + one / 2), rel=1e-6)
    experts = megatron.states(SPARSE, Split(expert=8), 8)
    inside = sum(weight.numbers for weight in SPARSE.weights if ".experts." in weight.name)
    assert experts["weights"] == pytest.approx(2 * (SPARSE.parameters - inside + inside / 8), rel=1e-6)
    assert experts["optimizer"] == pytest.approx(12 * SPARSE.parameters / 8, rel=1e-6)
    halved = [memory_of(Setup(DENSE, EIGHT, 8192, 4096, split=Split(tensor))).training for tensor in (1, 2)]
    assert halved[1]["activations"] * 2 == halved[0]["activations"] and halved[1]["logits"] * 2 == halved[0]["logits"]


def test_the_largest_weight_outside_is_not_one_of_a_layer():
    """Of an architecture that transformers is asked of, each layer's weights are there by themselves."""
    weights = [Weight("model.embed_tokens.weight", (10, 4)), Weight("lm_head.weight", (10, 4))]
    weights += [Weight(f"model.layers.{layer}.mlp.weight", (4, 100)) for layer in range(2)]
    model = replace(DENSE, weights=tuple(weights), layers=2)
    assert megatron.states(model, Split(pipeline=2), 2)["weights"] == 2 * (2 * 400 // 2 + 40)


def test_auto_takes_the_fewest_gpus_for_a_copy():
    first = [str(next(megatron.splits(model, EIGHT))) for model in (DENSE, SPARSE)]
    assert first == ["1x1x1x1", "1x1x1x8"]
    assert all(megatron.problem_of(split, SPARSE, EIGHT) is None for split in megatron.splits(SPARSE, EIGHT))


def test_auto_takes_what_fits_and_else_what_comes_nearest():
    chosen = {}
    for name, gpus in (("Qwen2.5-7B", "8x80GB"), ("Qwen2.5-72B", "4x8x80GB"), ("Qwen2.5-72B", "8x80GB")):
        knobs = read_knobs("grpo", {"TRAIN_ENGINE": "megatron"})
        setup = Setup(read_weights(MODELS[name][0]), parse_gpus(gpus), 0, 4096)
        fit = choose_split(knobs, setup, partial(choose, fixed=frozenset()))
        assert knobs["MODEL_PARALLEL"] == str(fit.setup.split)
        chosen[name, gpus] = (fit.fits, fit.setup.split.gpus > 1, fit)
    assert chosen["Qwen2.5-7B", "8x80GB"][:2] == ("yes", False)
    assert chosen["Qwen2.5-72B", "4x8x80GB"][:2] == ("yes", True)
    fits, _, nearest = chosen["Qwen2.5-72B", "8x80GB"]
    assert fits == "no"
    for split in megatron.splits(nearest.setup.model, EIGHT):
        other = choose(replace(nearest.setup, split=split, offload="false"))
        assert nearest.memory.peak <= other.memory.peak


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """Check a launch on 8 GPUs that are planned for; its knobs and its composed config."""
    monkeypatch.setattr(run_name, "OUTPUTS", tmp_path / "outputs")

    def run(algorithm, **knobs):
        read = read_knobs(algorithm, {"TRAIN_ENGINE": "megatron", **knobs})
        check(read, planned_machine(parse_gpus("8x80GB")))
        return read, command.compose(read, tmp_path / "run") if not read.errors else None

    return run


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_the_command_is_one_of_verls_schema(launch, algorithm):
    from verl.utils.config import omega_conf_to_dataclass

    knobs, config = launch(algorithm, MODEL_PARALLEL="2x2x1x1", OFFLOAD="true", WARMUP_RATIO="0.1", SEED="7")
    assert knobs.errors == [] and any("never run" in str(one) for one in knobs.warnings)
    models = [config.actor_rollout_ref.actor, config.actor_rollout_ref.ref]
    models += [config.critic] if algorithm == "ppo" else []
    for part in models:
        engine = omega_conf_to_dataclass(part.megatron)
        assert (type(engine).__name__, part.strategy) == ("McoreEngineConfig", "megatron")
        sizes = (engine.tensor_model_parallel_size, engine.pipeline_model_parallel_size)
        assert (*sizes, engine.param_offload, engine.seed) == (2, 2, True, 7)
        assert engine.override_transformer_config["recompute_granularity"] == "full"
    if algorithm == "ppo":
        assert omega_conf_to_dataclass(config.critic).optim.lr_decay_style == "constant"
    optimizer = omega_conf_to_dataclass(config.actor_rollout_ref.actor).optim
    assert (optimizer.lr_decay_style, optimizer.lr_warmup_steps_ratio) == ("constant", 0.1)
    assert optimizer.lr == float(knobs["LEARNING_RATE"])


SCRIPT = ["python", "-m", "verl", "--config-name=x", *(f"{name}=1" for name in LEFT_OUT), "a.b=2"]


def test_an_argument_of_the_user_does_not_vanish():
    user = ["critic.fsdp.offload_policy=true", "+critic.model.override_config.attn_implementation=eager"]
    own = engine_keys.megatron(SCRIPT, "ppo", "1x1x1x1")
    assert not {part.partition("=")[0] for part in own} & set(LEFT_OUT) and "a.b=2" in own
    assert engine_keys.megatron(SCRIPT + user, "ppo", "1x1x1x1") == own + user
    of_grpo = [
        part for part in SCRIPT if not part.startswith("critic.")
    ]  # its script has none, so that one is the user's
    assert user[0] in engine_keys.megatron([*of_grpo, user[0]], "grpo", "1x1x1x1")


def test_a_key_that_the_kit_sets_for_fsdp_is_refused(launch):
    """The kit's YAML files have it, so that Hydra finds it; it leaves the config before the user's arguments count."""
    argument = "actor_rollout_ref.actor.fsdp_config.optimizer_offload=true"
    knobs = read_knobs("grpo", {"TRAIN_ENGINE": "megatron", "MODEL_PARALLEL": "1x1x1x1"}, [argument])
    check(knobs, planned_machine(parse_gpus("8x80GB")))
    assert command.compose(knobs, ROOT) is None
    assert "not a key of verl's config" in str(knobs.errors[-1]) and "optimizer_offload" in str(knobs.errors[-1])


def test_a_command_that_could_not_be_written_is_not_run(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    script = f"source {ROOT}/common/launch.sh; PYTHON={python}; run_training {python} -m verl --config-name=x"
    environment = {"PATH": os.environ["PATH"], "TRAIN_ENGINE": "megatron", "MODEL_PARALLEL": "1x1x1x1"}
    environment["RESOLVED_KNOBS"] = "x"  # prints the command instead of running it
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (found.returncode, found.stdout) == (2, "") and "the command could not be written" in found.stderr


def test_what_belongs_to_other_engines_is_refused(launch):
    wrong = {"LORA_RANK": "8", "OFFLOAD": "full", "SEQUENCE_PARALLEL": "2", "TRAINER_MODE": "colocate"}
    knobs, _ = launch("grpo", MODEL_PARALLEL="3x1x1x1", **wrong)
    assert {*wrong, "MODEL_PARALLEL"} <= {error.knob for error in knobs.errors}
    knobs, _ = launch("grpo", TRAIN_ENGINE="fsdp2", MODEL_PARALLEL="2x1x1x1")
    assert [error.knob for error in knobs.errors] == ["MODEL_PARALLEL"]
    knobs, _ = launch("sft")
    assert "grpo and ppo" in str(knobs.errors[0])


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint in the layout that verl documents for Megatron."""
    folder = tmp_path / "run" / "checkpoints" / "global_step_2"
    hugging_face = folder / "actor" / "model" / "huggingface"
    shutil.copytree(DEMO_MODEL_DIR, hugging_face)
    (folder / "actor" / "optimizer" / "dist_ckpt").mkdir(parents=True)
    (folder / "actor" / "optimizer" / "dist_ckpt" / "__0_0.distcp").write_bytes(b"1234")
    (folder / "actor" / "ckpt_contents.json").write_text(json.dumps({"version": 2}))
    torch.save({}, folder / "data.pt")
    return checkpoint_at(folder)


def test_a_checkpoint_of_megatron_is_resumed_and_exported(checkpoint):
    mark_complete(checkpoint.path, attempt=1)
    assert newest_complete(checkpoint.run_dir).checkpoint == checkpoint
    target = checkpoint.run_dir / "model"
    merge(checkpoint, target, dtype="float32")
    assert is_current(checkpoint, target)
    from transformers import AutoModelForCausalLM

    base, written = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        for folder in (DEMO_MODEL_DIR, target)
    )
    assert all(torch.equal(base[name], written[name]) for name in base)
    (checkpoint.path / "actor" / "optimizer" / "dist_ckpt" / "__0_0.distcp").unlink()
    assert newest_complete(checkpoint.run_dir).checkpoint is None
