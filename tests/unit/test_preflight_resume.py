"""Where a run is resumed from, and the checkpoints that do not fit."""

import pytest

from common.checkpoints.integrity import mark_complete
from tests.run_maker import complete
from tests.unit.test_preflight import only_error


def test_resume_takes_the_newest_complete_one_and_names_what_it_passes_over(check, tmp_path):
    folder = complete(tmp_path)
    knobs = check(EXPERIMENT_NAME="mine")
    assert knobs.errors == [] and knobs.resume_from == folder / "checkpoints" / "global_step_4"
    (folder / "checkpoints" / "global_step_4" / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"torn")
    knobs = check(EXPERIMENT_NAME="mine")
    assert knobs.errors == [] and knobs.resume_from == folder / "checkpoints" / "global_step_2"
    assert any("global_step_4 is not complete" in warning for warning in knobs.warnings)
    assert check(EXPERIMENT_NAME="new").resume_from is None


def test_resume_from_a_path_in_the_run_and_from_another_one(check, tmp_path):
    folder = complete(tmp_path)
    two = folder / "checkpoints" / "global_step_2"
    knobs = check(EXPERIMENT_NAME="mine", RESUME=str(two))
    assert knobs.errors == [] and knobs.resume_from == two
    assert any("back to step 2; its later checkpoints [4] are set aside" in warning for warning in knobs.warnings)
    knobs = check(EXPERIMENT_NAME="new", RESUME=str(folder))
    assert knobs.errors == [] and knobs.resume_from.name == "global_step_4"
    assert any("on from mine, step 4" in warning for warning in knobs.warnings)
    complete(tmp_path, "other")
    assert "names a checkpoint of another" in only_error(check(EXPERIMENT_NAME="other", RESUME=str(folder)))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"RESUME": "newest"}, "no such folder; give auto, never, or a run or checkpoint"),
        ({"RESUME": "{run}", "N_GPUS": "2"}, "written by 1 GPUs and N_GPUS is 2"),
        ({"RESUME": "{run}", "LORA_RANK": "8"}, "LORA_RANK=0, now LORA_RANK=8"),
        ({"RESUME": "{run}", "TRAIN_ENGINE": "fsdp"}, "TRAIN_ENGINE=fsdp2, now TRAIN_ENGINE=fsdp"),
        ({"RESUME": "{run}", "TOTAL_STEPS": "3"}, "has all 3 steps"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_a_way_out(check, tmp_path, knobs, words):
    folder = complete(tmp_path, knobs={"LORA_RANK": "0", "TRAIN_ENGINE": "fsdp2"})
    error = only_error(check(**{name: value.replace("{run}", str(folder)) for name, value in knobs.items()}))
    assert words in error and error.startswith("RESUME=")


def test_another_algorithm_and_a_torn_checkpoint_are_refused(check, tmp_path):
    folder = complete(tmp_path)
    assert "it is of RL" in only_error(check("sft", RESUME=str(folder)))
    assert "no critic" in only_error(check("ppo", RESUME=str(folder)))
    (folder / "run.json").write_text("[")
    assert "run.json: is not JSON" in only_error(check(RESUME=str(folder)))
    (folder / "checkpoints" / "global_step_4" / "complete.json").unlink()
    error = only_error(check(RESUME=str(folder / "checkpoints" / "global_step_4")))
    assert "not complete: complete.json is missing" in error


def test_sft_resumes_with_as_many_gpus_to_a_sequence_and_rl_with_any(check, tmp_path):
    """verl's SFT trainer keeps its place in the data for each group of GPUs that shares sequences."""
    folder = complete(tmp_path, knobs={"SEQUENCE_PARALLEL": "2"})
    assert check(RESUME=str(folder)).errors == []
    for step in (2, 4):  # shards in the folder itself, as SFT writes them
        checkpoint = folder / "checkpoints" / f"global_step_{step}"
        for file in (checkpoint / "actor").iterdir():
            file.rename(checkpoint / file.name)
        (checkpoint / "actor").rmdir()
        mark_complete(checkpoint, attempt=1)
    assert "SEQUENCE_PARALLEL=2, now SEQUENCE_PARALLEL=1" in only_error(check("sft", RESUME=str(folder)))
