"""A guard for the places where the kit relies on internal code of verl: it must still be the code we read.

Sources are read from the installed files and never imported, so that a look costs milliseconds and no device.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from common.verl_ext.version import installed, pinned


@dataclass(frozen=True)
class Source:
    """A definition as it is written in a file.

    Args:
        file: The file, from the folder of its package, such as ``verl/trainer/ppo/reward.py``.
        line: Its first line, decorators left out.
        text: Its lines.
    """

    file: str
    line: int
    text: str


class SourceChanged(RuntimeError):
    """A library is not the one that this part of the kit was made for."""


@lru_cache(maxsize=64)
def find(target: str) -> Source:
    """Where a definition is.

    Args:
        target: ``package.module:Class.method``, or a function, a class or a variable of the module.

    Raises:
        SourceChanged: If the definition is not there.
    """
    module, _, name = target.partition(":")
    file, shown = _file(module)
    text, node = _parsed(file) if file else ("", None)
    for part in name.split("."):
        node = next((child for child in ast.iter_child_nodes(node) if part in _names(child)), None) if node else None
    if node is None:
        raise SourceChanged(f"{target} is not in the installed {_version(module)}; {_advice()}")
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    return Source(shown, node.lineno, "\n".join(lines))


def expect(target: str, *texts: str, why: str) -> None:
    """Stop unless a definition still contains the code that the kit works around or builds on.

    Args:
        target: As for `find`.
        *texts: Pieces of its source; white space counts.
        why: What the kit needs it for, one clause; ends up in the error.

    Raises:
        SourceChanged: If the source is another, so that it must be read again.
    """
    source = find(target)
    for text in texts:
        if text not in source.text:
            raise SourceChanged(
                f"{target} ({source.file}:{source.line}) is not the code that the kit was made for ({why}): expected "
                f"to find {text!r} in the installed {_version(target)}. {_advice()}"
            )


@lru_cache(maxsize=2)
def _parsed(file: Path) -> tuple[str, ast.AST | None]:
    text = file.read_text(encoding="utf-8")
    return text, ast.parse(text)


def _file(module: str) -> tuple[Path | None, str]:
    """The file of a module, and its path from the folder of the package; None when it is not there."""
    package, *parts = module.split(".")
    loaded = sys.modules.get(package)
    origin = getattr(loaded, "__file__", None) or getattr(importlib.util.find_spec(package), "origin", None)
    if not origin:
        return None, ""
    folder = Path(origin).parent
    stem = folder.joinpath(*parts)
    for file in (stem.with_suffix(".py"), stem / "__init__.py"):
        if file.is_file():
            return file, file.relative_to(folder.parent).as_posix()
    return None, ""


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def _version(target: str) -> str:
    package = target.partition(":")[0].partition(".")[0]
    return f"{package} {installed({'transfer_queue': 'TransferQueue'}.get(package, package))}"


def _advice() -> str:
    return f"Install verl=={pinned()} (./setup_env.sh), or renew the kit: docs/upgrading-verl.md"
