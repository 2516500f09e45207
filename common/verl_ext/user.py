"""Load the file of ``ALGORITHM_PATH`` in this process, so that what it registers with verl is known here.

`loading.load` imports this module in each process of verl: advantages are computed in the trainer's, losses in
those of the actor.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

MODULE = "_kit_user_algorithm"


def load(path: Path) -> ModuleType:
    """Run a Python file as a module; what it registers with verl stays registered.

    Args:
        path: File that uses ``register_adv_est`` or ``register_policy_loss`` of ``verl.trainer.ppo.core_algos``.
    """
    if MODULE in sys.modules:
        return sys.modules[MODULE]
    spec = importlib.util.spec_from_file_location(MODULE, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[MODULE]
        raise
    return module


if os.environ.get("ALGORITHM_PATH"):
    load(Path(os.environ["ALGORITHM_PATH"]))
