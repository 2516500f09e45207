"""verl's group advantages and losses, as the kit configures them, against numbers worked out by hand and in float64."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

# Two prompts. The first has four answers with rewards 1, 0, 0, 1 and 2, 3, 1, 2 tokens, the second two: 0.5 and 0.
REWARDS = [1.0, 0.0, 0.0, 1.0, 0.5, 0.0]
TOKENS = [2, 3, 1, 2, 3, 3]
GROUPS = ["a", "a", "a", "a", "b", "b"]


def batch() -> dict:
    mask = torch.zeros(len(TOKENS), max(TOKENS), dtype=torch.float64)
    rewards = torch.zeros_like(mask)
    for row, count in enumerate(TOKENS):
        mask[row, :count] = 1
        rewards[row, count - 1] = REWARDS[row]
    return {"token_level_rewards": rewards, "response_mask": mask, "index": np.array(GROUPS, dtype=object)}


def per_answer(estimator: str, **options) -> list[float]:
    """Advantages of the first token; checks that all tokens of an answer have the same and the others none."""
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    given = batch()
    advantages, _ = get_adv_estimator_fn(estimator)(**given, **options)
    assert torch.allclose(advantages, advantages[:, :1] * given["response_mask"])
    return advantages[:, 0].tolist()


# By hand. Mean of a: 1/2; sample standard deviation sqrt((4 * 1/4) / 3) = 1/sqrt(3); of b: 1/4 and sqrt(2 * 1/16) =
# sqrt(2)/4. GRPO divides by the deviation + 1e-6; Dr. GRPO does not divide.
GRPO = [v / (1 / math.sqrt(3) + 1e-6) for v in (0.5, -0.5, -0.5, 0.5)]
GRPO += [v / (math.sqrt(2) / 4 + 1e-6) for v in (0.25, -0.25)]
DR_GRPO = [0.5, -0.5, -0.5, 0.5, 0.25, -0.25]
# RLOO: reward less the mean of the others: 1 - 1/3, 0 - 2/3, ...; 1/2 - 0, 0 - 1/2.
RLOO = [2 / 3, -2 / 3, -2 / 3, 2 / 3, 0.5, -0.5]
# OPO: the baseline is sum(length * reward) / sum(length): (2 + 2) / 8 = 1/2; 1.5 / 6 = 1/4.
OPO = [0.5, -0.5, -0.5, 0.5, 0.25, -0.25]
# GPG: less the mean, times 6 answers / 3 with a reward.
GPG = [1.0, -1.0, -1.0, 1.0, 0.5, -0.5]


@pytest.mark.parametrize(
    ("estimator", "options", "expected"),
    [
        ("grpo", {}, GRPO),
        ("grpo", {"norm_adv_by_std_in_grpo": False}, DR_GRPO),
        ("rloo", {}, RLOO),
        ("opo", {}, OPO),
        ("gpg", {}, GPG),
    ],
)
def test_group_advantages_by_hand(estimator, options, expected):
    assert per_answer(estimator, **options) == pytest.approx(expected, abs=1e-9)


def whitened(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Less the mean, over the sample deviation (n - 1), all over tokens; verl adds 1e-8 here and there."""
    count = weights.sum()
    mean = (values * weights).sum() / count
    variance = ((values - mean) ** 2 * weights).sum() / count * count / (count - 1)
    return (values - mean) / np.sqrt(variance + 1e-8)


def test_reinforce_plus_plus_normalises_the_returns_over_all_tokens():
    """Without discount each token's return is the answer's reward; 14 tokens, 5.5 the sum of their returns."""
    values, tokens = np.array(REWARDS), np.array(TOKENS, dtype=float)
    assert (values * tokens).sum() == pytest.approx(5.5)
    expected = whitened(values, tokens)
    assert per_answer("reinforce_plus_plus", config=SimpleNamespace(gamma=1.0)) == pytest.approx(expected, abs=1e-7)


def test_reinforce_plus_plus_with_discount_decays_towards_the_beginning():
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    given = batch()
    _, returns = get_adv_estimator_fn("reinforce_plus_plus")(**given, config=SimpleNamespace(gamma=0.5))
    # reward 1 at the second of two tokens; reward 0.5 at the third of three
    assert returns[0].tolist() == [0.5, 1.0, 0.0] and returns[4].tolist() == [0.125, 0.25, 0.5]


