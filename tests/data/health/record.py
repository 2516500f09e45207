"""Records the curves of this folder: ``.venv/bin/python tests/data/health/record.py``, half a minute on one core.

GRPO on a policy of a few hundred parameters: for each of 16 questions a choice of answer, one switch for the form, one
length for all. It learns by the same clipped loss and logs the names of verl, so that a rule is tried on curves that a
training has made and nobody has drawn. ``healthy.jsonl`` has 20 runs of different seeds, rates and rewards;
``healthy_sft.jsonl`` five of supervised training (`record_sft`); each other file has the one run that its name says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import record_sft
import torch

HERE = Path(__file__).resolve().parent
QUESTIONS, GROUP, LIMIT = 16, 8, 64
Reward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Setting:
    """One run.

    Args:
        seed: Of everything.
        steps: Updates.
        rate: Learning rate.
        choices: Answers that there are to a question; the first is right.
        epochs: Passes over the answers of a step.
        kl: Weight of the KL to the start.
        reward: Of right (0 or 1), form (0 or 1) and length.
        spike: Step at which the rate is 60 times as large, 0 for none.
        age: Steps by which answers are older than the policy.
        kept_age: Answers older than this are dropped.
        noise: Of the logits of the engine that samples, against those of the trainer.
        raises: Share of the answers whose reward raises, which counts 0.
        unanswered: Share of the answers that the judge's API does not answer for.
        no_tool: Share of the tool calls that fail.
        env_failures: Share of the episodes that the environment fails.
        tool: Logit of a call at the start.
        end: Logit of the end of an answer at the start.
        masked: No token counts for the loss.
        value_rate: Learning rate of the critic.
        left_out: Names that are not logged.
    """

    seed: int = 1
    steps: int = 40
    rate: float = 0.05
    choices: int = 6
    epochs: int = 2
    kl: float = 0.02
    reward: Reward = lambda right, form, length, generator: 0.8 * right + 0.2 * form
    spike: int = 0
    age: int = 0
    kept_age: int = 8
    noise: float = 0.01
    raises: float = 0.0
    unanswered: float = 0.0
    no_tool: float = 0.05
    env_failures: float = 0.0
    tool: float = 0.0
    end: float = -2.2
    masked: bool = False
    value_rate: float = 0.1
    left_out: tuple[str, ...] = ()


class Policy:
    """Three tables of logits: choice by question, form, end of the answer at each token."""

    def __init__(self, choices: int, end: float, generator: torch.Generator):
        self.choice = 0.3 * torch.randn(QUESTIONS, choices, generator=generator)
        self.form, self.end = torch.tensor([-1.0]), torch.tensor([end])
        for table in self.tables:
            table.requires_grad_()

    @property
    def tables(self) -> list[torch.Tensor]:
        return [self.choice, self.form, self.end]

    def copy(self) -> Policy:
        other = object.__new__(Policy)
        other.choice, other.form, other.end = (table.detach().clone() for table in self.tables)
        return other

    def sample(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        choice = torch.multinomial(self.choice.softmax(-1), GROUP, replacement=True, generator=generator)
        form = (torch.rand(QUESTIONS, GROUP, generator=generator) < self.form.sigmoid()).float()
        tokens = torch.rand(QUESTIONS, GROUP, LIMIT, generator=generator) < self.end.sigmoid()
        length = torch.where(tokens.any(-1), tokens.float().argmax(-1) + 1, LIMIT).float()
        return choice, form, length

    def log_probs(self, choice: torch.Tensor, form: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Mean log-probability of the decisions of each answer."""
        of_choice = self.choice.log_softmax(-1).gather(1, choice)
        bit = torch.nn.functional.logsigmoid
        of_form = form * bit(self.form) + (1 - form) * bit(-self.form)
        of_length = (length - 1) * bit(-self.end) + bit(self.end)
        return of_choice + of_form + of_length / LIMIT * 4

    def entropy(self) -> torch.Tensor:
        choice = torch.distributions.Categorical(logits=self.choice, validate_args=False).entropy().mean()
        return (choice + torch.distributions.Bernoulli(logits=self.form, validate_args=False).entropy().mean()) / 2


