"""Data of any common form becomes what verl's trainers read.

In Python ``json_to_parquet("data.json", "data.parquet")``; at the terminal ``python -m common.data_utils --help``.
The work is done in ``common/data``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from common.data.cli import main
from common.data.convert import Options, Source, convert
from common.data.names import Columns
from common.data.report import Report

__all__ = ["Columns", "Options", "Report", "Source", "convert", "json_to_parquet", "main"]


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
