"""Rows by how hard a model finds them: those that are always or never right go, the rest is sorted.

Where all answers of a group are right, or none is, group-relative learning has nothing to learn. (DAPO, arXiv
2503.14476, leaves such groups out while it trains, and pays for their answers each time.)
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.data.convert import Options, Source, convert
from common.data.readers.files import DataError
from common.data.readers.parquet_reader import parquet_batches
from common.data.report import Report
from common.data.rows import loaded

MARKS = ("difficulty", "weight")  # in extra_info
TENTHS = 10


@dataclass(frozen=True)
class Share:
    """What the answers to a row came to.

    Args:
        right: Share of right answers, from 0 to 1.
        best: Highest value of one.
    """

    right: float
    best: float


@dataclass(frozen=True)
class Asked:
    """How the rows are answered.

    Args:
        model: Run, checkpoint, folder, id or ``demo``.
        file: Parquet file of the rows; filled in by ``sort_by_difficulty``.
        folder: Where an interrupted measurement waits; filled in too.
        samples: Answers to each row.
        reward: As ``test.sh --reward``.
        min_score: Value from which an answer is right: ``acc`` where the reward gives it, else its score.
        temperature: Of sampling.
        max_new_tokens: Longest answer.
        seed: Of sampling.
        engine: ``transformers``, ``vllm`` or ``sglang``.
        server: URL of an OpenAI-compatible server in its place, or "".
    """

    model: str
    file: Path = Path()
    folder: Path = Path()
    samples: int = 8
    reward: str = "auto"
    min_score: float = 1.0
    temperature: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0
    engine: str = "transformers"
    server: str = ""


# Gives for each row its share, and what is to be called when the result is written.
Measure = Callable[[Asked], tuple[Sequence[Share | None], Callable[[], None]]]


@dataclass
class Found:
    """What became of the rows.

    Args:
        report: The door's, of the rows that are written.
        shares: Rows by their share of right answers, in tenths.
        left_out: Rows left out, by why.
    """

    report: Report
    shares: Counter[int]
    left_out: Counter[str]


def sort_by_difficulty(
    source: Source, target: Path, asked: Asked, measure: Measure, keep: tuple[float, float] | None = None
) -> Found:
    """Write the rows that a model answers right sometimes, the easiest first.

    Each row gets ``extra_info.difficulty`` (share of wrong answers) and ``extra_info.weight`` (4 p (1 - p) with p the
    share of right ones: the variance of right and wrong, 1 where half are right).

    Args:
        source: Rows with prompts and something to score answers with.
        target: Parquet file to write; it appears when it is complete. What lets an interrupted measurement resume lies
            beside it until then.
        asked: How the rows are answered.
        measure: Answers and scores them.
        keep: Least and greatest share of right answers of the rows that stay; None: above 0 and below 1.

    Raises:
        DataError: If the input cannot be used, or no row is left.
    """
    if keep and not 0 <= keep[0] <= keep[1] <= 1:
        raise DataError(f"--keep {keep[0]:g} {keep[1]:g}: two shares from 0 to 1, the smaller one first")
    if target.resolve() == source.path.resolve():
        raise DataError(f"{target}: is also the input; give another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{target.stem}.parquet"
        convert([source], file, Options("grpo"))
        rows = [loaded(row) for batch in parquet_batches(file) for row in batch.to_pylist()]
        shares, written = measure(replace(asked, file=file, folder=target.parent))
        counts, left_out = Counter[int](), Counter[str]()
        kept = []
        for row, share in zip(rows, shares, strict=True):
            if share is None:
                left_out["no answer could be scored"] += 1
                continue
            counts[int(share.right * TENTHS)] += 1
            why = _too(share.right, keep)
            if why:
                left_out[why] += 1
            else:
                kept.append(_marked(row, share.right))
        if not kept:
            words = "; ".join(f"{count:,}: {why}" for why, count in left_out.most_common())
            best = max((share.best for share in shares if share), default=0.0)
            raise DataError(
                f"{target}: no row is left ({words}); the best answer is worth {best:g}, and one counts as right from "
                f"--min-score {asked.min_score:g}; --keep 0 1 keeps all"
            )
        kept.sort(key=lambda row: row["extra_info"]["difficulty"])  # equal ones stay in their order
        lines = Path(folder) / f"{target.stem}.jsonl"
        with lines.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        report = convert([Source(lines)], target, Options("grpo"))
    written()
    return Found(report, counts, left_out)


def _too(right: float, keep: tuple[float, float] | None) -> str | None:
    low, high = keep or (0.0, 1.0)
    if right < low or (keep is None and right == 0):
        return "too hard"
    return "too easy" if right > high or (keep is None and right == 1) else None


def _marked(row: dict[str, Any], right: float) -> dict[str, Any]:
    marks = {"difficulty": round(1 - right, 6), "weight": round(4 * right * (1 - right), 6)}
    return {**row, "extra_info": {**row.get("extra_info", {}), **marks}}
