"""Entry point under torchrun: ``torchrun ... -m dpo.main_dpo --config-path=... --config-name=config key=value ...``."""

from __future__ import annotations

from pathlib import Path

import hydra


@hydra.main(config_path=str(Path(__file__).resolve().parent), config_name="config", version_base=None)
def main(config) -> None:
    """Train as the composed config says."""
    from torch.distributed import destroy_process_group
    from verl.utils.device import auto_set_device
    from verl.utils.distributed import initialize_global_process_group

    from common.preference_losses import ANSWER_LOSSES
    from dpo.kto import KTOTrainer
    from dpo.trainer import DPOTrainer

    auto_set_device(config)
    initialize_global_process_group()
    trainer = KTOTrainer if config.algorithm.loss_type in ANSWER_LOSSES else DPOTrainer
    trainer(config).fit()
    destroy_process_group()


if __name__ == "__main__":
    main()
