"""Turn next-token logits into tokens and the log-probabilities that verl's trainers expect.

Follows vLLM's ``logprobs_mode: processed_logprobs`` (verl's default, trainer/config/rollout/rollout.yaml): the
log-probability of a sampled token is taken under the distribution it was sampled from, after temperature, top-k
and top-p. At top-p 1 and no top-k this equals what the actor computes from ``logits / temperature``, which is
what ``training/rollout_actor_probs_pearson_corr`` compares.

Shapes: B requests of one batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

GREEDY_BELOW = 1e-5  # temperatures under this are greedy, as in vLLM's sampler
_NEUTRAL = {"repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "min_p": 0.0, "n": 1}
_LENGTH_KEYS = ("max_tokens", "max_new_tokens")  # vLLM's name, SGLang's name


@dataclass(frozen=True)
class SamplingParams:
    """How one request is sampled.

    Args:
        temperature: Divides the logits; below 1e-5 the most likely token is taken.
        top_p: Keep the smallest set of tokens whose probabilities sum to at least this, in (0, 1].
        top_k: Keep this many most likely tokens; 0 or -1 keeps all.
        max_tokens: Tokens to generate at most; None leaves it to the server's limits.
        logprobs: Return the log-probability of each sampled token.
        ignore_eos: Do not stop at the end-of-sequence token.
        stop_token_ids: Tokens that end the answer in addition to the end-of-sequence tokens.
        seed: Seed of a random generator of this request's own; None uses the server's.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int | None = None
    logprobs: bool = False
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < GREEDY_BELOW

    @classmethod
    def from_verl(cls, params: dict[str, Any]) -> SamplingParams:
        """Read the dictionary that verl's agent loops send.

        Raises:
            ValueError: If a parameter is out of range, or is one that this engine does not have.
        """
        params = {key: value for key, value in params.items() if value is not None}
        for key, neutral in _NEUTRAL.items():
            if params.pop(key, neutral) != neutral:
                raise ValueError(f"{key} is not available with ROLLOUT_ENGINE=hf; leave it at {neutral}, or use vllm")
        max_tokens = next((params.pop(key) for key in _LENGTH_KEYS if key in params), None)
        for key in _LENGTH_KEYS:
            params.pop(key, None)
        unknown = sorted(set(params) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"sampling parameters {unknown} are not available with ROLLOUT_ENGINE=hf; use vllm")
        params["stop_token_ids"] = tuple(params.get("stop_token_ids", ()))
        read = cls(**{**params, "max_tokens": max_tokens, "logprobs": params.get("logprobs", False) is not False})
        read._check()
        return read

    def _check(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.top_k < -1:
            raise ValueError(f"top_k={self.top_k} must be -1 or 0 (all tokens) or a positive number")


class BatchSampler:
    """Sample one token for each request of a batch, each with its own parameters.

    Args:
        params: One per request, length B.
        device: Where the logits will be.
        raw_logprobs: Report log-probabilities of the unprocessed logits (vLLM's ``raw_logprobs``).
    """

    def __init__(self, params: Sequence[SamplingParams], device: torch.device | str, raw_logprobs: bool = False):
        def column(values: list, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self.raw_logprobs = raw_logprobs
        self.greedy = column([p.greedy for p in params], torch.bool)
        # A greedy request keeps its logits as they are: temperature 1, no filter.
        self.temperature = column([1.0 if p.greedy else p.temperature for p in params], torch.float32)
        self.top_p = column([1.0 if p.greedy else p.top_p for p in params], torch.float32)
        self.top_k = column([-1 if p.greedy else p.top_k for p in params], torch.int64)
        self.generators = [
            None if p.seed is None else torch.Generator(device=device).manual_seed(p.seed) for p in params
        ]
        self._refresh_flags()

    def _refresh_flags(self) -> None:
        self.all_greedy = bool(self.greedy.all())
        self.any_filter = bool(((self.top_p < 1) | (self.top_k > 0)).any())
        self.any_scaled = bool((self.temperature != 1).any())

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all requests but those at the indices ``rows`` (shape (kept,), int64)."""
        for name in ("greedy", "temperature", "top_p", "top_k"):
            setattr(self, name, getattr(self, name)[rows])
        self.generators = [self.generators[row] for row in rows.tolist()]
        self._refresh_flags()

    def __call__(self, logits: torch.Tensor, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample.

        Args:
            logits: Next-token logits, shape (B, V), float32.
            generator: Randomness for the requests without a seed.

        Returns:
            Token ids, shape (B,), int64, and their log-probabilities, shape (B,), float32.
        """
        processed = logits / self.temperature[:, None] if self.any_scaled else logits
        if self.any_filter:
            processed = filter_top_k_top_p(processed, self.top_k, self.top_p)
        log_probs = torch.log_softmax(processed, dim=-1)
        tokens = processed.argmax(dim=-1)
        if not self.all_greedy:
            tokens = torch.where(self.greedy, tokens, self._draw(log_probs, generator))
        reported = torch.log_softmax(logits, dim=-1) if self.raw_logprobs else log_probs
        return tokens, reported.gather(-1, tokens[:, None]).squeeze(-1)

    def _draw(self, log_probs: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Draw from softmax distributions by an exponential race: argmax of p / Exp(1), shape (B,)."""
        noise = torch.empty_like(log_probs).exponential_(generator=generator)
        for row, own in enumerate(self.generators):
            if own is not None:
                noise[row].exponential_(generator=own)
        return (log_probs.exp() / noise.clamp_min(torch.finfo(noise.dtype).tiny)).argmax(dim=-1)


def filter_top_k_top_p(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Set the logits outside top-k, then outside top-p, to minus infinity.

    Same result as ``TopKLogitsWarper`` followed by ``TopPLogitsWarper`` of transformers, row by row.

    Args:
        logits: Shape (B, V).
        top_k: Shape (B,), int64; values below 1 keep all tokens.
        top_p: Shape (B,), float32, in (0, 1].

    Returns:
        Filtered logits, shape (B, V); at least one token a row is kept.
    """
    vocabulary = logits.shape[-1]
    ascending, order = logits.sort(dim=-1)
    limit = torch.where(top_k > 0, top_k.clamp(max=vocabulary), vocabulary)
    threshold = ascending.gather(-1, (vocabulary - limit)[:, None])
    ascending = ascending.masked_fill(ascending < threshold, -torch.inf)
    below = ascending.softmax(dim=-1).cumsum(dim=-1)
    drop = below <= (1 - top_p)[:, None]
    drop[:, -1] = False
    drop &= (top_p < 1)[:, None]
    ascending = ascending.masked_fill(drop, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ascending)
