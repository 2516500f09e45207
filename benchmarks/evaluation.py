"""Speed of test.sh: batches against one-by-one generation, lm-evaluation-harness and vLLM; many rows; kills.

    python benchmarks/evaluation.py generate           # against model.generate, one prompt at a time
    python benchmarks/evaluation.py lm_eval            # against lm-evaluation-harness (pip install lm-eval, elsewhere)
    python benchmarks/evaluation.py vllm               # --use_vllm against vLLM's own LLM.generate (where vLLM is)
    python benchmarks/evaluation.py rows               # 100,000 answers, scored, to Excel: seconds and memory
    python benchmarks/evaluation.py kills              # the same, killed five times and started again: the same file

The first three take 256 prompts of mixed length, the demo model and greedy answers, run both sides in turn in one
process and print the ratio of the medians and whether the tokens are the same.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.demo_model import DEMO_MODEL_DIR  # noqa: E402
from common.evaluation.engines.engine import Answer, Ask  # noqa: E402
from common.evaluation.settings import Settings  # noqa: E402

PROMPTS, NEW_TOKENS = 256, 64
FILLERS = ("Let's think step by step. ", "Be brief. ", "请一步一步思考。", "So we get. ")


def make_asks() -> tuple[list[Ask], list[str]]:
    """Prompts of 15 to some 400 tokens, short ones more often, as token ids and as text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    generator = random.Random(0)
    asks, texts = [], []
    for row in range(PROMPTS):
        filler = generator.choice(FILLERS) * int(generator.expovariate(0.15))
        question = f"{filler}What is {generator.randint(0, 49)} + {generator.randint(0, 49)}?"
        texts.append(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            )
        )
        asks.append(Ask(row, 0, tokenizer(texts[-1], add_special_tokens=False)["input_ids"], [], NEW_TOKENS))
    lengths = sorted(len(ask.prompt_ids) for ask in asks)
    print(f"{PROMPTS} prompts of {lengths[0]} to {lengths[-1]} tokens, median {lengths[PROMPTS // 2]}")
    return asks, texts


def kit_engine(kind: str):
    """The engine of test.sh."""
    from transformers import AutoTokenizer

    from common.evaluation.engines.backends import make_engine
    from common.evaluation.model_path import find_model
    from common.evaluation.settings import Backend

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    return make_engine(Backend(kind, "cpu"), find_model("demo"), tokenizer, Settings(temperature=0.0), ())


def run_kit(engine, asks: list[Ask]) -> list[tuple[str, int]]:
    """Text and number of tokens of each answer."""
    answers: dict[int, Answer] = {}
    engine.answer(asks, lambda answer: answers.__setitem__(answer.row, answer))
    return [(answers[ask.row].text, answers[ask.row].tokens) for ask in asks]


def in_turn(name: str, ours: Callable, theirs: Callable, asks: list, rounds: int) -> None:
    """Run both sides in turn and print times, ratio and whether the answers are the same; a few prompts warm up."""
    seconds: dict[str, list[float]] = {"kit": [], name: []}
    for run in (ours, theirs):
        run(asks[::32])
    for _ in range(rounds):
        results = []
        for label, run in (("kit", ours), (name, theirs)):
            started = time.perf_counter()
            results.append(run(asks))
            seconds[label].append(time.perf_counter() - started)
        same = sum(one == other for one, other in zip(*results, strict=True))
        print(json.dumps({label: round(values[-1], 2) for label, values in seconds.items()}), flush=True)
    mine, its = (statistics.median(values) for values in seconds.values())
    print(f"kit {mine:.2f} s, {name} {its:.2f} s: {its / mine:.2f} times as fast; same answers: {same} of {len(asks)}")


def against_generate(rounds: int) -> None:
    """``model.generate`` of transformers, one prompt at a time."""
    import torch

    asks, _ = make_asks()
    engine = kit_engine("transformers")

    @torch.inference_mode()
    def one_by_one(asks: list[Ask]) -> list[tuple[str, int]]:
        found = []
        for ask in asks:
            ids = torch.tensor([ask.prompt_ids])
            out = engine.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
            )
            new = out[0, ids.shape[1] :].tolist()
            found.append((engine.decode(new), len(new)))
        return found

    in_turn("generate", lambda some: run_kit(engine, some), one_by_one, asks, rounds)


