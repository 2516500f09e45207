"""The inputs that a command line or a mapping file names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.data.convert import Source
from common.data.hub import download_data, is_hub_id, split_files
from common.data.names import Columns, parse_map
from common.data.readers.files import DataError, data_files
from common.small_files import read_yaml


def sources_of(arguments: argparse.Namespace, inputs: Sequence[str]) -> list[Source]:
    """The inputs with their options.

    Raises:
        DataError: If an option is given another number of times than once or once for each, or there is no input.
    """
    mapped = read_mapping(arguments.mapping) if arguments.mapping else []
    if not inputs and not mapped:
        raise DataError(f"{arguments.files[0]}: one file is not enough; give IN... and OUT")
    named = {
        name: _for_each(getattr(arguments, name), len(inputs), name)
        for name in ("input", "output", "system_column", "system", "data_source", "encoding", "answer_pattern")
    }
    sources = list(mapped)
    for number, text in enumerate(inputs):
        mine = {name: values[number] for name, values in named.items()}
        for path, data_source in _files(text, arguments):
            columns = columns_of(arguments, mine["input"], mine["output"], mine["system_column"])
            name = mine["data_source"] or data_source
            sources.append(
                Source(
                    path,
                    columns,
                    name,
                    mine["system"] or "",
                    mine["answer_pattern"],
                    mine["encoding"],
                    not arguments.no_header,
                    arguments.sheet,
                )
            )
    return sources


def columns_of(arguments: argparse.Namespace, question: str | None, answer: str | None, system: str | None) -> Columns:
    """The columns that a command line names.

    Raises:
        DataError: If a ``--map`` is not ``part=column``, or names a part twice.
    """
    return Columns(question, answer, system, _parts(arguments.map or ()))


def _parts(maps: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    try:
        found = [parse_map(text) for text in maps]
    except ValueError as error:
        raise DataError(str(error)) from None
    parts = [part for part, _ in found]
    for part in parts:
        if parts.count(part) > 1:
            raise DataError(f"--map {part}=...: given twice; join columns with +")
    return tuple(found)


def _for_each(values: list[str] | None, number: int, name: str) -> list[str | None]:
    if not values:
        return [None] * number
    if len(values) == 1:
        return values * number
    if len(values) != number:
        option = "--" + name.replace("_", "-")
        raise DataError(f"{option}: given {len(values)} times for {number} inputs; give it once, or once for each")
    return values


def _files(text: str, arguments: argparse.Namespace) -> list[tuple[Path, str | None]]:
    """The files that an input names: itself, or those of a data set from a hub."""
    if not is_hub_id(text):
        if not Path(text).exists():
            raise DataError(f"{text}: no such file")
        if Path(text).is_dir():
            return [(path, Path(text).resolve().name) for path in data_files(Path(text))]
        return [(Path(text), None)]
    folder = download_data(text, arguments.hub)
    return [(path, text) for path in split_files(folder, arguments.split)]


def read_mapping(file: Path) -> list[Source]:
    """Inputs with their columns from a YAML file; paths in it are relative to it.

    Raises:
        DataError: If it is not a list of such inputs.
    """
    try:
        entries = read_yaml(file)
    except ValueError as error:
        raise DataError(f"--mapping {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"--mapping {file}: expected a list of entries, each with a path")
    names = {"path", "input", "output", "system", "system_column", "data_source", "answer_pattern", "encoding"}
    names |= {"map", "header", "sheet"}
    sources = []
    for number, entry in enumerate(entries, 1):
        unknown = set(entry) - names
        if unknown or "path" not in entry:
            problem = f"unknown {', '.join(sorted(unknown))}" if unknown else "path is missing"
            raise DataError(f"--mapping {file}: entry {number}: {problem}; known are {', '.join(sorted(names))}")
        maps = entry.get("map") or {}
        if not isinstance(maps, dict):
            raise DataError(f"--mapping {file}: entry {number}: map: expected part: column")
        parts = _parts([f"{part}={column}" for part, column in maps.items()])
        columns = Columns(entry.get("input"), entry.get("output"), entry.get("system_column"), parts)
        path = file.parent / entry["path"]
        others = entry.get("data_source"), entry.get("system") or "", entry.get("answer_pattern"), entry.get("encoding")
        sources.append(Source(path, columns, *others, entry.get("header", True), entry.get("sheet")))
    return sources
