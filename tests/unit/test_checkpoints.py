"""Checkpoints: merged to the very same logits, torn ones noticed, the newest complete one chosen."""

import json
import os
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3MoeConfig

from common.checkpoints import cli, hugging_face_folder
from common.checkpoints.integrity import mark_complete, newest_complete, problems
from common.checkpoints.layout import Checkpoint, checkpoint_at, checkpoints_of
from common.checkpoints.merge import merge
from common.checkpoints.selected import select
from common.run_dir import update_run
from tests.checkpoint_maker import write_checkpoint

TOKENS = torch.tensor([[5, 17, 40, 3, 99, 255]])
SMALL = {"vocab_size": 512, "hidden_size": 30, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 10}
MODELS = {
    # Sizes that 4 ranks cannot share evenly; tied and untied; a mixture of experts.
    "tied": Qwen2Config(**SMALL, intermediate_size=50, num_hidden_layers=2, tie_word_embeddings=True),
    "untied": Qwen2Config(**SMALL, intermediate_size=50, num_hidden_layers=2, tie_word_embeddings=False),
    "moe": Qwen3MoeConfig(
        **{**SMALL, "hidden_size": 32, "head_dim": 16},
        intermediate_size=50,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_experts=5,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    ),
}


def small_model(kind="tied", seed=0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(MODELS[kind], dtype=torch.float32).eval()


def with_adapter(model, alpha=24, targets="all-linear"):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # PEFT starts it at zero, which would prove nothing
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def logits(model):
    with torch.inference_mode():
        return model(TOKENS).logits


def merged_logits(folder):
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "checkpoints" / "global_step_7"


@pytest.mark.parametrize("layout", ["sft", "rl"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_merged_logits_are_those_of_the_model(path, ranks, lora, layout):
    model = with_adapter(small_model()) if lora else small_model()
    write_checkpoint(model, path, ranks, layout, lora_alpha=24 * lora)
    target = path.parents[1] / "model"
    facts = merge(Checkpoint(path, 7), target, dtype="float32")
    assert torch.equal(merged_logits(target), logits(model)) or torch.allclose(
        merged_logits(target), logits(model), atol=1e-5, rtol=0
    )
    assert facts["lora_rank"] == 8 * lora and facts["world_size"] == ranks and "proof" in facts


@pytest.mark.parametrize(("kind", "ranks", "replicas"), [("untied", 2, 1), ("moe", 2, 1), ("tied", 4, 2)])
def test_other_architectures_and_replica_groups(path, kind, ranks, replicas):
    model = small_model(kind)
    write_checkpoint(model, path, ranks, replicas=replicas)
    merge(Checkpoint(path, 7), path.parent / "model", dtype="float32")
    assert torch.allclose(merged_logits(path.parent / "model"), logits(model), atol=1e-5, rtol=0)


def test_an_adapter_on_the_experts_of_a_mixture(path):
    model = with_adapter(small_model("moe"))
    write_checkpoint(model, path, 2, lora_alpha=24)
    merge(Checkpoint(path, 7), path.parent / "model", dtype="float32")
    assert torch.allclose(merged_logits(path.parent / "model"), logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("targets", ["q_proj,gate_proj,up_proj,down_proj", "down_proj"])
def test_an_adapter_on_some_layers_of_a_mixture(path, targets):
    model = with_adapter(small_model("moe"), targets=targets.split(","))
    write_checkpoint(model, path, 2, lora_alpha=24)
    with pytest.raises(ValueError, match="not one on LORA_TARGETS=all-linear"):
        merge(Checkpoint(path, 7), path.parent / "model")
    update_run(path.parents[1], knobs={"LORA_TARGETS": targets})
    merge(Checkpoint(path, 7), path.parent / "model", dtype="float32")
    assert torch.allclose(merged_logits(path.parent / "model"), logits(model), atol=1e-5, rtol=0)


def test_the_adapter_is_kept_beside_and_gives_the_same_on_the_base(path):
    from peft import PeftModel

    base = small_model("untied")
    model = with_adapter(small_model("untied"), alpha=24)
    expected = logits(model)
    write_checkpoint(model, path, 2, lora_alpha=24)
    merge(Checkpoint(path, 7), path.parent / "model", dtype="float32")
    again = PeftModel.from_pretrained(base, path.parent / "model" / "lora_adapter").eval()
    assert torch.allclose(logits(again), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_who_may_read_the_model_is_what_the_umask_says(path, umask):
    write_checkpoint(with_adapter(small_model()), path, 1, lora_alpha=24)
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o640)
    before = os.umask(umask)
    try:
        merge(Checkpoint(path, 7), path.parent / "model", dtype="float32", prove=False)
    finally:
        os.umask(before)
    files = [file for file in (path.parent / "model").rglob("*") if file.is_file()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~umask}
    assert {file.suffix for file in files} >= {".safetensors", ".json"}


def test_an_adapter_without_alpha_takes_it_from_the_run_or_stops(path):
    model = with_adapter(small_model())
    write_checkpoint(model, path, 1)
    with pytest.raises(ValueError, match="lora_alpha is neither there nor in"):
        merge(Checkpoint(path, 7), path.parent / "model")
    assert not (path.parent / "model").exists()
    update_run(path.parents[1], knobs={"LORA_ALPHA": "24"})
    merge(Checkpoint(path, 7), path.parent / "model", dtype="float32")
    assert torch.allclose(merged_logits(path.parent / "model"), logits(model), atol=1e-5, rtol=0)


def test_a_checkpoint_of_the_adapter_alone_needs_the_base_model(path, tmp_path):
    base = small_model()
    base.save_pretrained(tmp_path / "base")
    model = with_adapter(base)
    write_checkpoint(model, path, 2, lora_alpha=24)
    for shard in path.glob("model_*.pt"):
        state = torch.load(shard, weights_only=True)
        torch.save({name: tensor for name, tensor in state.items() if "lora_" in name}, shard)
    with pytest.raises(FileNotFoundError, match="names no base model"):
        merge(Checkpoint(path, 7), path.parent / "model")
    update_run(path.parents[1], model=str(tmp_path / "base"))
    merge(Checkpoint(path, 7), path.parent / "model", dtype="float32")
    assert torch.allclose(merged_logits(path.parent / "model"), logits(model), atol=1e-5, rtol=0)


def test_a_model_that_has_blown_up_is_no_proof(path):
    model = small_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    write_checkpoint(model, path, 1)
    with pytest.raises(ValueError, match="not finite"):
        merge(Checkpoint(path, 7), path.parent / "model")
    assert not list(path.parent.glob("*model*"))


def test_a_missing_and_a_torn_shard_stop_the_merge_and_leave_the_old_model(path):
    write_checkpoint(small_model(), path, 2)
    target = path.parent / "model"
    merge(Checkpoint(path, 7), target)
    before = (target / "model.safetensors").read_bytes()
    shard = path / "model_world_size_2_rank_1.pt"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="rank_1.pt is torn"):
        merge(Checkpoint(path, 7), target)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="rank_1.pt is missing; copy the shards of all 2 ranks"):
        merge(Checkpoint(path, 7), target)
    assert (target / "model.safetensors").read_bytes() == before


def test_shards_are_never_unpickled_blindly(path, tmp_path):
    write_checkpoint(small_model(), path, 1)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"weight": Evil()}, path / "model_world_size_1_rank_0.pt")
    with pytest.raises(Exception, match="weights_only|Unsupported|Weights only"):
        merge(Checkpoint(path, 7), path.parent / "model")
    assert not (tmp_path / "owned").exists()


