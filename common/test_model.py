"""Is the model better? Chat with it, or ask it a file of questions: ``./test.sh --model_path PATH``.

The work is done in ``common/evaluation``.
"""

from __future__ import annotations

import sys

from common.evaluation.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
