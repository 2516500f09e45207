"""The model that lm-evaluation-harness asks: its own ``HFLM``, whose long answers come from the kit's engine.

Log-likelihoods stay the harness's own code on the same weights, so they are its figures. Generated answers are batched
by the engine; greedy ones are those of ``model.generate``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.evaluation.engines.engine import Answer, Ask
from common.evaluation.engines.transformers_engine import TransformersEngine
from common.evaluation.settings import EvaluationError, Settings

UNDERSTOOD = ("until", "do_sample", "temperature", "top_p", "top_k", "max_gen_toks")
NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0}  # values that change nothing
BATCH = {"cpu": 16, "cuda": 64}  # rows of log-likelihoods at once


@dataclass(frozen=True)
class Generation:
    """How one request of a task is answered.

    Args:
        settings: Sampling.
        stop: Texts that end an answer.
        max_tokens: Of the answer.
    """

    settings: Settings
    stop: tuple[str, ...]
    max_tokens: int


def understood(given: dict[str, Any], eos: str, longest: int, seed: int) -> Generation:
    """A task's generation arguments as the engine takes them.

    Args:
        given: ``generation_kwargs`` of a request.
        eos: Text of the end token, which always ends an answer.
        longest: Tokens of an answer where the task does not say.
        seed: Of sampled answers.

    Raises:
        EvaluationError: If one of them would have no effect here.
    """
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    options = dict(normalize_gen_kwargs(given, longest))
    for name, value in options.items():
        if name not in UNDERSTOOD and value != NEUTRAL.get(name):
            raise EvaluationError(
                f"--suite lm-eval: the task sets {name}: {value!r} in generation_kwargs, which the kit's engine does "
                f"not have (it has {', '.join(UNDERSTOOD)}); run this task with lm_eval itself"
            )
    stop = handle_stop_sequences(options["until"], eos=eos)
    temperature = float(options.get("temperature") or 0.0) if options["do_sample"] else 0.0
    settings = Settings(
        temperature, float(options.get("top_p", 1.0)), int(options.get("top_k") or -1), options["max_gen_toks"], 1, seed
    )
    return Generation(settings.check(), tuple(text for text in stop if text), options["max_gen_toks"])


def asked_as(arguments: Sequence[Any]) -> str:
    """A request as a key: its context and generation arguments."""
    return json.dumps(list(arguments), sort_keys=True, default=str)


def _single_tokens(stop: Sequence[str], tokenizer: Any) -> frozenset[int]:
    """Stop texts that are special tokens, which a decoded answer does not show."""
    special = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(special[text] for text in stop if text in special)


def make_model(engine: TransformersEngine, max_length: int | None, thinking: str, seed: int) -> Any:
    """The harness's model over a loaded engine.

    Args:
        engine: It, with its tokenizer.
        max_length: Longest sequence, tokens; None: as the model's config says.
        thinking: ``on`` and ``off`` set ``enable_thinking`` of the chat template.
        seed: Of sampled answers.
    """
    from lm_eval.models.huggingface import HFLM

    class EngineLM(HFLM):
        """``HFLM`` with ``generate_until`` through the engine."""

        truncated = 0  # prompts that lost their beginning, as the harness does it
        answered: dict[str, Answer]  # what the harness does not keep: tokens, and how an answer ended

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            """Answer all requests, those with the same arguments together; texts in their order."""
            groups: dict[str, list[int]] = defaultdict(list)
            for place, request in enumerate(requests):
                groups[json.dumps(request.args[1], sort_keys=True, default=str)].append(place)
            texts: list[str] = [""] * len(requests)
            for places in groups.values():
                for answer in self._answers([requests[place] for place in places]):
                    if answer.error is not None:
                        raise EvaluationError(f"--suite lm-eval: request {answer.row}: {answer.error}")
                    texts[places[answer.row]] = answer.text
                    self.answered[asked_as(requests[places[answer.row]].args)] = answer
                    self.cache_hook.add_partial("generate_until", requests[places[answer.row]].args, answer.text)
            return texts

        def _answers(self, requests: Sequence[Any]) -> list[Answer]:
            eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
            how = understood(requests[0].args[1], eos, self.max_gen_toks, seed)
            room = self.max_length - how.max_tokens
            if room <= 0:
                raise EvaluationError(
                    f"--suite lm-eval: answers of {how.max_tokens:,} tokens leave no room for a prompt in the model's "
                    f"context of {self.max_length:,}; give --max_new_tokens"
                )
            asks = []
            for row, request in enumerate(requests):
                ids = self.tok_encode(request.args[0])
                self.truncated += len(ids) > room
                asks.append(Ask(row, 0, ids[-room:], [], how.max_tokens, how.settings.seed_of(row, 0)))
            found: list[Answer] = []
            engine.ask_with(how.settings, how.stop)
            engine.stop_ids |= _single_tokens(how.stop, self.tokenizer)
            engine.answer(asks, found.append)
            return found

    device = engine.model.device.type
    options = {"chat_template_args": {"enable_thinking": thinking == "on"}} if thinking != "auto" else {}
    made = EngineLM(
        pretrained=engine.model,
        tokenizer=engine.tokenizer,
        backend="causal",
        batch_size=BATCH.get(device, 16),
        max_length=max_length,
        **options,
    )
    made.answered = {}
    return made
