"""A run on several machines: what keeps it from starting, and the variables that follow from it."""

from __future__ import annotations

import os

from common.cluster.names import Cluster, ClusterError, joins_ray, machines_wanted, read_cluster
from common.cluster.variables import rendezvous
from common.preflight.knobs import SUPERVISED, Knobs

ALONE, SEVERAL = "verl.trainer.main_ppo", "common.verl_ext.train_rl"


def check(knobs: Knobs) -> None:
    """What several machines cannot do, and whether this one knows its place among them."""
    environment = {**os.environ, "NNODES": knobs["NNODES"]}
    if knobs.number("REWARD_MODEL_GPUS") and knobs.values.get("REWARD") == "model":
        knobs.error(
            "REWARD_MODEL_GPUS",
            "a reward model cannot have separate GPUs with several machines",
            "set REWARD_MODEL_GPUS=0",
        )
    if machines_wanted(os.environ) == 1 and os.environ.get("NNODES"):
        fix = f"set NNODES={knobs['NNODES']} in its place"
        knobs.error("NNODES", "comes too late as an argument for verl: the launchers meet before it is read", fix)
        return
    if joins_ray(environment, knobs.algorithm):
        return
    try:
        read_cluster(environment)
    except ClusterError as error:
        knobs.error("", str(error), "see docs/cluster.md")


def variables(knobs: Knobs) -> dict[str, str]:
    """What train.sh takes from it; common/cluster sets again, on each machine, what differs between them."""
    environment = {**os.environ, "NNODES": knobs["NNODES"]}
    several = machines_wanted(environment) > 1
    if knobs.algorithm not in SUPERVISED:
        return {"TRAINER": SEVERAL if several else ALONE}
    return rendezvous(_place(environment) if several else None)


def _place(environment: dict[str, str]) -> Cluster | None:
    try:
        return read_cluster(environment)
    except ClusterError:  # said by `check`; or a plan for machines that are not here
        return None
