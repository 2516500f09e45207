"""How answers are made: sampling, and how a prompt becomes what the model sees."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import asdict, dataclass
from typing import Any

TEMPLATES = ("auto", "default", "chatml", "llama")
THINKING = ("auto", "on", "off")
INSTALL = {
    "vllm": "./setup_env.sh --engine vllm; without a GPU --cpu --engine vllm, then VENV_DIR=.venv-vllm-cpu",
    "sglang": "VENV_DIR=.venv-sglang ./setup_env.sh --engine sglang, then VENV_DIR=.venv-sglang",
}


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
        seed: Each answer has a separate random generator, made from this, the row and the number of the answer.
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
        for is_wrong, name, expected in wrong:
            if is_wrong:
                raise EvaluationError(f"--{name} {getattr(self, name)}: must be {expected}")
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
        """Seed of one answer; the same whatever else is answered with it."""
        return (self.seed * 1_000_003 + row * 1_009 + sample) % 2**31

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        return {**asdict(self), "stop": list(self.stop)}

    def facts(self) -> dict[str, Any]:
        """What a report says of them: label to value."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "max_new_tokens": self.max_new_tokens,
            "answers a prompt": self.n,
            "seed": self.seed,
            "stop": ", ".join(map(repr, self.stop)) or "none",
            "system prompt": self.system or "none",
            "template": self.template,
            "thinking": self.thinking,
        }


@dataclass(frozen=True)
class Backend:
    """Where and with what to generate.

    Args:
        kind: ``transformers``, ``vllm``, ``sglang`` or ``server``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        gpus: Number of GPUs (of processes without one); None for all.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        batch_tokens: Tokens of a batch of transformers; None: what memory allows.
        gpu_memory: Share of a GPU's memory for vLLM or SGLang.
        server: Base URL of an OpenAI-compatible server.
        server_model: Its name of the model; "" asks the server.
        concurrency: Requests to the server at once.
        trust_remote_code: Run code in the model's folder.
    """

    kind: str = "transformers"
    device: str = "auto"
    gpus: int | None = None
    dtype: str = "auto"
    batch_tokens: int | None = None
    gpu_memory: float = 0.9
    server: str = ""
    server_model: str = ""
    concurrency: int = 32
    trust_remote_code: bool = False

    def check(self) -> Backend:
        """Return itself.

        Raises:
            EvaluationError: If what it needs is not installed, or a value is out of range.
        """
        if self.kind in INSTALL and importlib.util.find_spec(self.kind) is None:
            raise EvaluationError(
                f"--use_{self.kind}: {self.kind} is not installed here; to get it, on a machine with an NVIDIA GPU: "
                f"{INSTALL[self.kind]}. Or leave --use_{self.kind} out to generate with transformers"
            )
        for name in ("gpus", "batch_tokens", "concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EvaluationError(f"--{name} {value}: must be at least 1")
        if not 0 < self.gpu_memory < 1:
            raise EvaluationError(f"--gpu_memory_utilization {self.gpu_memory}: must be between 0 and 1")
        return self
