"""Sends one message: ``python -m common.notify.send``, which reads it as JSON from its input.

A separate process, because a server that never answers must hold nothing up and a sending library must not be able to
harm a run. It ends itself after `LIMIT_SECONDS`. The addresses come from the environment only and are never printed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping

from common.files import ROOT

URLS, LEVEL = "NOTIFY_URLS", "NOTIFY_LEVEL"
LEVELS = ("info", "warn", "error")
LIMIT_SECONDS = 20
_BETWEEN = re.compile(r"\s+|[,;](?=[\w+]{1,40}://)")
_KINDS = {"info": "info", "warn": "warning", "error": "failure"}  # Apprise's


def addresses(environment: Mapping[str, str]) -> list[str]:
    """``NOTIFY_URLS``: Apprise's addresses, split at spaces and line ends, and at commas before a scheme."""
    return [part for part in _BETWEEN.split(environment.get(URLS, "")) if part]


def start(title: str, body: str, level: str, environment: Mapping[str, str]) -> subprocess.Popen:
    """Begin to send; nobody has to wait for it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "common.notify.send"],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.stdin.write(json.dumps({"title": title, "body": body, "level": level}).encode())
        process.stdin.close()
    except OSError:  # it could not start
        pass
    return process


def main() -> int:
    """Returns 0 when all addresses took the message, else 1."""
    signal.alarm(LIMIT_SECONDS)  # the default of SIGALRM ends the process
    message = json.load(sys.stdin)
    import apprise

    sender = apprise.Apprise()
    good = [sender.add(address) for address in addresses(os.environ)]
    sent = sender.notify(title=message["title"], body=message["body"], notify_type=_KINDS[message["level"]])
    sys.stdout.flush()
    os._exit(0 if sent and all(good) else 1)  # threads that still wait for a server are left


if __name__ == "__main__":
    sys.exit(main())
