r"""Losses of preference optimisation, per pair.

Notation: y_w the chosen answer, y_l the rejected one, x the prompt; log pi(y|x) the sum of the log-probabilities of an
answer's tokens under the model that is trained, log pi_ref under the reference; |y| the number of its tokens; s the
logistic function. r(y) = log pi(y|x) - log pi_ref(y|x), and h = r(y_w) - r(y_l).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from common.preference_losses import WITHOUT_REFERENCE


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of the answers of some pairs; every tensor has the shape (pairs,), float64 in training.

    Args:
        chosen: log pi(y_w|x), summed over the tokens of the answer.
        rejected: log pi(y_l|x).
        ref_chosen: log pi_ref(y_w|x); zeros without a reference.
        ref_rejected: log pi_ref(y_l|x).
        chosen_tokens: |y_w|, at least 1.
        rejected_tokens: |y_l|.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    ref_chosen: torch.Tensor
    ref_rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor

    def averaged(self) -> PairLogps:
        """The same per token of the answer: log pi(y|x) / |y|."""
        return replace(
            self,
            chosen=self.chosen / self.chosen_tokens,
            rejected=self.rejected / self.rejected_tokens,
            ref_chosen=self.ref_chosen / self.chosen_tokens,
            ref_rejected=self.ref_rejected / self.rejected_tokens,
        )

    @property
    def margin(self) -> torch.Tensor:
        """The difference h of the log-ratios, shape (pairs,)."""
        return (self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected)


@dataclass(frozen=True)
class LossOptions:
    """What a loss needs in addition to the log-probabilities.

    Args:
        loss_type: One of ``LOSSES``.
        beta: Strength of the pull towards the reference, above 0; for orpo the weight of the odds ratio.
        label_smoothing: Probability that a label is wrong, from 0 to below 0.5 (sigmoid, robust, simpo, alphapo);
            exo_pair needs it above 0.
        simpo_gamma: Target margin of simpo and alphapo, in units of their reward.
        alphapo_alpha: Bend of alphapo's reward, not 0.
        discopop_tau: Temperature of discopop's blend, above 0.
        nll_coef: Weight of the chosen answer's negative log-likelihood per token; 0 for none.
        length_normalize: Use log-probabilities per token (always so for ipo, simpo, alphapo and orpo).

    Raises:
        ValueError: If exo_pair has no smoothing: its target is a distribution, and log 0 is in it.
    """

    loss_type: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    simpo_gamma: float = 0.5
    alphapo_alpha: float = 0.25
    discopop_tau: float = 0.05
    nll_coef: float = 0.0
    length_normalize: bool = False

    def __post_init__(self) -> None:
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("label_smoothing=0: exo_pair needs it above 0; 0.001 is usual")


def sigmoid(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """DPO, with label smoothing e conservative DPO: -(1 - e) log s(beta h) - e log s(-beta h).

    Source: Rafailov et al., arXiv 2305.18290, equation 7; Mitchell, "A note on DPO with noisy preferences" (cDPO).
    """
    h, e = options.beta * logps.margin, options.label_smoothing
    return -(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h)


def robust(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """DPO unbiased under labels that are wrong with probability e: (-(1 - e) log s(b h) + e log s(-b h)) / (1 - 2 e).

    Source: Chowdhury et al., arXiv 2403.00409, equation 12.
    """
    h, e = options.beta * logps.margin, options.label_smoothing
    return (-(1 - e) * F.logsigmoid(h) + e * F.logsigmoid(-h)) / (1 - 2 * e)


def hinge(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """Hinge on the margin: max(0, 1 - beta h).

    Source: Zhao et al. (SLiC-HF), arXiv 2305.10425; in this form Liu et al. (RSO), arXiv 2309.06657.
    """
    return torch.relu(1 - options.beta * logps.margin)


def ipo(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """IPO, on log-probabilities per token: (h - 1 / (2 beta))^2.

    Source: Azar et al., arXiv 2310.12036, equation 17 (beta is its tau); per token as its authors advise.
    """
    return (logps.margin - 1 / (2 * options.beta)) ** 2


def exo_pair(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """EXO on pairs: the reverse KL from (s(beta h), s(-beta h)) to the labels (1 - e, e).

    Source: Ji et al., arXiv 2402.00856, equation 16.
    """
    h, e = options.beta * logps.margin, options.label_smoothing
    return h.sigmoid() * (F.logsigmoid(h) - math.log1p(-e)) + (-h).sigmoid() * (F.logsigmoid(-h) - math.log(e))


def nca_pair(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """NCA: -log s(b r(y_w)) - log s(-b r(y_w)) / 2 - log s(-b r(y_l)) / 2; holds the chosen answer's own likelihood.

    Source: Chen et al., arXiv 2402.05369, equation 9 for two answers.
    """
    won, lost = _rewards(logps, options)
    return -F.logsigmoid(won) - 0.5 * F.logsigmoid(-won) - 0.5 * F.logsigmoid(-lost)


def bco_pair(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """BCO without its shift: each answer is separated from the other kind, -log s(b r(y_w)) - log s(-b r(y_l)).

    Source: Jung et al., arXiv 2404.04656, equation 8 with delta = 0.
    """
    won, lost = _rewards(logps, options)
    return -F.logsigmoid(won) - F.logsigmoid(-lost)


def apo_zero(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """APO-zero, where the chosen answers are better than the model's: s(-b r(y_w)) + s(b r(y_l)).

    Source: D'Oosterlinck et al., arXiv 2408.06266, equation 7.
    """
    won, lost = _rewards(logps, options)
    return (-won).sigmoid() + lost.sigmoid()


def apo_down(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """APO-down, where the model's answers are better than the chosen: s(b r(y_w)) + s(-b h).

    Source: as for apo_zero, equation 8.
    """
    won, lost = _rewards(logps, options)
    return won.sigmoid() + (lost - won).sigmoid()


def discopop(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """DiscoPOP (LRML): with x = beta h and m = s(x / tau), (1 - m) (-log s(x)) + m exp(-x).

    Source: Lu et al., arXiv 2406.08414, equation 5.
    """
    x = options.beta * logps.margin
    scaled = x / options.discopop_tau
    # m exp(-x) as one power: m alone is 0 where exp(-x) is beyond all numbers.
    return -F.logsigmoid(x) * (-scaled).sigmoid() + torch.exp(F.logsigmoid(scaled) - x)


def _rewards(logps: PairLogps, options: LossOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Implicit rewards beta r(y) of the chosen and of the rejected answers."""
    return options.beta * (logps.chosen - logps.ref_chosen), options.beta * (logps.rejected - logps.ref_rejected)


