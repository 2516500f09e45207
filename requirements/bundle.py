"""Collect all packages of a stack for machines without internet, and put them together again there. For setup_env.sh.

    python requirements/bundle.py make DIR --stack vllm --lists requirements/vllm.txt --locks requirements/lock*.txt
    python requirements/bundle.py join DIR FOLDER [--keep torch]

A bundle is a folder with ``bundle.json`` (Python version, stack; name, size and SHA-256 of each file) and the files
in ``part-01``, ``part-02``, ... With a part size no part is larger, and a file that is larger is cut into pieces
(``name.whl.001``, ...), so that a bundle can travel by mail, USB stick or an upload form in any order.

The checksums of ``bundle.json`` find what was damaged on the way. Against what was exchanged there are the locks of the
kit that installs: pip takes only files whose hash is in them.

Only the standard library is imported: the environment may be empty.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from check import normal, pins

INDEX = "bundle.json"
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*")
ASKED = re.compile(r"^([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?")  # name, and the extras in its brackets
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
BLOCK = 2**22
HERE = Path(__file__).resolve().parent
HASHED = ("--require-hashes", "--no-deps", "--no-build-isolation")


def main() -> int:
    """Parse the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("folder", type=Path)
    make.add_argument("--lists", type=Path, nargs="+", required=True)
    make.add_argument("--stack", default="")
    make.add_argument("--keep", default="")
    make.add_argument("--part-size", type=part_size, default=0)
    make.add_argument("--locks", type=Path, nargs="+", required=True, help="next to those of torch and of pip")
    join = commands.add_parser("join")
    join.add_argument("folder", type=Path)
    join.add_argument("target", type=Path)
    join.add_argument("--keep", default="")
    arguments = parser.parse_args()
    keep = {normal(name) for name in arguments.keep.split(",") if name.strip()}
    try:
        if arguments.command == "make":
            collect(arguments, keep)
        else:
            join_parts(arguments.folder, arguments.target, keep)
    except (BundleError, OSError) as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    return 0


class BundleError(Exception):
    """What is wrong with a bundle, and the fix."""


def part_size(text: str) -> int:
    """Bytes of ``60M``, ``1.5G`` and the like; at least 1 MiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 2**20:
        raise argparse.ArgumentTypeError(f"--part-size {text}: write a size of at least 1M, such as 60M or 2G")
    return size


# ---- Collecting


def collect(arguments: argparse.Namespace, keep: set[str]) -> None:
    """Download or build every wheel next to the target, then put the bundle in its place."""
    folder: Path = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        raise BundleError(f"{folder} is not empty; give a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        pip = [str(make_pip(work / "pip")), "-m", "pip", "--disable-pip-version-check"]
        locks = locks_of(arguments, pip, work)
        names = collected(pip, locks, arguments.lists, keep, work)
        files = work / "files"
        print(f"collecting {len(names)} packages ...", flush=True)
        for lock, environment in locks:
            some = work / lock.name
            some.write_text(only(lock.read_text(), names))
            run([*pip, "download", "--quiet", *HASHED, "--dest", str(files), "-r", str(some)], environment)
        made = work / "bundle"
        made.mkdir()
        described = pack(sorted(files.iterdir()), made, arguments.part_size)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        head = {"python": version, "stack": arguments.stack, "kept": sorted(keep)}
        (made / INDEX).write_text(json.dumps({**head, **described}, indent=1) + "\n")
        if folder.exists():
            folder.rmdir()
        os.replace(made, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = sum(wheel["size"] for wheel in described["wheels"]) / 1e6
    print(f"{folder}: {len(described['wheels'])} files, {size:,.0f} MB in {described['parts']} parts, Python {version}")


def make_pip(folder: Path) -> Path:
    """An environment of this Python with the pinned pip and setuptools; return its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run([str(python), "-m", "pip", "install", "--quiet", *HASHED[:2], "-r", str(HERE / "lock-build.txt")])
    return python


