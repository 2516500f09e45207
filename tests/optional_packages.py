"""An environment with optional packages on top of that of the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def environment_with(requirements: str, folder: Path) -> Path:
    """Make an environment that sees this one's packages and has those of a file in ``requirements/``; its interpreter.

    What is there is kept where it fits, as for a user.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    here, there = (
        subprocess.run([program, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
        for program in (sys.executable, python)
    )
    (Path(there) / "kit.pth").write_text(here)
    subprocess.run([python, "-m", "pip", "install", "-q", "--upgrade", "pip"], check=True)
    wanted = ["-r", str(ROOT / "requirements" / requirements)]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True, timeout=1200)
    return python
