"""Throws any bytes at monitor/log_parser.py: nothing may raise, and no line that is whole may be lost.

Usage: python benchmarks/fuzz_log_parser.py [SECONDS] [SEED]

Whole lines of every format are mixed with random bytes, with cut and merged pieces of such lines and with line ends of
all kinds; the text is written to a file in pieces of any size and read through a `Tail`, as the monitor does. The
records of the whole lines have to come out in their order. Prints the counts; status 1 when a line was lost.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.tail import Tail  # noqa: E402
from monitor.log_parser import LogParser  # noqa: E402

Expected = tuple[int, str, float]  # step, one of the names, its value


def whole_line(rng: random.Random) -> tuple[bytes, Expected]:
    """Returns a line of one of the formats and what must come out of it."""
    step, value = (
        rng.randrange(1, 10**6),
        rng.choice([rng.uniform(-2, 2), rng.random() * 1e-7, float(rng.randrange(99))]),
    )
    shown = repr(value)
    form = rng.randrange(7)
    if form == 0:
        return b'{"step":%d,"data":{"a/b":%s,"c":null}}' % (step, shown.encode()), (step, "a/b", value)
    if form == 1:
        prefix = rng.choice(["", "(TaskRunner pid=12) ", "\x1b[36m(TaskRunner pid=7, ip=10.0.0.1)\x1b[0m "])
        wrapped = rng.choice(["{}", "np.float64({})", "np.float32({})"]).format(shown)
        tail = rng.choice(["", " - z:nan", " - training/global_step:12", " [repeated 2x across cluster]", " - t:inf"])
        return f"{prefix}step:{step} - a/b:{wrapped}{tail}".encode(), (step, "a/b", value)
    if form == 2:
        return f"Step {step}/1000000 | Loss: {shown} | KL: 0.1".encode(), (step, "loss", value)
    if form == 3:
        return f"Step {step}/1000000: actor_loss={shown}, kl_mean=0.05 [15.2s]".encode(), (step, "policy_loss", value)
    if form == 4:
        return f"Epoch {step}/3: PL:{shown} VL:0.1 R:1.5".encode(), (step, "policy_loss", value)
    if form == 5:
        return f"{{'loss': {shown}, 'step': {step}, 'epoch': 0.1}}".encode(), (step, "loss", value)
    return f"Step {step}/24 | reward {shown} | KL 0.0021 | 2.4 s | ETA 0:29".encode(), (step, "reward_mean", value)


def rubbish(rng: random.Random) -> bytes:
    """Returns a line that is damaged: random bytes, or a cut or doubled piece of a whole one."""
    line = whole_line(rng)[0]
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(300))
    if kind == 1:
        return line[: rng.randrange(len(line))]
    if kind == 2:
        return line[rng.randrange(len(line)) :] + whole_line(rng)[0]
    if kind == 3:
        place = rng.randrange(len(line))
        return line[:place] + rng.randbytes(rng.randrange(1, 9)) + line[place:]
    return bytes(rng.choice(b"step:Ep0123456789 -|{}[]()'\",.=naif\x1b/") for _ in range(rng.randrange(200)))


def one_round(rng: random.Random, folder: Path) -> tuple[int, int, list[Expected]]:
    """Returns bytes written, whole lines, and those that were lost."""
    lines, expected = [], []
    for _ in range(rng.randrange(1, 40)):
        if rng.random() < 0.5:
            line, record = whole_line(rng)
            lines.append(line)
            expected.append(record)
        else:
            lines.append(rubbish(rng))
    text = b"".join(line + rng.choice([b"\n", b"\n", b"\r\n", b"\n\n"]) for line in lines)
    path = folder / "fuzz.log"
    path.write_bytes(b"")
    tail, parser, records = Tail(path), LogParser(), []
    written = 0
    while written < len(text):
        size = rng.choice([1, 7, 100, 5000])
        with path.open("ab") as stream:
            stream.write(text[written : written + size])
        written += size
        limit, more = rng.choice([3, 64, 1 << 20]), True
        while more:
            chunk = tail.read(limit)
            records += parser.feed(chunk)
            more = bool(chunk or tail.pending)
    LogParser().feed(text)  # as one chunk too
    stream = iter(records)
    lost = [
        (step, name, value)
        for step, name, value in expected
        if not any(found == step and data.get(name) == value for found, data in stream)
    ]
    return len(text), len(expected), lost


def main() -> int:
    """Runs rounds until the time is over."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    rng, end = random.Random(seed), time.monotonic() + seconds
    size = lines = rounds = 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            state = rng.getstate()
            try:
                more, whole, lost = one_round(rng, Path(folder))
            except Exception:
                print(f"seed {seed}, round {rounds}: raised")
                raise
            size, lines, rounds = size + more, lines + whole, rounds + 1
            if lost:
                rng.setstate(state)
                print(f"seed {seed}, round {rounds}: lost {lost[:3]}\n{(Path(folder) / 'fuzz.log').read_bytes()!r}")
                return 1
    print(f"seed {seed}: {rounds} rounds, {size} bytes, {lines} whole lines, none lost, nothing raised, {seconds:g} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
