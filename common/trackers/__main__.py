"""``python -m common.trackers RUN_DIR``: send the charts and the comparison of a run that has ended to its trackers."""

from __future__ import annotations

import sys
from pathlib import Path

from common.run_dir import read_run
from common.trackers.place import read_state
from common.trackers.tracker import say, send_files


def main() -> int:
    """Returns 1 when a tracker did not take them."""
    run_dir = Path(sys.argv[1]).resolve()
    knobs = read_run(run_dir)["knobs"]
    status = 0
    for tracker, known in read_state(run_dir).items():
        if not known.get("closed"):  # the trainer was killed, and the next attempt continues it
            continue
        try:
            send_files(tracker, knobs["WANDB_PROJECT"], knobs["WANDB_RUN_NAME"], run_dir)
        except Exception as error:
            status = 1
            say(tracker, error, "charts and comparison are in the run's folder only")
    return status


if __name__ == "__main__":
    sys.exit(main())