# ---- complete or not ---------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run with complete checkpoints of steps 2 and 4 and an unfinished one of step 6."""
    folder = tmp_path / "run"
    for step in (2, 4, 6):
        path = write_checkpoint(small_model(seed=step), folder / "checkpoints" / f"global_step_{step}", 2)
        if step < 6:
            mark_complete(path, attempt=1)
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("4")
    update_run(folder, algorithm="sft", knobs={})
    return folder


def chosen(run):
    choice = newest_complete(run)
    return (choice.checkpoint.step if choice.checkpoint else None), choice.skipped


def shard(run, step, name="model_world_size_2_rank_1.pt"):
    return run / "checkpoints" / f"global_step_{step}" / name


def test_the_newest_complete_one_is_chosen(run):
    step, skipped = chosen(run)
    assert step == 4
    assert skipped == ["global_step_6 is not complete: complete.json is missing, so it was not written to its end"]


@pytest.mark.parametrize("damage", ["cut", "remove", "grow"])
@pytest.mark.parametrize("name", ["model_world_size_2_rank_1.pt", "optim_world_size_2_rank_0.pt", "data_1.pt"])
def test_a_damaged_file_sends_the_resume_to_the_one_before(run, damage, name):
    file = shard(run, 4, name)
    if damage == "remove":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-100] if damage == "cut" else content + b"x")
    step, skipped = chosen(run)
    assert step == 2 and any(name in reason for reason in skipped)


