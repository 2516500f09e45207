"""``python -m common.checkpoints``: what a run has saved, and what can be made of it."""

from __future__ import annotations

import sys

from common.checkpoints.cli import main

if __name__ == "__main__":
    sys.exit(main())
