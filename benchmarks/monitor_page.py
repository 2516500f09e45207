"""Measures the monitor in a browser: a long run against TensorBoard, two hundred runs, ten idle pages.

Usage: python benchmarks/monitor_page.py [FOLDER]     (needs Playwright and Chromium, as tests/ui; about five minutes)

Makes the data in FOLDER (1 GB; a temporary one when it is not given): one run of 100,000 steps with 60 metrics as
metrics.jsonl and as a TensorBoard event file, and 200 runs of 1,000 steps. Starts each server, opens a page, and prints

* wall seconds from the start of the server, and from opening the page, to the first drawn curve (the two in turn);
* what one new step costs the server in CPU, and its memory;
* seconds until the table of 200 runs is there, and the server's CPU with ten open pages and nothing new.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import orjson
import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
METRICS = ["critic/score/mean", "critic/score/max", "critic/score/min", "actor/pg_loss", "actor/kl_loss"]
METRICS += ["actor/entropy", "actor/grad_norm", "actor/lr", "response_length/mean", "timing_s/step"]
METRICS += [f"perf/metric_{number}" for number in range(50)]  # 38 bytes each with the value, as in a real run


def record(rng: random.Random, step: int) -> dict:
    """One step."""
    return {"step": step, "data": {name: rng.random() for name in METRICS}}


def make_data(folder: Path, steps: int, runs: int) -> None:
    """Writes the long run twice, and the many runs."""
    rng = random.Random(1)
    if not (folder / "long" / "run").exists():
        (folder / "long" / "run").mkdir(parents=True)
        (folder / "events").mkdir()
        with (folder / "long" / "run" / "metrics.jsonl").open("wb") as stream:
            records = [record(rng, step) for step in range(1, steps + 1)]
            stream.writelines(orjson.dumps(one) + b"\n" for one in records)
        write_events(folder / "events", records)
    text = b"".join(orjson.dumps(record(rng, step)) + b"\n" for step in range(1, 1001))
    for number in range(runs):
        run = folder / "many" / f"run-{number:03}"
        if not run.exists():
            run.mkdir(parents=True)
            (run / "metrics.jsonl").write_bytes(text)
            fields = {"algorithm": "grpo", "state": "finished", "knobs": {"TOTAL_STEPS": "1000"}}
            (run / "run.json").write_text(json.dumps(fields))


def write_events(folder: Path, records: list[dict]) -> None:
    """Writes what PyTorch's SummaryWriter, which verl uses, would write: an event for each value."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with (folder / "events.out.tfevents.1.bench").open("wb") as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for one in records:
            for name, value in one["data"].items():
                summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
                writer.write(Event(wall_time=float(one["step"]), step=one["step"], summary=summary).SerializeToString())


@contextmanager
def server(*command: str):
    """A server on a free port; yields its address, its processes and the time when it was started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        while time.monotonic() < start + 120:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        yield url, psutil.Process(process.pid), start
    finally:
        process.terminate()
        process.wait(20)


def used(process: psutil.Process) -> tuple[float, float]:
    """CPU seconds and MiB of a process and those it started."""
    found = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in found), sum(one.memory_info().rss for one in found) / 2**20


def monitor(folder: Path):
    """The monitor's server."""
    return server(sys.executable, "monitor/app.py", "--log_dir", str(folder))