def test_a_checkpoint_between_verls_note_and_the_marker_counts_when_it_is_whole(run):
    tracker = run / "checkpoints" / "latest_checkpointed_iteration.txt"
    tracker.write_text("6")
    assert chosen(run)[0] == 6
    shard(run, 6, "data_1.pt").unlink()
    assert chosen(run)[0] == 4


@pytest.mark.parametrize("content", ["", "six", "99"])
def test_a_torn_note_of_verl_does_no_harm(run, content):
    (run / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(content)
    assert chosen(run)[0] == 4


def test_of_two_lines_of_training_the_later_counts(run):
    """Step 4 was trained, then the run was sent back to step 2 and has reached step 3."""
    path = write_checkpoint(small_model(), run / "checkpoints" / "global_step_3", 2)
    mark_complete(path, attempt=2)
    assert chosen(run)[0] == 3


def test_a_flipped_bit_is_found_by_reading_all(run):
    file = shard(run, 4)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    checkpoint = checkpoint_at(file)
    assert problems(checkpoint) == []
    assert "checksum" in problems(checkpoint, deep=True)[0]


def test_layouts_are_told_apart(run, tmp_path):
    rl = write_checkpoint(small_model(), tmp_path / "rl" / "checkpoints" / "global_step_10", 1, "rl")
    assert [c.step for c in checkpoints_of(run)] == [2, 4, 6]
    assert checkpoint_at(rl / "actor").path == rl and not checkpoint_at(rl).is_supervised
    assert checkpoint_at(run / "checkpoints" / "global_step_2").is_supervised
    assert checkpoint_at(run) is None


# ---- for other parts of the kit ----------------------------------------------------------------------------------


def test_anything_that_can_be_named_becomes_a_model_folder(run):
    said = []
    assert hugging_face_folder(run, said.append) == run / "model"
    assert json.loads((run / "model" / "merged_from.json").read_text())["step"] == 4
    assert hugging_face_folder(run, said.append) == run / "model" and len(said) == 1  # not merged twice
    old = hugging_face_folder(run / "checkpoints" / "global_step_2", said.append)
    assert old == run / "model_step_2" and len(said) == 2
    assert hugging_face_folder(old) == old
    assert hugging_face_folder(run / "checkpoints" / "global_step_4") == run / "model"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        hugging_face_folder(run / "nope")
    with pytest.raises(FileNotFoundError, match="neither a config.json nor a global_step_N"):
        hugging_face_folder(run.parent)


def test_a_run_means_the_checkpoint_that_was_selected(run):
    select(run, 2)
    assert hugging_face_folder(run, print) == hugging_face_folder(run / "checkpoints", print) == run / "model_step_2"
    assert json.loads((run / "model_step_2" / "merged_from.json").read_text())["step"] == 2
    select(run, 4)
    assert hugging_face_folder(run, print) == run / "model"
    shutil.rmtree(run / "checkpoints" / "global_step_4")
    with pytest.raises(ValueError, match="names step 4, whose checkpoint is gone"):
        hugging_face_folder(run)


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def call(capsys):
    def run_command(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


def test_list_and_verify_name_what_is_wrong(run, call):
    status, out, _ = call("list", run, "--json")
    rows = json.loads(out)
    assert status == 0 and [row["step"] for row in rows] == [2, 4, 6] and rows[0]["processes"] == 2
    assert [bool(row["problems"]) for row in rows] == [False, False, True]
    assert call("verify", run / "checkpoints" / "global_step_4")[0] == 0
    shard(run, 4).unlink()
    status, out, _ = call("verify", run)
    assert status == 1 and "rank_1.pt is missing" in out.replace("\n", "")


def test_merge_takes_the_newest_complete_one_and_says_what_it_passed_over(run, call):
    status, out, err = call("merge", run)
    assert status == 0 and "step 4, bfloat16" in out and "loaded again and generated" in out
    assert "global_step_6 is not complete" in err
    assert json.loads((run / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    assert call("merge", run.parent)[0] == 2


def test_average_is_the_mean_of_the_weights(run, call):
    assert call("average", run, "--to", run / "mean", "--dtype", "float32")[0] == 0
    two, four = (small_model(seed=step).state_dict() for step in (2, 4))
    mean = AutoModelForCausalLM.from_pretrained(run / "mean", dtype=torch.float32).state_dict()
    for name in two:
        assert torch.allclose(mean[name], (two[name] + four[name]) / 2, atol=1e-7), name
    steps = [run / "checkpoints" / f"global_step_{step}" for step in (2, 4)]
    assert call("average", *steps, "--weights", 3, 1, "--to", run / "mean", "--dtype", "float32")[0] == 0
    mean = AutoModelForCausalLM.from_pretrained(run / "mean", dtype=torch.float32).state_dict()
    assert torch.allclose(mean["model.norm.weight"], 0.75 * two["model.norm.weight"] + 0.25 * four["model.norm.weight"])


def test_models_that_differ_are_not_averaged(run, call, tmp_path):
    other = write_checkpoint(small_model("moe"), tmp_path / "other" / "checkpoints" / "global_step_1", 1)
    status, _, err = call("average", run / "checkpoints" / "global_step_4", other, "--to", run / "mean")
    assert status == 2 and "cannot be averaged" in err and not (run / "mean").exists()
    status, _, err = call("average", run / "checkpoints" / "global_step_4", "--to", run / "mean")
    assert status == 2 and "at least two" in err


def test_prune_keeps_the_newest_and_the_best(run, call):
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "data": {"val/loss": v}}) + "\n" for s, v in [(2, 0.1), (4, 0.5)])
    )
    mark_complete(run / "checkpoints" / "global_step_6", attempt=1)
    status, out, err = call("prune", run, "--keep", 1)
    assert status == 2 and "--yes" in err and len(checkpoints_of(run)) == 3
    status, out, _ = call("prune", run, "--keep", 1, "--keep-best", "val_loss", "--yes")
    assert status == 0 and "global_step_4" in out
    assert [checkpoint.step for checkpoint in checkpoints_of(run)] == [2, 6]
    assert call("prune", run, "--keep", 0, "--yes")[0] == 2


