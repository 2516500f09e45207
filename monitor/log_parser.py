"""Training logs to records: verl's metrics.jsonl, console lines of many trainers, one parser for all of them.

A record is ``(step, {name: number})``. `LogParser.feed` takes whole lines and never raises: a line that says nothing is
skipped, of a torn line what is whole is kept. What it reads (TensorBoard's binary files: tensorboard_events.py):

* ``{"step": 5, "data": {...}}``, verl's file logger, and flat ``{"step": 5, "loss": 0.1}``
* ``step:34 - actor/pg_loss:-0.01 - ...``, verl's console, with Ray prefixes, colours, ``np.float64(0.1)``
* ``Step 100/10000 | Loss: 0.234 | KL: 0.0012``, ``Step 1/29: reward_mean=0.15 [15.2s]``, ``Epoch 1/3: PL:0.32 R:1.56``
* ``{'loss': 0.5, 'epoch': 0.1}``, the Hugging Face Trainer; its step is that of the progress bar before it
"""

from __future__ import annotations

import json
import math
import re

import orjson

Record = tuple[int, dict[str, float]]

MAX_KEY = 200  # bytes; a longer name is not a metric
MAX_STEP = 2**53
MAX_LINE = 20_000  # bytes of an informal line
MAX_VERL_LINE = 1_000_000  # bytes of a line of verl's console
_MAX_NAMES = 20_000  # names remembered, so that binary rubbish cannot fill the memory

# What informal lines call a metric -> the kit's name.
ALIASES: dict[str, str] = {
    "lr": "learning_rate",
    "r": "reward_mean",
    "reward": "reward_mean",
    "rewards": "reward_mean",
    "mean reward": "reward_mean",
    "kl": "kl_divergence",
    "kl_mean": "kl_divergence",
    "kl_loss": "kl_divergence",
    "pl": "policy_loss",
    "policy loss": "policy_loss",
    "actor_loss": "policy_loss",
    "pg_loss": "policy_loss",
    "vl": "value_loss",
    "value loss": "value_loss",
    "critic_loss": "value_loss",
    "a": "advantage_mean",
    "adv": "advantage_mean",
    "advantage": "advantage_mean",
    "e": "entropy",
    "train_loss": "loss",
    "l": "loss",
    "val loss": "val_loss",
    "eval_loss": "val_loss",
    "valid_loss": "val_loss",
    "val score": "val_score",
    "grad norm": "grad_norm",
    "accuracy": "reward_accuracy",
    "margin": "reward_margin",
}