def first_curve(browser, folder: Path) -> None:
    """The long run in both, in turn; then what a new step costs."""
    for _ in range(2):
        with monitor(folder / "long") as (url, process, start):
            ready, page = time.monotonic(), browser.new_page()
            page.goto(f"{url}en/?tab=curves&run=run")
            page.wait_for_selector(".js-plotly-plot .scatterlayer path.js-line", state="attached", timeout=120_000)
            first = time.monotonic()
            page.locator(".facts b", has_text="100").first.wait_for(timeout=120_000)
            cpu, memory = used(process)
            print(f"monitor: up in {ready - start:.1f} s, first curve {first - ready:.1f} s after opening, "
                  f"CPU {cpu:.1f} s, {memory:.0f} MiB")  # fmt: skip
            refresh(page, process, folder / "long" / "run" / "metrics.jsonl")
            page.close()
        command = [str(Path(sys.executable).with_name("tensorboard")), "--logdir", str(folder / "events")]
        with server(*command) as (url, process, start):
            ready, page = time.monotonic(), browser.new_page()
            page.goto(f"{url}#timeseries")
            while json.load(urllib.request.urlopen(f"{url}data/runs", timeout=60)) == []:
                time.sleep(0.1)
            page.reload()  # a page opened before anything was read stays empty until somebody asks again
            page.wait_for_selector("line-chart svg path, line-chart canvas", state="attached", timeout=280_000)
            first = time.monotonic()
            print(
                f"TensorBoard: up in {ready - start:.1f} s, first curve {first - ready:.1f} s after opening", flush=True
            )
            loaded(url, process, start)
            page.close()


def loaded(url: str, process: psutil.Process, start: float) -> None:
    """Waits until TensorBoard has read to the last step, which it draws bit by bit."""
    address = f"{url}data/plugin/scalars/scalars?run=.&tag=actor%2Flr"
    while time.monotonic() < start + 280:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                if json.load(answer)[-1][1] >= 100_000:
                    break
        except urllib.error.HTTPError:
            pass
        time.sleep(0.5)
    cpu, memory = used(process)
    print(
        f"TensorBoard: read whole {time.monotonic() - start:.1f} s after its start, CPU {cpu:.1f} s, {memory:.0f} MiB",
        flush=True,
    )


def refresh(page, process: psutil.Process, path: Path) -> None:
    """Five new steps, one at a time."""
    rng, last = random.Random(2), orjson.loads(path.read_bytes()[-4000:].split(b"\n")[-2])["step"]
    page.wait_for_timeout(3000)
    waits, costs = [], []
    for step in range(last + 1, last + 6):
        before, start = used(process)[0], time.monotonic()
        with path.open("ab") as stream:
            stream.write(orjson.dumps(record(rng, step)) + b"\n")
        page.locator(".facts b", has_text=str(step)).first.wait_for(timeout=20_000)
        waits.append(time.monotonic() - start)
        page.wait_for_timeout(1500)
        costs.append(used(process)[0] - before)
    print(f"monitor: a new step is shown after {[round(one, 2) for one in waits]} s and costs "
          f"{[round(one, 2) for one in costs]} s of CPU, {used(process)[1]:.0f} MiB", flush=True)  # fmt: skip


def many_runs(browser, folder: Path) -> None:
    """The table of 200 runs, then ten pages with nothing new."""
    with monitor(folder / "many") as (url, process, _):
        start, page = time.monotonic(), browser.new_page()
        page.goto(f"{url}en/")
        page.wait_for_function("document.querySelectorAll('table.list tbody tr').length === 200", timeout=60_000)
        print(f"monitor: table of 200 runs {time.monotonic() - start:.1f} s after opening")
        tabs = ["runs", "curves", "compare", "samples", "health", "system", "log", "checkpoints", "runs", "curves"]
        pages = [browser.new_page() for _ in tabs]
        for one, tab in zip(pages, tabs, strict=True):
            one.goto(f"{url}en/?tab={tab}&run=run-007")
        page.close()
        pages[0].wait_for_timeout(15_000)
        before = used(process)[0]
        pages[0].wait_for_timeout(30_000)
        print(f"monitor: ten open pages, nothing new: {100 * (used(process)[0] - before) / 30:.1f}% of a core, "
              f"{used(process)[1]:.0f} MiB")  # fmt: skip
        for one in pages:
            one.close()


def main() -> int:
    """Makes the data and measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="for the data; kept. None: a temporary one")
    given = parser.parse_args().folder
    folder = given or Path(tempfile.mkdtemp(prefix="monitor-bench-"))
    make_data(folder, 100_000, 200)
    size = (folder / "long" / "run" / "metrics.jsonl").stat().st_size / 1e6
    print(f"data: 100,000 steps of {len(METRICS)} metrics, {size:.0f} MB")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        many_runs(browser, folder)
        first_curve(browser, folder)
    if given is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
