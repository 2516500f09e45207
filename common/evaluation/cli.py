"""The command line of ``./test.sh``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import __version__
from common.console import write_error
from common.data.hub import HUBS
from common.evaluation.settings import TEMPLATES, THINKING, EvaluationError, Settings

OF_A_SET = ("temperature", "top_p", "top_k", "max_new_tokens", "n")  # each set of a suite has its own
OF_A_BATCH = (
    *("input_file", "output_file", "compare", "prompt_column", "answer_column", "limit"),
    *("reward", "reward_kwargs", "fresh"),
)
EXAMPLES = """examples:
  ./test.sh --model_path demo                                    # chat at the terminal
  ./test.sh --model_path outputs/RUN --batch --greedy            # the run's validation file into an Excel file
  ./test.sh --model_path outputs/RUN --batch --input_file questions.json --output_file results.xlsx
  ./test.sh --model_path outputs/RUN --compare demo --batch --input_file questions.json --output_file both.xlsx
  ./test.sh --model_path outputs/RUN --batch --input_file math.parquet --reward math --n 8 --output_file math.xlsx
  ./test.sh --model_path outputs/RUN --suite math --compare Qwen/Qwen3-4B       # benchmarks; docs/benchmarks.md
"""


def build_parser() -> argparse.ArgumentParser:
    """All options; names may be written with _ or -."""
    parser = argparse.ArgumentParser(
        prog="./test.sh",
        description="Talk to a model, or ask it a file of questions and score the answers. See docs/evaluation.md.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=__version__)
    add("--model_path", default="", metavar="PATH", help="run, checkpoint, Hugging Face folder or id, adapter, or demo")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--single", action="store_true", help="chat at the terminal (the default)")
    mode.add_argument("--batch", action="store_true", help="answer the questions of --input_file")
    mode.add_argument("--suite", metavar="S", help="math, reasoning, chinese, code, instructions, sets, lm-eval:TASKS")
    _add_files(parser.add_argument_group("files and scores (--batch)"))
    _add_sampling(parser.add_argument_group("answers"))
    _add_backends(parser.add_argument_group("where to generate"))
    return parser


def _add_files(group: Any) -> None:
    add = group.add_argument
    add("--input_file", type=Path, metavar="FILE", help="JSON, JSONL, CSV, parquet or xlsx; default: the run's own")
    add("--output_file", type=Path, metavar="FILE", help=".xlsx, .json, .jsonl or .csv; default: under the run")
    add("--prompt_column", metavar="NAME", help="column with the question; found out by default")
    add("--answer_column", metavar="NAME", help="column with the reference answer; found out by default")
    add("--limit", type=int, metavar="N", help="only the first N rows")
    add("--reward", default="auto", metavar="R", help="auto | none | gsm8k | math | exact | ... | FILE.py:NAME")
    add("--reward_kwargs", type=_json_object, default={}, metavar="JSON", help="parameters of the reward")
    add("--compare", nargs="+", default=[], metavar="PATH", help="models that --model_path is compared with")
    add("--data", type=Path, metavar="DIR", help="--suite: local copies, NAME.jsonl or NAME/; lm-eval: task files")
    add("--hub", default="huggingface", choices=HUBS, help="--suite: where the sets are fetched from")
    add("--fresh", action="store_true", help="do not resume from what an interrupted evaluation left")


def _add_sampling(group: Any) -> None:
    add = group.add_argument
    add("--temperature", type=float, default=0.7, help="0 is greedy (default 0.7)")
    add("--greedy", action="store_true", help="the most likely token always, as verl validates; --temperature 0")
    add("--top_p", type=float, default=1.0, help="smallest set of tokens with this probability (default 1)")
    add("--top_k", type=int, default=-1, help="this many most likely tokens; -1: all (default)")
    add("--max_new_tokens", type=int, default=512, help="longest answer, tokens (default 512)")
    add("--n", type=int, default=1, help="answers to each prompt: pass@k, majority vote (default 1)")
    add("--seed", type=int, default=0, help="the same seed gives the same answers (default 0)")
    add("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; may be given several times")
    add("--system", default="", metavar="TEXT", help="system prompt where a row has none")
    add("--template", default="auto", choices=TEMPLATES, help="auto: the tokenizer's own; default: bare text")
    add("--thinking", default="auto", choices=THINKING, help="enable_thinking of the chat template")


def _add_backends(group: Any) -> None:
    add = group.add_argument
    engines = group.add_mutually_exclusive_group()
    engines.add_argument("--use_vllm", action="store_true", help="vLLM's offline engine")
    engines.add_argument("--use_sglang", action="store_true", help="SGLang's offline engine")
    engines.add_argument("--server", default="", metavar="URL", help="an OpenAI-compatible server; key: OPENAI_API_KEY")
    add("--server_model", default="", metavar="NAME", help="its name of the model; default: the first it lists")
    add("--concurrency", type=int, default=32, help="requests to the server at once (default 32)")
    add("--device", default="auto", help="auto | cpu | cuda | cuda:1 (transformers)")
    add("--gpus", type=int, help="GPUs to use, default all; without a GPU: processes")
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="of the weights")
    add("--batch_tokens", type=int, help="tokens of a batch, answers included; default: what memory allows")
    add("--gpu_memory_utilization", type=float, default=0.9, help="share of a GPU for vLLM or SGLang (default 0.9)")
    add("--trust_remote_code", action="store_true", help="run code that lies in the model's folder")


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("expected an object, e.g. '{\"boxed\": true}'")
    return value


def with_underscores(argv: Sequence[str]) -> list[str]:
    """Options as they are declared, however the user wrote them."""
    made = []
    for text in argv:
        name, equals, value = text.partition("=")
        made.append(name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else text)
    return made


def differs(parser: argparse.ArgumentParser, arguments: argparse.Namespace, name: str) -> bool:
    """Whether an option has another value than its default; one without effect is refused, not passed over."""
    return getattr(arguments, name) != parser.get_default(name)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry; returns the exit status: 0 all went well, 2 something to put right, 130 stopped."""
    words = with_underscores(sys.argv[1:] if argv is None else argv)
    arguments = build_parser().parse_args(words)
    arguments.given = {word.partition("=")[0].removeprefix("--") for word in words}
    try:
        return run(arguments)
    except EvaluationError as error:
        write_error(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Finished answers are kept; the same command resumes from there.", file=sys.stderr)
        return 130


def run(arguments: argparse.Namespace) -> int:
    """Do what the options say."""
    if not arguments.model_path and not arguments.server:
        raise EvaluationError("--model_path is missing; give a run (outputs/NAME), a model folder or id, or demo")
    settings = Settings(
        temperature=0.0 if arguments.greedy else arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        max_new_tokens=arguments.max_new_tokens,
        n=arguments.n,
        seed=arguments.seed,
        stop=tuple(arguments.stop),
        system=arguments.system,
        template=arguments.template,
        thinking=arguments.thinking,
    ).check()
    if arguments.limit is not None and arguments.limit < 1:
        raise EvaluationError(f"--limit {arguments.limit}: must be at least 1")
    backend = _backend(arguments)
    if arguments.suite is not None:
        return _run_suite(arguments, settings, backend)
    if arguments.data:
        raise EvaluationError("--data is for --suite; a file of questions is --input_file")
    if not arguments.batch:
        for name in OF_A_BATCH:
            if differs(build_parser(), arguments, name):
                raise EvaluationError(f"--{name} is for --batch; add --batch, or leave it out to chat")
        from common.evaluation.chat import run_chat

        return run_chat(arguments.model_path, settings, backend)
    from common.data.names import Columns
    from common.evaluation.batch import BatchOptions, run_batch

    options = BatchOptions(
        arguments.model_path,
        arguments.compare,
        arguments.input_file,
        arguments.output_file,
        Columns(arguments.prompt_column, arguments.answer_column),
        arguments.limit,
        arguments.reward,
        arguments.reward_kwargs,
        arguments.fresh,
    )
    return run_batch(options, settings, backend, _console())


def _console() -> Any:
    from common.console import SafeConsole

    console = SafeConsole(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # a log is no window
    return console


def _run_suite(arguments: argparse.Namespace, settings: Settings, backend: Any) -> int:
    """Benchmarks: settings that were not given are those of each set."""
    from common.evaluation.suites.run import SuiteOptions, run_suite

    for name in ("input_file", "prompt_column", "answer_column", "reward", "reward_kwargs"):
        if differs(build_parser(), arguments, name):
            raise EvaluationError(f"--{name} is for --batch; the sets of a suite bring their own")
    given = {name: getattr(settings, name) for name in OF_A_SET if name in arguments.given}
    if arguments.greedy:
        given["temperature"] = 0.0
    options = SuiteOptions(
        arguments.model_path,
        arguments.suite,
        arguments.compare,
        arguments.data,
        arguments.hub,
        arguments.output_file,
        arguments.limit,
        given,
        arguments.fresh,
    )
    if arguments.suite.startswith("lm-eval:"):
        from common.evaluation.lm_eval_tasks.run import run_tasks

        return run_tasks(options, settings, backend, _console())
    return run_suite(options, settings, backend, _console())


def _backend(arguments: argparse.Namespace) -> Any:
    from common.evaluation.settings import Backend

    kind = "vllm" if arguments.use_vllm else "sglang" if arguments.use_sglang else "transformers"
    return Backend(
        "server" if arguments.server else kind,
        arguments.device,
        arguments.gpus,
        arguments.dtype,
        arguments.batch_tokens,
        arguments.gpu_memory_utilization,
        arguments.server,
        arguments.server_model,
        arguments.concurrency,
        arguments.trust_remote_code,
    ).check()
