"""Small JSON and YAML files that others wrote: read within a size, a depth and a number of values.

Python's JSON ends in a RecursionError at deep nesting, a YAML file of 300 bytes grows to gigabytes by its aliases, and
libyaml's fast loader ends the process. Here each is a ValueError that names the file and says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MIB = 2**20
MAX_JSON = 16 * MIB  # bytes; configs of models have up to 200 KB
MAX_TOKENIZER = 256 * MIB  # bytes; the largest tokenizer.json known has 35 MB
MAX_YAML = MIB  # bytes; verl's composed config has 50 KB
MAX_ENTRIES = 50_000  # values of a YAML file
MAX_DEPTH = 60  # lists and mappings in one another


def read_json(path: str | Path, limit: int = MAX_JSON) -> Any:
    """The value of a JSON file.

    Args:
        path: The file.
        limit: The most bytes that it may have.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large or nested too deeply, or is not JSON; with the file's name.
    """
    try:
        return json.loads(_text(path, limit))
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply for a file of its kind") from None
    except ValueError as error:
        raise ValueError(_named(path, error, "JSON")) from error


def read_json_object(path: str | Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """As `read_json`; a ValueError too where the file holds anything but ``{...}``."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}; expected {{...}}")
    return value


def read_yaml(path: str | Path, limit: int = MAX_YAML) -> Any:
    """The value of a YAML file, without aliases; raises as `read_json`."""
    try:
        return parse_yaml(_text(path, limit))
    except ValueError as error:
        raise ValueError(_named(path, error, "YAML")) from error


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: If it has aliases, more than `MAX_ENTRIES` values or `MAX_DEPTH` levels, or is not YAML.
    """
    import yaml

    try:
        _check_shape(yaml.parse(text, yaml.SafeLoader))
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except ValueError:
        raise
    # The others: PyYAML at values that are not what their tag says, as `!!bool 3`, `!!timestamp x`, `!!int ''`.
    except (yaml.YAMLError, RecursionError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _check_shape(events: Iterable[object]) -> None:
    import yaml

    depth = count = 0
    for event in events:
        count += 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("has aliases (*name), which are not taken")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or count > MAX_ENTRIES:
            raise ValueError(f"has more than {MAX_DEPTH} levels or {MAX_ENTRIES:,} values")


def _text(path: str | Path, limit: int) -> str:
    with Path(path).open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"has more than {limit // MIB} MiB, too much for a file of its kind")
    return content.decode("utf-8-sig")


def _named(path: str | Path, error: ValueError, kind: str) -> str:
    ours = str(error).startswith("has ")
    return f"{path}: {error}" if ours else f"{path}: cannot be read as {kind}: {error}"
