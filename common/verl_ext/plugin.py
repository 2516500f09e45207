"""What verl imports in each of its processes (``VERL_USE_EXTERNAL_MODULES``), Ray's workers among them.

The launcher exports what a run needs: ``ALGORITHM``, ``SEED``, and ``VERL_EXT``, the parts of `loading.load`.
"""

from __future__ import annotations

import os

from common.verl_ext.loading import load

load(
    os.environ.get("ALGORITHM", ""),
    int(os.environ.get("SEED", "0")),
    [part for part in os.environ.get("VERL_EXT", "").split(",") if part],
)
