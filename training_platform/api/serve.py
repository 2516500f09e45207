"""``python -m training_platform serve``: options and the web server."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path

from common.files import ROOT, write_atomically
from common.web import LOCAL

PORT = 8000


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Where runs and database are."""
    outputs = Path(os.environ.get("OUTPUTS_DIR") or ROOT / "outputs")
    parser.add_argument("--outputs", type=Path, default=outputs, help="folder with the runs")
    parser.add_argument(
        "--database", type=Path, metavar="DIR", help="a local folder for it when the outputs are on a network disk"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be said when the server is started."""
    add_folders(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than localhost need a token")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--also_port", type=int, action="append", default=[], help="a further port, 5173 for example")
    parser.add_argument("--gpus", help="GPUs to give out, 0,1,2; default: all; none: none")
    parser.add_argument(
        "--ray_address",
        default="",
        metavar="URL",
        help="run jobs on the Ray cluster with this job server, http://HEAD:8265",
    )
    parser.add_argument("--cpu_jobs", type=int, help="jobs on the CPU at a time; default: 1 without GPUs, else 0")
    parser.add_argument("--backfill", action="store_true", help="let a smaller job pass one that waits for GPUs")
    parser.add_argument("--require_token", action="store_true", help="ask for a token on localhost too")
    parser.add_argument(
        "--allowed-host",
        dest="allowed_host",
        action="append",
        default=[],
        metavar="NAME[:PORT]",
        help="name by which browsers reach this machine, next to localhost and --host",
    )


def serve(options: argparse.Namespace) -> int:
    """Runs the server until it is stopped; returns the exit status."""
    from training_platform.api.app import Options, build_app
    from training_platform.api.tokens import Tokens
    from training_platform.queue.store import SERVER, StoreInUseError

    is_local = options.host in LOCAL
    gpus = None
    if options.gpus is not None:
        gpus = () if options.gpus == "none" else tuple(one.strip() for one in options.gpus.split(",") if one.strip())
    wanted = Options(
        outputs=options.outputs.absolute(),
        state=options.database.absolute() if options.database else None,
        gpus=gpus,
        cpu_jobs=options.cpu_jobs,
        backfill=options.backfill,
        token=os.environ.get("PLATFORM_TOKEN", ""),
        needs_token=options.require_token or not is_local,
        port=options.port,
        hosts=[*options.allowed_host, options.host],
        ray=options.ray_address,
    )
    if options.ray_address and gpus is not None:
        print("error: --gpus gives out those of this machine, and --ray_address those of a cluster", file=sys.stderr)
        return 2
    if wanted.needs_token and not wanted.token and not Tokens(wanted.folder).all():
        print(
            f"error: --host {options.host}: whoever reaches it could run programs here; make a token first "
            "(python -m training_platform token add NAME --role write), or set PLATFORM_TOKEN",
            file=sys.stderr,
        )
        return 2
    try:
        sockets = [_bound(options.host, port) for port in (options.port, *options.also_port)]
        app = build_app(wanted)
    except (OSError, StoreInUseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = "localhost" if is_local else options.host
    url = f"http://{shown}:{options.port}"
    about = {"pid": os.getpid(), "host": os.uname().nodename, "url": url}
    write_atomically(wanted.folder / SERVER, json.dumps(about) + "\n")
    slots = app.state.scheduler.slots
    there = f"GPUs {','.join(slots.gpus)}" if slots.gpus else "no GPU"
    if options.ray_address:
        there = f"{len(slots.gpus)} GPUs of the Ray at {options.ray_address}"
    print(
        f"Platform of {wanted.outputs}: {url}   ({there}, {slots.cpu_jobs} on the CPU; Ctrl-C ends it, jobs continue)",
        flush=True,
    )
    _run(app, sockets)
    return 0


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise OSError(f"--host {host} --port {port}: {error.strerror}; choose another --port") from None
    return listening


def _run(app, sockets: list[socket.socket]) -> None:
    import uvicorn

    # No proxy_headers: what a request says of its address is not believed.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, proxy_headers=False, timeout_graceful_shutdown=2, lifespan="on"
    )
    uvicorn.Server(config).run(sockets=sockets)
