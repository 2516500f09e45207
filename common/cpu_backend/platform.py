"""The device ``cpu`` for verl: processor cores in place of accelerators.

Ray gets logical GPUs (``num_gpus=N`` at ``ray.init``), so verl's placement groups work as they are: a
"GPU" is one training process on this machine's cores.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

DEVICE = "cpu"


def _device_module() -> ModuleType:
    """Return a stand-in for ``torch.cuda``: the calls verl makes on a device module, answered for the host.

    Memory counters of the caching allocator do not exist on a CPU and read 0; ``mem_get_info`` is the host's
    real memory in bytes.
    """
    module = ModuleType("common.cpu_backend.device")
    zero_counters = ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved")
    for name in zero_counters:
        setattr(module, name, lambda *args, **kwargs: 0)
    for name in ("set_device", "synchronize", "empty_cache", "ipc_collect", "reset_peak_memory_stats"):
        setattr(module, name, lambda *args, **kwargs: None)
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module.current_device = lambda: 0
    module.device_count = lambda: 1
    module.get_device_name = lambda *args: "CPU"
    module.mem_get_info = lambda *args: (psutil.virtual_memory().available, psutil.virtual_memory().total)
    module.manual_seed = torch.manual_seed
    module.manual_seed_all = torch.manual_seed
    module.get_rng_state = lambda *args: torch.get_rng_state()
    module.set_rng_state = lambda state, *args: torch.set_rng_state(state)
    return module


@PlatformRegistry.register(platform=DEVICE)
class PlatformCPU(PlatformBase):
    """verl's platform interface for a host without an accelerator."""

    _module = _device_module()

    @property
    def device_name(self) -> str:
        """The torch device type."""
        return DEVICE

    @property
    def vendor_name(self) -> str:
        """The name by which ``EngineRegistry`` tells vendors of one device type apart."""
        return DEVICE

    @property
    def device_module(self) -> ModuleType:
        """The stand-in for ``torch.cuda``."""
        return self._module

    def is_available(self) -> bool:
        """A CPU always is."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Never chosen by auto-detection: only ``VERL_PLATFORM=cpu`` selects it."""
        return False

    def current_device(self) -> str:
        """The device that tensors are moved to; a name and not an index, because ``.to(0)`` means CUDA."""
        return DEVICE

    def device_count(self) -> int:
        """One host."""
        return 1

    def set_device(self, device_index: int) -> None:
        """Nothing to select."""

    def synchronize(self, device_index: int | None = None) -> None:
        """CPU work is synchronous."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """No caching allocator."""

    def empty_cache(self) -> None:
        """No caching allocator."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """No compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """The collective backend for CPU tensors."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """The variable that Ray sets for the logical GPUs it hands out."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str):
        """No profiler ranges."""
        yield

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        """The resource that verl's placement groups ask Ray for; logical here."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Keep Ray from touching CUDA_VISIBLE_DEVICES in actors that ask for it."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """No CUDA IPC."""
        return False

    def cudart(self) -> Any:
        """No CUDA runtime."""
        return None
