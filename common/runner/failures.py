"""Says why a run failed, from the raw console log of verl.

A verl log ends with wrappers (RayTaskError, "The actor died", torch's ChildFailedError). `diagnose` reads the log once,
line by line, undoes Ray's, vLLM's and torchrun's line prefixes, collects the real exceptions of every process, chooses
the one that ended the run, and looks it up in `KNOWN_FAILURES`. Pure Python; logs of hundreds of megabytes are fine.
"""

from __future__ import annotations

import difflib
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from common.runner.known_failures import KNOWN_FAILURES, RENAMED_KEYS, Known


@dataclass(frozen=True)
class Diagnosis:
    """Why a run failed: the cause in plain English, what to change (None: unknown), the line of the log (from 1)."""

    cause: str
    fix: str | None
    line: int | None


_LOST = "Most often the machine ran out of main memory: lower BATCH_SIZE or ROLLOUT_N, or give the job more memory."
LONGEST_LINE = 4096  # characters
_ATTEMPT = re.compile(r"# attempt \d+(?:,|$)")  # common/runner heads each attempt so; what came before is forgotten
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PREFIX = re.compile(
    r"^(?P<process>\((?:[\w.]+ )?(?:pid=\d+(?:, ip=[^)]*)?|raylet|autoscaler)\)"  # Ray, vLLM's EngineCore
    r"|\[(?:rank|default)\d+\]:) ?"  # torch, torchrun --tee
    r"|^(?:ERROR|WARNING|INFO) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]+\] ?"  # vLLM
)
_OPENS = re.compile(r"Traceback \(most recent call last\):|ray::\S{1,200} ?\(pid=")
_HEADER = re.compile(r"^[A-Za-z_][\w.]*(?:\([\w.]*\))?(?::|$)")
_FRAME = re.compile(r'^\s+File "(.+)", line (\d+), in (.+)')
_ANYWHERE = re.compile("|".join(known.pattern for known in KNOWN_FAILURES if known.anywhere))
_WRAPPER = re.compile(
    r"^(?:ray\.exceptions\.)?(?:ActorDiedError|ActorUnavailableError|RayActorError|WorkerCrashedError|NodeDiedError|"
    r"OwnerDiedError|ObjectLostError|RayTaskError)\b|ChildFailedError|^SystemExit|EngineDeadError"
)
_STOPPED = re.compile(r"^KeyboardInterrupt|SignalException|TaskCancelledError|got signal: (?:2|15)\b")
# An error on a separate line, without a traceback: "RuntimeError: ...", "error: ...", logging's "ERROR:...".
_BARE = re.compile(
    r"(?:[\w.]{0,100}[A-Z]\w{0,60}(?:Error|Exception)(?:\([^)]{0,200}\))?|[Ee]rror|ERROR|FATAL|fatal): ?\S"
)
_BARE_LINES = 20  # how near the log's end it has to be, in lines
# What other processes say after the real failure, and verl when every reward call had failed before.
_SYMPTOM = re.compile(
    r"no materializable trajectories|Received an empty list as keys|Engine core initialization failed|CancelledError|"
    r"Event loop is closed|ConnectionResetError|BrokenPipeError|EOFError|ConnectionRefusedError|ConnectionError|"
    r"DistBackendError|NCCL|TCPStore|Connection closed by peer|device-side assert triggered|"
    r"DataLoader worker .{0,400} exited"
)


@dataclass
class _Error:
    """One traceback: its first line number, source process, frames (file, line, function), and "Type: message"."""

    line: int
    source: str
    frames: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""
    age: int = 0
    ignored: bool = False
    cause: _Error | None = None  # "The above exception was the direct cause of ..." this one

    @property
    def header(self) -> str:
        return self.text.split("\n", 1)[0]

    def chain(self) -> list[_Error]:
        """Returns this error, then what caused it, back to the first."""
        return [self, *(self.cause.chain() if self.cause else [])]


