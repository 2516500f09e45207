"""``python -m common.cluster grpo --resolved FILE -- key=value ...``: the preflight of a run on several machines.

The launchers meet; the first machine runs ``common.preflight`` with the same arguments; all write the variables that it
has resolved, each with its own place in them, to FILE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from common.cluster import joined, meeting, network
from common.cluster.board import Board, host_board, join_board, leave
from common.cluster.facts import facts
from common.cluster.names import Cluster, ClusterError, joins_ray, machines_wanted, read_cluster
from common.cluster.variables import own_variables
from common.files import outputs_folder

# Knobs that name what each machine reads itself.
PATH_KNOBS = (
    *("MODEL_PATH", "CRITIC_MODEL_PATH", "REWARD_MODEL_PATH", "REFERENCE_MODEL_PATH", "LORA_ADAPTER_PATH"),
    *("TRAIN_DATA", "VAL_DATA", "REWARD_FUNC_PATH", "TOOLS_PATH", "ENV_PATH", "ALGORITHM_PATH", "API_REWARD_CONFIG"),
)


def main() -> int:
    """Meet and write the variables; the exit status is 2 when the run cannot start, on all machines."""
    options = sys.argv[1:]
    algorithm, target = options[0], Path(options[options.index("--resolved") + 1])
    arguments = options[options.index("--") + 1 :]
    try:
        if joins_ray(os.environ, algorithm):
            plan = _preflight(options, target)
            gpus = int(json.loads(plan.values["KNOBS_JSON"])["N_GPUS"])
            found = joined.check(machines_wanted(os.environ), gpus, algorithm, arguments, plan, say)
            write(target, {**plan.values, **found})
            return 0
        cluster = read_cluster(os.environ)
        board, address = _board(cluster)
        mine = facts(cluster, address, algorithm, arguments)
        if cluster.rank == 0:
            wanted = _wanted(os.environ)
            values = meeting.lead(cluster, board, mine, wanted, lambda: _preflight(options, target), say)
        else:
            values = meeting.attend(cluster, board, mine, outputs_folder(os.environ), say)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    write(target, {**values, **own_variables(cluster, address, os.environ)})
    return 0


def say(line: str) -> None:
    """Show a line where the preflight shows its own."""
    print(line, file=sys.stderr, flush=True)


def _board(cluster: Cluster) -> tuple[Board, str]:
    """The board, and this machine's address: on the first the master's, on the others the one that leads there."""
    if cluster.rank:
        board = join_board(cluster.master, cluster.port, cluster.timeout, say)
        return board, network.own_address(cluster.master)
    try:
        address = network.resolve(cluster.master)
    except OSError as error:
        raise ClusterError(
            f"MASTER_ADDR={cluster.master}: the name does not resolve here ({error.strerror or error}); give this "
            "machine's address instead, on all machines"
        ) from None
    return host_board(address, cluster.port), address


def _wanted(environment: os._Environ[str]) -> meeting.Wanted:
    gpus = environment.get("N_GPUS", "")
    device = environment.get("DEVICE")
    return meeting.Wanted(int(gpus) if gpus.isdecimal() else None, device == "cpu")


def _preflight(options: list[str], target: Path) -> meeting.Plan:
    """Run the preflight here, shown as it speaks.

    Raises:
        Refused: If it refuses, with its errors.
    """
    done = subprocess.Popen(
        [sys.executable, "-m", "common.preflight", *options], stderr=subprocess.PIPE, text=True, errors="replace"
    )
    errors: list[str] = []
    reader = threading.Thread(target=_show, args=(done.stderr, errors), daemon=True)
    reader.start()
    status = done.wait()
    reader.join(timeout=5)
    if status:
        raise meeting.Refused("\n".join(["the first machine's preflight refuses the run:", *errors]))
    values = read(target)
    knobs = json.loads(values["KNOBS_JSON"])
    run_dir = Path(values["RUN_DIR"])
    named = [path for name in PATH_KNOBS for path in knobs.get(name, "").split(",")]
    own = [path for path in named if os.path.isabs(path) and os.path.exists(path)]
    paths = tuple(dict.fromkeys(path for path in own if not Path(path).is_relative_to(run_dir)))
    return meeting.Plan(values, paths, run_dir.parent)


def _show(stream, errors: list[str]) -> None:
    for line in stream:
        sys.stderr.write(line)
        sys.stderr.flush()
        if "error: " in line:
            errors.append(line.strip())


def read(path: Path) -> dict[str, str]:
    """NAME -> value of a file that the preflight has written."""
    words = path.read_bytes().decode().split("\0")
    return dict(zip(words[:-1:2], words[1::2], strict=False))


def write(path: Path, values: dict[str, str]) -> None:
    """Write it as the preflight does."""
    path.write_bytes(b"".join(f"{name}\0{value}\0".encode() for name, value in values.items()))


if __name__ == "__main__":
    leave(main())
