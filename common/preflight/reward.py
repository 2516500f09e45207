"""The reward function of the user, tried on real rows before a GPU is touched."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import math
import traceback
from pathlib import Path
from typing import Any

ROWS = 3  # rows that are tried, each with its ground truth as the answer and with an empty answer


def check_reward(path: Path, name: str, rows: list[dict[str, Any]]) -> str | None:
    """Return what is wrong with a reward function, or None.

    Args:
        path: Python file.
        name: Function in it; called as verl calls it, by keyword.
        rows: Rows of prompt data.
    """
    defined = _functions(path)
    if isinstance(defined, str):
        return defined
    if name not in defined:
        return f"REWARD_FUNC_NAME={name}: not in {path}; it defines {', '.join(sorted(defined)) or 'no function'}"
    try:
        function = _load(path, name)
    except Exception as error:  # the user's module may raise anything at import
        return f"REWARD_FUNC_PATH={path}: cannot be imported: {_where(error, path)}"
    for row in rows[:ROWS]:
        for answer in (str(row["reward_model"]["ground_truth"]), ""):
            problem = _try(function, path, row, answer)
            if problem:
                return problem
    return None


def _functions(path: Path) -> set[str] | str:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        return f"REWARD_FUNC_PATH={path}: cannot be read: {error}"
    named = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in tree.body:  # names that the module imports or assigns count too
        if isinstance(node, ast.Import | ast.ImportFrom):
            named |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            named |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return named


def _load(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location("reward_function_on_trial", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _try(function: Any, path: Path, row: dict[str, Any], answer: str) -> str | None:
    arguments = {
        "data_source": row["data_source"],
        "solution_str": answer,
        "ground_truth": row["reward_model"]["ground_truth"],
        "extra_info": row.get("extra_info") or {},
    }
    label = f"REWARD_FUNC_PATH={path}: on the answer {answer[:40]!r}"
    try:
        result = function(**arguments)
        if inspect.isawaitable(result):
            result = asyncio.run(asyncio.wait_for(result, timeout=60))
    except Exception as error:  # the user's code may raise anything
        return f"{label} it raised {_where(error, path)}"
    problem = check_result(result)
    return f"{label} it {problem}" if problem else None


def check_result(result: Any) -> str | None:
    """Return what verl cannot use in a reward function's result, or None."""
    if isinstance(result, dict):
        if "score" not in result:
            return f"returned a dictionary without 'score': {sorted(result)}"
        if "reward" in result:
            return "returned a key named 'reward', which verl uses itself; call it something else"
        result = result["score"]
    if result is None:
        return "returned None; return a number, or a dictionary with 'score'"
    if isinstance(result, bool | int | float) and math.isfinite(result):
        return None
    return f"returned the score {result!r}; it must be a finite number"


def _where(error: Exception, path: Path) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = f" (line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{line}"