@dataclass
class _Found:
    """What a log holds: exceptions in order, the lines that match an `anywhere` failure, its last lines with text."""

    errors: list[_Error] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    ends: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=_BARE_LINES))

    def bare(self) -> _Error | None:
        """Returns the last line of the log's end that is an error without a traceback."""
        for number, raw in reversed(self.ends):
            source, text = _clean(raw)
            if _BARE.match(text):
                return _Error(number, source, text=text.strip())
        return None

    def last(self) -> str:
        """Returns the last line with text."""
        return _clean(self.ends[-1][1])[1].strip() if self.ends else ""


def diagnose(log: str | Path) -> Diagnosis:
    """Finds the real cause of a failed run.

    Args:
        log: Path of a log, or its text; a text is never taken for the name of a file.

    Returns:
        The cause with the original message in brackets, the knob to change, and where the log says so.
    """
    if isinstance(log, str):
        return _choose(_scan(log.split("\n")))
    with open(log, encoding="utf-8", errors="replace", newline="\n") as lines:
        return _choose(_scan(lines))


def _scan(lines: Iterable[str]) -> _Found:
    found = _Found()
    open_errors: dict[str, _Error] = {}
    causes: dict[str, _Error] = {}
    before = ""
    for number, raw in enumerate(map(_cut, lines), 1):
        if "# attempt" in raw and _ATTEMPT.search(raw):
            found, open_errors, before = _Found(), {}, ""
            continue
        if raw.strip():
            found.ends.append((number, raw))
        opens = "Traceback (most" in raw or "ray::" in raw
        chains = "the above exception" in raw.lower()
        if not (opens or chains or open_errors or _ANYWHERE.search(raw)):
            before = raw if raw.strip() else before
            continue
        source, text = _clean(raw)
        start = _OPENS.search(text) if opens else None
        if start:
            error = _Error(number, source, ignored="Exception ignored in" in before or "never retrieved" in before)
            outer = open_errors.get(source)  # a wrapper that says where it comes from: "RayTaskError(...): ray::f()"
            error.cause = causes.pop(source, None) or (outer.cause if outer and not outer.text else None)
            open_errors[source] = error
        elif chains and any(error.source == source for error in found.errors):
            causes[source] = next(error for error in reversed(found.errors) if error.source == source)
        elif source in open_errors:
            _continue(open_errors, source, text, found.errors)
        if _ANYWHERE.search(text) and len(found.notes) < 100:
            found.notes.append((number, text.strip()))
        before = text
    found.errors = [error for error in found.errors if not error.ignored]
    return found


def _cut(line: str) -> str:
    """The two ends of a line that is too long to be a message: patterns are looked for in what is left."""
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE * 3 // 4]} ... {line[-LONGEST_LINE // 4 :]}"


def _clean(raw: str) -> tuple[str, str]:
    """Splits a raw line into process ("" for the main one, else "(name pid=1)" or "[rank0]:") and plain text."""
    text, source = _ANSI.sub("", raw).rstrip("\r\n"), ""
    while match := _PREFIX.match(text):
        source, text = source + (match["process"] or ""), text[match.end() :]
    return source, text.rsplit("\r", 1)[-1]


def _continue(open_errors: dict[str, _Error], source: str, text: str, errors: list[_Error]) -> None:
    """Adds one line to the open traceback of its source; its header ends it, indented lines after that belong to it."""
    error = open_errors[source]
    error.age += 1
    if frame := _FRAME.match(text):
        error.frames.append((frame[1], frame[2], frame[3]))
    indented = not text or text[0] in " \t|"
    if error.text:
        if indented and text.strip() and error.text.count("\n") < 6:
            error.text += "\n" + text.strip()
        else:
            del open_errors[source]
    elif not indented and _HEADER.match(text):
        error.text = text.strip()
        errors.append(error)
    elif not indented or error.age > 400:
        del open_errors[source]


