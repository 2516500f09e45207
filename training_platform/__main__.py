"""Train over HTTP: a server with a queue, and its commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from common import __version__
from training_platform import cli
from training_platform.api import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and does what it says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training_platform", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--url", help="of the server; PLATFORM_URL, else http://localhost:8000")
    commands = parser.add_subparsers(dest="command", required=True)
    serve.add_options(commands.add_parser("serve", help="start the server"))
    cli.add_commands(commands)
    options = parser.parse_args(arguments)
    return serve.serve(options) if options.command == "serve" else cli.run(options)


if __name__ == "__main__":
    sys.exit(main())
