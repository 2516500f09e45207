"""A run's numbers in memory: rows of equal names in one block, read out as columns.

One hundred thousand steps of sixty metrics are 48 MB here; as dictionaries they would be a gigabyte.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from common.metrics.names import BY_NAME, METRICS, keys_of
from common.run_dir import TRAINED
from monitor.log_parser import Record
from monitor.plain import plain

Series = tuple[np.ndarray, np.ndarray]  # steps (int64, ascending) and values (float64) of one metric

EMPTY: Series = (np.empty(0, np.int64), np.empty(0, np.float64))
MAX_NAMES = 5_000  # metrics of one run; a log of rubbish could make up more


class _Block:
    """Rows that have the same names in the same order."""

    def __init__(self, names: tuple[str, ...]):
        self.names = tuple(map(plain, names))
        self.index = {name: column for column, name in enumerate(self.names)}
        self.steps = array("q")
        self.values = array("d")

    def column(self, name: str) -> Series:
        steps = np.frombuffer(self.steps, np.int64).copy()
        table = np.frombuffer(self.values, np.float64).reshape(len(steps), len(self.names))
        return steps, table[:, self.index[name]].copy()


class Columns:
    """The metrics of one run over its attempts.

    An attempt that resumes from a checkpoint replaces what earlier ones did from its first trained step on.
    """

    def __init__(self) -> None:
        self.size = 0  # numbers held
        self.last_step = -1
        self._attempts: dict[int, dict[tuple[str, ...], _Block]] = {}
        self._first_trained: dict[int, int] = {}

    def add(self, records: Iterable[Record], attempt: int = 1) -> None:
        """Appends records; values that are not numbers are left out, None (verl's NaN in JSON) is NaN."""
        blocks = self._attempts.setdefault(attempt, {})
        block, names = None, ()
        for step, data in records:
            row: Sequence[float] = data.values()  # type: ignore[assignment]
            if block is None or tuple(data) != names:
                names = tuple(data)
                block = blocks.get(names) or self._new_block(blocks, names)
                if any(name.startswith(TRAINED) for name in names):
                    self._first_trained[attempt] = min(step, self._first_trained.get(attempt, step))
            before = len(block.values)
            try:
                block.values.extend(row)
            except (TypeError, OverflowError):
                del block.values[before:]
                clean = {name: number for name, raw in data.items() if (number := _number(raw)) is not None}
                if len(clean) == len(data):
                    block.values.extend(clean.values())
                else:
                    other = blocks.get(tuple(clean)) or self._new_block(blocks, tuple(clean))
                    other.values.extend(clean.values())
                    other.steps.append(step)
                    continue
            block.steps.append(step)
            if step > self.last_step:
                self.last_step = step
        self.size = sum(len(block.values) for blocks in self._attempts.values() for block in blocks.values())

    def _new_block(self, blocks: dict[tuple[str, ...], _Block], names: tuple[str, ...]) -> _Block:
        blocks[names] = _Block(names)
        return blocks[names]

    def drop(self, attempt: int) -> None:
        """Forgets an attempt whose file was truncated or replaced."""
        self._attempts.pop(attempt, None)
        self._first_trained.pop(attempt, None)

    def names(self) -> list[str]:
        """The trainer's own metric names, sorted."""
        found: set[str] = set()
        for blocks in self._attempts.values():
            for block in blocks.values():
                if block.steps:
                    found.update(block.names)
            if len(found) > MAX_NAMES:
                break
        return sorted(found)[:MAX_NAMES]

    def resumed_at(self) -> list[int]:
        """The first trained step of each attempt after the first that trained."""
        return [self._first_trained[attempt] for attempt in sorted(self._first_trained)][1:]

    def series(self, name: str) -> Series:
        """Steps and values of a metric.

        Args:
            name: A name of the kit's table ("reward_mean") or a trainer's own ("actor/entropy").

        Returns:
            One value per step, steps ascending; of several values of one step the last written. Empty when the run
            has no such metric.
        """
        metric = BY_NAME.get(name)
        if metric is None:
            return self._raw(name)
        result = EMPTY
        known = tuple(self.names())
        for source in reversed(metric.sources):
            found = self._mean_of(_matches(source, known)) if "*" in source else self._raw(source)
            result = _join([result, found])
        return self._spread() if name == "reward_std_bound" else result

    def table_names(self) -> list[str]:
        """The kit's names that this run has, in the table's order."""
        known = tuple(self.names())
        found = [m.name for m in METRICS if any(_matches(source, known) for source in m.sources)]
        if "reward_std" not in found and {"reward_mean", "reward_max", "reward_min"} <= set(found):
            found.insert(found.index("reward_mean") + 1, "reward_std_bound")
        return found

    def _raw(self, name: str) -> Series:
        parts = []
        for attempt in sorted(self._attempts):
            blocks = self._attempts[attempt].values()
            part = _join([block.column(name) for block in blocks if name in block.index and block.steps])
            later = [first for other, first in self._first_trained.items() if other > attempt]
            if later:
                keep = part[0] < min(later)
                part = part[0][keep], part[1][keep]
            parts.append(part)
        return _join(parts)

    def _mean_of(self, names: Sequence[str]) -> Series:
        """The mean over several metrics, at each step over those that it has."""
        columns = [series for name in names if len((series := self._raw(name))[0])]
        if len(columns) < 2:
            return columns[0] if columns else EMPTY
        steps = np.unique(np.concatenate([steps for steps, _ in columns]))
        total, count = np.zeros(len(steps)), np.zeros(len(steps))
        for own, values in columns:
            place = np.searchsorted(steps, own)
            total[place] += values
            count[place] += 1
        return steps, total / count

    def _spread(self) -> Series:
        """The bound of the reward's spread from its mean, maximum and minimum, as common/metrics/names.py explains."""
        columns = [self.series(name) for name in ("reward_mean", "reward_max", "reward_min")]
        steps = columns[0][0]
        if all(np.array_equal(own, steps) for own, _ in columns):
            mean, high, low = (values for _, values in columns)
        else:
            for own, _ in columns[1:]:
                steps = np.intersect1d(steps, own)
            mean, high, low = (values[np.isin(own, steps)] for own, values in columns)
        product = (high - mean) * (mean - low)
        return steps, np.sqrt(np.where(product < 0, 0.0, product))


def _join(parts: Sequence[Series]) -> Series:
    """One series out of several; at a step that several have the last one wins."""
    parts = [part for part in parts if len(part[0])]
    if not parts:
        return EMPTY
    steps, values = parts[0] if len(parts) == 1 else (np.concatenate(column) for column in zip(*parts, strict=True))
    rising = np.diff(steps) > 0
    if rising.all():
        return steps, values
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    last = np.append(np.diff(steps) > 0, True)
    return steps[last], values[last]


_matches = lru_cache(maxsize=4096)(keys_of)  # asked for each source of the table at every look


def _number(raw: object) -> float | None:
    if raw is None:
        return float("nan")
    if isinstance(raw, (int, float)):
        try:
            return float(raw)
        except OverflowError:
            return None
    return None
