"""GPUs that are there, or planned."""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB = 2**30
NETWORK = 100.0  # Gbit/s of a machine, by default: plain cloud machines; those made for training have 400 to 3200
SPEC = re.compile(r"(?:(\d+)x)?(\d+)x(\d+(?:\.\d+)?)G(?:i?B)?(?:@(\d{1,5})(?:G(?:b|bit)?)?)?", re.IGNORECASE)
# Dense bfloat16 TFLOP/s and TB/s of memory, from the makers' data sheets; planned by size the plainest card of that
# size with bfloat16 is meant, so that the time is not promised too short.
CARDS = {
    16: ("A2", 18, 0.2),
    24: ("A10", 125, 0.6),
    32: ("RTX 5090", 209, 1.8),
    40: ("A100 40GB", 312, 1.5),
    48: ("A6000", 155, 0.77),
    64: ("H20 class", 148, 4.0),
    80: ("A100 80GB", 312, 2.0),
    96: ("H20", 148, 4.0),
    141: ("H200", 989, 4.8),
    192: ("B200", 2250, 8.0),
}


@dataclass(frozen=True)
class Gpus:
    """Some equal GPUs.

    Args:
        per_node: On one machine.
        nodes: Machines.
        memory: Of one, bytes.
        network: Between machines, of each, Gbit/s.
    """

    per_node: int
    nodes: int
    memory: int
    network: float = NETWORK

    @property
    def count(self) -> int:
        """All of them."""
        return self.per_node * self.nodes

    @property
    def card(self) -> tuple[str, float, float]:
        """A name, TFLOP/s and TB/s: of the nearest size that is not larger."""
        size = self.memory / GIB
        return CARDS[max((known for known in CARDS if known <= size + 1), default=16)]

    def __str__(self) -> str:
        nodes = f"{self.nodes} nodes of " if self.nodes > 1 else ""
        return f"{nodes}{self.per_node} x {self.memory / GIB:.0f} GiB"


def parse_gpus(text: str) -> Gpus:
    """Read ``8x80GB`` (one node), ``2x8x80GB`` (two nodes) or ``2x8x80GB@400`` (with 400 Gbit/s between them).

    Raises:
        ValueError: With the form that is read.
    """
    match = SPEC.fullmatch(text.strip())
    if not match:
        raise ValueError(
            f"--gpus {text}: write number x memory, e.g. 8x80GB, machines first: 2x8x80GB, and Gbit/s: 2x8x80GB@400"
        )
    nodes, per_node, memory = int(match[1] or 1), int(match[2]), float(match[3])
    if not nodes or not per_node or nodes * per_node > 4096:
        raise ValueError(f"--gpus {text}: {nodes * per_node} GPUs")
    # Data sheets say GB, nvidia-smi shows a little less than that many GiB: an 80GB card has 79.6 GiB, 24GB 23.7.
    network = float(match[4]) if match[4] else NETWORK
    if not network:
        raise ValueError(f"--gpus {text}: the network after @ is in Gbit/s, above 0")
    return Gpus(per_node, nodes, int(memory * 0.99 * GIB), network)
