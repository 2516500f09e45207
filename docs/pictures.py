"""Makes the pictures of docs/ again: the page, a terminal, the Excel sheet. Needs chromium; the sheet LibreOffice too.

    python docs/pictures.py page outputs/RUN        # monitor-curves.png and monitor-curves-zh.png
    python docs/pictures.py terminal FILE           # terminal.png, of what `./grpo/train.sh | tee FILE` wrote
    python docs/pictures.py sheet RESULTS.xlsx      # evaluation.png, of what test.sh wrote; soffice and pdftoppm

They have 64 colours, so that a clone stays small.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from PIL import Image, ImageChops
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).resolve().parent
PAGE = {"width": 1280, "height": 690}
CHARTS_END = 1640, 580  # pixels from the summary's first letter, for two models and one group
TERMINAL = """<meta charset="utf-8"><body style="margin:0;width:max-content"><style>
div { background: #1e1e2e; color: #cdd6f4; padding: 12px 18px 16px; font: 13px/1.5 "DejaVu Sans Mono", monospace; }
pre { font: inherit; margin: 10px 0 0; } b { color: #a6e3a1; } u { color: #89b4fa; text-decoration: none; }
i { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 7px; background: #585b70; }
</style><div><i></i><i></i><i></i><pre>"""


@contextmanager
def browser() -> Iterator[Browser]:
    """The chromium of this machine."""
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])


@contextmanager
def monitor(folder: Path) -> Iterator[str]:
    """The address of a monitor of a folder with runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(HERE.parent / "monitor/app.py"), "--port", str(port), "--log_dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/en/")
                break
            except urllib.error.URLError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def page(run: Path) -> None:
    """Two rows of curves of a run, in both languages; the path of the folder is nobody's business."""
    with monitor(run.resolve().parent) as address, browser() as chromium:
        for language, name in (("en", "monitor-curves.png"), ("zh", "monitor-curves-zh.png")):
            shown = chromium.new_page(viewport=PAGE)
            shown.goto(f"{address}/{language}/?tab=curves&run={run.resolve().name}")
            shown.locator(".js-plotly-plot .scatterlayer path").first.wait_for(state="attached")
            shown.evaluate("document.querySelector('.brand small').remove()")
            shown.wait_for_timeout(2000)
            shown.screenshot(path=HERE / name)
            keep(HERE / name)


def terminal(text: Path) -> None:
    """A terminal with a text: the command first, the numbers of a step in colour."""
    lines = [escape(line) for line in text.read_text(encoding="utf-8").rstrip().splitlines()]
    drawn = [f"<b>$ {line[2:]}</b>" if line.startswith("$ ") else line for line in lines]
    drawn = [
        f"<u>{line.split(' | ')[0]}</u>{line[len(line.split(' | ')[0]) :]}" if " | " in line else line for line in drawn
    ]
    with browser() as chromium:
        shown = chromium.new_page(viewport={"width": 1280, "height": 600})
        shown.set_content(TERMINAL + "\n".join(drawn) + "</pre></div>")
        shown.locator("div").screenshot(path=HERE / "terminal.png")
    keep(HERE / "terminal.png")


def sheet(table: Path) -> None:
    """The summary as a spreadsheet program draws it, down to its charts."""
    with tempfile.TemporaryDirectory() as folder:
        convert = ["soffice", f"-env:UserInstallation=file://{folder}/profile", "--headless", "--convert-to", "pdf"]
        subprocess.run([*convert, "--outdir", folder, table], check=True, stdout=subprocess.DEVNULL)
        paper = f"{folder}/{table.stem}.pdf"
        text = subprocess.run(["pdftotext", paper, "-"], check=True, capture_output=True, text=True).stdout
        number = next((n for n, one in enumerate(text.split("\f"), 1) if one.startswith("Evaluation of")), None)
        if number is None:
            sys.exit(f"{table}: no sheet begins with 'Evaluation of'; give a workbook that test.sh wrote")
        cut = ["-f", str(number), "-l", str(number), "-singlefile", "-r", "130"]
        subprocess.run(["pdftoppm", "-png", *cut, paper, f"{folder}/sheet"], check=True)
        drawn = Image.open(f"{folder}/sheet.png").convert("RGB")
        left, top, *_ = ImageChops.invert(drawn).getbbox()
        drawn.crop((left - 16, top - 16, left + CHARTS_END[0], top + CHARTS_END[1])).save(HERE / "evaluation.png")
    keep(HERE / "evaluation.png")


def keep(path: Path) -> None:
    """Write a picture with 64 colours, and say how large it is."""
    small = Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path.relative_to(HERE.parent)}: {small.width} x {small.height}, {path.stat().st_size} bytes")


def main() -> None:
    """Make one of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = {"page": page, "terminal": terminal, "sheet": sheet}
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("source", type=Path, help="a run, a text, a workbook")
    given = parser.parse_args()
    if not given.source.exists():
        parser.error(f"{given.source}: no such file or folder")
    kinds[given.kind](given.source)


if __name__ == "__main__":
    main()