# What files call the step, and the numbers of which one without a step is still a record of training.
_STEPS = ("step", "_step", "global_step", "global_steps", "current_steps", "iteration", "iter")
_LOSSES = ("loss", "train_loss", "train/loss", "reward", "eval_loss")
_MARKERS = (b"tep", b"TEP", b"poch", b"POCH", b"'loss'", b"it/s", b"s/it")  # of lines worth a look
_NUMBERS = {int, float, type(None)}
# Every repetition below has a limit: without one, a line made for it costs the square of its length, and a log's line
# may be anything. tests/unit/test_linear_patterns.py measures each pattern.
_NUMBER = rb"[-+]?(?:\d{1,64}(?:\.\d{0,64})?(?:[eE][-+]?\d{1,5})?|\.\d{1,64}(?:[eE][-+]?\d{1,5})?|nan|inf(?:inity)?)"
_ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_JSON_HEAD = re.compile(rb'\{\s*"_?step"\s*:')
_VERL_STEP = re.compile(rb"step:\s?(\d{1,15})(?= - |\s*$)")
_IN_A_NAME = re.compile(rb"[A-Za-z_/.@-]")  # before "step:", as in training/global_step:34
_NUMPY = re.compile(rb"np\.[a-z]{1,16}\d{1,4}\(([^()]{0,200})\)")
_NUMPY_OPENS = re.compile(rb"np\.[a-z]{1,16}\d{1,4}\(")
_TENSOR = re.compile(rb"(?:tensor|array)\(\s{0,8}([^\s,()\[\]]{1,64})[^()]{0,200}\)")
_LEADING = re.compile(rb"\s{0,8}(" + _NUMBER + rb")(?=[\s,;\]]|$)", re.IGNORECASE)
_NAME = re.compile(rb"[\w@/.+=-]+")
_COUNT = rb"\d{1,3}(?:,\d{3}){1,4}(?![\d,])|\d{1,15}"  # 1,000 or 1000
_HEAD = re.compile(
    rb"(?<![\w/])(?<![A-Za-z] )(step|epoch)\s{0,8}[:=\[]?\s{0,8}"
    rb"(" + _COUNT + rb")(?:\s{0,8}/\s{0,8}(" + _COUNT + rb"))?\]?",
    re.IGNORECASE,
)
_WORDS = rb"(?<![A-Za-z_/@])[A-Za-z_][\w/@.%+-]{0,199}(?: [A-Za-z_][\w/@.-]{0,64})?"
_PAIR = re.compile(rb"(" + _WORDS + rb")\s{0,8}[:=]\s{0,8}(" + _NUMBER + rb")(?![\w.:/])", re.IGNORECASE)
_BARE = re.compile(rb"([A-Za-z][A-Za-z_]{0,63}(?: [A-Za-z_]{1,64}){0,5})\s{1,8}(" + _NUMBER + rb")", re.IGNORECASE)
_SECONDS = re.compile(rb"\[?\s{0,8}(\d{1,9}(?:\.\d{1,20})?)\s?s\s{0,8}\]?")
_DICT_PAIR = re.compile(rb"'([^'\\]{1,200})':\s{0,8}'?(" + _NUMBER + rb")'?(?=\s{0,8}[,}])", re.IGNORECASE)
_BAR = re.compile(rb"(?:([^\d|%:\r\n]{0,64}):\s{0,4})?\d{1,3}%\|[^|\r\n]{0,400}\|\s{0,8}(\d{1,12})/(\d{1,12}) \[")
_TRAINING = re.compile(rb"train|step|epoch|iter", re.IGNORECASE)  # of what a training bar is called


