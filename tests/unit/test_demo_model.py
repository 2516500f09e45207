"""The shipped demo model: it loads cleanly, its chat template concatenates, and it starts where GRPO can teach it."""

import json
import logging
import warnings

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.demo_model import DEMO_MODEL_DIR, make
from grpo.reward_func import compute_score
from tests.conftest import ROOT

TEXTS = [
    "12 + 35 = 47\n#### 47",
    "小明有 3 个苹果，又买了 4 个。",
    "naïve café, Ωμέγα, привет, 🎉👩‍💻",
    "  two  spaces\t\n\n\r\n  end ",
    "a" * 300,
    "",
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "\nWhat is 7 + 8? "},
    {"role": "assistant", "content": " 7 + 8 = 15\n#### 15\n"},
    {"role": "user", "content": "再加 3？"},
    {"role": "assistant", "content": "18"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO_MODEL_DIR, padding_side="left")


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR, dtype=torch.float32)


def render(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


def test_size_of_the_files():
    files = {path.name: path.stat().st_size for path in DEMO_MODEL_DIR.iterdir()}
    assert set(files) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    }
    assert sum(files.values()) < 3_000_000


def test_loads_without_warnings(monkeypatch):
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [handler])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
        AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR)
    assert [record.getMessage() for record in records] == []


def test_architecture(model):
    config = json.loads((DEMO_MODEL_DIR / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["max_position_embeddings"] == 2048
    # Embedding 512x128, and per layer: q and o 128x128, k and v 128x64, three MLP matrices 128x384, biases of
    # q, k, v and two norms; then the last norm. The output layer is the embedding.
    layer = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384 + (128 + 64 + 64) + 2 * 128
    assert sum(p.numel() for p in model.parameters()) == 512 * 128 + 4 * layer + 128 == 854_144


def test_special_tokens(tokenizer, model):
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for config in (model.generation_config, model.config):
        assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    chat = tokenizer("<|im_start|>user\nhi<|im_end|><|endoftext|>")["input_ids"]
    assert tokenizer.decode(chat, skip_special_tokens=True) == "user\nhi"


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_single_tokens(tokenizer):
    ids = tokenizer("1234567890")["input_ids"]
    assert [tokenizer.decode([i]) for i in ids] == list("1234567890")


def test_chat_template_text(tokenizer):
    text = tokenizer.apply_chat_template(MESSAGES[:2], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n\nWhat is 7 + 8? <|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_chat_template_concatenates(tokenizer):
    """verl tokenizes each message apart and joins the tokens; that has to equal the whole conversation."""
    apart = [token for message in MESSAGES for token in render(tokenizer, [message])]
    assert apart == render(tokenizer, MESSAGES)


def test_generation_prompt_is_how_an_answer_begins(tokenizer):
    prompt = render(tokenizer, MESSAGES[:2], add_generation_prompt=True)
    assert render(tokenizer, MESSAGES[:3])[: len(prompt)] == prompt


def test_starts_where_grpo_can_teach_it(tokenizer, model):
    """Sampled at temperature 1, under half of the answers earn the reward, and nearly every question has both kinds."""
    rows = pq.read_table(ROOT / "grpo/data/train.parquet").to_pylist()[:64]
    prompts = [tokenizer.apply_chat_template(r["prompt"], tokenize=False, add_generation_prompt=True) for r in rows]
    batch = tokenizer([prompt for prompt in prompts for _ in range(8)], return_tensors="pt", padding=True)
    torch.manual_seed(0)
    output = model.generate(**batch, max_new_tokens=20, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    answers = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    truths = [row["reward_model"]["ground_truth"] for row in rows for _ in range(8)]
    scores = torch.tensor([compute_score("", a, t)["score"] for a, t in zip(answers, truths, strict=True)])
    groups = scores.view(64, 8).mean(1)
    assert 0.35 <= scores.mean() <= 0.5
    assert ((groups > 0) & (groups < 1)).float().mean() > 0.8


def test_tokenizer_is_the_one_that_make_builds(tokenizer):
    built = make.build_tokenizer()
    assert built.get_vocab() == tokenizer.get_vocab()
    assert built.chat_template == tokenizer.chat_template
    for text in TEXTS:
        assert built(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_make_repeats_itself_and_replaces_its_output(tmp_path, monkeypatch):
    for name, value in {"STEPS": 2, "MIX_STEPS": 1, "WARMUP_STEPS": 1, "THREADS": torch.get_num_threads()}.items():
        monkeypatch.setattr(make, name, value)
    weights = []
    for _ in range(2):
        out = tmp_path / "model"
        monkeypatch.setattr("sys.argv", ["make", "--out", str(out)])
        make.main()
        weights.append((out / "model.safetensors").read_bytes())
        (out / "stale").touch()
    assert weights[0] == weights[1]
    make.main()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "stale").exists()