class Around:
    """What surrounds the policy: an engine that samples, a critic, an API that judges, tools; its chance is its own."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.chance = torch.Generator().manual_seed(1000 + setting.seed)
        self.values = torch.zeros(QUESTIONS, requires_grad=True)
        self.critic = torch.optim.SGD([self.values], lr=setting.value_rate)

    def share(self, shape: torch.Size, probability: float) -> torch.Tensor:
        return torch.rand(shape, generator=self.chance) < probability

    def figures(self, author: Policy, policy: Policy, choice: torch.Tensor, scores: torch.Tensor, age: int) -> dict:
        logits = author.choice + self.setting.noise * torch.randn(author.choice.shape, generator=self.chance)
        engine, trainer = (table.softmax(-1).gather(1, choice).flatten() for table in (logits, policy.choice.detach()))
        loss = (self.values - scores.mean(-1)).square().mean() * QUESTIONS
        self.critic.zero_grad()
        loss.backward()
        norm = self.values.grad.norm()
        self.critic.step()
        calls = self.share(scores.shape, float(torch.tensor(self.setting.tool).sigmoid()))
        failed = calls & self.share(scores.shape, self.setting.no_tool)
        fallen = self.share(scores.shape, self.setting.env_failures).float()
        return {
            "critic/vf_loss": loss.detach(), "critic/grad_norm": norm,
            "training/rollout_actor_probs_pearson_corr": torch.corrcoef(torch.stack([engine, trainer]))[0, 1],
            "training/rollout_probs_diff_mean": (engine - trainer).abs().mean(),
            "training/off_policy/evicted_samples": scores.numel() if age > self.setting.kept_age else 0,
            "reward/api_failed/mean": self.share(scores.shape, self.setting.unanswered).float().mean(),
            "reward/env_failure/mean": fallen.mean(), "val-aux/toy/env_failure/mean@1": fallen[:, 0].mean(),
            "tools/calls/mean": calls.float().mean(), "tools/failures": failed.sum() / calls.sum().clamp(1),
        }  # fmt: skip


def run(setting: Setting) -> list[dict[str, float]]:
    """The metrics of each step."""
    generator = torch.Generator().manual_seed(setting.seed)
    policy, around = Policy(setting.choices, setting.end, generator), Around(setting)
    start, past = policy.copy(), [policy.copy()]
    optimizer = torch.optim.Adam(policy.tables, lr=setting.rate)
    found = []
    for step in range(1, setting.steps + 1):
        found.append(_step(setting, step, policy, start, past, optimizer, generator, around))
        if not all(table.isfinite().all() for table in policy.tables):
            break  # nothing can be sampled any more
    return found


def _step(setting, step, policy, start, past, optimizer, generator, around) -> dict[str, float]:
    author = past[max(0, len(past) - 1 - setting.age)]
    choice, form, length = author.sample(generator)
    scores = setting.reward((choice == 0).float(), form, length, generator)
    raised = around.share(scores.shape, setting.raises)
    scores = scores.masked_fill(raised, 0.0)
    surroundings = around.figures(author, policy, choice, scores, min(setting.age, step - 1))
    spread = scores.std(-1, keepdim=True)
    advantages = (scores - scores.mean(-1, keepdim=True)) / (spread + 1e-6)
    old = author.log_probs(choice, form, length)
    optimizer.param_groups[0]["lr"] = setting.rate * (60 if step == setting.spike else 1)
    for _ in range(setting.epochs):
        new = policy.log_probs(choice, form, length)
        ratio = (new - old).exp()
        clipped = ratio.clamp(0.8, 1.2)
        difference = start.log_probs(choice, form, length) - new
        kl = (difference.exp() - difference - 1).mean()
        loss = -torch.minimum(ratio * advantages, clipped * advantages).mean() + setting.kl * kl
        loss = 0.0 * loss if setting.masked else loss
        optimizer.zero_grad()
        loss.backward()
        norm = sum(table.grad.square().sum() for table in policy.tables).sqrt()
        optimizer.step()
    entropy = policy.entropy().detach()
    past.append(policy.copy())
    values = {
        "critic/score/mean": scores.mean(), "critic/score/max": scores.max(), "critic/score/min": scores.min(),
        "critic/score/std": scores.std(), "critic/score/group_std": spread.mean(),
        "critic/score/dead_groups": (spread == 0).float().mean(),
        "critic/advantages/mean": advantages.mean(), "critic/advantages/max": advantages.max(),
        "actor/pg_loss": loss.detach(), "actor/entropy": entropy, "actor/kl_loss": kl.detach(), "actor/grad_norm": norm,
        "actor/ppo_kl": (old - new).mean().detach(), "actor/pg_clipfrac": ((ratio - 1).abs() > 0.2).float().mean(),
        "actor/lr": optimizer.param_groups[0]["lr"], "response_length/mean": length.mean(),
        "response_length/max": length.max(), "response_length/clip_ratio": (length == LIMIT).float().mean(),
        "reward/acc/mean": (choice == 0).float().mean(), "reward/format/mean": form.mean(),
        "training/off_policy/trajectory_staleness/mean": min(setting.age, step - 1),
        "reward/reward_error/count": raised.sum(), "val-aux/toy/reward_error/mean@1": raised[:, 0].float().mean(),
        **surroundings,
    }  # fmt: skip
    return {name: _written(value) for name, value in values.items() if name not in setting.left_out}


def _written(value: torch.Tensor | float) -> float | None:
    """Four digits; null for what is not finite, as verl's ``file`` logger writes it."""
    value = float(f"{float(value):.4g}")
    return value if math.isfinite(value) else None


