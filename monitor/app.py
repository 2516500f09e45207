"""The monitor: a page that shows what runs do, while they do it.

    python app.py --port 7860 --log_dir ../outputs

Then open http://localhost:7860. Options not given come from config.yaml next to this file.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import socket
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def main(argv: list[str] | None = None) -> int:
    """Starts the server; returns when it is stopped."""
    _find_packages()
    options = read_options(argv)
    host, port = options.host, options.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            print(f"error: --host {host} --port {port}: {error.strerror}; choose another --port", file=sys.stderr)
            return 2
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import uvicorn

    from monitor.server import build_app

    names = [*options.allowed_host, host]
    app = build_app(options.log_dir, options.lang, options.refresh, options.auth, port, names)
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else host
    print(f"Monitor of {options.log_dir}: http://{shown}:{port}   (Ctrl-C ends it)", flush=True)
    if host in ("0.0.0.0", "::") and not options.allowed_host:
        print("note: other machines are answered once --allowed-host names what they call this one", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1") and not options.auth:
        print(
            "warning: anyone who reaches this machine can read the runs; --auth user:password asks for one", flush=True
        )
    options = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 2}
    # No proxy_headers: anyone on this machine could name another address with each password that is tried.
    uvicorn.run(app, host=host, port=port, proxy_headers=False, **options)
    return 0


def _find_packages() -> None:
    """Uses the kit's packages, and its environment when the Python that was called has no Gradio."""
    sys.path[:] = [str(ROOT)] + [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    python = ROOT / ".venv" / "bin" / "python"
    if importlib.util.find_spec("gradio") is None:
        if not python.exists() or Path(sys.prefix) == ROOT / ".venv":
            sys.exit("error: Gradio is not installed; run ./setup_env.sh in the kit's folder first")
        os.execv(python, [str(python), str(HERE / "app.py"), *sys.argv[1:]])


def read_options(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line over config.yaml."""
    from common import __version__
    from common.small_files import read_yaml

    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml", help="file with defaults of these options")
    parser.add_argument("--port", type=int, help="port of the page")
    parser.add_argument("--host", help="address to listen on; 0.0.0.0: reachable from other machines")
    parser.add_argument(
        "--log_dir", type=Path, help="folder with the runs; plain logs and TensorBoard files are read too"
    )
    parser.add_argument("--refresh", type=float, help="seconds between two looks for news, 0.2 to 60")
    parser.add_argument("--lang", choices=("en", "zh"), help="language of the page; it has a switch")
    parser.add_argument(
        "--auth", help="user:password that the page asks for; better in MONITOR_AUTH: options are seen in ps"
    )
    parser.add_argument(
        "--allowed-host",
        dest="allowed_host",
        action="append",
        metavar="NAME[:PORT]",
        help="name or address by which browsers reach this machine, next to localhost and --host; may be repeated",
    )
    given = parser.parse_args(argv)
    try:
        found = read_yaml(given.config) or {}
    except OSError as error:
        parser.error(f"--config {given.config}: {error}")
    except ValueError as error:
        parser.error(f"--config {error}")
    known = {action.dest for action in parser._actions} - {"help", "config"}
    if not isinstance(found, dict) or set(found) - known:
        wrong = ", ".join(sorted(set(found) - known)) if isinstance(found, dict) else "no keys"
        parser.error(f"{given.config}: {wrong}: takes {', '.join(sorted(known))}")
    if found.get("log_dir"):
        found["log_dir"] = (given.config.resolve().parent / str(found["log_dir"])).resolve()
    parser.set_defaults(**{name: value for name, value in found.items() if value is not None})
    options = parser.parse_args(argv)
    options.auth = options.auth or os.environ.get("MONITOR_AUTH") or None
    names = options.allowed_host or []
    options.allowed_host = [names] if isinstance(names, str) else list(names)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    missing = [name for name in ("port", "host", "log_dir", "refresh", "lang") if getattr(options, name) is None]
    if missing:
        parser.error(f"--{missing[0]} is set neither here nor in {options.config}")
    if not isinstance(options.port, int) or not 0 < options.port < 65536:
        parser.error(f"--port {options.port}: a number from 1 to 65535")
    if not isinstance(options.refresh, (int, float)) or not 0.2 <= options.refresh <= 60:
        parser.error(f"--refresh {options.refresh}: seconds from 0.2 to 60")
    if options.lang not in ("en", "zh"):
        parser.error(f"--lang {options.lang}: en or zh")
    if options.auth and not all(options.auth.partition(":")[::2]):
        parser.error("--auth: user:password, neither empty")
    for name in options.allowed_host:
        if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", str(name)):
            parser.error(f"--allowed-host {name}: a name or an address, with a port or without; no http://, no *")
    options.log_dir = Path(options.log_dir).absolute()


if __name__ == "__main__":
    sys.exit(main())
