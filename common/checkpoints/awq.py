"""AWQ, 4-bit weights for vLLM and SGLang, by llm-compressor: texts from here, the work in its environment."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.checkpoints.merge import copy_settings
from common.files import open_as_umask
from common.run_dir import read_run

CHILD = Path(__file__).with_name("awq_child.py")
ROWS, LONGEST = 256, 512  # conversations, and tokens of each; as llm-compressor's example
FEWEST = 16
GET = (
    "make an environment for it (python -m venv awq; awq/bin/pip install llmcompressor) and name its Python in "
    "AWQ_PYTHON"
)
PROBE = """
import importlib.util, sys
if importlib.util.find_spec("llmcompressor") is None:
    sys.exit(3)
import torch
sys.exit(0 if torch.accelerator.is_available() else 4)
"""
LAST_WORDS = 1500


def find_python(environment: Mapping[str, str]) -> str:
    """A Python that has llm-compressor and sees a GPU, which it needs: ``AWQ_PYTHON``, else this one.

    Raises:
        FileNotFoundError: If there is none, with how to get it.
    """
    python = environment.get("AWQ_PYTHON") or sys.executable
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=300)
    except OSError as error:
        raise FileNotFoundError(f"AWQ_PYTHON={python}: cannot be started: {error.strerror}; {GET}") from error
    if done.returncode == 3:
        raise FileNotFoundError(f"llm-compressor is not installed for {python}; {GET}")
    if done.returncode == 4:
        raise FileNotFoundError(
            f"AWQ by llm-compressor needs a GPU, and torch of {python} sees none; export where one is"
        )
    if done.returncode:
        raise FileNotFoundError(f"AWQ_PYTHON={python}: cannot be used: {done.stderr.strip()[-LAST_WORDS:]}")
    return python


def calibration_file(path: Path, run_dir: Path | None, given: Path | None) -> Path:
    """Texts that the model should be good at: what was given, else the run's training data.

    Raises:
        ValueError: If there are none.
    """
    if given is not None:
        if not given.is_file():
            raise ValueError(f"--calibration {given}: no such file")
        return given
    trained = (read_run(run_dir).get("data") or {}).get("train") or [] if run_dir else []
    found = next((Path(file) for file in trained if Path(file).is_file()), None)
    if found is None:
        raise ValueError(f"{path}: AWQ looks at texts like those it will serve; give some with --calibration FILE")
    return found


def write_awq(source: Path, folder: Path, python: str, texts: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Quantise a Hugging Face folder.

    Args:
        source: It.
        folder: To write.
        python: Has llm-compressor.
        texts: Conversations, prompts or pairs in any form that ``common.data_utils`` reads.
        say: Is told what goes on.

    Returns:
        ``proof``: a few tokens of the result, and ``rows``: how many texts were looked at.

    Raises:
        ValueError: If there are too few texts, or llm-compressor fails, with its last words.
    """
    rows = token_ids(source, texts)
    if len(rows) < FEWEST:
        raise ValueError(f"{texts}: {len(rows)} texts can be read; AWQ wants {FEWEST} at least, best {ROWS}")
    say(f"AWQ by llm-compressor, looking at {len(rows)} texts of {texts.name}; this takes a while")
    with tempfile.TemporaryDirectory() as temporary:
        tokens = Path(temporary) / "tokens.jsonl"
        tokens.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [python, str(CHILD), str(source), str(folder), str(tokens)]
        done = subprocess.run(command, cwd=temporary, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"llm-compressor ended with status {done.returncode}: {done.stderr.strip()[-LAST_WORDS:]}")
    copy_settings(source, folder)
    open_as_umask(folder, "*.safetensors", like="config.json")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "rows": len(rows)}


def token_ids(source: Path, texts: Path) -> list[list[int]]:
    """The first conversations of a file as the model sees them; rows that cannot be read are left out."""
    from transformers import AutoTokenizer

    from common.data.conversation import Renderer, RenderError
    from common.data.messages import RowError
    from common.data.names import Columns
    from common.data.readers.records import read_records
    from common.data.row_reader import read_example
    from common.data.rows import loaded

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    renderer = Renderer.of(tokenizer) if tokenizer.chat_template else None
    found: list[list[int]] = []
    for record in read_records(texts):
        if len(found) == ROWS:
            break
        try:
            row = loaded(record.row) if record.row and "reward_model" in record.row else record.row
            example = read_example(row, Columns()) if row else None
            messages = [*example.prompt, *(example.answer or example.chosen)] if example else []
            if renderer and messages:
                text = renderer.text(messages, example.tools or None, messages[-1]["role"] != "assistant")
            else:
                text = "\n".join(message["content"] for message in messages)
        except (RowError, RenderError):
            continue
        if ids := tokenizer(text, add_special_tokens=renderer is None)["input_ids"][:LONGEST]:
            found.append(ids)
    return found
