"""Which module imports which, and what is wrong with that: circles of files, packages that import each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TOPS = ("common", "monitor", "sft", "dpo", "grpo", "ppo", "gspo", "training_platform")
Graph = dict[str, set[str]]  # module -> modules of the kit that it imports, also inside functions


def modules(root: Path) -> dict[str, Path]:
    """Every product module by its dotted name."""
    found = {}
    for top in TOPS:
        for path in sorted((root / top).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(root: Path) -> Graph:
    """The import graph. What is under ``if TYPE_CHECKING`` is not an arrow: it is not there when the code runs."""
    known = modules(root)
    graph: Graph = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[name] = {target for target in _targets(tree) if target in known and target != name}
    return graph


def _targets(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from _targets(node)


def package(module: str) -> str:
    """``common.data`` of ``common.data.readers.files``; the module itself where it is loose in ``common``."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "common" else parts[0]


def two_way(graph: Graph) -> list[tuple[str, str]]:
    """Pairs of packages that import each other."""
    pairs = {(package(one), package(other)) for one, targets in graph.items() for other in targets}
    return sorted((one, other) for one, other in pairs if one < other and (other, one) in pairs)


def circles(graph: Graph) -> list[list[str]]:
    """Groups of files of which each imports each other, directly or not (Tarjan's components of more than one)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for target in graph[module]:
            if target not in order:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], order[target])
        if low[module] == order[module]:
            at = stack.index(module)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in order:
            visit(module)
    return found


def upward(graph: Graph) -> list[tuple[str, str]]:
    """Arrows from what the algorithms share to an algorithm or to the monitor."""
    return sorted(
        (one, other)
        for one, targets in graph.items()
        for other in targets
        if one.startswith("common") and not other.startswith("common")
    )


def passes(root: Path, knob: str) -> list[str]:
    """Product files, scripts and YAML that name a knob; READMEs aside."""
    files = [path for top in TOPS for kind in ("*.py", "*.sh", "*.yaml") for path in (root / top).rglob(kind)]
    return sorted(str(path.relative_to(root)) for path in files if knob in path.read_text(encoding="utf-8"))


def lines(root: Path) -> int:
    """Lines of product Python."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules(root).values())


def tables(root: Path) -> dict[str, tuple[set[str], set[str]]]:
    """Package -> the dotted names in the table of its docstring, and those of its modules and packages.

    Packages without a table are left out.
    """
    found = {}
    for file in sorted([*root.glob("common/**/__init__.py"), *root.glob("monitor/**/__init__.py")]):
        package = ".".join(file.parent.relative_to(root).parts)
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        rows = re.findall(r"^``([a-z_.0-9]+)``  +\S", text, re.MULTILINE)
        parts = [path.stem for path in file.parent.glob("*.py") if not path.stem.startswith("__")]
        parts += [path.parent.name for path in file.parent.glob("*/__init__.py")]
        if rows:
            found[package] = (
                {row if "." in row else f"{package}.{row}" for row in rows},
                {f"{package}.{part}" for part in parts},
            )
    return found
