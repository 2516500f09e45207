"""Where the metrics of a run's own servers are: HTTP service discovery for Prometheus.

With ``PROMETHEUS=true`` verl writes the addresses of the rollout servers to ``prometheus.yml`` of the run, and the
kit's callback those of Ray and TransferQueue to ``targets.json``. Prometheus keeps its own file; it asks here.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from common.files import read_regular
from common.run_dir import TARGETS_FILE
from common.small_files import parse_yaml
from monitor.runs import Row
from monitor.store import Monitor

Job = Literal["ray", "rollout", "transfer_queue"]
WRITTEN_BY_VERL = "prometheus.yml"
MAX_BYTES = 1 << 16
MAX_TARGETS = 1_000
_ADDRESS = re.compile(r"(?:[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")


def targets(monitor: Monitor, job: Job) -> list[dict[str, Any]]:
    """Groups of addresses as Prometheus takes them, one for each run that is under way.

    Args:
        monitor: The log folder.
        job: Whose.
    """
    groups = []
    for row in monitor.rows().values():
        if row.kind == "run" and row.state == "running":
            found = [address for address in addresses(row, job) if _ADDRESS.fullmatch(address)][:MAX_TARGETS]
            if found:
                groups.append({"targets": found, "labels": {"run": row.id}})
    return groups


def addresses(row: Row, job: Job) -> list[str]:
    """What a run's files say; none where they do not, or are damaged."""
    name = WRITTEN_BY_VERL if job == "rollout" else TARGETS_FILE
    try:
        text = read_regular(row.path / name, MAX_BYTES)
        found = parse_yaml(text) if job == "rollout" else json.loads(text)
        if job != "rollout":
            return [str(one) for one in found.get(job, [])]
        if row.knobs.get("ROLLOUT_ENGINE") == "hf":
            return []  # the kit's own server has no metrics
        jobs = {one["job_name"]: one for one in found["scrape_configs"]}
        return [str(one) for group in jobs["rollout"]["static_configs"] for one in group["targets"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
