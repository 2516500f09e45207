"""A share of the training data for validation: chosen by the prompts' hashes and left out of training."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.keys import prompt_key, question_of
from common.data.readers.files import DataError
from common.data.readers.parquet_reader import parquet_batches
from common.data.rows import loaded
from common.data.self_play import is_prompt

SHARE = 16  # one row in so many: a batch is at most a sixteenth of the rows, and verl validates on whole batches
FEWEST, MOST = 8, 500  # fewer tell little; more take longer to answer than they tell
LARGEST_PART = 5  # never more than a fifth: a small data set is there to be learnt
MORE_ROWS = "add rows, or set VAL_DATA to a file (to that of TRAIN_DATA, and validation shows what was learnt by heart)"
NO_PROMPTS = (
    "use dpo/train.sh, add prompts, or give rows with a ground truth self_play=true, which the model then answers too"
)


def validation_rows(rows: int, batch: int = 0) -> int:
    """How many of some rows to validate on: a sixteenth, 8 to 500, at most a fifth, at least one.

    Args:
        rows: All there are.
        batch: Of a trainer that validates on whole batches only, where the user has set it.
    """
    target = max(min(MOST, max(FEWEST, -(-rows // SHARE))), batch)
    return max(1, min(target, rows // LARGEST_PART))


def choose(sizes: Mapping[int, int], target: int, rows: int) -> set[int]:
    """The prompts to validate on, in the order of their hashes, so that the same data is always divided alike.

    Args:
        sizes: Hash of a prompt -> rows that have it; they go to one side together.
        target: Rows for validation.
        rows: All rows; at least half of them stay for training.

    Returns:
        Hashes; empty where nothing can be split off.
    """
    chosen, taken = set(), 0
    for key in sorted(sizes):
        if taken + sizes[key] <= target:
            chosen.add(key)
            taken += sizes[key]
    if not chosen and len(sizes) > 1:
        smallest = min(sorted(sizes), key=sizes.__getitem__)
        chosen = {smallest} if sizes[smallest] * 2 <= rows else set()
    return chosen if len(chosen) < len(sizes) or taken < rows else set()


def split_files(
    files: Sequence[Path], folder: Path, algorithm: str, batch: int = 0
) -> tuple[list[Path], list[Path], int, int]:
    """Write the rows of parquet files into ``train*.parquet`` and ``val*.parquet`` of a folder, columns as they are.

    For gspo only prompts that the model answers itself are chosen; pairs of the same prompt go with them.

    Returns:
        Files to train on, files to validate on, rows of the first, rows of the second.

    Raises:
        DataError: If there are too few prompts to keep one for validation, or a row cannot be read.
    """
    keys = [array("Q") for _ in files]
    sizes: Counter[int] = Counter()
    eligible: set[int] = set()
    for file, mine in zip(files, keys, strict=True):
        for row in _rows(file):
            try:
                key = prompt_key(question_of(row))
            except (KeyError, TypeError) as error:
                raise DataError(f"{file}: row {len(mine) + 1}: has no messages that can be read ({error!r})") from error
            mine.append(key)
            sizes[key] += 1
            if algorithm != "gspo" or is_prompt(row):
                eligible.add(key)
    rows = sizes.total()
    if not eligible:
        raise DataError(f"all {rows:,} rows are pairs and none is a prompt to answer; {NO_PROMPTS}")
    chosen = choose({key: sizes[key] for key in eligible}, validation_rows(rows, batch), rows)
    if not chosen or sum(sizes[key] for key in chosen) == rows:
        prompts = f"{len(sizes):,} different prompt{'' if len(sizes) == 1 else 's'} in {rows:,} rows"
        raise DataError(f"{prompts} are too few to keep some of them for validation; {MORE_ROWS}")
    sides: tuple[list[Path], list[Path]] = ([], [])
    for number, (file, mine) in enumerate(zip(files, keys, strict=True), 1):
        end = ".parquet" if len(files) == 1 else f"-{number}.parquet"
        for side, name in enumerate(("train", "val")):
            target = folder / f"{name}{end}"
            if _write(file, target, [(key in chosen) == bool(side) for key in mine]):
                sides[side].append(target)
    kept = sum(sizes[key] for key in chosen)
    return *sides, rows - kept, kept


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    there = pq.read_schema(file).names
    columns = [name for name in ("messages", "prompt", "chosen", "rejected", "self_play", "text") if name in there]
    for batch in parquet_batches(file, columns):
        for row in batch.to_pylist():
            yield {name: loaded(value) for name, value in row.items()}


def _write(source: Path, target: Path, selected: list[bool]) -> int:
    """Write the selected rows of a parquet file; returns their number, and leaves no file where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not any(selected):
        return 0
    schema, at = pq.read_schema(source), 0
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in parquet_batches(source):
            writer.write_batch(batch.filter(pa.array(selected[at : at + batch.num_rows])).cast(schema))
            at += batch.num_rows
    return sum(selected)
