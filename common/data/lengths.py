"""Token lengths of rows under a model's own chat template."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.conversation import Renderer, answer_tokens, answers_of, as_messages
from common.data.readers.files import DataError
from common.data.self_play import is_prompt
from common.data.turns import RenderError

if TYPE_CHECKING:
    from rich.console import Console

BATCH = 256
KEEP = 0.99  # share of rows that a proposed limit keeps whole
ROUND_TO = 32
BARS = 12


@dataclass(frozen=True)
class Lengths:
    """Token lengths of one part of the rows.

    Args:
        part: ``prompt``, ``answer`` or ``conversation``.
        knob: The knob of train.sh that limits it.
        tokens: Length of each row, in the order of the file.
    """

    part: str
    knob: str
    tokens: list[int]

    @property
    def proposal(self) -> int:
        """The limit that keeps ``KEEP`` of the rows whole, rounded up."""
        ordered = sorted(self.tokens)
        kept = ordered[min(len(ordered) - 1, math.ceil(KEEP * len(ordered)) - 1)]
        return max(ROUND_TO, math.ceil(kept / ROUND_TO) * ROUND_TO)

    def over(self, limit: int) -> int:
        """Number of rows above a limit."""
        return sum(length > limit for length in self.tokens)


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model folder or hub id, without running code from it.

    Raises:
        DataError: If there is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    from common.data.templates.trial import FIX, DangerousTemplate, check_template
    from common.demo_model import DEMO_MODEL_DIR

    path = str(DEMO_MODEL_DIR) if model == "demo" else str(Path(model).expanduser())
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"--model {model}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error
    if not tokenizer.chat_template:
        raise DataError(f"--model {model}: has no chat template; give the instruction-tuned model of the family")
    try:
        check_template(tokenizer.chat_template)
    except DangerousTemplate as error:
        raise DataError(f"--model {model}: {error}; {FIX}") from error
    return tokenizer


def why_not_shown(renderer: Renderer, algorithm: str, row: dict[str, Any]) -> str | None:
    """Why a chat template cannot show a row in verl's form, or None."""
    if algorithm == "text":
        return None
    try:
        if algorithm == "sft":
            renderer.render(row["messages"], row.get("tools"), row.get("enable_thinking"))
            return None
        if algorithm != "gspo" or is_prompt(row):
            renderer.prompt(row["prompt"], row.get("tools"))
        if answers := answers_of(algorithm, row):
            prompt = as_messages(row["prompt"], "user")
            for side in answers:
                renderer.render([*prompt, *as_messages(row[side], "assistant")], row.get("tools"))
    except RenderError as error:
        return str(error)
    return None


def measure(renderer: Renderer, tokenizer: Any, algorithm: str, rows: Iterable[dict[str, Any]]) -> list[Lengths]:
    """Measure rows in verl's form that the chat template can show.

    Returns:
        For sft and text one entry, else the prompts, for dpo and kto the longer of the answers as well.
    """
    if algorithm in ("dpo", "kto"):
        sides = [[answer_tokens(renderer, tokenizer, row, name) for name in answers_of(algorithm, row)] for row in rows]
        prompts = [len(row[0].prompt) for row in sides]
        answers = [max(len(side.answer) for side in row) for row in sides]
        return [Lengths("prompt", "MAX_PROMPT_LENGTH", prompts), Lengths("answer", "MAX_RESPONSE_LENGTH", answers)]
    if algorithm == "text":
        return [Lengths("text", "MAX_LENGTH", count(tokenizer, [row["text"] for row in rows]))]
    if algorithm == "sft":
        texts = [renderer.text(row["messages"], row.get("tools"), thinking=row.get("enable_thinking")) for row in rows]
        return [Lengths("conversation", "MAX_LENGTH", count(tokenizer, texts))]
    asked = (row for row in rows if algorithm != "gspo" or is_prompt(row))
    texts = [renderer.text(row["prompt"], row.get("tools"), answer_next=True) for row in asked]
    return [Lengths("prompt", "MAX_PROMPT_LENGTH", count(tokenizer, texts))] if texts else []


def count(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Number of tokens of each text."""
    lengths: list[int] = []
    for start in range(0, len(texts), BATCH):
        encoded = tokenizer(list(texts[start : start + BATCH]), add_special_tokens=False, return_attention_mask=False)
        lengths += [len(ids) for ids in encoded["input_ids"]]
    return lengths


def show(console: Console, lengths: Lengths, limit: int | None) -> None:
    """Print a histogram, the share above the limit, and the limit to set."""
    ordered = sorted(lengths.tokens)
    median, longest = ordered[len(ordered) // 2], ordered[-1]
    most = ordered[int(0.99 * (len(ordered) - 1))]
    console.print(f"\n[bold]{lengths.part} length[/bold] in tokens, with the chat template:")
    console.print(f"  shortest {ordered[0]:,}, median {median:,}, 99% within {most:,}, longest {longest:,}")
    width = max(1, math.ceil((longest + 1) / BARS))
    counts = [0] * (longest // width + 1)
    for length in ordered:
        counts[length // width] += 1
    for index, rows in enumerate(counts):
        bar = "█" * round(40 * rows / max(counts)) or ("▏" if rows else "")
        console.print(f"  {index * width:>7,} - {(index + 1) * width - 1:<7,} {bar} {rows:,}", highlight=False)
    if limit:
        share = lengths.over(limit) / len(ordered)
        console.print(f"  {lengths.knob}={limit}: {lengths.over(limit):,} rows ({share:.1%}) are longer")
    lost = lengths.over(lengths.proposal)
    console.print(f"  set {lengths.knob}={lengths.proposal} ({lost:,} of {len(ordered):,} rows are longer)")