def locks_of(arguments: argparse.Namespace, pip: list[str], work: Path) -> list[tuple[Path, dict[str, str]]]:
    """The lock files of a stack, each with what pip's environment needs: only torch comes from TORCH_INDEX."""
    index = os.environ.get("TORCH_INDEX", "")
    locks = [(path, {}) for path in (HERE / "lock-build.txt", *arguments.locks)]
    if not arguments.stack.endswith("cpu"):
        return locks
    torch = (HERE / "lock-cpu.txt", {"PIP_INDEX_URL": index} if index else {})
    try:
        report(pip, torch, work)
    except BundleError as error:
        if index or "HASHES" in str(error):
            raise
        torch = (HERE / "lock-cpu-pypi.txt", {})
        print("no CPU build of torch available: the one of the package index, about 3 GB; or set TORCH_INDEX_URL")
    return [torch, *locks]


def report(pip: list[str], lock: tuple[Path, dict[str, str]], work: Path) -> dict[str, dict]:
    """Ask pip what it would install of a lock: package name -> its entry in pip's report."""
    target = work / "report.json"
    given = ["install", "--quiet", "--dry-run", "--ignore-installed", *HASHED, "--report", str(target)]
    run([*pip, *given, "-r", str(lock[0])], lock[1])
    return {normal(entry["metadata"]["name"]): entry for entry in json.loads(target.read_text())["install"]}


def collected(
    pip: list[str], locks: list[tuple[Path, dict[str, str]]], lists: list[Path], keep: set[str], work: Path
) -> set[str]:
    """The names of the packages that belong into a bundle."""
    if not keep:
        return {normal(name) for path, _ in locks for name, _ in pins(path)}
    packages: dict[str, dict] = {}
    for lock in locks:
        packages |= report(pip, lock, work)
    roots = [line for path in lists for line in lines_of(path)]
    return needed(packages, keep, roots) | {normal(name) for name, _ in pins(HERE / "lock-build.txt")}


def lines_of(path: Path) -> Iterator[str]:
    """The requirements of a file, included files too."""
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            yield from lines_of(path.parent / line.split()[1])
        elif REQUIREMENT.match(line):
            yield line


def only(lock: str, names: set[str]) -> str:
    """The requirements of a lock file, with their hashes, that are of these packages."""
    blocks = re.split(r"^(?=[\w#])", lock, flags=re.MULTILINE)
    return "".join(block for block in blocks if (match := REQUIREMENT.match(block)) and normal(match[0]) in names)


