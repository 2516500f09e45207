"""Pin again what the hand-written requirement files bring with them.

Run it after moving a version in requirements.txt or in this folder:

    pip install uv && .venv/bin/python requirements/lock.py

It writes constraints.txt, constraints-vllm.txt and lock-sglang.txt. Only metadata is downloaded; about 2 minutes.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
PYTHONS = ("3.10", "3.11", "3.12")
HAND_WRITTEN = ("../requirements.txt", "cpu.txt", "vllm.txt", "sglang.txt", "dev.txt")
# Each torch pins its own CUDA libraries, so they have no place in what the stacks share.
TORCH_AND_CUDA = re.compile(r"torch(vision|audio|codec)?$|triton$|cuda-|nvidia-(?!ml-py$)")
UV_SETTINGS = """[tool.uv]
environments = ["python_version < '3.13' and platform_machine == 'x86_64' and sys_platform == 'linux'"]
[tool.uv.pip]
universal = true
python-version = "3.10"
annotation-style = "line"
no-header = true
"""
# sglang names a transformers that verl refuses, and a flash-attn-4 that collides with flash-attn 2.
SGLANG_OVERRIDES = "transformers==5.9.0\nflash-attn-4 ; python_version < '3'\n"
HEADER = '# {}\n# Made by requirements/lock.py, do not edit. "via" names what needs the package.\n'

Lock = dict[str, list[str]]  # package name -> its lines


def pinned_verl() -> str:
    """verl's version in requirements.txt."""
    found = re.search(r"^verl==(\S+)", (HERE.parent / "requirements.txt").read_text(), re.MULTILINE)
    if not found:
        sys.exit("lock.py: requirements.txt has no line verl==VERSION")
    return found[1]


def resolve(work: Path, *arguments: str) -> Lock:
    """Resolve requirement files with uv for every supported Python on x86-64 Linux.

    Args:
        work: Folder of the input files.
        arguments: File names and options for `uv pip compile`.

    Returns:
        The lines of a requirement file by package; several per package only where Python versions differ.
    """
    command = ["uv", "--quiet", "pip", "compile", *arguments]
    done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"lock.py: `{' '.join(command)}` failed, see above")
    versions: dict[str, dict[str, str]] = {}  # package -> Python -> version
    reasons: dict[str, str] = {}
    for line in done.stdout.splitlines():
        text, _, reason = line.partition("#")
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        needed_by = [who for who in reason.strip().removeprefix("via ").split(", ") if not who.startswith("-c ")]
        reasons[name] = "via " + ", ".join(needed_by)
        for python in PYTHONS:
            environment = {"python_version": python, "python_full_version": python + ".9"}
            if requirement.marker is None or requirement.marker.evaluate(environment):
                versions.setdefault(name, {})[python] = str(requirement.specifier)
    return {name: format_lines(name, versions[name], reasons[name]) for name in sorted(versions)}


def format_lines(name: str, by_python: dict[str, str], reason: str) -> list[str]:
    """Write one line per version, with a marker where not every Python takes the same one."""
    lines = []
    for version in dict.fromkeys(by_python.values()):
        pythons = [p for p in PYTHONS if by_python.get(p) == version]
        limits = []
        if pythons[0] != PYTHONS[0]:
            limits.append(f'python_version >= "{pythons[0]}"')
        if pythons[-1] != PYTHONS[-1]:
            limits.append(f'python_version < "{PYTHONS[PYTHONS.index(pythons[-1]) + 1]}"')
        marker = f"; {' and '.join(limits)}" if limits else ""
        lines.append(f"{name}{version}{marker}  # {reason}")
    return lines


def brought_in(lock: Lock) -> Lock:
    """Leave out what a hand-written file pins, so that each version stands in one place."""
    return {name: lines for name, lines in lock.items() if not re.search(r"-r [\w.]+txt", lines[0])}


def write(path: Path, title: str, lock: Lock) -> None:
    """Write a lock under its header."""
    path.write_text(HEADER.format(title) + "".join(f"{line}\n" for lines in lock.values() for line in lines))


def main() -> None:
    """Resolve the three stacks and write what they bring with them."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in HAND_WRITTEN:
            lines = (HERE / name).read_text().splitlines()
            kept = [line for line in lines if not line.startswith(("-c ", "-r "))]
            (work / Path(name).name).write_text("\n".join(kept) + "\n")
        (work / "pyproject.toml").write_text(UV_SETTINGS)
        (work / "overrides.txt").write_text(SGLANG_OVERRIDES)
        verl = pinned_verl()
        (work / "verl-vllm").write_text(f"verl[vllm]=={verl}\n")
        (work / "verl-sglang").write_text(f"verl[sglang]=={verl}\n")
        (work / "optional").write_text("modelscope\n")  # not installed, pinned for those who add it

        # vLLM is the strictest, so its versions are the ones that all stacks share.
        vllm = resolve(work, "verl-vllm", "requirements.txt", "vllm.txt", "dev.txt", "optional")
        write(work / "shared", "", {k: v for k, v in vllm.items() if not TORCH_AND_CUDA.match(k)})
        cpu = resolve(work, "requirements.txt", "cpu.txt", "dev.txt", "optional", "-c", "shared")
        cpu = {k: v for k, v in cpu.items() if not TORCH_AND_CUDA.match(k)}
        write(work / "constraints", "", cpu)
        sglang = resolve(
            work, "verl-sglang", "requirements.txt", "sglang.txt", "-c", "constraints", "--overrides", "overrides.txt"
        )

    title = "Versions of what requirements.txt and requirements/dev.txt bring with them."
    write(HERE / "constraints.txt", title, brought_in(cpu))
    rest = {name: lines for name, lines in brought_in(vllm).items() if name not in cpu}
    write(HERE / "constraints-vllm.txt", "Versions of what vLLM brings with it, beside constraints.txt.", rest)
    title = "All that requirements/sglang.txt brings with it; complete, because pip gets --no-deps."
    write(HERE / "lock-sglang.txt", title, brought_in(sglang))


if __name__ == "__main__":
    main()
