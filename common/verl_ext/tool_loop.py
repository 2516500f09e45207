"""verl's tool agent loop with limits: tools run in separate processes and may take only so long.

verl calls a function tool in a thread without a limit (`ToolAgentLoop._call_tool`), so one that hangs
would stop the whole run. What a tool raises goes to the model as text, as verl does it.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from verl.experimental.agent_loop.agent_loop import register
from verl.experimental.agent_loop.tool_agent_loop import AgentData, ToolAgentLoop
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import ToolResponse

from common.verl_ext import private
from common.worker import Worker, WorkerDied

private.check("common/verl_ext/tool_loop.py")

PROCESSES = 2  # of each agent worker; each answers one call at a time
# How the texts begin that verl sends to the model in place of an answer.
FAILURES = ("Error executing tool", "Unknown function", "Invalid JSON")


class ToolFailed(RuntimeError):
    """A tool raised, took too long or took its process down; the text goes to the model."""


class ToolPool:
    """Processes that have loaded the tools of one file.

    Args:
        path: File of ``TOOLS_PATH``.
        limit_s: Seconds for one call.
        processes: How many; they start with their first call.
    """

    def __init__(self, path: str, limit_s: float, processes: int = PROCESSES):
        self.limit_s = limit_s
        self.threads = ThreadPoolExecutor(processes, thread_name_prefix="tool")
        self.free: SimpleQueue[Worker] = SimpleQueue()
        for _ in range(processes):
            self.free.put(Worker("common.verl_ext.tool_process", (path,)))

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Return what a tool returns.

        Raises:
            ToolFailed: If it raised, took longer than the limit, or crashed.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, self._call, name, arguments)

    def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        worker = self.free.get()
        try:
            kind, result = worker.ask((name, arguments), self.limit_s)
        except TimeoutError:
            raise ToolFailed(f"it took longer than {self.limit_s:g} s") from None
        except WorkerDied as error:
            raise ToolFailed(str(error)) from error
        finally:
            self.free.put(worker)
        if kind == "error":
            raise ToolFailed(result)
        return result


def in_process(tool: FunctionTool, pool: ToolPool) -> FunctionTool:
    """The same tool, called in a process of the pool."""

    async def call(**arguments: Any) -> Any:
        return await pool.call(tool.name, arguments)

    return replace(tool, fn=call, is_async=True)


_pools: dict[str, ToolPool] = {}  # by file: one for all answers of this agent worker


@register("kit_tool_agent")
class KitToolAgentLoop(ToolAgentLoop):
    """Turns with tools; counts calls and failures in ``extra_fields``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        path = self.rollout_config.multi_turn.function_tool_path
        if path and path not in _pools:
            _pools[path] = ToolPool(path, float(os.environ.get("TOOL_TIMEOUT", "10")))
        self.tools = {
            name: in_process(tool, _pools[path]) if isinstance(tool, FunctionTool) else tool
            for name, tool in self.tools.items()
        }

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> Any:
        """Answer one prompt."""
        output = await super().run(sampling_params, **kwargs)
        for name in ("tool_calls", "tool_failures"):
            output.extra_fields.setdefault(name, 0)
        return output

    async def _call_tool(
        self, tool_call: Any, tools_kwargs: dict[str, Any], agent_data: AgentData
    ) -> tuple[ToolResponse, float, dict]:
        response, reward, result = await super()._call_tool(tool_call, tools_kwargs, agent_data)
        counts = agent_data.extra_fields
        counts["tool_calls"] = counts.get("tool_calls", 0) + 1
        counts["tool_failures"] = counts.get("tool_failures", 0) + (response.text or "").startswith(FAILURES)
        return response, reward, result
