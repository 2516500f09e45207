"""A Dockerfile as a list of steps, and what of the kit reaches an image."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

KNOWN = ("FROM", "SHELL", "RUN", "ARG", "ENV", "USER", "WORKDIR", "COPY", "EXPOSE", "CMD")


class Step(NamedTuple):
    instruction: str
    text: str


def steps(path: Path) -> list[Step]:
    """The instructions with continued lines joined; comments go."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            instruction, _, text = line.strip().partition(" ")
            assert instruction in KNOWN, f"{path.name}: {instruction} is not known here; add it to tests/docker"
            found.append(Step(instruction, text.strip()))
    return found


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore leaves a path out, by itself or with a folder above it."""
    parts = path.split("/")
    above = ["/".join(parts[: length + 1]) for length in range(len(parts))]
    return any(re.fullmatch(_expression(pattern), one) for pattern in patterns for one in above)


def _expression(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*)", pattern.strip("/"))
    return "".join({"**/": "(?:.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)


def patterns(root: Path) -> list[str]:
    lines = (line.strip() for line in (root / ".dockerignore").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def context(root: Path) -> list[str]:
    """The files that a build from a clean checkout sends: what git has, with changes, less .dockerignore."""
    command = ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    left_out = patterns(root)
    return [name for name in listed if name and (root / name).is_file() and not ignored(name, left_out)]
