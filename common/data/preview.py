"""Rows as the model will see them, and what a file holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from common.data.checks import structure
from common.data.conversation import Renderer, answer_tokens, answers_of
from common.data.convert import Source
from common.data.readers.files import DataError
from common.data.readers.records import place_word
from common.data.turns import RenderError
from common.data.validate import problem_of, row_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LEARNT, CONTEXT = "black on green", "dim"


def preview(
    console: Console,
    source: Source,
    algorithm: str,
    tokenizer: Any,
    renderer: Renderer,
    rows: int,
    max_chars: int,
) -> None:
    """Print the first rows as the model sees them.

    For sft, dpo and kto the tokens and what is learnt of them are those of the datasets that train.

    Args:
        console: Where to print.
        source: The file.
        algorithm: One of ``rows.ALGORITHMS``.
        tokenizer: Of the model that will be trained.
        renderer: Of its chat template.
        rows: How many rows.
        max_chars: Characters of a row to show at most.
    """
    from rich.text import Text

    word = place_word(source.path)
    if algorithm in ("sft", "dpo", "kto"):
        console.print(Text.assemble(_marked("learnt", True), "  ", _marked("context, not learnt", False)))
    for record in islice(source.records(), rows):
        row, problem = row_of(record, source, algorithm)
        problem = problem or problem_of(algorithm, row)
        console.rule(f"{word} {record.place}")
        if problem:
            console.print(f"bad: {problem}", style="red", markup=False)
        if row is None or structure(algorithm, row):
            continue
        try:
            parts = _parts(algorithm, row, tokenizer, renderer)
        except RenderError as error:
            console.print(f"cannot be shown: {error}", style="red", markup=False)
            continue
        for title, text, tokens in parts:
            console.print(f"{title} ({tokens:,} tokens)", style="bold")
            shown = text[:max_chars]
            console.print(shown, soft_wrap=True)
            if len(text) > max_chars:
                console.print(f"... {len(text) - max_chars:,} more characters (--chars)", style="yellow")


def _parts(algorithm: str, row: dict[str, Any], tokenizer: Any, renderer: Renderer) -> list[tuple[str, Text, int]]:
    from rich.text import Text

    if algorithm == "text":
        return [("text, all of it learnt", Text(row["text"]), _count(tokenizer, row["text"]))]
    if algorithm == "sft":
        ids, mask = renderer.tokens(tokenizer, row["messages"], row.get("tools"), row.get("enable_thinking"))
        return [("conversation", masked_text(ids, mask, tokenizer), len(ids))]
    if names := answers_of(algorithm, row):
        sides = [answer_tokens(renderer, tokenizer, row, name) for name in names]
        prompt = sides[0].prompt
        parts = [("prompt", _marked(tokenizer.decode(prompt), False), len(prompt))]
        for name, side in zip(names, sides, strict=True):
            mask = side.mask[-len(side.answer) :]
            verdict = f", label {row['label']}" if name == "completion" else ""
            parts.append((name + verdict, masked_text(side.answer, mask, tokenizer), len(side.answer)))
        return parts
    prompt = renderer.text(row["prompt"], row.get("tools"), answer_next=True)
    truth = str(row["reward_model"]["ground_truth"])
    return [
        ("prompt", _marked(prompt, False), _count(tokenizer, prompt)),
        ("ground truth (never shown to the model)", Text(truth), _count(tokenizer, truth)),
    ]


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def masked_text(ids: list[int], mask: list[int], tokenizer: Any) -> Text:
    """Tokens as text, those that count in the loss marked."""
    from rich.text import Text

    text = Text()
    for learnt, run in groupby(zip(ids, mask, strict=True), key=lambda pair: bool(pair[1])):
        text.append_text(_marked(tokenizer.decode([token for token, _ in run]), learnt))
    return text


def _marked(text: str, learnt: bool) -> Text:
    """A text in the colour of what is learnt; between brackets too, for files and for those who see no colours."""
    from rich.text import Text

    return Text(f"⟦{text}⟧", style=LEARNT) if learnt else Text(text, style=CONTEXT)


def stats(console: Console, source: Source) -> None:
    """Print what a file holds: rows, columns with their kinds and lengths, data sources, roles."""
    from rich.table import Table

    rows, columns = 0, {}
    counts: dict[str, Counter[Any]] = {name: Counter() for name in ("data_source", "ability", "turns", "roles")}
    problems = 0
    for record in source.records():
        rows += 1
        if record.row is None:
            problems += 1
            continue
        for name, value in record.row.items():
            columns.setdefault(str(name), _Column()).add(value)
        for name in ("data_source", "ability"):
            if isinstance(record.row.get(name), str):
                counts[name][record.row[name]] += 1
        _count_turns(record.row, counts)
    if not rows:
        raise DataError(f"{source.path}: has no rows")
    unreadable = f", {problems:,} unreadable" if problems else ""
    console.print(f"{source.path}: {rows:,} rows{unreadable}", markup=False, soft_wrap=True)  # a path stays whole
    table = Table("column", "kinds", "filled", "characters: median", "longest")
    for name, column in columns.items():
        table.add_row(name, *column.cells(rows))
    console.print(table)
    for name, counter in counts.items():
        if counter:
            shown = ", ".join(f"{key} {count:,}" for key, count in counter.most_common(10))
            console.print(f"{name}: {shown}" + (" ..." if len(counter) > 10 else ""), markup=False, soft_wrap=True)


class _Column:
    """What was seen in a column; lengths of at most 100,000 values, so that memory stays flat."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.lengths: list[int] = []
        self.filled = self.longest = 0

    def add(self, value: Any) -> None:
        self.kinds[
            "null"
            if value is None
            else {"str": "text", "dict": "object"}.get(type(value).__name__, type(value).__name__)
        ] += 1
        self.filled += value not in (None, "", [], {})
        length = len(value) if isinstance(value, str) else len(str(value))
        self.longest = max(self.longest, length)
        if len(self.lengths) < 100_000:
            self.lengths.append(length)

    def cells(self, rows: int) -> list[str]:
        kinds = ", ".join(f"{kind} {count:,}" if len(self.kinds) > 1 else kind for kind, count in self.kinds.items())
        median = sorted(self.lengths)[len(self.lengths) // 2]
        return [kinds, f"{self.filled / rows:.1%}", f"{median:,}", f"{self.longest:,}"]


def _count_turns(row: dict[str, Any], counts: dict[str, Counter[Any]]) -> None:
    messages = next(
        (row[name] for name in ("messages", "conversations", "prompt") if isinstance(row.get(name), list)), None
    )
    if messages is None:
        return
    counts["turns"][len(messages)] += 1
    counts["roles"].update(_roles(messages))


def _roles(messages: Iterable[Any]) -> Iterable[str]:
    return (str(message.get("role") or message.get("from")) for message in messages if isinstance(message, dict))
