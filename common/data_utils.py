"""Data of any common form becomes what verl's trainers read.

In Python ``json_to_parquet("data.json", "data.parquet")``; at the terminal ``python -m common.data_utils --help``.
The work is done in ``common/data``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.data import cli
from common.data.convert import Options, Source, convert
from common.data.difficulty import Asked
from common.data.names import Columns
from common.data.report import Report

__all__ = ["Columns", "Options", "Report", "Source", "convert", "json_to_parquet", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``python -m common.data_utils``; returns the exit status."""
    return cli.main(argv, _benchmark_texts, _shares_of)


def _shares_of(asked: Asked, console: Any) -> Any:
    """Right answers of a model to each row, for ``difficulty``."""
    from common.evaluation.difficulty import shares_of

    return shares_of(asked, console)


def _benchmark_texts(names: str, data: Path | None) -> dict[str, list[str]]:
    """Questions of the benchmarks of ``test.sh --suite``, for ``validate --contamination``."""
    from common.data.readers.files import DataError
    from common.evaluation.settings import EvaluationError
    from common.evaluation.suites.catalog import choose
    from common.evaluation.suites.load import load

    try:
        return {bench.name: load(bench, data).texts for bench in choose(names)}
    except EvaluationError as error:
        words = str(error).replace("--suite", "--contamination").replace("--data", "--suite-data")
        raise DataError(words) from error


def json_to_parquet(
    source: str | Path,
    target: str | Path,
    algorithm: str | None = None,
    input: str | None = None,
    output: str | None = None,
    **options: Any,
) -> int:
    """Convert one file (JSON, JSONL, CSV, TSV, parquet, xlsx or a gz of one).

    Args:
        source: The file.
        target: Parquet file to write; it appears when it is complete.
        algorithm: ``sft``, ``grpo``, ``ppo``, ``gspo`` or ``dpo``; by default what the first row can be used for.
        input: Column with the user's text; detected by default.
        output: Column with the assistant's text; detected by default.
        **options: Fields of ``Source`` (``data_source``, ``system``, ...) and of ``Options`` (``val_ratio``, ...).

    Returns:
        Number of rows written.

    Raises:
        ValueError: If the file or a row cannot be used; nothing is written then.
    """
    of_source = {name: options.pop(name) for name in list(options) if name in Source.__dataclass_fields__}
    columns = of_source.pop("columns", Columns(input, output))
    return convert(
        [Source(Path(source), columns, **of_source)], Path(target), Options(algorithm, **options)
    ).rows_written


if __name__ == "__main__":
    sys.exit(main())
