"""What the kit does in verl's RL trainers (``trainer.checkpoint_callback_class``).

verl tells a callback of saved checkpoints only. When the callback is made, which is in the trainer's own process, the
rows ``trainer`` of ``common/verl_ext`` are put in, so that it also hears of each step and each validation with their
figures.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from common.checkpoints.integrity import mark_complete
from common.checkpoints.layout import checkpoint_at, checkpoints_of
from common.checkpoints.prune import remove, to_remove
from common.files import write_atomically
from common.metrics.named_validation import compute, parse
from common.metrics.names import BY_NAME, friendly
from common.metrics.validations import Validations
from common.rewards import errors
from common.run_dir import STOP_FILE, TARGETS_FILE, read_metrics
from common.step_figures import answers_of, reward_figures, spread_figures
from common.verl_ext import private, table

logger = logging.getLogger(__name__)

MAX_FAILED = 0.5  # share of the episodes of a step that the environment may fail
KL_FILE = "kl_coef.json"  # in a checkpoint: the coefficient of an adapting KL, which verl does not save


class RunCallback(CheckpointCallback):
    """Early stopping, the stop on NaN, pruning of checkpoints, figures of the reward, and the export at the end.

    Args:
        config: verl's; ``trainer.early_stop_patience`` and ``trainer.keep_checkpoints`` are the kit's own keys.
    """

    def __init__(self, config: Any = None):
        super().__init__(config)
        self.checkpoints = Path(config.trainer.default_local_dir)
        self.run_dir = self.checkpoints.parent
        self.keep = int(config.trainer.keep_checkpoints)
        self.validations = Validations(int(config.trainer.early_stop_patience))
        self.named = parse(os.environ.get("VAL_METRICS", ""))
        self.started = False
        self.saved_step = 0
        self.known_errors = errors.size(self.run_dir)  # those of earlier attempts count no more
        private.check("common/callbacks.py")
        table.replace({"trainer"})

    # ---- what the trainer tells ----------------------------------------------------------------------------

    def on_start(self, trainer: Any, resumed: int) -> None:
        """Take up what an earlier attempt knew.

        Args:
            trainer: verl's.
            resumed: Step of the checkpoint that the trainer starts from, 0 for none.
        """
        if self.started:
            return
        self.started, self.saved_step = True, resumed
        if os.environ.get("PROMETHEUS") == "true":
            self._write_targets()
        earlier = ((record["step"], friendly(record["data"])) for record in read_metrics(self.run_dir))
        for step, values in earlier:
            if step <= resumed and "val_score" in values:
                self.validations.scores[step] = values["val_score"]
        coefficient = self.checkpoints / f"global_step_{resumed}" / KL_FILE
        if coefficient.is_file() and hasattr(trainer, "kl_ctrl_in_reward"):
            trainer.kl_ctrl_in_reward.value = float(json.loads(coefficient.read_text()))

    def on_step(self, trainer: Any, batch: Any, metrics: dict[str, Any]) -> None:
        """Add the figures of the reward; end the run before it saves weights that NaN may have spoilt.

        Raises:
            FloatingPointError: If a loss, a gradient or the like is NaN or infinite.
            RewardError: If the reward raised on too many answers, or the environment failed too many episodes.
        """
        keys, fields = answers_of(batch, "extra_fields", "rm_scores")
        infos = [entry for entry in fields.get("extra_fields", []) if isinstance(entry, dict)]
        metrics.update(reward_figures(infos))
        metrics.update(spread_figures(keys, [float(scores.sum()) for scores in fields.get("rm_scores", [])]))
        problem = not_finite(metrics)
        try:
            self._check_episodes(trainer.global_steps, metrics.get("reward/env_failure/mean", 0.0))
            self._check_rewards(trainer.global_steps, metrics.get(f"reward/{errors.KEY}/mean", 0.0), len(infos))
            if problem:
                raise FloatingPointError(f"{problem} at step {trainer.global_steps}: training has blown up")
        except (FloatingPointError, errors.RewardError):
            trainer.logger.log(data=metrics, step=trainer.global_steps)
            raise

    def on_validate(self, trainer: Any, metrics: dict[str, Any], answers: int) -> None:
        """Note the score; stop when it has not improved for long enough.

        Raises:
            RewardError: If the reward raised on too many of the ``answers``, or too many episodes failed.
            ValueError: If ``VAL_METRICS`` asks for what the reward does not return.
        """
        metrics.update(compute(self.named, metrics))
        step, values = trainer.global_steps, friendly(metrics)
        try:
            self._check_episodes(step, values.get("val_episode_failures", 0.0))
            self._check_rewards(step, values.get("val_reward_errors", 0.0), answers)
        except errors.RewardError:
            trainer.logger.log(data=metrics, step=step)
            raise
        if "val_score" not in values:
            return
        self.validations.add(step, values["val_score"])
        self._prune()
        reason = self.validations.reason_to_stop()
        if reason and step < trainer.total_training_steps:
            self._stop(trainer, reason)

    def _check_episodes(self, step: int, share: float) -> None:
        """End the run when the environment of ``ENV_PATH`` failed more than `MAX_FAILED` of a step's episodes."""
        if share > MAX_FAILED:
            raise errors.RewardError(
                f"the environment failed {share:.0%} of the episodes at step {step}; look for 'An episode failed' in "
                "train.log for the reasons, then fix ENV_PATH or raise ENV_TIMEOUT"
            )

    def _check_rewards(self, step: int, share: float, answers: int) -> None:
        """End the run when the reward raised on more than `errors.MAX_SHARE` of some answers."""
        found = errors.read_errors(self.run_dir, self.known_errors) if share else []
        problem = errors.problem(step, share * answers, answers, found)
        if problem:
            raise errors.RewardError(problem)

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        """Mark the checkpoint complete, remove old ones; export the model when this was the last step."""
        self.saved_step = global_step
        if hasattr(trainer, "kl_ctrl_in_reward"):
            write_atomically(Path(checkpoint_dir) / KL_FILE, json.dumps(float(trainer.kl_ctrl_in_reward.value)))
        if async_save:
            return
        mark_complete(Path(checkpoint_dir), attempt=int(os.environ.get("ATTEMPT", "1")))
        self._prune()
        if global_step >= trainer.total_training_steps:
            self._export(Path(checkpoint_dir))

    def _write_targets(self) -> None:
        """Tell where Ray and TransferQueue have their metrics; a run is not lost because they do not say."""
        try:
            import ray
            import transfer_queue

            nodes = [node for node in ray.nodes() if node["Alive"] and node.get("MetricsExportPort")]
            endpoint = transfer_queue.get_metrics_endpoint()
            found = {
                "ray": [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes],
                "transfer_queue": [endpoint] if endpoint else [],
            }
            write_atomically(self.run_dir / TARGETS_FILE, json.dumps(found) + "\n")
        except Exception:
            logger.exception("PROMETHEUS: the addresses of Ray's metrics are not known")

    # ---- what it does --------------------------------------------------------------------------------------

    def _stop(self, trainer: Any, reason: str) -> None:
        """Make this the last step: the trainer's loop ends by itself after it."""
        step = trainer.global_steps
        print(f"Stopping early at step {step}: {reason}")
        trainer.total_training_steps = step
        if self.saved_step == step:
            self._export(self.checkpoints / f"global_step_{step}")
        else:
            _free_rollout(trainer)
            trainer._save_checkpoint()
        write_atomically(self.run_dir / STOP_FILE, json.dumps({"step": step, "reason": reason}))

    def _prune(self) -> None:
        """Remove all complete checkpoints but the newest ones and the best by validation."""
        best = self.validations.best_of([checkpoint.step for checkpoint in checkpoints_of(self.run_dir)])
        for checkpoint, _ in to_remove(self.run_dir, self.keep, keep_steps=[best]):
            remove(checkpoint)

    def _export(self, checkpoint: Path) -> None:
        """Write the policy as a plain Hugging Face folder.

        The trainer's process has verl loaded already, so the model is there a moment after the checkpoint. A failure
        does not lose the run: the launcher exports again and shows the error.
        """
        from common.checkpoints.merge import merge

        started, target = time.time(), self.run_dir / "model"
        try:
            merge(checkpoint_at(checkpoint), target)
        except Exception:
            logger.exception("the export of %s failed", checkpoint)
        else:
            print(f"Exported {target} in {time.time() - started:.1f} s")


def _free_rollout(trainer: Any) -> None:
    """Free the memory of the rollout engine on the GPUs that train, where answers may be under way."""
    if hasattr(trainer, "switch_to_trainer"):  # separate: those GPUs helped to validate
        trainer.switch_to_trainer()
        return
    if trainer.trainer_mode != "sync":  # an engine must not be put to sleep over its answers
        trainer.checkpoint_manager.abort_replicas()
    trainer.checkpoint_manager.sleep_replicas()


def not_finite(metrics: dict[str, Any]) -> str | None:
    """The first metric of the table that must be finite and is not, in words, or None."""
    for name, value in friendly(metrics).items():
        if BY_NAME[name].finite and not math.isfinite(value):
            return f"{BY_NAME[name].label} is {value}"
    return None
