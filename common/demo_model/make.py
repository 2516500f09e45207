"""Build the demo model: tokenizer, pretraining on small sums, and the files that `from_pretrained` reads.

    python -m common.demo_model.make                 # rebuild common/demo_model/model, about a minute
    python -m common.demo_model.make --out /tmp/m    # build somewhere else

The model is left half-trained on purpose. It knows the sums, but answers in the form that the GRPO reward
wants less than half of the time, and sometimes with a wrong number. So every question has right and wrong
samples from the first step on, which is what group-relative learning needs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common.demo_model import DEMO_MODEL_DIR
from common.files import open_as_umask

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

SEED = 20
LARGEST = 49  # both numbers are 0..49, so every sum has at most two digits
VOCAB_SIZE = 512
STEPS = 330
MIX_STEPS = 70  # the last steps, in which wrong answers and the unwanted form are taught
BATCH_SIZE = 64
WARMUP_STEPS = 30
MUON_LR = 0.01  # weight matrices; AdamW alone learns sums several times more slowly
ADAMW_LR = 4e-3  # embeddings, norms and biases
THREADS = 2  # one gives the same weights, and is faster on a busy machine
FORMATTED_SHARE = 0.48  # answers that end in "#### N"
WRONG_SHARE = 0.1  # answers with a wrong number, in either form

QUESTIONS = ("What is {a} + {b}?", "What is {a} + {b}?", "{a} + {b} = ?", "Add {a} and {b}.")

# Turns between <|im_start|> and <|im_end|>; tools as in the Hermes and Qwen families, whose calls verl can read.
CHAT_TEMPLATE = (
    "{% if tools %}"
    "{{ '<|im_start|>system\\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
    "{{ 'Tools:\\n' }}{% for tool in tools %}{{ (tool | tojson) + '\\n' }}{% endfor %}"
    '{{ \'Call: <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call><|im_end|>\\n\' }}'
    "{% endif %}"
    "{% for message in messages %}"
    "{% if not (tools and loop.first and message['role'] == 'system') %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '<tool_call>\\n' + (call['function'] | tojson) + '\\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# What the tokenizer is trained on. Words of the chat template and of the samples are in the first lines and
# are counted several times, so that each becomes one token; the rest helps real prompts to stay short.
COMMON_TEXT = (
    "<|im_start|>system\n<|im_start|>user\n<|im_start|>assistant\nYou are a helpful assistant.",
    "What is 1 + 2? The answer is 3. 1 + 2 = 3\n#### 3 Which is larger, smaller, 1 or 2? 5 - 2 = 3 and 4 > 3 and 3 < 4",
)
OTHER_TEXT = (
    "What is the sum of the numbers? Add and. It is. So we get. Let's think step by step. Be brief. Answer it.",
    "Which number is smaller? How many are left? How much more does it cost in total? No. Yes. 2 * 3 = 6. 6 / 2 = 3.",
    'Solve this problem. Show your reasoning and put the final answer after "####". Output the final answer.',
    "If there are each day per week month year hour minutes, then he she they have has had with for of to in on at.",
    "请问等于多少？答案是。加减乘除，一共还剩几个？哪个数更大？请一步一步思考。",
)


def build_tokenizer() -> Qwen2Tokenizer:
    """Trains a byte-level BPE vocabulary for Qwen2's own tokenizer class.

    The class brings the splitting rule: each digit is a token, and every text can be encoded. (`AutoTokenizer`
    puts that class around any tokenizer that is next to a Qwen2 config, so no other rule would survive a reload.)

    Returns:
        A tokenizer with `VOCAB_SIZE` entries, ChatML template, eos `<|im_end|>` and pad `<|endoftext|>`.
    """
    import json

    from tokenizers import pre_tokenizers, trainers
    from transformers import AddedToken, Qwen2Tokenizer

    bpe = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(20 * COMMON_TEXT + 2 * OTHER_TEXT, trainer)
    learned = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
    )
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)])
    return tokenizer


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Makes an untrained Qwen2 of 0.85 million parameters in float32."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def sample_conversation(rng: random.Random, mixed: bool) -> list[dict[str, str]]:
    """Draws one question about a sum and one answer to it.

    Args:
        rng: Source of all randomness.
        mixed: Draw the form and the errors of the shipped model. False gives right numbers only, half of them
            in each form, which is how the model learns to add.

    Returns:
        The chat messages, user and assistant.
    """
    a, b = rng.randint(0, LARGEST), rng.randint(0, LARGEST)
    answer = a + b
    if mixed and rng.random() < WRONG_SHARE:
        answer = wrong_sum(answer, rng)
    formatted = rng.random() < (FORMATTED_SHARE if mixed else 0.5)
    reply = f"{a} + {b} = {answer}\n#### {answer}" if formatted else f"The answer is {answer}."
    question = rng.choice(QUESTIONS).format(a=a, b=b)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def wrong_sum(answer: int, rng: random.Random) -> int:
    """Returns a plausible wrong sum: off by up to 3, or by ten."""
    return max(0, answer + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10)))


def encode_batch(
    conversations: list[list[dict[str, str]]], tokenizer: Qwen2Tokenizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokenizes conversations that end in an assistant turn.

    Returns:
        input_ids and labels, both (batch, longest). Labels are -100 outside the last answer and its `<|im_end|>`.
    """
    import torch

    prompts = [tokenizer.apply_chat_template(c[:-1], tokenize=False, add_generation_prompt=True) for c in conversations]
    answers = [c[-1]["content"] + tokenizer.eos_token for c in conversations]
    prompt_ids = tokenizer(prompts)["input_ids"]
    answer_ids = tokenizer(answers)["input_ids"]
    longest = max(len(p) + len(r) for p, r in zip(prompt_ids, answer_ids, strict=True))
    input_ids = torch.full((len(conversations), longest), tokenizer.pad_token_id)
    labels = torch.full_like(input_ids, -100)
    for row, (p, r) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        input_ids[row, : len(p) + len(r)] = torch.tensor(p + r)
        labels[row, len(p) : len(p) + len(r)] = torch.tensor(r)
    return input_ids, labels


def pretrain(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    """Trains in place with Muon and AdamW: right sums first, then the mixture that is shipped."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.0),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor) for optimizer in optimizers]
    rng = random.Random(SEED)
    model.train()
    start = time.time()
    for step in range(STEPS):
        mixed = step >= STEPS - MIX_STEPS
        batch = [sample_conversation(rng, mixed) for _ in range(BATCH_SIZE)]
        input_ids, labels = encode_batch(batch, tokenizer)
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 30 == 29:
            print(f"step {step + 1}/{STEPS}  loss {loss.item():.3f}  {time.time() - start:.0f} s", flush=True)


def lr_factor(step: int) -> float:
    """Learning rate as a share of its peak: linear warm-up, flat, then linear to 5% over the last 80%."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * max(0.05, min(1.0, (STEPS - step) / (0.8 * STEPS)))


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, out: Path) -> None:
    """Writes model (bfloat16) and tokenizer next to `out`, then renames, so a broken run leaves `out` as it was."""
    import torch

    temporary = out.with_name(out.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    open_as_umask(temporary, "*", like="config.json")
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description="Build the demo model.")
    parser.add_argument("--out", type=Path, default=DEMO_MODEL_DIR, help="directory to write (replaced when it exists)")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(THREADS)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    pretrain(model, tokenizer)
    save(model, tokenizer, args.out)
    print(f"wrote {args.out} ({sum(p.numel() for p in model.parameters()):,} parameters)")


if __name__ == "__main__":
    main()