def _noise(right, form, length, generator) -> torch.Tensor:
    return torch.randint(0, 2, right.shape, generator=generator).float()


def _by_question(right, form, length, generator) -> torch.Tensor:
    return (torch.arange(QUESTIONS) / QUESTIONS)[:, None].expand_as(right).clone()


def _mostly_by_question(right, form, length, generator) -> torch.Tensor:
    scores = (torch.arange(QUESTIONS)[:, None] % 2).expand_as(right).float()
    scores[:2] = right[:2]
    return scores


def _nothing(right, form, length, generator) -> torch.Tensor:
    return torch.zeros_like(right)


def _always_half(right, form, length, generator) -> torch.Tensor:
    return torch.full_like(right, 0.5)


SPREAD = ("critic/score/std", "critic/score/group_std", "critic/score/dead_groups")
ILL = {
    "entropy": Setting(rate=0.4, kl=0.0, epochs=4, reward=_noise),
    "response_length": Setting(rate=0.06, kl=0.0, reward=lambda right, form, length, _: 0.5 + 0.0002 * length),
    "accuracy_reward": Setting(choices=400, rate=0.1, reward=lambda right, form, *_: 0.5 * right + 0.5 * form),
    "kl_divergence": Setting(rate=0.02, spike=30, steps=31),
    "advantage_max": Setting(reward=_by_question, left_out=SPREAD),
    "clip_fraction": Setting(rate=0.4, kl=0.0, epochs=4, reward=_noise, steps=6),
    "dead_groups": Setting(reward=_mostly_by_question, rate=0.01),
    "staleness": Setting(age=4, rate=0.02),
    "reward_mean": Setting(steps=6, reward=_nothing),
    "reward_std": Setting(steps=6, reward=_always_half),
    "reward_group_std": Setting(steps=6, reward=_by_question),
    "reward_std_bound": Setting(steps=6, reward=_always_half, left_out=SPREAD),
    "reward_errors": Setting(steps=6, raises=0.1),
    "val_reward_errors": Setting(steps=6, raises=0.3, left_out=("reward/reward_error/count",)),
    "policy_loss": Setting(steps=6, rate=200.0, epochs=4),
    "value_loss": Setting(steps=60, value_rate=50.0),
    "critic_grad_norm": Setting(steps=60, value_rate=50.0),
    "kl_divergence_limit": Setting(rate=0.2, kl=0.0, reward=_noise),
    "entropy_limit": Setting(rate=0.4, kl=0.0, epochs=4, steps=120, reward=_noise),
    "rollout_corr": Setting(steps=6, noise=2.0),
    "rollout_gap": Setting(age=3, noise=1.0),
    "tool_calls": Setting(tool=-20.0),
    "tool_failures": Setting(steps=12, no_tool=0.9),
    "episode_failures": Setting(steps=6, env_failures=0.2),
    "val_episode_failures": Setting(steps=12, env_failures=0.5, left_out=("reward/env_failure/mean",)),
    "grad_norm": Setting(steps=6, masked=True),
    "response_clip_ratio": Setting(steps=6, end=-6.0),
    "api_failed": Setting(steps=12, unanswered=0.3),
    "dropped_stale": Setting(steps=12, age=4, kept_age=2),
}


def healthy() -> list[Setting]:
    """20 runs that learn: seeds, rates, numbers of answers and rewards of several kinds."""
    rewards: list[Reward] = [
        Setting.reward,
        lambda right, form, length, _: right,
        lambda right, form, length, _: 0.5 * right + 0.5 * form * right,
        lambda right, form, length, _: right - 0.002 * length,
    ]
    return [
        replace(
            Setting(),
            seed=seed,
            rate=(0.02, 0.03, 0.04, 0.05, 0.06)[seed % 5],
            choices=4 + seed % 4,
            reward=rewards[seed % 4],
        )
        for seed in range(20)
    ]


def main() -> None:
    """Write the files."""
    torch.set_num_threads(1)
    for name, setting in ILL.items():
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run(setting)))
    lines = (json.dumps({"seed": setting.seed, "steps": run(setting)}) + "\n" for setting in healthy())
    (HERE / "healthy.jsonl").write_text("".join(lines))
    record_sft.write(HERE, _written)


if __name__ == "__main__":
    main()
