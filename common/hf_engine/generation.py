"""Generate a batch of answers with a transformers model: KV cache, left padding, one sampler row a request.

Shapes: B requests still running, L length of the longest prompt, T tokens generated so far.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from common.hf_engine.sampling import BatchSampler, SamplingParams

SHRINK_BELOW = 0.75  # finished requests leave the batch once fewer than this share of its rows still run


@dataclass
class Request:
    """One prompt and the answer to it.

    Args:
        prompt_ids: Token ids of the prompt, at least one.
        params: How to sample.
        max_tokens: Tokens to generate at most, at least 1.
        stop_ids: Tokens that end the answer; the token itself is part of it.
        aborted: Set from another thread to end the answer where it is.
        token_ids: The answer so far.
        log_probs: Log-probability of each token of the answer.
        top: Note this many most likely tokens of each place, with their log-probabilities under the raw logits.
        tops: What was noted.
        finished: The answer ended by a stop token or its length.
    """

    prompt_ids: list[int]
    params: SamplingParams
    max_tokens: int
    stop_ids: frozenset[int]
    aborted: threading.Event = field(default_factory=threading.Event)
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finished: bool = False
    top: int = 0
    tops: list[list[tuple[int, float]]] = field(default_factory=list)

    def add(self, token_id: int, log_prob: float) -> None:
        """Append one sampled token and note whether it is the last."""
        self.token_ids.append(token_id)
        self.log_probs.append(log_prob)
        self.finished = token_id in self.stop_ids or len(self.token_ids) >= self.max_tokens

    @property
    def running(self) -> bool:
        """Whether another token is to be generated."""
        return not self.finished and not self.aborted.is_set()


@torch.inference_mode()
def generate(
    model: torch.nn.Module,
    requests: Sequence[Request],
    pad_token_id: int,
    generator: torch.Generator | None = None,
    raw_logprobs: bool = False,
) -> None:
    """Generate the answers of a batch; fills ``token_ids``, ``log_probs`` and ``finished`` of each request.

    Args:
        model: A causal language model of transformers in eval mode.
        requests: The batch, B >= 1; requests that are aborted on the way keep what they have.
        pad_token_id: Fills the left of shorter prompts; masked, so any valid id gives the same answers.
        generator: Randomness for requests without a seed.
        raw_logprobs: See ``BatchSampler``.
    """
    device = next(model.parameters()).device
    rows = [request for request in requests if request.running]
    if not rows:
        return
    input_ids, attention_mask = pad_left([row.prompt_ids for row in rows], pad_token_id, device)
    position_ids = (attention_mask.cumsum(-1) - 1).clamp_min(0)
    sampler = BatchSampler([row.params for row in rows], device, raw_logprobs)
    cache = None
    while True:
        output = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        logits = output.logits[:, -1].float()
        tokens, log_probs = sampler(logits, generator)
        note_most_likely(rows, logits)
        for row, token, log_prob in zip(rows, tokens.tolist(), log_probs.tolist(), strict=True):
            if row.running:
                row.add(token, log_prob)
        alive = [index for index, row in enumerate(rows) if row.running]
        if not alive:
            return
        position_ids = position_ids[:, -1:] + 1
        if len(alive) < SHRINK_BELOW * len(rows):
            kept = torch.tensor(alive, device=device)
            cache.batch_select_indices(kept)
            sampler.keep(kept)
            rows = [rows[index] for index in alive]
            tokens, position_ids, attention_mask = tokens[kept], position_ids[kept], attention_mask[kept]
        input_ids = tokens[:, None]
        attention_mask = torch.nn.functional.pad(attention_mask, (0, 1), value=1)


def note_most_likely(rows: Sequence[Request], logits: torch.Tensor) -> None:
    """Note the most likely tokens of one place for the requests that want them.

    Args:
        rows: B requests.
        logits: Shape (B, V), float32, before temperature and filters.
    """
    most = max(row.top for row in rows)
    if not most:
        return
    found = torch.log_softmax(logits, dim=-1).topk(min(most, logits.shape[-1]))
    for row, values, ids in zip(rows, found.values.tolist(), found.indices.tolist(), strict=True):
        if row.top and row.running:
            row.tops.append(list(zip(ids, values, strict=True))[: row.top])


def pad_left(
    sequences: Sequence[list[int]], pad_token_id: int, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack token ids with padding on the left.

    Args:
        sequences: B lists of token ids, none empty.
        pad_token_id: The filler.
        device: Where the tensors go.

    Returns:
        Token ids and attention mask (1 on real tokens), both of shape (B, L), int64.
    """
    length = max(map(len, sequences))
    ids = [[pad_token_id] * (length - len(sequence)) + list(sequence) for sequence in sequences]
    mask = [[0] * (length - len(sequence)) + [1] * len(sequence) for sequence in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def cache_bytes_per_token(model: torch.nn.Module) -> int:
    """Bytes that the keys and values of one token take, over all layers."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head_size * next(model.parameters()).element_size()
