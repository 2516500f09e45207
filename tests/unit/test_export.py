"""Models for other programs: bfloat16 folders, llama.cpp's converter by a stand-in, Ollama's Modelfile."""

import json
import os
import sys
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.checkpoints import cli
from common.checkpoints.ollama import FAMILIES, TALK, family_of
from common.demo_model import DEMO_MODEL_DIR
from tests.tiny_models import write_tiny_model

STAND_IN = """
import json, sys
from pathlib import Path
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
config = json.loads((Path(sys.argv[1]) / "config.json").read_text())
if config.get("model_type") == "mixtral":
    sys.exit("NotImplementedError: BPE pre-tokenizer was not recognized")
Path(options["--outfile"]).write_text("GGUF " + options["--outtype"])
"""


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """llama.cpp's folder with a converter of our own."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text(STAND_IN)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(folder))
    return folder


@pytest.fixture
def llama_cpp(monkeypatch):
    """llama-cpp-python as far as it is used."""
    module = ModuleType("llama_cpp")

    class Llama:
        def __init__(self, path, n_ctx, verbose):
            if "q8_0" in open(path).read():
                raise ValueError("Failed to load model from file")

        def __call__(self, prompt, max_tokens, temperature):
            return {"choices": [{"text": " there"}]}

    module.Llama = Llama
    monkeypatch.setitem(sys.modules, "llama_cpp", module)


def export(path, form, target, *options):
    return cli.main(["export", str(path), "--format", form, "--to", str(target), *options])


@pytest.mark.parametrize("form", ["safetensors-bf16", "mlx-ready"])
def test_weights_in_bfloat16(tmp_path, capsys, form, monkeypatch):
    source = write_tiny_model("qwen2", tmp_path / "model")
    monkeypatch.setattr("common.checkpoints.proof.prove_folder", lambda folder: f"proof of {len(os.listdir(folder))}")
    assert export(source, form, tmp_path / "out") == 0
    before = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert all(torch.equal(after[name], before[name].to(torch.bfloat16)) for name in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    said = capsys.readouterr().out
    assert "loaded again: 'proof of 6'" in said and ("on a Mac" in said) == (form == "mlx-ready")


def test_gguf_by_the_converter_of_llama_cpp(tmp_path, converter, llama_cpp, capsys):
    assert export(DEMO_MODEL_DIR, "gguf", tmp_path / "out", "--outtype", "f32") == 0
    assert (tmp_path / "out" / "model.gguf").read_text() == "GGUF f32"
    assert "loaded again: ' there'" in capsys.readouterr().out
    assert export(DEMO_MODEL_DIR, "gguf", tmp_path / "out", "--outtype", "q8_0") == 2
    assert "cannot load it" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.gguf").read_text() == "GGUF f32"  # the one that loads stays


def test_a_modelfile_of_the_chat_template(tmp_path, converter, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert export(DEMO_MODEL_DIR, "ollama", tmp_path / "out") == 0
    said, text = capsys.readouterr().out, (tmp_path / "out" / "Modelfile").read_text()
    assert "chat template: ChatML" in said and "llama-cpp-python is not installed" in said
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{- range .Messages }}<|im_start|>')
    assert 'PARAMETER stop "<|im_end|>"' in text and "PARAMETER num_ctx 2048" in text


def test_a_template_counts_as_known_only_when_every_character_is_the_same():
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    chatml, llama3 = FAMILIES
    assert family_of(tokenizer) is chatml
    own = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert chatml.render(TALK) == own
    known = tokenizer.chat_template
    tokenizer.chat_template = "Hello. " + known
    assert family_of(tokenizer) is None
    tokenizer.chat_template = "{{ raise_exception('no system prompt') }}"
    assert family_of(tokenizer) is None
    tokenizer.chat_template = (
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
        "<|eot_id|>{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    )
    assert family_of(tokenizer) is llama3
    tokenizer.chat_template = None
    assert family_of(tokenizer) is None


def test_what_is_missing_or_fails_is_said_and_nothing_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    assert export(DEMO_MODEL_DIR, "gguf", tmp_path / "out") == 2
    assert "convert_hf_to_gguf.py, is not on this machine; get it with git clone" in capsys.readouterr().err
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    assert export(DEMO_MODEL_DIR, "ollama", tmp_path / "out") == 2
    assert f"LLAMA_CPP_DIR={tmp_path}: no convert_hf_to_gguf.py" in capsys.readouterr().err
    assert export(DEMO_MODEL_DIR, "mlx-ready", tmp_path / "out", "--outtype", "f16") == 2
    assert "--outtype is for gguf and ollama" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_the_last_words_of_a_converter(tmp_path, converter, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    assert export(tmp_path / "model", "gguf", tmp_path / "out") == 2
    assert "status 1: NotImplementedError: BPE pre-tokenizer was not recognized" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


AWQ_STAND_IN = """#!{python}
import json, sys
from pathlib import Path
if sys.argv[1] == "-c":
    sys.exit({probe})
