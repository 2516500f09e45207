"""The command line of the scripts that write the sample data of each algorithm."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def write_samples(description: str, make_files: Callable[[], Mapping[str, Rows]], folder: Path | None = None) -> None:
    """Write one parquet file a name, each under a temporary name and then renamed, so that no reader sees half a file.

    Args:
        description: What ``--help`` says.
        make_files: Returns the rows of each file by its name without suffix.
        folder: Where to when ``--out`` is not given; None: ``--out`` must be given.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=folder, required=folder is None, help="directory to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in make_files().items():
        temporary = out / f"{name}.parquet.new"
        pq.write_table(pa.Table.from_pylist(list(rows)), temporary, compression="zstd")
        temporary.rename(out / f"{name}.parquet")
        print(f"{name}: {len(rows)} rows")
