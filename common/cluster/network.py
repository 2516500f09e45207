"""This machine's address and interface on the way to the others.

gloo takes the address that the host's own name resolves to, which is loopback on many machines, and NCCL the first
interface that looks usable. Both take an interface from a variable.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

import psutil

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def resolve(host: str) -> str:
    """The address of a host.

    Raises:
        OSError: If its name does not resolve.
    """
    return socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0][4][0]


def own_address(peer: str) -> str:
    """This machine's address on the way to another's; nothing is sent.

    Raises:
        OSError: If no way leads there.
    """
    family, kind, protocol, _, target = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return probe.getsockname()[0]


def addresses() -> dict[str, str]:
    """Address -> interface, of this machine."""
    found = {}
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                found[entry.address.partition("%")[0]] = name
    return found


def interface_of(address: str) -> str | None:
    """The interface that has an address, None where none has it."""
    return addresses().get(address)


def interface_variables(address: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What makes gloo and NCCL use the interface of an address; what the user has set stays."""
    name = interface_of(address)
    return {variable: name for variable in INTERFACE_VARIABLES if name and not environment.get(variable)}


def endpoint(address: str, port: int) -> str:
    """Address and port as one text."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def reachable(address: str, port: int, seconds: float = 5.0) -> str | None:
    """Try to open a connection; returns why there is none, or None."""
    try:
        socket.create_connection((address, port), timeout=seconds).close()
    except OSError as error:
        return str(error)
    return None