def _choose(found: _Found) -> Diagnosis:
    """Picks the exception that ended the run: the last of the main process, unless it is only a symptom."""
    errors = found.errors
    real = [error for error in errors if not _WRAPPER.search(error.header) and not _STOPPED.search(error.header)]
    main = [error for error in real if not error.source.startswith("(")]
    fatal = (main or real or [None])[-1]
    if fatal is None or _is_symptom(fatal):
        first = next((error for error in real if not _is_symptom(error)), None)
        if first is None and found.notes:
            return _explain_note(found.notes)
        fatal = first or fatal
    if fatal is not None:
        return _explain(next(error for error in real if error.header == fatal.header))
    stop = next((error for error in errors if _STOPPED.search(error.header)), None)
    if stop:
        return Diagnosis("The run was stopped (Ctrl-C or SIGTERM).", "Run the same command again to resume.", stop.line)
    if errors:
        return Diagnosis(f"A worker died and left no message. ({_short(errors[0].header)})", _LOST, errors[0].line)
    if bare := found.bare():
        return _explain(bare)
    said = f"ends without an error message; the last line is: {_short(found.last())}" if found.ends else "is empty"
    return Diagnosis(f"The log {said}", None, None)


def _explain(error: _Error) -> Diagnosis:
    place = next(filter(None, (_reward_place(link.frames) for link in error.chain())), None)
    if place:
        cause = f"The reward function raised {_short(error.header)} at {place[0]}:{place[1]} in {place[2]}."
        fix = "Correct the function in REWARD_FUNC_PATH; it must give a number for any answer, also an empty one."
        if "ApiRewardError" in error.header:
            fix = "Ask the endpoint: .venv/bin/python -m ppo.api_reward try. The same command again resumes the run."
        return Diagnosis(cause, fix, error.line)
    for link in error.chain():
        for known in KNOWN_FAILURES:
            if match := re.search(known.pattern, link.text):
                return _known(known, match, link.header, link.line)
    frames = [frame for frame in error.frames if "site-packages" not in frame[0]] or error.frames
    where = f" at {frames[-1][0]}:{frames[-1][1]} in {frames[-1][2]}" if frames else ""
    root = error.chain()[-1]
    because = f"; caused by {_short(root.header)}" if root is not error else ""
    return Diagnosis(f"{_short(error.header)}{where}{because}", None, error.line)


def _explain_note(notes: list[tuple[int, str]]) -> Diagnosis:
    """Explains the note that is highest in the table: "memory pressure" says more than "killed"."""
    found = (
        (known, match, text[max(0, match.start() - 40) :], line)
        for known in KNOWN_FAILURES
        for line, text in notes
        if known.anywhere and (match := re.search(known.pattern, text))
    )
    return _known(*next(found))


def _is_symptom(error: _Error) -> bool:
    return bool(_SYMPTOM.search(error.header)) and not any(_reward_place(link.frames) for link in error.chain())


def _known(known: Known, match: re.Match[str], said: str, line: int) -> Diagnosis:
    groups = [group for group in match.groups() if group is not None]
    hint = _did_you_mean(groups[0]) if "{1}" in known.fix else ""
    fix = known.fix.format("", hint)
    return Diagnosis(f"{known.cause.format(*groups)} ({_short(said)})", fix, line)


def _did_you_mean(key: str) -> str:
    leaf = key.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(leaf, sorted(set(RENAMED_KEYS.values())), n=1, cutoff=0.8)
    better = RENAMED_KEYS.get(leaf) or (close[0] if close else "")
    return f" (did you mean {better}?)" if better else ""


def _reward_place(frames: list[tuple[str, str, str]]) -> tuple[str, str, str] | None:
    """Returns file, line and function where the user's reward file failed (verl/trainer/ppo/reward.py calls it)."""
    for index, (path, _, function) in enumerate(frames[:-1]):
        if function.startswith("_call_with_kwargs") and path.replace("\\", "/").endswith("trainer/ppo/reward.py"):
            own = frames[index + 1][0]
            return [frame for frame in frames if frame[0] == own][-1]
    return None


def _short(text: str, limit: int = 240) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