source, folder, tokens = sys.argv[2:]
rows = [json.loads(line) for line in open(tokens)]
if len(rows[0]) > 512:
    sys.exit("too long")
Path(folder, "model.safetensors").write_text(json.dumps(rows))
Path(folder, "model.safetensors").chmod(0o600)
Path(folder, "config.json").write_text("{{}}")
print("noise")
print(json.dumps({{"proof": "4"}}))
"""


@pytest.fixture
def awq_python(tmp_path, monkeypatch):
    """An environment's Python that says it has llm-compressor."""
    file = tmp_path / "awq-python"
    file.write_text(AWQ_STAND_IN.format(python=sys.executable, probe=0))
    file.chmod(0o755)
    monkeypatch.setenv("AWQ_PYTHON", str(file))
    return file


def test_awq_looks_at_conversations_as_the_model_sees_them(tmp_path, awq_python, capsys):
    rows = [{"question": f"{n} + 2 = ?", "answer": str(n + 2)} for n in range(20)] + [{"note": "no conversation"}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--calibration", str(tmp_path / "texts.jsonl")]
    assert export(DEMO_MODEL_DIR, "awq", tmp_path / "out", *options) == 0
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    seen = json.loads((tmp_path / "out" / "model.safetensors").read_text())
    talk = [{"role": "user", "content": "0 + 2 = ?"}, {"role": "assistant", "content": "2"}]
    assert len(seen) == 20 and tokenizer.decode(seen[0]) == tokenizer.apply_chat_template(talk, tokenize=False)
    modes = [(tmp_path / "out" / name).stat().st_mode & 0o777 for name in ("model.safetensors", "config.json")]
    assert modes[0] == modes[1] and (tmp_path / "out" / "tokenizer.json").is_file()
    assert "loaded again: '4'" in capsys.readouterr().out


def test_awq_says_what_is_missing(tmp_path, monkeypatch, awq_python, capsys):
    (tmp_path / "few.jsonl").write_text('{"question": "1?", "answer": "1"}\n')
    assert export(DEMO_MODEL_DIR, "awq", tmp_path / "out") == 2
    assert "--calibration FILE" in capsys.readouterr().err
    assert export(DEMO_MODEL_DIR, "awq", tmp_path / "out", "--calibration", str(tmp_path / "few.jsonl")) == 2
    assert "AWQ wants 16" in capsys.readouterr().err
    (tmp_path / "texts.jsonl").write_text('{"question": "1?", "answer": "1"}\n' * 20)
    awq_python.write_text(AWQ_STAND_IN.format(python=sys.executable, probe=3))
    assert export(DEMO_MODEL_DIR, "awq", tmp_path / "out", "--calibration", str(tmp_path / "texts.jsonl")) == 2
    assert "pip install llmcompressor" in capsys.readouterr().err
    awq_python.write_text(AWQ_STAND_IN.format(python=sys.executable, probe=4))
    assert export(DEMO_MODEL_DIR, "awq", tmp_path / "out", "--calibration", str(tmp_path / "texts.jsonl")) == 2
    assert "needs a GPU" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert export(DEMO_MODEL_DIR, "gguf", tmp_path / "out", "--calibration", str(tmp_path / "texts.jsonl")) == 2
