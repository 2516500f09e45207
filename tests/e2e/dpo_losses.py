"""Runs the DPO trainer several times in one process and prints the losses; started by test_dpo.py under torchrun.

    torchrun ... -m tests.e2e.dpo_losses FOLDER '{"plain": [], "fixed": ["data.use_dynamic_bsz=false"]}'

The overrides of a run that is named in an earlier one's folder (``"resumed": ["folder=plain"]``) resume it;
``kind=reward_model`` trains a reward model on the pairs.
"""

import json
import os
import sys
from pathlib import Path

from tests.conftest import ROOT

BASE = {
    "data.train_files": [str(ROOT / "dpo" / "data" / "train.parquet")],
    "data.val_files": [str(ROOT / "dpo" / "data" / "val.parquet")],
    "data.max_prompt_length": 32,
    "data.max_response_length": 32,
    "data.train_batch_size": 8,
    "data.max_token_len_per_gpu": 4096,
    "model.path": str(ROOT / "common" / "demo_model" / "model"),
    "model.use_remove_padding": "true",
    "+model.override_config.attn_implementation": "sdpa_varlen",
    "optim.lr": 1e-3,
    "optim.lr_scheduler_type": "constant",
    "trainer.total_training_steps": 4,
    "trainer.total_epochs": 1,
    "trainer.save_freq": 2,
    "trainer.test_freq": 2,
}


def run(folder: Path, name: str, overrides: list[str]) -> dict[str, list[float]]:
    """Train once; returns the training and the validation losses."""
    from hydra import compose, initialize_config_dir

    from common.preference_losses import ANSWER_LOSSES
    from dpo.kto import KTOTrainer
    from dpo.trainer import DPOTrainer
    from ppo.reward_model.trainer import RewardModelTrainer

    earlier = [text.split("=")[1] for text in overrides if text.startswith("folder=")]
    os.environ["RUN_DIR"] = str(folder / (earlier[0] if earlier else name))
    Path(os.environ["RUN_DIR"]).mkdir(exist_ok=True)
    given = [f"{key}={value}" for key, value in BASE.items()]
    scores = "kind=reward_model" in overrides
    keys = [text for text in overrides if not text.startswith(("folder=", "kind="))]
    where = ROOT / ("ppo/reward_model" if scores else "dpo")
    with initialize_config_dir(config_dir=str(where), version_base=None):
        config = compose("config", ["+hardware=cpu", *given, *keys])
    single = not scores and config.algorithm.loss_type in ANSWER_LOSSES
    found: dict[str, list[float]] = {"train/loss": [], "val/loss": [], "val/rewards/accuracies": [], "kto/distance": []}

    class Recording(RewardModelTrainer if scores else KTOTrainer if single else DPOTrainer):
        def _tracking(self):
            return self

        def log(self, data, step):
            for key, values in found.items():
                values += [data[key]] if key in data else []

    Recording(config).fit()
    return found


def main() -> None:
    from verl.utils.distributed import initialize_global_process_group

    initialize_global_process_group()
    results = {name: run(Path(sys.argv[1]), name, overrides) for name, overrides in json.loads(sys.argv[2]).items()}
    if os.environ["RANK"] == "0":
        print("\nRESULTS " + json.dumps(results))


if __name__ == "__main__":
    main()
