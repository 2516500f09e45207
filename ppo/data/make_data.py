"""Write the PPO sample data: the sums of the GRPO sample, so that the two algorithms can be compared.

python -m ppo.data.make_data                  # rewrites train.parquet and val.parquet next to this file
python -m ppo.data.make_data --out /tmp/data
"""

from __future__ import annotations

from pathlib import Path

from common.data.samples import write_samples
from grpo.data.make_data import make_splits

if __name__ == "__main__":
    write_samples(__doc__.splitlines()[0], make_splits, Path(__file__).resolve().parent)
