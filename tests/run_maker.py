"""Run directories as trainers leave them, for tests of what reads them."""

import json
import zipfile

from common.checkpoints.integrity import mark_complete
from common.run_dir import update_run


def existing(tmp_path, name="mine", step=None, **fields):
    folder = tmp_path / "outputs" / name
    folder.mkdir(parents=True)
    update_run(folder, **{"algorithm": "grpo", "state": "stopped", "knobs": {}, **fields})
    if step:
        checkpoint = folder / "checkpoints" / f"global_step_{step}" / "actor"
        checkpoint.mkdir(parents=True)
        (checkpoint / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
        for file in (checkpoint / "model_world_size_1_rank_0.pt", checkpoint.parent / "data.pt"):
            with zipfile.ZipFile(file, "w") as archive:  # as torch.save writes
                archive.writestr("data.pkl", b"")
        (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(step))
    return folder


def complete(tmp_path, name="mine", steps=(2, 4), **fields):
    """A run of grpo with complete checkpoints."""
    folder = existing(tmp_path, name, **fields)
    for step in steps:
        path = folder / "checkpoints" / f"global_step_{step}" / "actor"
        path.mkdir(parents=True)
        (path / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
        with zipfile.ZipFile(path / "model_world_size_1_rank_0.pt", "w") as archive:
            archive.writestr("data.pkl", b"x" * 100)
        mark_complete(path.parent, attempt=1)
    return folder
