"""The command line of ``./serve.sh``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from common import __version__
from common.console import write_error
from common.evaluation.cli import differs, with_underscores
from common.evaluation.model_path import ModelSource, find_model
from common.evaluation.settings import TEMPLATES, THINKING, Backend, EvaluationError, Settings
from common.serving.engines import Place, choose_engine, lay_out, sglang_command, unique, vllm_command
from common.web import LOCAL

ENGINES = ("auto", "vllm", "sglang", "transformers")
OF_TRANSFORMERS = ("device", "max_new_tokens", "batch_tokens", "template", "thinking", "allowed_host")
OF_OTHERS = ("gpus", "gpu_memory_utilization")  # of vLLM and SGLang
KEY = "SERVE_API_KEY"
EXAMPLES = """examples:
  ./serve.sh outputs/RUN                                  # http://127.0.0.1:8000/v1, the model's name is RUN
  ./serve.sh outputs/RUN demo                             # two models side by side, each by its name
  ./serve.sh outputs/LORA_A outputs/LORA_B --engine vllm  # adapters over one base model, loaded once
  SERVE_API_KEY=... ./serve.sh outputs/RUN --host 0.0.0.0
  ./test.sh --server http://127.0.0.1:8000 --server_model RUN
"""


def build_parser() -> argparse.ArgumentParser:
    """All options; names may be written with _ or -."""
    parser = argparse.ArgumentParser(
        prog="./serve.sh",
        description="Serve trained models with OpenAI's API. See docs/serving.md.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="run, checkpoint, Hugging Face folder or id, adapter, or demo")
    add("--version", action="version", version=__version__)
    add("--name", nargs="+", default=[], metavar="NAME", help="their names, in order; default: names of the runs")
    add("--engine", default="auto", choices=ENGINES, help="default: vllm, sglang, else transformers: what is installed")
    add("--host", default="127.0.0.1", help=f"address (default 127.0.0.1); others need {KEY} in the environment")
    add("--port", type=int, default=8000, help="default 8000")
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="of the weights")
    add("--gpus", type=int, help="vllm, sglang: GPUs for one copy of the model")
    add("--gpu_memory_utilization", type=float, default=0.9, help="vllm, sglang: share of a GPU (default 0.9)")
    add("--max_model_len", type=int, metavar="N", help="longest sequence, tokens; default: the model's own")
    add("--dry_run", action="store_true", help="vllm, sglang: print the command and start nothing")
    group = parser.add_argument_group("the transformers engine")
    group.add_argument("--device", default="auto", help="auto | cpu | cuda | cuda:1")
    group.add_argument("--max_new_tokens", type=int, default=1024, help="where a request does not say (default 1024)")
    group.add_argument("--batch_tokens", type=int, help="tokens of a batch; default: what memory allows")
    group.add_argument("--template", default="auto", choices=TEMPLATES, help="as for test.sh")
    group.add_argument("--thinking", default="auto", choices=THINKING, help="enable_thinking where a request is silent")
    group.add_argument("--allowed_host", action="append", default=[], metavar="NAME", help="name of a proxy before it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry; returns the exit status: 0 stopped by the user, 2 something to put right."""
    arguments = build_parser().parse_args(with_underscores(sys.argv[1:] if argv is None else argv))
    try:
        return run(arguments)
    except EvaluationError as error:
        write_error(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped.

    Raises:
        EvaluationError: If something is wrong that the user can put right.
    """
    key = os.environ.get(KEY, "")
    if arguments.host not in LOCAL and not key:
        raise EvaluationError(
            f"--host {arguments.host}: everybody who reaches this machine could ask; set {KEY} to a long random word, "
            "which clients send as their API key, or leave --host out"
        )
    if not 1 <= arguments.port <= 65535:
        raise EvaluationError(f"--port {arguments.port}: must be from 1 to 65535")
    engine = choose_engine(arguments.engine)
    if arguments.dry_run and engine == "transformers":
        raise EvaluationError("--dry_run: the transformers engine runs in this process; there is no command to print")
    _refuse_others(arguments, engine)
    sources = find_all(arguments.models, arguments.name)
    sources = {name: source.prepare(_say) for name, source in sources.items()}
    if engine == "transformers":
        return _serve_here(arguments, sources, key)
    place = Place(
        arguments.host,
        arguments.port,
        arguments.gpus,
        arguments.gpu_memory_utilization,
        arguments.max_model_len,
        arguments.dtype,
    )
    layout = lay_out(sources)
    command = vllm_command(layout, place) if engine == "vllm" else sglang_command(layout, place)
    print(shlex.join(command), flush=True)
    if arguments.dry_run:
        return 0
    if engine == "vllm" and key:
        os.environ["VLLM_API_KEY"] = key
    elif key:
        write_error("note: SGLang takes its key on the command line, where other users of this machine can read it")
        command += ["--api-key", key]
    _say(f"serving {', '.join([layout.name, *layout.adapters])} on {_url(arguments)}")
    os.execv(command[0], command)


def _refuse_others(arguments: argparse.Namespace, engine: str) -> None:
    """Refuse what the engine would pass over.

    Raises:
        EvaluationError: If an option of the other engines has another value than its default.
    """
    for name in OF_OTHERS if engine == "transformers" else OF_TRANSFORMERS:
        if differs(build_parser(), arguments, name):
            whose = "vllm or sglang" if engine == "transformers" else "transformers"
            given = f"--{name} {getattr(arguments, name)}"
            raise EvaluationError(
                f"{given}: the engine {engine} does not take it; leave it out, or serve with --engine {whose}"
            )


def find_all(given: Sequence[str], names: Sequence[str]) -> dict[str, ModelSource]:
    """The models by the names under which they are served.

    Raises:
        EvaluationError: If one is not there, or names do not tell them apart.
    """
    sources = [find_model(path) for path in given]
    for source in sources:
        if source.is_recorded:
            raise EvaluationError(f"{source.given}: is a file of answers; give a model")
    if names and len(names) != len(sources):
        raise EvaluationError(f"--name: {len(names)} names for {len(sources)} models; give one each")
    names = list(names) or unique([source.name for source in sources], given)
    if len(set(names)) < len(names):
        raise EvaluationError(f"two models have the name {max(names, key=names.count)}; give others with --name")
    return dict(zip(names, sources, strict=True))


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _url(arguments: argparse.Namespace) -> str:
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    return f"http://{host}:{arguments.port}/v1"


def _serve_here(arguments: argparse.Namespace, sources: dict[str, ModelSource], key: str) -> int:
    """The kit's own server, on transformers."""
    import uvicorn

    if arguments.max_new_tokens < 1 or (arguments.batch_tokens or 1) < 1:
        raise EvaluationError("--max_new_tokens, --batch_tokens: must be at least 1")
    config = uvicorn.Config(
        build_app(arguments, sources, key),
        arguments.host,
        arguments.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
        server_header=False,
        date_header=False,
    )
    server = uvicorn.Server(config)
    _say(f"serving {', '.join(sources)} on {_url(arguments)} with transformers, a batch at a time; Ctrl-C ends it")
    try:
        server.run()
    except SystemExit as error:  # uvicorn's way to say that the port is taken
        raise EvaluationError(f"--port {arguments.port}: cannot be opened; give another one") from error
    return 0


def build_app(arguments: argparse.Namespace, sources: dict[str, ModelSource], key: str) -> Any:
    """Load the models; returns the application."""
    from transformers.utils import logging

    from common.evaluation.engines.backends import context_length
    from common.evaluation.engines.templates import Prompter
    from common.evaluation.engines.transformers_engine import choose_devices
    from common.serving.app import Routes, Served
    from common.serving.worker import Worker

    logging.disable_progress_bar()
    settings = Settings(template=arguments.template, thinking=arguments.thinking).check()
    served = {}
    for name, source in sources.items():
        device = choose_devices(source, Backend(device=arguments.device, gpus=1))[0]
        context = context_length(source, False)
        if arguments.max_model_len:
            context = min(context or arguments.max_model_len, arguments.max_model_len)
        worker = Worker(name, source, device, arguments.dtype, arguments.batch_tokens)
        Prompter(worker.tokenizer, settings, source.given)  # says at once that a template is missing
        served[name] = Served(worker, settings, context, arguments.max_new_tokens)
        _say(f"{name}: {source.path}{' + ' + str(source.adapter) if source.adapter else ''} on {device}")
    return Routes(served).app(key, arguments.port, arguments.allowed_host)