def needed(packages: dict[str, dict], keep: set[str], roots: list[str]) -> set[str]:
    """Every package that is reached from the roots without going through one that is kept.

    What is only behind an extra that nobody asks for is not reached: the libraries of CUDA and triton belong to a
    torch that is kept, and other packages name them in extras.

    Args:
        packages: Name -> its entry in pip's report.
        keep: Names that stay as they are in the Python of the other machine.
        roots: Requirements as a file has them, such as ``ray[default]==2.60.0``.

    Raises:
        BundleError: If nothing of that name is in the stack.
    """
    unknown = sorted(keep - set(packages))
    if unknown:
        raise BundleError(f"--keep {','.join(unknown)}: not in this stack; leave it out")
    reached: dict[str, set[str]] = {}  # name -> extras
    waiting = list(roots)
    while waiting:
        match = ASKED.match(waiting.pop())
        name, extras = normal(match[1]), {normal(extra) for extra in (match[2] or "").split(",") if extra.strip()}
        if name in keep or name not in packages or (name in reached and extras <= reached[name]):
            continue
        reached.setdefault(name, set()).update(extras)
        for line in packages[name]["metadata"].get("requires_dist") or ():
            behind = {normal(extra) for extra in EXTRA.findall(line)}
            if not behind or behind & reached[name]:
                waiting.append(line)
    return set(reached)


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run pip with some more environment, and name what it said, without passwords, when it fails."""
    given = {**os.environ, **(environment or {})}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=given)
    if done.returncode:
        said = re.sub(r"://[^/\s]*@", "://***@", done.stdout)
        raise BundleError("pip failed:\n" + "\n".join(said.splitlines()[-15:]))


def pack(wheels: list[Path], target: Path, limit: int) -> dict:
    """Move wheels into parts, the largest first into the first part with room; cut those above the limit."""
    room: list[int] = []
    described = []
    for wheel in sorted(wheels, key=lambda path: -path.stat().st_size):
        size = wheel.stat().st_size
        described.append({"name": wheel.name, "size": size, "sha256": checksum(wheel)})
        for piece in cut(wheel, limit) if limit and size > limit else [wheel]:
            weight = piece.stat().st_size
            number = next((at for at, left in enumerate(room) if left >= weight), len(room))
            if number == len(room):
                room.append(limit or sys.maxsize)
            room[number] -= weight
            part = target / f"part-{number + 1:02}"
            part.mkdir(exist_ok=True)
            os.replace(piece, part / piece.name)
    return {"parts": len(room), "wheels": sorted(described, key=lambda wheel: wheel["name"])}


def cut(wheel: Path, limit: int) -> Iterator[Path]:
    """Cut a file into pieces ``.001``, ``.002``, ... of at most so many bytes."""
    with wheel.open("rb") as source:
        for number in range(1, -(-wheel.stat().st_size // limit) + 1):
            piece = wheel.with_name(f"{wheel.name}.{number:03}")
            piece.write_bytes(source.read(limit))
            yield piece


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---- Putting together


def join_parts(folder: Path, target: Path, keep: set[str]) -> None:
    """Write every file that is not kept into ``target``, whole, and what the locks say of the packages it has.

    Raises:
        BundleError: If a part is missing, a file is damaged, or the bundle is for another Python.
    """
    if not (folder / INDEX).is_file():
        raise BundleError(f"{folder}: no {INDEX} in it; give the folder that ./setup_env.sh --bundle made")
    index = json.loads((folder / INDEX).read_text())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if index["python"] != version:
        raise BundleError(f"{folder}: made for Python {index['python']}, this is {version}; set PYTHON to such a one")
    found = {path.name: path for path in folder.glob("part-*/*")}
    names: set[str] = set()
    target.mkdir(parents=True, exist_ok=True)
    for wheel in index["wheels"]:
        name = Path(wheel["name"]).name  # never out of the folder
        if project(name) in keep:
            continue
        names.add(project(name))
        pieces = (
            [found[name]]
            if name in found
            else sorted(
                (path for other, path in found.items() if re.fullmatch(re.escape(name) + r"\.\d{3}", other)),
                key=lambda path: path.name,
            )
        )
        if not pieces:
            raise BundleError(f"{name}: in none of the {index['parts']} parts; bring all of them into {folder}")
        join_one(pieces, target / name)
        if (target / name).stat().st_size != wheel["size"] or checksum(target / name) != wheel["sha256"]:
            raise BundleError(f"{name}: damaged or a piece is missing; copy the parts of {folder} again")
    kept = keep | set(index["kept"])
    for lock in HERE.glob("lock*.txt"):  # whole where nothing is kept, so that pip misses what the bundle misses
        text = lock.read_text()
        (target / lock.name).write_text(only(text, names) if kept else text)


def project(file: str) -> str:
    """The package that a wheel or an archive of sources is of."""
    stem = file.partition("-")[0] if file.endswith(".whl") else file.rpartition("-")[0]
    return normal(stem)


def join_one(pieces: list[Path], target: Path) -> None:
    """Link a whole wheel, or write its pieces one behind the other."""
    if len(pieces) == 1 and not pieces[0].name[-3:].isdigit():
        try:
            os.link(pieces[0], target)
        except OSError:
            shutil.copyfile(pieces[0], target)
        return
    with target.open("wb") as file:
        for piece in pieces:
            with piece.open("rb") as source:
                shutil.copyfileobj(source, file, BLOCK)


if __name__ == "__main__":
    sys.exit(main())
