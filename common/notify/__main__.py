"""``python -m common.notify try``: send a message to each address of ``NOTIFY_URLS`` and say what came of it."""

from __future__ import annotations

import os
import sys
import time

from common.notify.send import LIMIT_SECONDS, URLS, addresses, start

INSTALL = "pip install --no-deps -r requirements/lock-notify.txt"


def main() -> int:
    """Returns 0 when all were taken, 1 when one was not, 2 when nothing could be tried."""
    if sys.argv[1:] != ["try"]:
        print(f"usage: python -m common.notify try    ({URLS} in the environment)", file=sys.stderr)
        return 2
    try:
        import apprise
    except ImportError:
        print(f"error: the package apprise is not installed; {INSTALL}", file=sys.stderr)
        return 2
    found = addresses(os.environ)
    if not found:
        print(f"error: {URLS} is empty; e.g. export {URLS}='feishu://TOKEN dingtalk://TOKEN'", file=sys.stderr)
        return 2
    status = 0
    for number, address in enumerate(found, 1):
        scheme = address.partition("://")[0]
        if apprise.Apprise.instantiate(address, suppress_exceptions=True) is None:
            status = 1
            print(f"{number}. {scheme}: Apprise does not know this address; see https://github.com/caronc/apprise/wiki")
            continue
        started = time.monotonic()
        body = "This is what a message of a run looks like."
        process = start("verl training kit: a try", body, "info", {**os.environ, URLS: address})
        taken = process.wait(LIMIT_SECONDS + 10) == 0
        status = status if taken else 1
        print(f"{number}. {scheme}: {'taken' if taken else 'not taken'} after {time.monotonic() - started:.1f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
