"""PPO on the demo with each source of rewards, and with an adapting KL: does the reward rise, does the KL stay.

    python benchmarks/ppo_rewards.py model     # a served reward model
    python benchmarks/ppo_rewards.py api       # a judge: a small model behind `transformers serve`, OpenAI's route
    python benchmarks/ppo_rewards.py failing   # the same, and a quarter of the calls fails, in seven ways
    python benchmarks/ppo_rewards.py kl --figure kl.png   # KL_TARGET, well below where the demo goes without

Three to five minutes each on 2 cores. The judge of `api` is the demo model after 120 steps of sft/train.sh: it says
"Score: 10" to an answer in the expected form and "Score: 0" to any other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
START_LIMIT_S = 120
KL_TARGET, KL_STEPS, KL_SETTLED = 0.02, 36, 12  # settled: steps until the KL has come up from 0
SMOOTH = 3  # steps that the first and the last reward are the mean of


def run_script(algorithm: str, outputs: Path, **knobs: str | int | Path) -> Path:
    """Run a train.sh to its end; returns its run directory."""
    name = str(knobs["EXPERIMENT_NAME"])
    environment = os.environ | {"OUTPUTS_DIR": str(outputs)} | {key: str(value) for key, value in knobs.items()}
    subprocess.run([str(ROOT / algorithm / "train.sh")], env=environment, check=True)
    return outputs / name


def make_judge(folder: Path) -> Path:
    """Teach the demo model to judge; returns the folder of the model."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "val"):
        rows = []
        for pair in pq.read_table(ROOT / "dpo" / "data" / f"{split}.parquet").to_pylist():
            for answer in (pair["chosen"][0]["content"], pair["rejected"][0]["content"]):
                question = f"{pair['prompt'][0]['content']}\n{answer}"
                verdict = f"Score: {10 if '####' in answer else 0}"
                rows.append([{"role": "user", "content": question}, {"role": "assistant", "content": verdict}])
        pq.write_table(pa.table({"messages": rows}), folder / f"judge.{split}.parquet")
    data = {"TRAIN_DATA": folder / "judge.train.parquet", "VAL_DATA": folder / "judge.val.parquet"}
    run = run_script(
        "sft", folder, EXPERIMENT_NAME="judge", TOTAL_STEPS=120, LEARNING_RATE="2e-3", BATCH_SIZE=16, **data
    )
    return run / "model"


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def serving(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server until the block ends.

    Raises:
        SystemExit: If it does not listen within START_LIMIT_S.
    """
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(20)


def write_config(folder: Path, port: int, model: Path | str, **more: float | int) -> Path:
    """An API_REWARD_CONFIG for a judge on this machine."""
    import yaml

    config = {
        "kind": "judge",
        "url": f"http://127.0.0.1:{port}/v1/chat/completions",
        "model": str(model),
        "api_key_env": "",
        "system": "",
        "prompt": "{prompt}\n{answer}",
        "options": {"temperature": 0, "max_tokens": 8},
        "criteria": {"form": {"pattern": r"Score:\s*(\d+)", "range": [0, 10]}},
        "concurrency": 8,
        "cache": str(folder / "cache.sqlite3"),
        **more,
    }
    (folder / "judge.yaml").write_text(yaml.safe_dump(config))
    return folder / "judge.yaml"


def report(run_dir: Path, *names: str) -> None:
    """Print the reward at both ends, the share of answers in the expected form, and sums of some metrics."""
    from common.metrics.names import friendly
    from common.run_dir import read_metrics

    records = [friendly(record["data"]) for record in read_metrics(run_dir) if record["step"]]
    rewards = [values["reward_mean"] for values in records]
    ends = statistics.mean(rewards[:SMOOTH]), statistics.mean(rewards[-SMOOTH:])
    samples = [
        [json.loads(line) for line in (run_dir / "rollouts" / f"{step}.jsonl").read_text().splitlines()]
        for step in (1, len(records))
    ]
    forms = [statistics.mean("####" in sample["output"] for sample in step) for step in samples]
    agree = statistics.mean((s["score"] > 0.5) == ("####" in s["output"]) for step in samples for s in step)
    print(f"reward {ends[0]:.3f} -> {ends[1]:.3f} (first and last {SMOOTH} of {len(records)} steps)")
    print(f"answers in the expected form {forms[0]:.3f} -> {forms[1]:.3f}; the score says so in {agree:.3f} of them")
    for name in names:
        values = [record[name] for record in records if name in record]
        print(f"{name}: sum {sum(values):.4g}, mean {statistics.mean(values):.4g}")


def against_judge(folder: Path) -> None:
    """``api``."""
    judge, port = make_judge(folder), free_port()
    program = str(Path(sys.executable).with_name("transformers"))
    command = [program, "serve", str(judge), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, port, folder / "server.log"):
        config = write_config(folder, port, judge)
        run_dir = run_script("ppo", folder, EXPERIMENT_NAME="api", REWARD="api", API_REWARD_CONFIG=config)
    report(run_dir, "api_failed", "api_retries", "api_cached", "api_latency")


def against_failing(folder: Path) -> None:
    """``failing``; the share is that of each of seven kinds."""
    port = free_port()
    command = [sys.executable, "-m", "tests.api_server", "--port", str(port), "--fail", "0.035"]
    with serving(command, port, folder / "server.log"):
        config = write_config(folder, port, "judge", timeout_s=2, backoff_s=0.05, attempts=10)
        run_dir = run_script("ppo", folder, EXPERIMENT_NAME="failing", REWARD="api", API_REWARD_CONFIG=config)
    report(run_dir, "api_failed", "api_retries", "api_cached", "api_latency")


def against_model(folder: Path) -> None:
    """``model``."""
    report(run_script("ppo", folder, EXPERIMENT_NAME="model", REWARD="model"))


def holds_the_kl(folder: Path, figure: Path | None = None) -> None:
    """``kl``: the demo with and without a target, and a picture of both."""
    from common.metrics.names import friendly
    from common.run_dir import read_metrics

    curves = {}
    for name, target in (("free", "0"), ("held", str(KL_TARGET))):
        knobs = {"KL_TARGET": target, "TOTAL_STEPS": KL_STEPS, "TEST_FREQ": KL_STEPS, "EXPERIMENT_NAME": name}
        run_dir = run_script("ppo", folder, **knobs)
        records = [record["data"] for record in read_metrics(run_dir) if record["step"]]
        curve = curves[name] = [friendly(data)["kl_divergence"] for data in records]
        settled = curve[KL_SETTLED:]
        within = statistics.mean(KL_TARGET / 2 <= value <= KL_TARGET * 2 for value in settled)
        print(f"{name}: KL by step", " ".join(f"{value:.4f}" for value in curve))
        print(f"{name}: coefficient", " ".join(f"{d['actor/reward_kl_penalty_coeff']:.4f}" for d in records))
        print(f"{name}: mean from step {KL_SETTLED + 1} on {statistics.mean(settled):.4f}; target {KL_TARGET}; "
              f"{within:.0%} of these steps within a factor of two")  # fmt: skip
        report(run_dir)
    if figure:
        draw(curves, figure)


def draw(curves: dict[str, list[float]], path: Path) -> None:
    """The KL by step with and without a target, and the band of a factor of two."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 3.2), layout="constrained")
    axes = picture.subplots()
    axes.axhspan(KL_TARGET / 2, KL_TARGET * 2, color="tab:green", alpha=0.12, label="half to twice the target")
    axes.axhline(KL_TARGET, color="tab:green", linewidth=1)
    for name, label in (("free", "without a target"), ("held", f"KL_TARGET={KL_TARGET}")):
        axes.plot(range(1, len(curves[name]) + 1), curves[name], label=label)
    axes.set(xlabel="step", ylabel="KL to the starting model, nats a token")
    axes.legend(frameon=False)
    picture.savefig(path, dpi=120)


def main() -> None:
    """Command line entry."""
    parts = {"model": against_model, "api": against_judge, "failing": against_failing, "kl": holds_the_kl}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=parts)
    parser.add_argument("--figure", type=Path, help="for kl: where to put a picture of the two curves")
    given = parser.parse_args()
    extra = [given.figure] if given.what == "kl" else []
    with tempfile.TemporaryDirectory() as folder:
        parts[given.what](Path(folder), *extra)


if __name__ == "__main__":
    main()