def test_prune_goes_by_attempts_before_steps(run, call):
    """A run that resumed from an earlier checkpoint has its newest ones at lower steps."""
    for step, attempt in ((2, 2), (4, 1), (6, 1)):
        mark_complete(run / "checkpoints" / f"global_step_{step}", attempt=attempt)
    assert call("prune", run, "--keep", 2, "--yes")[0] == 0
    assert [checkpoint.step for checkpoint in checkpoints_of(run)] == [2, 6]


def test_prune_leaves_an_unfinished_one_that_may_be_under_way(run, call):
    assert "nothing to remove" in call("prune", run, "--keep", 2, "--incomplete", "--yes")[1]
    shard(run, 2).unlink()
    assert call("prune", run, "--keep", 2, "--incomplete", "--yes")[0] == 0
    assert [checkpoint.step for checkpoint in checkpoints_of(run)] == [4, 6]


def test_a_checkpoint_without_a_ranks_shard_gets_no_marker(tmp_path):
    """Two machines that write to separate disks: the first sees its half only."""
    folder = tmp_path / "checkpoints" / "global_step_3"
    (folder / "actor").mkdir(parents=True)
    (folder / "actor" / "fsdp_config.json").write_text('{"world_size": 2}')
    for kind in ("model", "optim"):
        (folder / "actor" / f"{kind}_world_size_2_rank_0.pt").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="model_world_size_2_rank_1.pt is missing, and 1 more.*OUTPUTS_DIR"):
        mark_complete(folder, seconds=0.0, attempt=1)
    assert not (folder / "complete.json").exists()
    for kind in ("model", "optim"):
        (folder / "actor" / f"{kind}_world_size_2_rank_1.pt").write_bytes(b"x")
    mark_complete(folder, seconds=0.0, attempt=1)
    assert (folder / "complete.json").is_file()