def sppo(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """SPPO with hard labels: (r(y_w) - 1 / (2 beta))^2 + (r(y_l) + 1 / (2 beta))^2.

    Source: Wu et al., arXiv 2405.00675, equation 4.8 with win probabilities 1 and 0 (1 / beta is its eta).
    """
    target = 1 / (2 * options.beta)
    return (logps.chosen - logps.ref_chosen - target) ** 2 + (logps.rejected - logps.ref_rejected + target) ** 2


def simpo(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """SimPO, without a reference, per token: -log s(beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma).

    Source: Meng et al., arXiv 2405.14734, equation 6.
    """
    h, e = options.beta * logps.margin - options.simpo_gamma, options.label_smoothing
    return -(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h)


def alphapo(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """AlphaPO, SimPO on a bent reward per token: r(y) = (1 - pi(y|x)^(-alpha / |y|)) / alpha.

    Source: Gupta et al., arXiv 2501.03884, equation 7.
    """
    return simpo(bent(logps, options.alphapo_alpha), options)


def bent(logps: PairLogps, alpha: float) -> PairLogps:
    """AlphaPO's rewards in the place of log-probabilities per token; the power is held where float32 can hold it."""

    def reward(logp: torch.Tensor) -> torch.Tensor:
        return -torch.expm1((-alpha * logp).clamp(max=80.0)) / alpha

    return replace(logps, chosen=reward(logps.chosen), rejected=reward(logps.rejected))


def orpo(logps: PairLogps, options: LossOptions) -> torch.Tensor:
    """ORPO, without a reference, per token: NLL(y_w) - beta log s(log odds(y_w) - log odds(y_l)).

    odds(y) = p / (1 - p) with p = exp(log pi(y|x) / |y|). Source: Hong et al., arXiv 2403.07691, equations 4 to 7
    (beta is its lambda).
    """
    odds = (logps.chosen - logps.rejected) - (_log1m_exp(logps.chosen) - _log1m_exp(logps.rejected))
    return -logps.chosen - options.beta * F.logsigmoid(odds)


def _log1m_exp(logp: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(logp)) for logp below 0, exact near 0 as well."""
    logp = logp.clamp(max=-1e-7)
    return torch.where(logp > -0.693, torch.log(-torch.expm1(logp)), torch.log1p(-torch.exp(logp)))


LOSSES: dict[str, Callable[[PairLogps, LossOptions], torch.Tensor]] = {
    "sigmoid": sigmoid,
    "hinge": hinge,
    "ipo": ipo,
    "robust": robust,
    "sppo": sppo,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "bco_pair": bco_pair,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
    "simpo": simpo,
    "alphapo": alphapo,
    "orpo": orpo,
}
PER_TOKEN = ("ipo", "simpo", "alphapo", "orpo")


@dataclass(frozen=True)
class PairResult:
    """Loss and implicit rewards of some pairs, each of the shape (pairs,)."""

    loss: torch.Tensor
    chosen_reward: torch.Tensor
    rejected_reward: torch.Tensor


def preference_loss(logps: PairLogps, options: LossOptions) -> PairResult:
    """Loss of each pair, with the term that keeps the chosen answer likely.

    The implicit reward is beta r(y) of the whole answer, whatever the loss; without a reference (simpo, orpo) it is
    beta log pi(y|x) / |y|, for alphapo beta times its bent reward. TRL reports the same. The added term is ``nll_coef``
    times -log pi(y_w|x) / |y_w| (RPO: Pang et al., arXiv 2404.19733, equation 1).

    Args:
        logps: Summed log-probabilities.
        options: See there.

    Raises:
        KeyError: If the loss is not known.
    """
    used = logps.averaged() if options.length_normalize or options.loss_type in PER_TOKEN else logps
    loss = LOSSES[options.loss_type](used, options)
    if options.nll_coef:
        loss = loss - options.nll_coef * logps.chosen / logps.chosen_tokens
    shown = used if options.loss_type in WITHOUT_REFERENCE else logps
    if options.loss_type == "alphapo":
        shown = bent(used, options.alphapo_alpha)
    return PairResult(
        loss,
        options.beta * (shown.chosen - shown.ref_chosen).detach(),
        options.beta * (shown.rejected - shown.ref_rejected).detach(),
    )
