"""The stages of self-play: their folders, and the knobs of the run that each is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from common.preflight.derived import OF_ONE_LAUNCH
from common.preflight.knobs import ROOT, read_block
from common.preflight.self_play import STAGES

RL, PREFERENCE = STAGES
# Knobs of both scripts that mean another thing in a preference stage: prompts there, pairs here; or the stage's own.
ANEW = (
    *("MODEL_PATH", "TRAIN_DATA", "VAL_DATA", "BATCH_SIZE", "LEARNING_RATE", "TOTAL_EPOCHS", "TOTAL_STEPS", "SEED"),
    *("EXPERIMENT_NAME", "SAVE_FREQ", "TEST_FREQ", "RESUME", "WANDB_RUN_NAME"),
)
# Those that a preference stage chooses itself unless the user has set them.
UNLESS_SET = ("TOKENS_PER_GPU", "LR_SCHEDULER", "WARMUP_RATIO")


@dataclass(frozen=True)
class Stage:
    """One stage of one round.

    Args:
        round: From 1.
        kind: ``rl`` or ``preference``.
    """

    round: int
    kind: str

    @property
    def name(self) -> str:
        """Its name in run.json."""
        return f"round-{self.round}/{self.kind}"

    @property
    def folder(self) -> Path:
        """Its run directory inside the run's."""
        return Path(f"round-{self.round}") / self.kind

    @property
    def words(self) -> str:
        """What it does."""
        return "answers to the prompts, scored" if self.kind == RL else "pairs"


def stages_of(rounds: int) -> list[Stage]:
    """All stages of a run in their order."""
    return [Stage(number, kind) for number in range(1, rounds + 1) for kind in STAGES]


def stage_environment(
    stage: Stage, run_dir: Path, knobs: dict[str, str], model: str, data: dict[str, str]
) -> dict[str, str]:
    """The environment of a stage's train.sh.

    Args:
        stage: The stage.
        run_dir: Of the whole run.
        knobs: Of the whole run, as resolved.
        model: Folder of the model that it starts from.
        data: ``TRAIN_DATA`` and ``VAL_DATA`` of a preference stage.
    """
    ours = {name for script in ROOT.glob("*/train.sh") for name in read_block(script)} | set(OF_ONE_LAUNCH)
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    if stage.kind == RL:
        own = rl_knobs(stage, run_dir, knobs)
    else:
        own = shared_knobs(knobs) | data | {"TOTAL_EPOCHS": "1"}
        own["LEARNING_RATE"] = knobs["PREFERENCE_LEARNING_RATE"]
    own |= {
        "MODEL_PATH": model,
        "EXPERIMENT_NAME": stage.kind,
        "OUTPUTS_DIR": str(run_dir / f"round-{stage.round}"),
        "SEED": str(int(knobs["SEED"]) + stage.round - 1),
        "WANDB_RUN_NAME": f"{knobs['WANDB_RUN_NAME']}-{stage.name.replace('/', '-')}",
        "STAGE": stage.name,
    }
    return {**environment, **own}


def shared_knobs(knobs: dict[str, str]) -> dict[str, str]:
    """Knobs of a run that hold in its preference stages too: all that both scripts have, but `ANEW`."""
    ours, theirs = (read_block(ROOT / name / "train.sh") for name in ("gspo", "dpo"))
    chosen = os.environ.get("KNOBS_AUTO", "").split(",")
    own = {name for name in UNLESS_SET if name in chosen or knobs[name] == ours[name]}
    return {name: knobs[name] for name in theirs if name in ours and name not in own and name not in ANEW}


def rl_knobs(stage: Stage, run_dir: Path, knobs: dict[str, str]) -> dict[str, str]:
    """Knobs of an RL stage: those of the run, for one round without pairs."""
    data = run_dir / "data"
    own = {name: knobs[name] for name in read_block(ROOT / "gspo" / "train.sh")}
    own |= {
        "TRAIN_DATA": str(data / "prompts.train.parquet"),
        "VAL_DATA": str(data / "prompts.val.parquet"),
        "SELF_PLAY_ROUNDS": "1",
        "HARVEST_PAIRS": "false",
    }
    if stage.round > 1:
        own["LORA_ADAPTER_PATH"] = ""  # its weights are part of the model by now
    return own