class LogParser:
    """Parses one log as it grows; keeps what a line needs from those before it.

    Attributes:
        total_steps: The ``/10000`` of ``Step 100/10000`` or of a progress bar, None when the log has none.
    """

    def __init__(self) -> None:
        self.total_steps: int | None = None
        self._names: dict[bytes, str] = {}
        self._bar = (0, 0)  # step and total of the longest progress bar seen
        self._dicts = 0

    def feed(self, chunk: bytes) -> list[Record]:
        """Parses whole lines.

        Args:
            chunk: Any bytes; lines end with a line feed or a carriage return (progress bars).

        Returns:
            The records in the order of the lines; one step may come several times.
        """
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r", b"\n")
        records: list[Record] = []
        for line in chunk.split(b"\n") if chunk[:1] == b"{" else _candidates(chunk):
            if line[:1] == b"{" and b'"' in line[:3]:
                self._json(line, records)
            elif len(line) > MAX_VERL_LINE:
                continue
            elif b"step:" in line:
                self._verl(line, records)
            elif len(line) > MAX_LINE:
                continue
            elif b"{" in line:
                self._braces(line, records)
            elif line:
                self._progress_bar(line)
                self._headed(line, records)
        return records

    # ---- JSON --------------------------------------------------------------------------------------------

    def _json(self, line: bytes, records: list[Record]) -> None:
        try:
            value = _loads(line)
            record = _json_record(value)
        except (ValueError, RecursionError):
            self._torn_json(line, records)
            return
        if record is None and isinstance(value, dict):
            record = self._without_step(value)
        if record:
            records.append(record)

    def _without_step(self, value: dict) -> Record | None:
        """Reads ``{"loss": 0.5, "epoch": 0.1}``; its step is the progress bar's before it, else its place."""
        if not any(isinstance(value.get(name), (int, float)) for name in _LOSSES):
            return None
        self._dicts += 1
        return self._bar[0] or self._dicts, {ALIASES.get(name, name): number for name, number in value.items()}

    def _torn_json(self, line: bytes, records: list[Record]) -> None:
        """Keeps the whole objects of a line that two writers have mixed."""
        starts = [match.start() for match in _JSON_HEAD.finditer(line)]
        for start, end in zip(starts, [*starts, len(line)][1:], strict=True):
            try:
                record = _json_record(_loads(line[start : line.rfind(b"}", start, end) + 1]))
            except (ValueError, RecursionError):
                continue
            if record:
                records.append(record)

    def _braces(self, line: bytes, records: list[Record]) -> None:
        if b"'" in line and (b"'loss'" in line or b"'epoch'" in line or b"'train_runtime'" in line):
            self._trainer_dict(line, records)
        elif _JSON_HEAD.search(line):
            self._torn_json(line, records)
        else:
            self._headed(line, records)

    # ---- verl's console ----------------------------------------------------------------------------------

    def _verl(self, line: bytes, records: list[Record]) -> None:
        if b"\x1b" in line:
            line = _ANSI.sub(b"", line)
        found = [m for m in _VERL_STEP.finditer(line) if not _IN_A_NAME.match(line, max(0, m.start() - 1), m.start())]
        if not found:
            self._headed(line, records)
            return
        ends = [match.start() for match in found[1:]] + [len(line)]
        for match, end in zip(found, ends, strict=True):
            text = line[match.end() : end]
            data = _quick_items(text) or self._items(text)
            if data:
                records.append((int(match.group(1)), data))

    def _items(self, text: bytes) -> dict[str, float]:
        """``a:1 - b:2``; an item that is not a number is left out, or joined to the next where a name has " - "."""
        if b"(" in text:
            text = _NUMPY.sub(rb"\1", _TENSOR.sub(rb"\1", text))
        names, data, before = self._names, {}, b""
        for item in text.split(b" - "):
            key, _, value = item.rpartition(b":")
            try:
                number = float(value)
            except ValueError:
                if b":" not in item:
                    # No longer than shows that it is too long: adding up the items costs the square of their number.
                    before = (before + item + b" - ")[: MAX_KEY + 1] if _NAME.fullmatch(item) else b""
                    continue
                leading = _LEADING.match(value)
                if leading is None:
                    before = b""
                    continue
                number = float(leading.group(1))
            if before:
                key, before = before + key, b""
            name = names.get(key) or self._name(key)
            if name:
                data[name] = number
        return data

    def _name(self, key: bytes) -> str:
        """The text of a name, "" when it cannot be one."""
        if not 0 < len(key) <= MAX_KEY:
            return ""
        name = key.decode("utf-8", errors="replace").strip()
        if not name.isprintable():
            return ""
        if len(self._names) < _MAX_NAMES:
            self._names[key] = name
        return name

    # ---- informal lines ----------------------------------------------------------------------------------

    def _headed(self, line: bytes, records: list[Record]) -> None:
        """Reads ``Step 3/10 | Loss: 0.1 | KL: 0.2``, ``Step 3/10: a=1, b=2 [1.5s]``, ``Epoch 1/3: PL:0.3 R:1.5``."""
        if len(line) > MAX_LINE:
            return
        if b"\x1b" in line:
            line = _ANSI.sub(b"", line)
        heads = {match.group(1).lower(): match for match in reversed(list(_HEAD.finditer(line)))}
        head = heads.get(b"step") or heads.get(b"epoch")
        if head is None:
            return
        rest = line[max(match.end() for match in heads.values()) :]
        data = self._bar_parts(rest) if b"|" in rest else self._pairs(rest)
        if not data:
            return
        if head.group(3):
            self.total_steps = _count(head.group(3))
        records.append((_count(head.group(2)), data))

    def _pairs(self, text: bytes) -> dict[str, float]:
        data = {}
        for key, value in _PAIR.findall(text):
            data[self._alias(key)] = float(value)
        seconds = _SECONDS.search(text, text.rfind(b"[")) if data and b"[" in text else None
        if seconds:
            data["step_time"] = float(seconds.group(1))
        data.pop("", None)
        return data

    def _bar_parts(self, text: bytes) -> dict[str, float]:
        """Reads the parts between bars; the kit's own progress line writes ``reward 0.710`` and ``2.4 s``."""
        data: dict[str, float] = {}
        for part in text.split(b"|"):
            part = part.strip()
            bare = _BARE.fullmatch(part)
            seconds = _SECONDS.fullmatch(part)
            if bare:
                data[self._alias(bare.group(1))] = float(bare.group(2))
            elif seconds:
                data["step_time"] = float(seconds.group(1))
            else:
                data.update(self._pairs(part))
        data.pop("", None)
        return data

    def _alias(self, key: bytes) -> str:
        name = self._names.get(key) or self._name(key)
        return ALIASES.get(name.lower(), name.lower() if name.isupper() or name.istitle() else name)

    # ---- Hugging Face Trainer ----------------------------------------------------------------------------

    def _progress_bar(self, line: bytes) -> None:
        for what, step, total in _BAR.findall(line):
            if what and not _TRAINING.search(what):
                continue  # loading weights, tokenizing, evaluating: each has a separate bar
            if int(total) >= self._bar[1]:  # an evaluation has a shorter bar
                self._bar = (int(step), int(total))
                self.total_steps = int(total)

    def _trainer_dict(self, line: bytes, records: list[Record]) -> None:
        self._progress_bar(line)
        text = line[line.index(b"{") :]
        data = {self._name(key): float(value) for key, value in _DICT_PAIR.findall(text)}
        data = {ALIASES.get(name, name): value for name, value in data.items() if name}
        if not data:
            return
        self._dicts += "loss" in data
        step = data.pop("step", None)
        if step is None or not math.isfinite(step):
            step = self._bar[0] or self._dicts
        records.append((int(step), data))


