"""verl's ``checkpoint_engine.backend=gloo``: weights from the trainer to separate rollout servers, without a GPU.

``TRAINER_MODE=separate`` needs a backend other than ``naive``; verl's own need NCCL, RDMA or Mooncake. Rank 0 of the
actor broadcasts each tensor to one process per rollout server, over the address that Ray gave this node: loopback in
a run on one machine. verl imports this module in each process (``checkpoint_engine.custom_backend_module``).
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

TIMEOUT = timedelta(minutes=10)


@CheckpointEngineRegistry.register("gloo")
class GlooCheckpointEngine(CheckpointEngine):
    """One gloo group of the sender and all receivers, made at the first transfer and kept.

    Args:
        bucket_size: verl's; tensors are sent one by one.
        is_master: Whether this is rank 0 of the actor.
        **_: Arguments of other backends.
    """

    def __init__(self, bucket_size: int = 0, is_master: bool = False, **_: Any):
        self.is_master = is_master
        self.rank: int | None = None
        self.store: dist.TCPStore | None = None
        self.group: dist.ProcessGroupGloo | None = None

    def prepare(self) -> tuple[str, int] | None:
        """Open the store through which the group finds itself.

        Returns:
            Address and port of the sender; None of a receiver.
        """
        if not self.is_master:
            return None
        address = _address()
        if self.store is None:
            self.store = _listening_store(address)
        return address, self.store.port

    @classmethod
    def build_topology(cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list) -> tuple[dict, dict]:
        """Rank 0 of the actor sends, its other ranks stay outside (-1), every rollout process receives."""
        world = 1 + rollout_world_size

        def arguments(ranks: list[int]) -> dict[str, list]:
            return {"rank": ranks, "world_size": [world] * len(ranks), "master": [metadata[0]] * len(ranks)}

        return arguments([0] + [-1] * (actor_wg_world_size - 1)), arguments(list(range(1, world)))

    def init_process_group(self, rank: int, world_size: int, master: tuple[str, int]) -> None:
        """Join the group, once."""
        self.rank = rank
        if rank < 0 or self.group is not None:
            return
        self.store = self.store or dist.TCPStore(*master, is_master=False, timeout=TIMEOUT)
        options = dist.ProcessGroupGloo._Options()
        options._timeout = TIMEOUT
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=_address())]
        self.group = dist.ProcessGroupGloo(dist.PrefixStore("weights", self.store), rank, world_size, options)

    def finalize(self) -> None:
        """The group stays for the next transfer."""

    async def send_weights(self, weights: Iterator[tuple[str, torch.Tensor]], global_steps: int | None = None) -> None:
        """Broadcast every tensor.

        Args:
            weights: Names and full tensors. All ranks of the actor read them to the end, as making each is a
                collective; rank 0 sends.
            global_steps: Step of these weights; verl sends it by other ways.
        """
        for name, tensor in weights:
            if self.rank == 0:
                tensor = tensor.detach().cpu().contiguous()
                kind = str(tensor.dtype).removeprefix("torch.")
                self._send_text(json.dumps([name, list(tensor.shape), kind]))
                if tensor.numel():
                    self.group.broadcast(tensor, 0).wait()
        if self.rank == 0:
            self._send_text("")

    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor]]:
        """The tensors as they arrive, on the CPU."""
        while header := self._receive_text():
            name, shape, kind = json.loads(header)
            tensor = torch.empty(shape, dtype=getattr(torch, kind))
            if tensor.numel():
                self.group.broadcast(tensor, 0).wait()
            yield name, tensor

    def _send_text(self, text: str) -> None:
        data = text.encode()
        self.group.broadcast(torch.tensor([len(data)]), 0).wait()
        if data:
            self.group.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0).wait()

    def _receive_text(self) -> str:
        size = torch.zeros(1, dtype=torch.int64)
        self.group.broadcast(size, 0).wait()
        data = torch.empty(int(size), dtype=torch.uint8)
        if len(data):
            self.group.broadcast(data, 0).wait()
        return data.numpy().tobytes().decode()


def _address() -> str:
    return ray.util.get_node_ip_address().strip("[]")


def _listening_store(address: str) -> dist.TCPStore:
    """A store on a free port of this address alone; torch's own would listen on all of the machine's."""
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    return dist.TCPStore(
        address, port, is_master=True, wait_for_workers=False, timeout=TIMEOUT, master_listen_fd=listener.detach()
    )
