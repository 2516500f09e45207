"""Entry point under torchrun: ``torchrun ... -m ppo.reward_model.main --config-path=... --config-name=config ...``."""

from __future__ import annotations

from pathlib import Path

import hydra


@hydra.main(config_path=str(Path(__file__).resolve().parent), config_name="config", version_base=None)
def main(config) -> None:
    """Train as the composed config says."""
    from torch.distributed import destroy_process_group
    from verl.utils.device import auto_set_device
    from verl.utils.distributed import initialize_global_process_group

    from ppo.reward_model.trainer import RewardModelTrainer

    auto_set_device(config)
    initialize_global_process_group()
    RewardModelTrainer(config).fit()
    destroy_process_group()


if __name__ == "__main__":
    main()
