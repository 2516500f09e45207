"""What the tests on a GPU share: the device, a model of 0.5 billion parameters, and the report."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

REHEARSAL = os.environ.get("GPU_REHEARSAL") == "1"
DEVICE = "cpu" if REHEARSAL else "cuda"
ROWS: dict[str, list[dict]] = {}


def report(table: str, **row: object) -> None:
    """Add a row to a table of the report, and print it at once."""
    ROWS.setdefault(table, []).append(row)
    print(f"\n[{table}] " + " ".join(f"{name}={_short(value)}" for name, value in row.items()), flush=True)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def pytest_collection_modifyitems(items):
    if not REHEARSAL and not torch.cuda.is_available():
        pytest.exit("tests/gpu need a CUDA device; GPU_REHEARSAL=1 tries them on the CPU", returncode=4)


def pytest_sessionfinish():
    if not ROWS:
        return
    path = Path(os.environ.get("GPU_REPORT", "gpu_report.json"))
    path.write_text(json.dumps({"machine": machine(), "tables": ROWS}, indent=1) + "\n")
    for table, rows in ROWS.items():
        names = list(dict.fromkeys(name for row in rows for name in row))
        print(f"\n{table}\n| {' | '.join(names)} |\n|{' --- |' * len(names)}")
        for row in rows:
            print("| " + " | ".join(_short(row.get(name, "-")) for name in names) + " |")


def machine() -> dict[str, str]:
    """Card, driver and versions."""
    from importlib import metadata

    found = {"device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"}
    for package in ("torch", "transformers", "verl", "vllm", "sglang", "flash-attn", "ray"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip().splitlines()[0]
    return found


@pytest.fixture(scope="session")
def half_billion(tmp_path_factory):
    """Folder of a random model with the shape of Qwen2.5-0.5B and the demo's tokenizer; tiny in a rehearsal."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from common.demo_model import DEMO_MODEL_DIR

    folder = tmp_path_factory.mktemp("models") / "half_billion"
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    sizes = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151936}
    if REHEARSAL:
        sizes = {"hidden_size": 112, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 1024}
    heads = {"num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, **ends, tie_word_embeddings=True)).bfloat16()
    model.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    return folder
