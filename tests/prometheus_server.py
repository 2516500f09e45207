"""Debian's Prometheus for tests: its programs, and questions to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import yaml

from training_platform.observe.make import HERE


def programs_in(folder: Path) -> Path:
    """The folder of prometheus and promtool: those installed, else Debian's package unpacked into `folder`."""
    if found := os.environ.get("PROMETHEUS_BIN") or (
        shutil.which("promtool") and str(Path(shutil.which("promtool")).parent)
    ):
        return Path(found)
    folder.chmod(0o755)
    subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, check=True, capture_output=True)
    subprocess.run(["dpkg", "-x", str(next(folder.glob("*.deb"))), str(folder)], check=True)
    return folder / "usr" / "bin"


def serve(programs: Path, folder: Path, port: int, monitor_port: int) -> subprocess.Popen:
    """Start Prometheus with the kit's file and rules; it asks each second, and the monitor in place of the platform."""
    config = yaml.safe_load((HERE / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(HERE / "alerts.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"localhost:{monitor_port}"]}]
    for job in config["scrape_configs"][1:]:
        job["http_sd_configs"][0]["url"] = job["http_sd_configs"][0]["url"].replace("8000", str(monitor_port))
        job["http_sd_configs"][0]["refresh_interval"] = "2s"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'data'}"]
    command = [str(programs / "prometheus"), f"--config.file={folder / 'prometheus.yml'}", *options]
    with (folder / "prometheus.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def get(address: str) -> dict:
    """What a JSON address answers."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


def firing(server: str) -> set[tuple[str, str]]:
    """Name and run of each alert that fires."""
    alerts = get(f"{server}/api/v1/alerts")["data"]["alerts"]
    fire = (one["labels"] for one in alerts if one["state"] == "firing")
    return {(labels["alertname"], labels.get("run", "")) for labels in fire}


def wait(condition, seconds: float, words: str):
    """Ask until the answer is true; returns it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds:.0f} s: {words}")
