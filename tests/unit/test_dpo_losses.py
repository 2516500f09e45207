"""The losses against arithmetic by hand in float64, and their behaviour at the limits."""

import json
import math
from dataclasses import replace

import pytest
import torch

from common.preference_losses import PAIR_LOSSES, WITHOUT_REFERENCE
from dpo.losses import LOSSES, LossOptions, PairLogps, preference_loss
from tests.conftest import ROOT

# Two pairs: summed log-probabilities and token counts, as Python numbers.
CHOSEN, REJECTED = (-12.0, -30.0), (-15.0, -28.0)
REF_CHOSEN, REF_REJECTED = (-13.5, -29.0), (-14.0, -29.5)
CHOSEN_TOKENS, REJECTED_TOKENS = (4.0, 10.0), (5.0, 7.0)
BETA, SMOOTHING, GAMMA = 0.1, 0.2, 0.5


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def by_hand(loss_type, i):
    """The formula of the paper, one pair, in plain Python."""
    c, r, rc, rr = CHOSEN[i], REJECTED[i], REF_CHOSEN[i], REF_REJECTED[i]
    if loss_type in ("ipo", "simpo", "alphapo", "orpo"):
        c, rc = c / CHOSEN_TOKENS[i], rc / CHOSEN_TOKENS[i]
        r, rr = r / REJECTED_TOKENS[i], rr / REJECTED_TOKENS[i]
    if loss_type in WITHOUT_REFERENCE:
        rc = rr = 0.0
    h = (c - rc) - (r - rr)
    if loss_type == "sigmoid":
        return -(1 - SMOOTHING) * log_sigmoid(BETA * h) - SMOOTHING * log_sigmoid(-BETA * h)
    if loss_type == "robust":
        return (-(1 - SMOOTHING) * log_sigmoid(BETA * h) + SMOOTHING * log_sigmoid(-BETA * h)) / (1 - 2 * SMOOTHING)
    if loss_type == "hinge":
        return max(0.0, 1 - BETA * h)
    if loss_type == "ipo":
        return (h - 1 / (2 * BETA)) ** 2
    if loss_type == "sppo":
        return (c - rc - 0.5 / BETA) ** 2 + (r - rr + 0.5 / BETA) ** 2
    won, lost = BETA * (c - rc), BETA * (r - rr)
    if loss_type == "exo_pair":
        p = 1 / (1 + math.exp(-BETA * h))
        return p * math.log(p / (1 - SMOOTHING)) + (1 - p) * math.log((1 - p) / SMOOTHING)
    if loss_type == "nca_pair":
        return -log_sigmoid(won) - (log_sigmoid(-won) + log_sigmoid(-lost)) / 2
    if loss_type == "bco_pair":
        return -log_sigmoid(won) - log_sigmoid(-lost)
    if loss_type == "apo_zero":
        return 1 - math.exp(log_sigmoid(won)) + math.exp(log_sigmoid(lost))
    if loss_type == "apo_down":
        return math.exp(log_sigmoid(won)) + 1 - math.exp(log_sigmoid(BETA * h))
    if loss_type == "discopop":
        share = 1 / (1 + math.exp(-BETA * h / 0.05))
        return -log_sigmoid(BETA * h) * (1 - share) + math.exp(-BETA * h) * share
    if loss_type == "alphapo":
        c, r = ((1 - math.exp(one) ** -0.25) / 0.25 for one in (c, r))
        h, loss_type = c - r, "simpo"
    if loss_type == "simpo":
        x = BETA * h - GAMMA
        return -(1 - SMOOTHING) * log_sigmoid(x) - SMOOTHING * log_sigmoid(-x)
    odds = math.log(math.exp(c) / (1 - math.exp(c))) - math.log(math.exp(r) / (1 - math.exp(r)))
    return -c - BETA * log_sigmoid(odds)


def logps(reference=True, dtype=torch.float64):
    zeros = (0.0, 0.0)
    values = (CHOSEN, REJECTED, REF_CHOSEN if reference else zeros, REF_REJECTED if reference else zeros)
    return PairLogps(*(torch.tensor(v, dtype=dtype) for v in (*values, CHOSEN_TOKENS, REJECTED_TOKENS)))


@pytest.mark.parametrize("loss_type", LOSSES)
def test_against_arithmetic_by_hand(loss_type):
    options = LossOptions(loss_type, BETA, SMOOTHING, GAMMA)
    result = preference_loss(logps(loss_type not in WITHOUT_REFERENCE), options)
    assert result.loss.tolist() == pytest.approx([by_hand(loss_type, i) for i in (0, 1)], rel=1e-12)


