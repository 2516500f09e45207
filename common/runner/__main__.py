"""``python -m common.runner -- COMMAND``: what a train.sh becomes once its knobs are resolved."""

from __future__ import annotations

import os
import sys

from common.cluster.board import leave
from common.cluster.names import SUPERVISED, ClusterError, launchers_of, machines_wanted
from common.cluster.ray_node import command_of
from common.preflight.compose import ConfigError, compose_command
from common.run_data import discard


def main() -> int:
    """Check the command's config, then run it; with ``DRY_RUN=1`` print it instead."""
    command = sys.argv[sys.argv.index("--") + 1 :]
    cluster = None if os.environ.get("DRY_RUN") == "1" else launchers_of(os.environ)
    if cluster and os.environ["ALGORITHM"] not in SUPERVISED:
        command = command_of(cluster, command, os.environ)
    if cluster and cluster.rank:
        from common.runner.follower import follow

        return follow(command, cluster)
    if os.environ.get("PREFLIGHT") == "off":  # else the preflight has composed it
        try:
            compose_command(command)
        except ConfigError as error:
            discard(os.environ)
            print(f"error: {error}\nnothing was started, nothing was written.", file=sys.stderr)
            return 2
    from common.runner.attempt import Attempt

    attempt = Attempt(command, os.environ, cluster)
    if os.environ.get("DRY_RUN") == "1":
        print(attempt.script())
        discard(os.environ)
        return 0
    try:
        return attempt.run()
    except ClusterError as error:
        discard(os.environ)
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    (leave if machines_wanted(os.environ) > 1 else sys.exit)(main())
