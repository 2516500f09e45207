"""The listening ports of a run, and what a stranger on this machine can do with them."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import grpc
import msgspec
import psutil
import zmq

CUSTOM_TYPE_PICKLE = 1  # transfer_queue/utils/serial_utils.py
REFUSED = re.compile("InvalidAuthToken|AuthenticationError")  # what Ray says to a stranger
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
GRPC = ("raylet", "gcs_server", "ray::", "main_ppo")  # commands of Ray that serve gRPC, all on ::ffff:127.0.0.1
CALLS = (
    "NodeInfoGcsService/GetAllNodeInfo",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/FreeObjects",
    "ObjectManagerService/Push",
    "ObjectManagerService/Pull",
    "CoreWorkerService/GetCoreWorkerStats",
)


class Evil:
    """A pickle that makes a folder."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def listening(run_dir: Path) -> list[tuple[str, int, str]]:
    """Address, port and command of each socket that processes of a run listen on."""
    commands = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("RUN_DIR") == str(run_dir):
                commands[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue
    found = psutil.net_connections("inet")
    sockets = [one for one in found if one.status == psutil.CONN_LISTEN and one.pid in commands]
    return sorted((one.laddr.ip, one.laddr.port, commands[one.pid]) for one in sockets)


def send_pickles(sockets: list[tuple[str, int, str]], marker: Path) -> bool:
    """Send a hostile pickle to each port as a TransferQueue message and bare; returns whether one was read."""
    frame = msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(CUSTOM_TYPE_PICKLE, pickle.dumps(Evil(marker)))})
    context = zmq.Context()
    for address, port, _ in sockets:
        stranger = context.socket(zmq.DEALER)
        stranger.linger = 0
        stranger.connect(f"tcp://{'127.0.0.1' if address in ('0.0.0.0', '::') else address}:{port}")
        for message in ([frame], [b"", frame], [pickle.dumps(Evil(marker))]):
            stranger.send_multipart(message, zmq.NOBLOCK)
    time.sleep(3)
    context.destroy(linger=0)
    return marker.exists()


def let_in_by_grpc(sockets: list[tuple[str, int, str]]) -> list[str]:
    """Calls each gRPC port of Ray without a token and with a wrong one; what did not refuse, with its answer.

    Raises:
        AssertionError: A call met no server, so nothing was tried.
    """
    open_ones, refused = [], 0
    servers = [one for one in sockets if one[0] == "::ffff:127.0.0.1" and any(word in one[2] for word in GRPC)]
    assert len(servers) >= 5, sockets
    for _, port, command in servers:
        for metadata in (), (("authorization", "Bearer " + "0" * 64),):
            answers = {name: _call(port, f"/ray.rpc.{name}", metadata) for name in CALLS}
            assert "UNAVAILABLE" not in answers.values(), (port, command)
            # A service that this port does not have is UNIMPLEMENTED; the one that it has must refuse. A port with none
            # of these services has nothing that is known here to answer a stranger.
            refused += "UNAUTHENTICATED" in answers.values()
            if not set(answers.values()) <= {"UNAUTHENTICATED", "UNIMPLEMENTED"}:
                open_ones.append(f"{port} {command[-60:]} {'wrong' if metadata else 'no'} token: {answers}")
    assert refused >= 6, "three ports at least, without and with a wrong token"
    return open_ones


def _call(port: int, method: str, metadata: tuple) -> str:
    """Name of the status that a gRPC call with an empty message ends with."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def joins_ray(sockets: list[tuple[str, int, str]], home: Path, token: str | None) -> str:
    """What Ray says to a stranger with this token who wants to join the run's cluster; "joined" when it is let in."""
    port = next(port for _, port, command in sockets if "gcs_server" in command)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray asks at the node's address, where nothing listens
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "token"} | ({"RAY_AUTH_TOKEN": token} if token else {})
    code = f"import ray; ray.init(address='127.0.0.1:{port}'); print('joined', ray.nodes()[0]['Alive'])"
    said = home / "joins.txt"
    with said.open("w") as output:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=output, stderr=output)
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end and not REFUSED.search(said.read_text()):
        time.sleep(0.2)
    process.kill()  # Ray asks again for a minute or two
    process.wait()
    text = said.read_text()
    assert REFUSED.search(text) or "joined" in text, text
    return "joined" if "joined" in text else text