def test_reinforce_plus_plus_baseline_takes_the_groups_mean_first():
    centred = np.array([0.5, -0.5, -0.5, 0.5, 0.25, -0.25])
    expected = whitened(centred, np.array(TOKENS, dtype=float))
    assert per_answer("reinforce_plus_plus_baseline") == pytest.approx(expected, abs=1e-7)


# ---- the sequence-level ratio of GSPO (arXiv 2507.18071, equations 5 to 7) ---------------------------------------


def actor_config(low: float, high: float):
    from verl.workers.config import ActorConfig

    made = ActorConfig(strategy="fsdp2", rollout_n=2, use_dynamic_bsz=True, clip_ratio_low=low, clip_ratio_high=high)
    made.global_batch_info.update({"dp_size": 1, "batch_num_tokens": None, "global_batch_size": None})
    return made


def gspo(log_ratio: list[list[float]], advantages: list[float], low: float = 3e-4, high: float = 4e-4):
    """Loss and gradient of verl's GSPO loss on answers of the given token log-ratios."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    width = max(map(len, log_ratio))
    old = torch.full((len(log_ratio), width), -1.0, dtype=torch.float64)
    new, mask = old.clone(), torch.zeros_like(old)
    for row, values in enumerate(log_ratio):
        new[row, : len(values)] += torch.tensor(values, dtype=torch.float64)
        mask[row, : len(values)] = 1
    new.requires_grad_()
    table = torch.tensor(advantages, dtype=torch.float64)[:, None] * mask
    loss, metrics = get_policy_loss_fn("gspo")(
        old, new, table, mask, loss_agg_mode="seq-mean-token-mean", config=actor_config(low, high)
    )
    loss.backward()
    return loss.item(), new.grad, metrics


def test_gspo_ratio_is_the_geometric_mean_of_the_token_ratios():
    """Answer 1: log-ratios 2e-4 and 0, so s = exp(1e-4); answer 2: -1e-4 three times, so s = exp(-1e-4)."""
    loss, gradient, metrics = gspo([[2e-4, 0.0], [-1e-4, -1e-4, -1e-4]], [1.0, -0.5])
    one, two = math.exp(1e-4), math.exp(-1e-4)
    # seq-mean of token-mean losses with a global batch of 2; verl divides by length + 1e-8
    expected = (-1.0 * one * 2 / (2 + 1e-8) + 0.5 * two * 3 / (3 + 1e-8)) / 2
    assert loss == pytest.approx(expected, abs=1e-12)
    assert metrics["actor/pg_clipfrac"] == 0
    # d s / d log p = s / length: each token of an answer has the same gradient
    assert gradient[0].tolist() == pytest.approx([-one / 4, -one / 4, 0.0], abs=1e-8)
    assert gradient[1].tolist() == pytest.approx([0.5 * two / 6] * 3, abs=1e-8)


def test_gspo_clips_whole_answers():
    """s = exp(1e-3) is above 1 + 4e-4 and s = exp(-1e-3) below 1 - 3e-4: clipped only where the loss would gain."""
    _, gradient, metrics = gspo([[2e-3, 0.0], [-1e-3]], [1.0, 1.0])
    assert gradient[0].abs().max() == 0 and gradient[1, 0] == pytest.approx(-math.exp(-1e-3) / 2, abs=1e-8)
    assert metrics["actor/pg_clipfrac"] == pytest.approx(2 / 3)
    _, gradient, _ = gspo([[2e-3, 0.0], [-1e-3]], [-1.0, -1.0])
    assert gradient[1].abs().max() == 0 and gradient[0, 0] > 0


# ---- DAPO's soft overlong punishment (arXiv 2503.14476, equation 13) ---------------------------------------------


@pytest.mark.parametrize(("length", "penalty"), [(1, 0.0), (16384, 0.0), (17408, -0.25), (18432, -0.5), (20480, -1.0)])
def test_dapo_overlong_penalty(length, penalty):
    """The paper's numbers: 20,480 tokens at most, a buffer of 4,096; nothing below 16,384, then a straight line."""
    from omegaconf import OmegaConf
    from verl.experimental.reward_loop.reward_manager.dapo import DAPORewardManager

    buffer = {"enable": True, "len": 4096, "penalty_factor": 1.0, "log": True}
    config = OmegaConf.create({"reward": {"reward_kwargs": {"max_resp_len": 20480, "overlong_buffer_cfg": buffer}}})
    manager = DAPORewardManager.__new__(DAPORewardManager)
    manager.overlong_buffer_cfg = config.reward.reward_kwargs.overlong_buffer_cfg
    manager.max_resp_len = 20480
    manager.reward_router_address = manager.reward_model_tokenizer = None
    manager.is_async_reward_score = False
    manager.compute_score = lambda **row: {"score": 1.0, "acc": 1.0}
    manager.tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "")
    tensors = {"responses": torch.ones(1, 20480), "attention_mask": (torch.arange(20480) < length).long()[None]}
    row = SimpleNamespace(
        batch={name: tensor[0] for name, tensor in tensors.items()},
        non_tensor_batch={"data_source": "demo", "reward_model": {"ground_truth": "1"}},
    )

    async def score() -> dict:
        manager.loop = asyncio.get_running_loop()
        return await manager.run_single(Rows([row]))

    scored = asyncio.run(score())
    assert float(scored["reward_score"]) == pytest.approx(1.0 + penalty, abs=1e-6)
    assert scored["reward_extra_info"]["overlong"] == (penalty < 0)


