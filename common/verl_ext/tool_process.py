"""The process in which tools run: ``python -m common.verl_ext.tool_process PIPE FILE``.

A tool that hangs cannot be stopped in a thread, and one that computes holds the interpreter's lock; a process can be
killed (``common.worker``). verl itself takes ten seconds and half a gigabyte to import, for one decorator; so a
file that imports nothing else of verl gets a decorator of the same name here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from common.worker import serve

MAX_CHARACTERS = 100_000  # of a text that goes back; verl cuts it to MAX_TOOL_RESPONSE_LENGTH after that
DECORATOR_MODULE = "verl.tools.function_tool"


def load_functions(path: Path) -> dict[str, Callable[..., Any]]:
    """The tools of a file by name.

    Args:
        path: File with functions under ``@function_tool``.
    """
    functions: dict[str, Callable[..., Any]] = {}
    try:
        _run(path, _stand_ins(functions))
    except ImportError as error:
        if not (error.name or "").startswith("verl"):
            raise
        from verl.tools.function_tool import load_function_tools_from_path

        functions = {tool.name: tool.fn for tool in load_function_tools_from_path(str(path))}
    return functions


def _stand_ins(functions: dict[str, Callable[..., Any]]) -> dict[str, ModuleType]:
    """Modules with the names of verl's, of which the last has a decorator that notes functions in a dictionary."""

    def function_tool(name: Any = None, *, schema: Any = None) -> Callable[..., Any]:
        def note(function: Callable[..., Any]) -> Callable[..., Any]:
            functions[name if isinstance(name, str) else function.__name__] = function
            return function

        return note(name) if callable(name) else note

    parts = DECORATOR_MODULE.split(".")
    names = [".".join(parts[: count + 1]) for count in range(len(parts))]
    modules = {name: ModuleType(name) for name in names}
    for name in names[:-1]:
        modules[name].__path__ = []
    modules[DECORATOR_MODULE].function_tool = function_tool
    return modules


def _run(path: Path, stand_ins: dict[str, ModuleType]) -> None:
    spec = importlib.util.spec_from_file_location("_kit_tools", path)
    module = importlib.util.module_from_spec(spec)
    real = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        spec.loader.exec_module(module)
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(real)


def call(functions: dict[str, Callable[..., Any]], question: tuple[str, dict[str, Any]]) -> tuple[str, Any]:
    """Call a tool.

    Args:
        functions: The tools by name.
        question: Name and arguments.

    Returns:
        ``("ok", what it returned)`` or ``("error", what it raised, in words)``.
    """
    name, arguments = question
    try:
        result = functions[name](**arguments)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}"[:MAX_CHARACTERS]
    return "ok", _shortened(result)


def _shortened(result: Any) -> Any:
    if isinstance(result, tuple):
        return (_shortened(result[0]), *result[1:]) if result else result
    if isinstance(result, str):
        half = MAX_CHARACTERS // 2
        return result if len(result) <= MAX_CHARACTERS else result[:half] + result[-half:]
    return result if isinstance(result, dict) else _shortened(str(result))


def main() -> None:
    """Answer questions until the parent is gone."""
    path = Path(sys.argv[2])

    def prepare() -> Callable[[Any], Any]:
        functions = load_functions(path)
        return lambda question: call(functions, question)

    serve(prepare)


if __name__ == "__main__":
    main()