def against_lm_eval(rounds: int, batch_size: str) -> None:
    """lm-evaluation-harness, backend hf; its automatic batch size is looked for again in each call."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    asks, texts = make_asks()
    engine = kit_engine("transformers")
    harness = HFLM(pretrained=str(DEMO_MODEL_DIR), batch_size=batch_size, dtype="float32", device="cpu")
    options = {"until": ["<|im_end|>"], "max_gen_toks": NEW_TOKENS, "do_sample": False}

    def generate_until(asks: list[Ask]) -> list[str]:
        requests = [Instance("generate_until", {}, (texts[ask.row], dict(options)), ask.row) for ask in asks]
        return [text.replace("<|endoftext|>", "") for text in harness.generate_until(requests, disable_tqdm=True)]

    in_turn("lm_eval", lambda some: [text for text, _ in run_kit(engine, some)], generate_until, asks, rounds)


def against_vllm(rounds: int) -> None:
    """vLLM's own ``LLM.generate`` on the same engine."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    asks, _ = make_asks()
    engine = kit_engine("vllm")
    params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS)

    def generate(asks: list[Ask]) -> list[tuple[str, int]]:
        prompts = [TokensPrompt(prompt_token_ids=ask.prompt_ids) for ask in asks]
        outputs = engine.llm.generate(prompts, params, use_tqdm=False)
        return [(output.outputs[0].text, len(output.outputs[0].token_ids)) for output in outputs]

    in_turn("LLM.generate", lambda some: run_kit(engine, some), generate, asks, rounds)


def write_rows(folder: Path, count: int) -> list[str]:
    """Questions and answers on disk; returns the command that scores them into ``results``."""
    generator = random.Random(0)
    with (folder / "questions.jsonl").open("w") as questions, (folder / "answers.jsonl").open("w") as answers:
        for row in range(count):
            a, b = generator.randint(0, 999), generator.randint(0, 999)
            prompt = f"Natalia has {a} clips and buys {b} more. How many does she have now? Think step by step."
            source = generator.choice(["openai/gsm8k", "demo/sums"])
            question = {"prompt": prompt, "ground_truth": str(a + b), "data_source": source, "level": row % 5}
            total = a + b + (generator.random() < 0.3)
            text = f"Natalia has {a} clips and buys {b} more, so she has {a} + {b} = {total}.\n#### {total}"
            questions.write(json.dumps(question) + "\n")
            answers.write(json.dumps({"prompt": prompt, "response": text, "tokens": 40}) + "\n")
    model = ["--model_path", str(folder / "answers.jsonl"), "--input_file", str(folder / "questions.jsonl")]
    return [sys.executable, "-m", "common.test_model", "--batch", *model, "--output_file"]


def many_rows(count: int) -> None:
    """Rows to Excel: seconds and memory of the largest process."""
    with tempfile.TemporaryDirectory() as name:
        command = write_rows(Path(name), count)
        started = time.perf_counter()
        subprocess.run([*command, f"{name}/results.xlsx"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = usage.ru_utime + usage.ru_stime
        size = (Path(name) / "results.xlsx").stat().st_size / 1e6
        print(f"{count:,} rows: {seconds:.1f} s ({cpu:.1f} s of CPU), {usage.ru_maxrss / 1024:.0f} MiB, {size:.1f} MB")


def kills(count: int) -> None:
    """Kill -9 at five moments, resume each time, and compare with a run that was left alone."""
    import openpyxl

    def cells(path: Path) -> list[tuple]:
        return list(openpyxl.load_workbook(path, read_only=True)["Results"].iter_rows(values_only=True))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = write_rows(folder, count)
        started = time.perf_counter()
        subprocess.run([*command, str(folder / "whole" / "r.xlsx")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        for share in (0.15, 0.3, 0.45, 0.6, 0.75):
            process = subprocess.Popen(
                [*command, str(folder / "killed" / "r.xlsx")], cwd=ROOT, stdout=subprocess.DEVNULL
            )
            try:
                process.wait(share * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            lines = sum(len(path.read_bytes().splitlines()) for path in folder.glob("killed/.*.partial.jsonl"))
            there = (folder / "killed" / "r.xlsx").exists()
            print(f"killed after {share * seconds:.1f} s: {lines:,} lines kept, output there: {there}")
        subprocess.run([*command, str(folder / "killed" / "r.xlsx")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        whole, killed = cells(folder / "whole" / "r.xlsx"), cells(folder / "killed" / "r.xlsx")
        left = sorted(path.name for path in (folder / "killed").iterdir())
        print(f"the same {len(whole):,} rows: {whole == killed}; files left: {left}")


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("generate", "lm_eval", "vllm", "rows", "kills"))
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of both sides")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch_size", default="auto", help="of lm-evaluation-harness; auto: found in each call")
    arguments = parser.parse_args()
    if arguments.what == "rows":
        many_rows(arguments.rows)
    elif arguments.what == "kills":
        kills(arguments.rows)
    elif arguments.what == "lm_eval":
        against_lm_eval(arguments.rounds, arguments.batch_size)
    else:
        {"generate": against_generate, "vllm": against_vllm}[arguments.what](arguments.rounds)


if __name__ == "__main__":
    main()