class Rows(list):
    """A batch that can be sliced and indexed as verl's DataProto."""

    def __getitem__(self, index):
        return Rows(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)


# ---- ReMax and the custom example --------------------------------------------------------------------------------


def test_remax_compares_with_the_greedy_answer_of_the_group():
    """Groups of 3; the third answer is greedy. Rewards 1, 0, 0.5 and 0, 0, 1: advantages 0.5, -0.5 and -1, -1."""
    from common.verl_ext.remax import baselines, greedy_rows, sampling_of

    keys = ["u-1_0_0", "v_2_0", "u-1_2_0", "v_0_0", "v_1_0", "u-1_1_0"]
    rewards = torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0, 0.0])
    uids = [key.rsplit("_", 2)[0] for key in keys]
    greedy = greedy_rows(keys, 3)
    assert greedy.tolist() == [False, True, True, False, False, False]
    assert (rewards - baselines(rewards, uids, greedy)).tolist() == [0.5, 0.0, 0.0, -1.0, -1.0, -0.5]
    params = {"temperature": 1.0, "top_p": 0.9, "top_k": 5, "logprobs": True}
    assert sampling_of(1, 3, params) == params
    assert sampling_of(2, 3, params) == {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "logprobs": True}


def test_remax_without_a_greedy_answer_falls_back_on_the_groups_mean():
    from common.verl_ext.remax import baselines

    greedy = torch.tensor([False, False])
    assert baselines(torch.tensor([1.0, 0.0]), ["u", "u"], greedy).tolist() == [0.5, 0.5]


def test_the_example_estimator_and_loss():
    """Medians: of a, 1/2; of b, 1/4. The loss at ratio 1 is minus the advantage, its slope the ratio."""
    from common.verl_ext.user import load
    from tests.conftest import ROOT

    example = load(ROOT / "grpo" / "my_algorithm.py")
    advantages, _ = example.best_of_group(**batch(), config=None)
    assert advantages[:, 0].tolist() == [0.5, -0.5, -0.5, 0.5, 0.25, -0.25]
    old = torch.zeros(1, 1, dtype=torch.float64)
    for log_ratio, width in ((0.0, 0.2), (0.3, 0.2)):
        new = torch.full((1, 1), log_ratio, dtype=torch.float64, requires_grad=True)
        one = torch.ones_like(old)
        loss, _ = example.soft_clip(old, new, one, one, "token-mean", actor_config(width, width))
        loss.backward()
        step = (math.exp(log_ratio) - 1) / width
        assert loss.item() == pytest.approx(-(1 + width * math.tanh(step)))
        assert new.grad.item() == pytest.approx(-math.exp(log_ratio) * (1 - math.tanh(step) ** 2))
