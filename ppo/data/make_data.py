"""Write the PPO sample data: the sums of the GRPO sample, so that the two algorithms can be compared.

python -m ppo.data.make_data                  # rewrites train.parquet and val.parquet beside this file
python -m ppo.data.make_data --out /tmp/data
"""

from __future__ import annotations

import argparse
from pathlib import Path

from grpo.data.make_data import make_splits, write_parquet


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="directory to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in make_splits().items():
        write_parquet(rows, out / f"{split}.parquet")
        print(f"{split}: {len(rows)} rows")


if __name__ == "__main__":
    main()
