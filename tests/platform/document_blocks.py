"""Run the Python blocks of a document that promises this platform, as they are written, against a real server.

    python -m tests.platform.document_blocks DOCUMENT.md [--sections 4.5 5.2 5.5 5.6]

The blocks name ports 8000 and 5173, so both must be free. Each runs in a folder of its own, W&B offline. Names that a
document leaves to its reader (`GIVEN`) are set before a block that uses them without setting them; a block that is no
Python (a signature) is compiled to see that, and named. Ends with 1 when a block fails or a promise is not kept.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.conftest import ROOT

URL = "http://localhost:8000"
GIVEN = {
    "step": "step = 7",
    "metrics": 'metrics = {"loss": 0.5}',
    "job_uuid": 'job_uuid = "local-grpo-test"',
    "requests": "import requests",
}
LIMIT_S = 300  # for a block: one of them logs 10,000 steps
_HEADING = re.compile(r"^#{2,6} (\d+(?:\.\d+)*)")


def blocks_of(text: str, sections: list[str]) -> list[tuple[str, str]]:
    """Python blocks with the number of their section, in order.

    Args:
        text: A document in Markdown with numbered headings.
        sections: Numbers of sections; those below them count too.
    """
    found, section, lines = [], "", None
    for line in text.splitlines():
        if lines is not None:
            if line.startswith("```"):
                if any(section == one or section.startswith(f"{one}.") for one in sections):
                    found.append((section, "\n".join(lines) + "\n"))
                lines = None
            else:
                lines.append(line)
        elif line.startswith("```python"):
            lines = []
        elif heading := _HEADING.match(line):
            section = heading[1]
    return found


def missing_names(tree: ast.AST) -> list[str]:
    """Names of `GIVEN` that a block reads and nowhere sets."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    is_set = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    is_set |= {
        alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    return [name for name in GIVEN if name in {node.id for node in names} - is_set]


def run_block(block: str, folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Run one block; returns how it ended (``ok``, ``failed``, ``no program``), with what given, and its last line."""
    try:
        missing = missing_names(ast.parse(block))
    except SyntaxError:
        return "no program", ""
    given = "".join(f"{GIVEN[name]}\n" for name in missing)
    done = subprocess.run(
        [sys.executable, "-c", given + block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:]
    how = "failed" if done.returncode else "ok"
    return f"{how}, given {', '.join(missing)}" if missing else how, last[0] if last else ""


def promises() -> list[str]:
    """What the blocks should have left on the platform and did not."""
    rows = httpx.get(f"{URL}/api/jobs/local-grpo-test/metrics", timeout=60).json()
    saved = httpx.get(f"{URL}/api/jobs/local-grpo-test/checkpoints", timeout=60).json()
    jobs = {job["name"] for job in httpx.get(f"{URL}/api/jobs", timeout=60).json()}
    checks = {
        "10,000 steps in order": [row["step"] for row in rows] == list(range(10_000)),
        "19 checkpoints": [one["step"] for one in saved] == list(range(500, 10_000, 500)),
        "the job that was created": "qwen7b-grpo-math" in jobs,
        "the page on port 5173": httpx.get("http://localhost:5173/", timeout=60).status_code == 200,
    }
    return [name for name, kept in checks.items() if not kept]


def serve(folder: Path) -> subprocess.Popen[bytes]:
    """Start the platform on both ports.

    Raises:
        RuntimeError: If it does not answer within 60 s.
    """
    command = [sys.executable, "-m", "training_platform", "serve", "--outputs", str(folder), "--also_port", "5173"]
    command += ["--gpus", "0,1,2,3,4,5,6,7"]  # a job of the document asks for eight
    server = subprocess.Popen(command, cwd=ROOT)
    for _ in range(120):
        time.sleep(0.5)
        try:
            if httpx.get(f"{URL}/api/health", timeout=5).status_code == 200:
                return server
        except httpx.HTTPError:
            if server.poll() is not None:
                break
    server.terminate()
    raise RuntimeError("the platform did not start; are ports 8000 and 5173 free?")


def main() -> int:
    """Run all blocks; returns the exit status."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    made.add_argument("document", type=Path)
    made.add_argument("--sections", nargs="+", default=["4.5", "5.2", "5.5", "5.6"])
    arguments = made.parse_args()
    blocks = blocks_of(arguments.document.read_text(encoding="utf-8"), arguments.sections)
    bad = [] if blocks else ["the document has no such block"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {key: value for key, value in os.environ.items() if key not in ("JOB_UUID", "PLATFORM_URL")}
        environment |= {
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "TRAINING_PLATFORM_SPOOL": str(folder / "spool"),
        }
        server = serve(folder / "outputs")
        try:
            for section, block in blocks:
                how, last = run_block(block, folder, environment)
                print(f"{section:8} {how:28} {last[:100]}", flush=True)
                bad += [f"block of {section}"] if how.startswith("failed") else []
            bad += bad or promises()
        finally:
            server.terminate()
            server.wait(30)
    print(f"{len(blocks)} blocks; " + (f"not kept: {', '.join(bad)}" if bad else "all as the document says"))
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
