"""TensorBoard event files to records, through TensorBoard's own reader; loaded only when there is such a file."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from monitor.log_parser import MAX_STEP, Record

BATCH = 20_000  # events between two looks at the clock


class EventReader:
    """The scalars of one event file, as it grows.

    Attributes:
        error: Why the rest cannot be read, "" when it can.
    """

    def __init__(self, path: Path):
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

        logging.getLogger("tensorboard").setLevel(logging.ERROR)  # a torn last event is usual
        self.path = path
        self.error = ""
        self._loader = LegacyEventFileLoader(str(path))
        self._events = None

    def read(self, end: float) -> tuple[list[Record], bool]:
        """Returns new records and whether all that is there was read.

        Args:
            end: `time.monotonic` to stop at.
        """
        records: list[Record] = []
        events = self._events or self._loader.Load()
        try:
            for count, event in enumerate(events, 1):
                data = _scalars(event)
                if data and abs(event.step) < MAX_STEP:
                    records.append((event.step, data))
                if count % BATCH == 0 and time.monotonic() > end:
                    self._events = events
                    return records, False
        except Exception as error:  # protobuf, TensorBoard and the file system each raise their own
            self.error = f"stops at a damaged event ({type(error).__name__})"
        self._events = None
        return records, True


def _scalars(event) -> dict[str, float]:
    """The scalars of one event; PyTorch and verl write `simple_value`, TensorFlow 2 a tensor."""
    data = {}
    for value in event.summary.value:
        kind = value.WhichOneof("value")
        if kind == "simple_value":
            data[value.tag] = value.simple_value
        elif kind == "tensor" and len(value.tensor.float_val) == 1:
            data[value.tag] = value.tensor.float_val[0]
    return data
