"""How answers are made: sampling, and how a prompt becomes what the model sees."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

TEMPLATES = ("auto", "default", "chatml", "llama")
THINKING = ("auto", "on", "off")


class EvaluationError(ValueError):
    """Something that the user can put right; the message names it, its value and the fix."""


@dataclass(frozen=True)
class Settings:
    """What decides the answers of a model, apart from the model and the questions.

    Args:
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Keep the smallest set of tokens whose probabilities sum to at least this, in (0, 1].
        top_k: Keep this many most likely tokens; -1 keeps all.
        max_new_tokens: Longest answer, tokens.
        n: Answers to each prompt.
        seed: Each answer has a random generator of its own, made from this, the row and the number of the answer.
        stop: Texts that end an answer; they are not part of it.
        system: System prompt for prompts that have none.
        template: ``auto`` (the tokenizer's own), ``default`` (the bare text), ``chatml`` or ``llama``.
        thinking: ``on`` or ``off`` sets ``enable_thinking`` of the chat template, ``auto`` leaves it alone.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = -1
    max_new_tokens: int = 512
    n: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    system: str = ""
    template: str = "auto"
    thinking: str = "auto"

    def check(self) -> Settings:
        """Return itself.

        Raises:
            EvaluationError: If a value is out of range.
        """
        wrong = [
            (not math.isfinite(self.temperature) or self.temperature < 0, "temperature", "0 (greedy) or more"),
            (not 0 < self.top_p <= 1, "top_p", "above 0 and at most 1"),
            (self.top_k < -1, "top_k", "-1 (all tokens) or a positive number"),
            (self.max_new_tokens < 1, "max_new_tokens", "at least 1"),
            (self.n < 1, "n", "at least 1"),
            (self.seed < 0, "seed", "0 or more"),
            (self.template not in TEMPLATES, "template", f"one of {', '.join(TEMPLATES)}"),
            (self.thinking not in THINKING, "thinking", f"one of {', '.join(THINKING)}"),
        ]
        for is_wrong, name, wanted in wrong:
            if is_wrong:
                raise EvaluationError(f"--{name} {getattr(self, name)}: must be {wanted}")
        if "" in self.stop:
            raise EvaluationError("--stop '': an empty text would end every answer at once; leave it out")
        if self.n > 1 and self.greedy:
            raise EvaluationError(
                f"--n {self.n} with --temperature {self.temperature:g}: greedy answers to one prompt are all the same; "
                "set a temperature, e.g. --temperature 0.7"
            )
        return self

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < 1e-5

    def seed_of(self, row: int, sample: int) -> int:
        """Seed of one answer; the same whatever else is answered beside it."""
        return (self.seed * 1_000_003 + row * 1_009 + sample) % 2**31

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        return {**asdict(self), "stop": list(self.stop)}
