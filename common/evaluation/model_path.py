"""What ``--model_path`` may be: a run, a checkpoint, a Hugging Face folder or id, a LoRA adapter, or ``demo``."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.checkpoints.integrity import newest_complete
from common.checkpoints.layout import Checkpoint, checkpoint_at
from common.checkpoints.selected import selected
from common.demo_model import DEMO_MODEL_DIR
from common.evaluation.settings import EvaluationError
from common.files import outputs_folder
from common.run_dir import read_run
from common.small_files import read_json_object

OUTPUTS = outputs_folder(os.environ)
RECORDED = (".jsonl", ".json", ".csv", ".xlsx", ".parquet")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded.

    Args:
        path: Hugging Face folder or id; of an adapter, the base model's; of a checkpoint, itself until ``prepare``.
        name: Short name for tables.
        given: What the user wrote.
        adapter: Folder of a LoRA adapter that goes on top, or None.
        run_dir: Run of the kit that it comes from, or None.
        to_merge: ``path`` is a run or a checkpoint, to be merged first.
        is_recorded: ``path`` is a file of answers that are there already.
    """

    path: str
    name: str
    given: str
    adapter: Path | None = None
    run_dir: Path | None = None
    to_merge: bool = False
    is_recorded: bool = False

    def prepare(self, say: Callable[[str], None]) -> ModelSource:
        """Return the model as a Hugging Face folder; a checkpoint is merged, unless that was done before.

        Args:
            say: Is told when a merge begins.

        Raises:
            EvaluationError: If it cannot be merged.
        """
        if not self.to_merge:
            return self
        from common.checkpoints import hugging_face_folder

        try:
            return replace(self, path=str(hugging_face_folder(self.path, say)), to_merge=False)
        except (OSError, ValueError) as error:
            raise EvaluationError(f"--model_path {self.given}: {error}") from error

    def identity(self) -> list[Any]:
        """What tells it from another model at the same place: names, sizes and times of its files."""
        folders = [Path(self.path), *([self.adapter] if self.adapter else [])]
        if self.is_recorded:
            status = Path(self.path).stat()
            return [self.path, status.st_size, status.st_mtime_ns]
        files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if file.is_file()]
        return [self.path, [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]]


def find_model(given: str) -> ModelSource:
    """Find the model that a user means.

    Raises:
        EvaluationError: If there is none there, with what is.
    """
    if given == "demo":
        return ModelSource(str(DEMO_MODEL_DIR), "demo", given)
    path = Path(given).expanduser()
    if not path.exists() and (OUTPUTS / given).is_dir() and given not in ("", ".", ".."):
        path = OUTPUTS / given
    if path.is_dir():
        return _folder(path.resolve(), given)
    if path.exists():
        if path.suffix.lower() not in RECORDED:
            raise EvaluationError(
                f"--model_path {given}: is a file; give the folder it lies in, or a file of answers "
                f"({', '.join(RECORDED)})"
            )
        return ModelSource(str(path.resolve()), path.stem, given, is_recorded=True)
    is_path = given.startswith((".", "~", "/", "outputs/")) or path.parent.is_dir() and "/" in given
    if re.fullmatch(r"[\w.-]+/[\w.-]+", given) and not is_path:
        return ModelSource(given, given, given)
    raise EvaluationError(f"--model_path {given}: no such folder or run{_similar(given)}")


def _folder(path: Path, given: str) -> ModelSource:
    checkpoint = checkpoint_at(path)
    if checkpoint:
        return _checkpoint(checkpoint, given)
    if path.name == "checkpoints" and (path.parent / "run.json").is_file():
        path = path.parent
    if (path / "run.json").is_file():
        return _run(path, given)
    run_dir = path.parent if (path.parent / "run.json").is_file() else None
    name = path.parent.name if run_dir else path.name
    if (path / "adapter_config.json").is_file():
        return _adapter(path, name, given)
    if (path / "config.json").is_file():
        if not any(file for pattern in WEIGHTS for file in path.glob(pattern)):
            raise EvaluationError(f"--model_path {given}: has a config.json and no weights (*.safetensors) in {path}")
        return ModelSource(str(path), name, given, run_dir=run_dir)
    raise EvaluationError(
        f"--model_path {given}: is no model: neither run.json (a run of the kit) nor config.json (a Hugging Face "
        f"model) nor adapter_config.json (a LoRA adapter) is in {path}"
    )


def _run(run_dir: Path, given: str) -> ModelSource:
    try:
        chosen = selected(run_dir)
    except ValueError as error:
        raise EvaluationError(f"--model_path {given}: {error}") from error
    if chosen:
        return _checkpoint(chosen, given)
    choice = newest_complete(run_dir)
    if choice.checkpoint is None and not (run_dir / "model" / "config.json").is_file():
        stage = _newest_stage(run_dir)
        if stage is not None:
            name = f"{run_dir.name} {stage.relative_to(run_dir)}"
            return ModelSource(str(stage), name, given, run_dir=run_dir, to_merge=True)
        facts = "; ".join([f"it is {read_run(run_dir).get('state', 'unknown')}", *choice.skipped])
        raise EvaluationError(
            f"--model_path {given}: the run has no complete checkpoint ({facts}); "
            f"wait for one, or set SAVE_FREQ lower; {run_dir}/train.log shows how far it is"
        )
    return ModelSource(str(run_dir), run_dir.name, given, run_dir=run_dir, to_merge=True)


def _newest_stage(run_dir: Path) -> Path | None:
    """The newest stage of a gspo run that has a model, while the run as a whole has none yet."""
    stages = sorted(
        (file.parent for file in run_dir.glob("round-*/*/run.json")), key=lambda stage: stage.stat().st_mtime
    )
    for stage in reversed(stages):
        if newest_complete(stage).checkpoint or (stage / "model" / "config.json").is_file():
            return stage
    return None


def _checkpoint(checkpoint: Checkpoint, given: str) -> ModelSource:
    known = (checkpoint.run_dir / "run.json").is_file()
    name = f"{checkpoint.run_dir.name} step {checkpoint.step}" if known else checkpoint.path.name
    run_dir = checkpoint.run_dir if known else None
    return ModelSource(str(checkpoint.path), name, given, run_dir=run_dir, to_merge=True)


def _adapter(path: Path, name: str, given: str) -> ModelSource:
    try:
        base = read_json_object(path / "adapter_config.json").get("base_model_name_or_path")
    except ValueError as error:
        raise EvaluationError(f"--model_path {given}: {error}") from error
    if not base:
        raise EvaluationError(
            f"--model_path {given}: adapter_config.json does not say which model it belongs to; "
            "write its folder or id into base_model_name_or_path"
        )
    if base.startswith(("/", ".", "~")) and not Path(base).expanduser().is_dir():
        raise EvaluationError(
            f"--model_path {given}: its base model {base} is not there; correct base_model_name_or_path in "
            f"{path}/adapter_config.json"
        )
    return ModelSource(base, name, given, adapter=path)


def _similar(given: str) -> str:
    runs = sorted(path.parent.name for path in OUTPUTS.glob("*/run.json"))
    close = difflib.get_close_matches(Path(given).name, runs, n=3, cutoff=0.5) or runs[-3:]
    if not close:
        return "; give a run, a checkpoint, a Hugging Face folder or id (Qwen/Qwen3-4B), a LoRA adapter, or demo"
    return f"; runs in {OUTPUTS} are {', '.join(close)}" + (" ..." if len(runs) > len(close) else "")
