"""GSM8K questions asked three ways, in turn: by ``lm_eval`` itself, by ``--suite lm-eval:`` and by ``--suite gsm8k``.

    python benchmarks/lm_eval_tasks.py --model MODEL --questions gsm8k.jsonl --rows 200

The same prompt, tokens and weights (float32, CPU) on all sides; answers and scores are compared row by row, and the
time of the whole command counts, with the load of the model. Needs ``pip install -r requirements/lm-eval.txt``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Rows = list[tuple[str, float]]  # answer and score

TASK = """task: gsm8k_local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}\\n\\nPlease reason step by step, and put your final answer within \\\\boxed{{}}."
doc_to_target: "{{{{answer.split('####')[-1].strip().replace(',', '')}}}}"
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: {tokens}}}
num_fewshot: 0
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - name: boxed
    filter:
      - {{function: regex, regex_pattern: "boxed\\\\{{(.*?)\\\\}}"}}
      - {{function: take_first}}
"""


def theirs(folder: Path, model: str, batch: int) -> Rows:
    """``lm_eval --model hf``."""
    out = folder / "theirs"
    options = ["--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu"]
    options += ["--tasks", "gsm8k_local", "--include_path", str(folder), "--apply_chat_template", "--log_samples"]
    options += ["--batch_size", str(batch), "--output_path", str(out)]
    run(["-m", "lm_eval", *options])
    newest = max(out.rglob("samples_*.jsonl"), key=lambda file: file.stat().st_mtime)
    samples = sorted(map(json.loads, newest.read_text().splitlines()), key=lambda one: one["doc_id"])
    return [(one["resps"][0][0], float(one["exact_match"])) for one in samples]


def ours(folder: Path, model: str, suite: str, tokens: int) -> Rows:
    """``./test.sh --suite``."""
    import openpyxl

    out = folder / f"{suite.partition(':')[0]}.xlsx"
    options = ["--model_path", model, "--suite", suite, "--data", str(folder), "--output_file", str(out), "--fresh"]
    if suite.startswith("lm-eval"):
        options.remove("--fresh")
    else:
        options += ["--max_new_tokens", str(tokens)]
    run(["-m", "common.test_model", *options])
    book = openpyxl.load_workbook(out, read_only=True)
    sheet = next(book[name] for name in book.sheetnames if name != "Overview")
    head, *rows = sheet.iter_rows(values_only=True)
    places = head.index("response"), head.index("score")
    return [(row[places[0]] or "", float(row[places[1]])) for row in rows]


def run(command: list[str]) -> None:
    """A Python command, quietly."""
    environment = {**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", type=Path, required=True, help="JSONL with question and answer")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer at most")
    parser.add_argument("--batch", type=int, default=64, help="--batch_size of lm_eval")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), str(Path(arguments.model).resolve())
        lines = arguments.questions.read_text(encoding="utf-8").splitlines()[: arguments.rows]
        (folder / "gsm8k.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        task = TASK.format(file=folder / "gsm8k.jsonl", tokens=arguments.tokens)
        (folder / "gsm8k_local.yaml").write_text(task, encoding="utf-8")
        sides: dict[str, Callable[[], Rows]] = {
            "lm_eval": lambda: theirs(folder, model, arguments.batch),
            "--suite lm-eval:": lambda: ours(folder, model, "lm-eval:gsm8k_local", arguments.tokens),
            "--suite gsm8k": lambda: ours(folder, model, "gsm8k", arguments.tokens),
        }
        compare(sides, arguments.rounds)


def compare(sides: dict[str, Callable[[], Rows]], rounds: int) -> None:
    """Run all sides in turn and print what is equal, and the time of each over that of the first."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, Rows] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            found[name] = side()
            seconds[name].append(time.perf_counter() - started)
    first, *others = sides
    right = sum(score for _, score in found[first])
    print(f"{first}: {len(found[first])} rows, {right:.0f} right, {statistics.median(seconds[first]):.1f} s")
    for name in others:
        pairs = list(zip(found[first], found[name], strict=True))
        answers = sum(one[0] == other[0] for one, other in pairs)
        scores = sum(one[1] == other[1] for one, other in pairs)
        ratio = statistics.median(b / a for a, b in zip(seconds[first], seconds[name], strict=True))
        print(f"{name}: {answers} equal answers, {scores} equal scores, {ratio:.2f} of the time")


if __name__ == "__main__":
    main()
