"""``python -m common.serving``: what ``./serve.sh`` runs."""

from __future__ import annotations

import sys

from common.serving.cli import main

if __name__ == "__main__":
    sys.exit(main())
