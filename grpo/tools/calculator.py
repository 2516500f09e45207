"""A calculator as a tool: ``TOOLS_PATH=grpo/tools/calculator.py``.

verl makes the description that the model reads from the type hints and the docstring. What a tool returns, or raises,
goes back to the model as text; nothing that the model writes is run as code.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

from verl.tools.function_tool import function_tool

LARGEST = 10**15  # of any number on the way, so that 9**9**9 does not keep the machine busy
OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@function_tool
def calculator(expression: str) -> str:
    """Work out sums.

    Args:
        expression: Numbers with + - * / and ().
    """
    result = value(ast.parse(expression.strip(), mode="eval").body)
    return str(int(result)) if result == int(result) else f"{result:.6g}"


def value(node: ast.AST) -> float:
    """The value of a node of an expression.

    Raises:
        ValueError: If there is anything but numbers, operators and brackets in it, or a number gets too large.
    """
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        result = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        result = -value(node.operand)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        result = OPERATIONS[type(node.op)](value(node.left), value(node.right))
    else:
        raise ValueError(f"not a number or an operation of + - * / // % ( ): {ast.unparse(node)[:40]}")
    if abs(result) > LARGEST:
        raise ValueError("the number is too large")
    return result