def test_known_values():
    """Without a difference DPO is log 2, the hinge 1, IPO (1 / 2 beta)^2; for one worked example each as well."""
    same = replace(logps(), chosen=logps().ref_chosen, rejected=logps().ref_rejected)
    expected = {"sigmoid": math.log(2), "hinge": 1.0, "ipo": 25.0, "sppo": 50.0, "apo_zero": 1.0, "apo_down": 1.0}
    expected |= {"nca_pair": 2 * math.log(2), "bco_pair": 2 * math.log(2), "discopop": (math.log(2) + 1) / 2}
    for loss_type, value in expected.items():
        assert preference_loss(same, LossOptions(loss_type)).loss.tolist() == pytest.approx([value, value])
    # pair 0: h = (-12 + 13.5) - (-15 + 14) = 2.5, so -log s(0.25) = 0.5759392...
    assert preference_loss(logps(), LossOptions()).loss[0].item() == pytest.approx(0.57593942, abs=1e-8)


def test_rewards():
    result = preference_loss(logps(), LossOptions(beta=0.1))
    assert result.chosen_reward.tolist() == pytest.approx([0.15, -0.1])
    assert result.rejected_reward.tolist() == pytest.approx([-0.1, 0.15])


def test_nll_and_length_normalisation():
    plain = preference_loss(logps(), LossOptions()).loss
    with_nll = preference_loss(logps(), LossOptions(nll_coef=0.5)).loss
    assert (with_nll - plain).tolist() == pytest.approx([0.5 * 12 / 4, 0.5 * 30 / 10])
    normal = preference_loss(logps(), LossOptions(length_normalize=True)).loss
    h = (-12 + 13.5) / 4 - (-15 + 14) / 5
    assert normal[0].item() == pytest.approx(-log_sigmoid(0.1 * h))


@pytest.mark.parametrize("loss_type", LOSSES)
def test_finite_loss_and_gradient_far_out(loss_type):
    """Log-probabilities of answers of 100,000 tokens, and of ones that are certain."""
    for chosen, rejected in ((-3e5, -1.0), (-1.0, -3e5), (0.0, 0.0), (-1e-9, -1e-9)):
        values = torch.tensor([[chosen], [rejected]], requires_grad=True)
        zero, one = torch.zeros(1), torch.ones(1)
        pairs = PairLogps(values[0], values[1], zero, zero, one, one)
        loss = preference_loss(pairs, LossOptions(loss_type, label_smoothing=SMOOTHING)).loss.sum()
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(values.grad).all(), (loss_type, chosen, rejected)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_gradient_raises_the_chosen_and_lowers_the_rejected(loss_type):
    """From no difference on, but discopop: with no difference it pulls the other way, so it starts from one."""
    values = torch.tensor([[-2.0], [-2.0 - 10 * (loss_type == "discopop")]], requires_grad=True)
    zero, one = torch.zeros(1), torch.ones(1)
    reference = (zero, zero) if loss_type in WITHOUT_REFERENCE else (-2 * one, -2 * one)
    pairs = PairLogps(values[0], values[1], *reference, one, one)
    preference_loss(pairs, LossOptions(loss_type, label_smoothing=0.001)).loss.sum().backward()
    if loss_type == "apo_down":  # lets the chosen answer be, and lowers it once it is above the reference
        assert values.grad[0] == 0 < values.grad[1]
    else:
        assert values.grad[0] < 0 < values.grad[1]


def test_exo_needs_a_smoothing():
    with pytest.raises(ValueError, match="label_smoothing=0: exo_pair"):
        LossOptions("exo_pair")


TRL = json.loads((ROOT / "tests" / "data" / "dpo_trl.json").read_text())


@pytest.mark.parametrize("name", TRL)
def test_the_numbers_that_trl_gives(name):
    """Real pairs, losses and rewards of TRL 1.16.0; benchmarks/dpo_against_trl.py --keep writes them.

    Each pair: loss, chosen and rejected reward, and of ours the summed log-probabilities and tokens of both answers.
    """
    options = LossOptions(**{"loss_type": name, "beta": BETA, **TRL[name]["options"]})
    chosen, rejected, chosen_tokens, rejected_tokens = _columns(TRL[name]["kit"])[3:]
    zeros = torch.zeros_like(chosen)
    # The sigmoid loss's rewards are beta times the log-ratios to the reference.
    ratios = [zeros, zeros] if name in WITHOUT_REFERENCE else [r / BETA for r in _columns(TRL["sigmoid"]["kit"])[1:3]]
    references = [zeros, zeros] if name in WITHOUT_REFERENCE else [chosen - ratios[0], rejected - ratios[1]]
    found = preference_loss(PairLogps(chosen, rejected, *references, chosen_tokens, rejected_tokens), options)
    loss, chosen_reward, rejected_reward = _columns(TRL[name]["trl"])
    # The squares of sppo enlarge what TRL's sums of thousands in float32 lose.
    torch.testing.assert_close(found.loss, loss, atol=1e-4, rtol=1e-4 if name == "sppo" else 1e-5)
    torch.testing.assert_close(found.chosen_reward, chosen_reward, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found.rejected_reward, rejected_reward, atol=1e-4, rtol=1e-5)


def _columns(rows):
    return list(torch.tensor(rows, dtype=torch.float64).unbind(dim=1))


def test_the_preflight_knows_the_losses():
    assert set(PAIR_LOSSES) == set(LOSSES)
