"""A model in the formats of other programs: ``python -m common.checkpoints export RUN --format gguf``.

Converters are those of the projects themselves, where they are installed: llama.cpp's ``convert_hf_to_gguf.py``,
llm-compressor for AWQ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.checkpoints import awq
from common.checkpoints.merge import copy_settings, hugging_face_folder, replace_folder
from common.checkpoints.model_class import auto_class
from common.checkpoints.ollama import modelfile
from common.checkpoints.weight_files import INDEX, SINGLE, WeightFiles, write_weights
from common.files import open_as_umask, write_atomically
from common.small_files import read_json_object

FORMATS = ("safetensors-bf16", "mlx-ready", "gguf", "ollama", "awq")
OUT_TYPES = ("f32", "f16", "bf16", "q8_0")
CONVERTER = "convert_hf_to_gguf.py"
GET_CONVERTER = (
    "get it with git clone --depth 1 https://github.com/ggml-org/llama.cpp, set LLAMA_CPP_DIR to that folder, and "
    "pip install gguf where the converter says so"
)
LAST_WORDS = 1500  # characters of a converter's output that are shown


def export(
    path: Path,
    form: str,
    target: Path,
    out_type: str = "f16",
    say: Callable[[str], None] = print,
    texts: Path | None = None,
) -> dict[str, Any]:
    """Write a model for another program.

    Args:
        path: A run, a ``global_step_N`` folder or a Hugging Face folder.
        form: One of ``FORMATS``.
        target: Folder to write; replaced only when all went well.
        out_type: Of the weights, for gguf and ollama.
        say: Is told what goes on.
        texts: What awq looks at.

    Returns:
        ``file`` or ``folder``, and ``proof``: what a load of it showed, or why there was none.

    Raises:
        FileNotFoundError: If a converter is not there.
        ValueError: If a converter fails, or the result cannot be loaded.
    """
    converter = find_converter(os.environ) if form in ("gguf", "ollama") else None
    python = awq.find_python(os.environ) if form == "awq" else ""
    source = hugging_face_folder(path, say)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if form == "awq":
            facts = awq.write_awq(source, partial, python, texts, say)
        elif converter is None:
            facts = _plain(source, partial)
        else:
            facts = _gguf(source, partial, converter, out_type)
        if form == "ollama":
            text, words = modelfile(source, "model.gguf")
            write_atomically(partial / "Modelfile", text)
            facts["template"] = words
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def find_converter(environment: Mapping[str, str]) -> Path:
    """llama.cpp's converter: in ``LLAMA_CPP_DIR``, else on the path.

    Raises:
        FileNotFoundError: If it is nowhere, with where to get it.
    """
    given = environment.get("LLAMA_CPP_DIR")
    if given:
        path = Path(given).expanduser() / CONVERTER
        if not path.is_file():
            raise FileNotFoundError(f"LLAMA_CPP_DIR={given}: no {CONVERTER} in it; {GET_CONVERTER}")
        return path
    found = shutil.which(CONVERTER, path=environment.get("PATH"))
    if found is None:
        raise FileNotFoundError(f"llama.cpp's converter, {CONVERTER}, is not on this machine; {GET_CONVERTER}")
    return Path(found)


def _plain(source: Path, folder: Path) -> dict[str, Any]:
    """Weights in bfloat16, which transformers, vLLM, SGLang and mlx-lm read as they are."""
    from common.checkpoints.proof import prove_folder

    if (source / SINGLE).is_file() or (source / INDEX).is_file():
        weights = WeightFiles(source)
        write_weights(folder, {name: weights.shape(name) for name in weights}, weights.read, "bfloat16")
        config = read_json_object(source / "config.json")
        config.pop("torch_dtype", None)
        text = json.dumps(config | {"dtype": "bfloat16"}, indent=2, ensure_ascii=False)
        write_atomically(folder / "config.json", text + "\n")
        open_as_umask(folder, "*.safetensors", like="config.json")
    else:
        model = auto_class(source).from_pretrained(source, dtype="bfloat16", trust_remote_code=False)
        model.save_pretrained(folder)
    copy_settings(source, folder)
    return {"proof": prove_folder(folder)}


def _gguf(source: Path, folder: Path, converter: Path, out_type: str) -> dict[str, Any]:
    """One file for llama.cpp and what is built on it.

    Raises:
        ValueError: If the converter fails, with its last words.
    """
    file = folder / "model.gguf"
    command = [sys.executable, str(converter), str(source), "--outtype", out_type, "--outfile", str(file)]
    local = converter.parent / "gguf-py"
    extra = {"PYTHONPATH": os.pathsep.join(filter(None, [str(local) * local.is_dir(), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, env=os.environ | extra, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode or not file.is_file():
        words = (done.stderr or done.stdout).strip()[-LAST_WORDS:]
        raise ValueError(f"{converter}: ended with status {done.returncode}: {words}")
    return {"out_type": out_type, "bytes": file.stat().st_size, "proof": _load_gguf(file)}


def _load_gguf(file: Path) -> str:
    """A few tokens from llama-cpp-python where it is installed, or why not.

    Raises:
        ValueError: If it cannot load the file.
    """
    try:
        import llama_cpp
    except ImportError:
        return "not loaded: llama-cpp-python is not installed here"
    try:
        model = llama_cpp.Llama(str(file), n_ctx=64, verbose=False)
        return model("Hello", max_tokens=8, temperature=0)["choices"][0]["text"]
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{file.name}: llama-cpp-python cannot load it: {error}") from error