def _count(text: bytes) -> int:
    return int(text.replace(b",", b""))


def _candidates(chunk: bytes) -> list[bytes]:
    """The lines of a console log that may say something; `find` passes over the others at memory speed."""
    spans: list[tuple[int, int]] = []
    for marker in _MARKERS:
        found, gap = [], 0
        for start, end in [*spans, (len(chunk), len(chunk))]:  # only between the lines that are known already
            place = chunk.find(marker, gap, start)
            while place >= 0:
                first = chunk.rfind(b"\n", gap, place) + 1 or gap
                gap = chunk.find(b"\n", place)
                gap = len(chunk) if gap < 0 else gap
                found.append((first, gap))
                place = chunk.find(marker, gap, start)
            gap = end
        spans = sorted(spans + found) if found else spans
    return [chunk[start:end] for start, end in spans]


def _quick_items(text: bytes) -> dict[str, float] | None:
    """Reads ``- a:1 - b:np.float64(2)`` as JSON, ten times as fast as item by item; None when it is not so regular."""
    if b"(" in text:
        text, opened = _NUMPY_OPENS.subn(b"", text)
        if b"(" in text or text.count(b")") != opened:
            return None
        text = text.replace(b")", b"")
    if b"  " in text or b'"' in text or b"\\" in text or b"\t" in text:
        return None
    text = text[3:].rstrip().replace(b":", b'":').replace(b" - ", b',"')
    try:
        data = orjson.loads(b'{"' + text.replace(b":nan", b":null") + b"}")
    except orjson.JSONDecodeError:
        return None
    if not data or max(map(len, data)) > MAX_KEY or "" in data:
        return None
    kinds = set(map(type, data.values()))
    if not kinds <= _NUMBERS:
        return None
    if type(None) in kinds:
        data = {name: math.nan if value is None else value for name, value in data.items()}
    return data


def _loads(line: bytes) -> object:
    """Reads JSON; Python's own reader takes the NaN and Infinity that Python's writer makes."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        if not line.rstrip().endswith(b"}"):
            raise
        return json.loads(line)


def _json_record(value: object) -> Record | None:
    """Reads verl's ``{"step": n, "data": {...}}`` or a flat object with a step; None for anything else."""
    if not isinstance(value, dict):
        return None
    step = next((value[name] for name in _STEPS if name in value), None)
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not abs(step) < MAX_STEP:
        return None
    data = value.get("data")
    if not isinstance(data, dict):
        data = {key: entry for key, entry in value.items() if key not in _STEPS}
    return int(step), data
