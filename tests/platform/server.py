"""A server in a process of its own, which can be killed with -9 and begun again."""

import subprocess
import sys

import httpx
import psutil

from tests.conftest import ROOT, free_port
from tests.platform.conftest import wait_for

SERVE = """
import sys
from pathlib import Path
from training_platform.api import app, processes, serve
from training_platform.queue import scheduler
outputs, kit, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
scheduler.TICK = float(sys.argv[4])
processes.PYTHON = sys.argv[5]
built = app.build_app(app.Options(outputs=outputs, kit=kit, gpus=(), cpu_jobs=2, port=port))
serve._run(built, [serve._bound("127.0.0.1", port)])
"""


class Server:
    """Two places for jobs on the CPU; `python`: what operations on checkpoints are run with."""

    def __init__(self, outputs, kit, tick=0.02, stderr=None, python=sys.executable):
        port = free_port()
        self.stderr = stderr
        self.url = f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-c", SERVE, str(outputs), str(kit), str(port), str(tick), python]
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        self.process = subprocess.Popen(self.command, cwd=ROOT, stderr=self.stderr)
        self.about = psutil.Process(self.process.pid)
        wait_for(self.answers, 60)

    def answers(self):
        assert self.process.poll() is None
        try:
            return self.client.get("/api/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()
