"""Build the demo's reward model: a classifier that scores the form of answers to small sums.

    python -m common.demo_model.make_reward_model                 # rebuild common/demo_model/reward_model, seconds
    python -m common.demo_model.make_reward_model --judge DIR     # a judge in words instead: it writes "Score: 10"

Both start from the demo model and learn one thing: an answer that shows the sum and ends in ``#### N`` is worth 1 (or
10 of 10), any other 0. Whether N is right they do not know; that takes a larger model. The classifier keeps one of the
demo model's four layers. The judge is for tests, which put it behind an OpenAI-compatible route.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from common.demo_model import DEMO_MODEL_DIR, DEMO_REWARD_MODEL_DIR
from common.demo_model.make import LARGEST, QUESTIONS, encode_batch, save, wrong_sum

SEED = 7
STEPS, BATCH_SIZE = 120, 32
LEARNING_RATE = 1e-3


def draw_answer(rng: random.Random) -> tuple[str, str, bool]:
    """Returns a question, an answer as the demo model may give it, and whether it has the expected form."""
    a, b = rng.randint(0, LARGEST), rng.randint(0, LARGEST)
    number = a + b if rng.random() < 0.7 else wrong_sum(a + b, rng)
    question = rng.choice(QUESTIONS).format(a=a, b=b)
    in_form = rng.random() < 0.5
    reply = f"{a} + {b} = {number}\n#### {number}" if in_form else f"The answer is {number}."
    if rng.random() < 0.15:  # cut on the way
        reply, in_form = reply[: rng.randint(0, reply.index("####") if in_form else len(reply))], False
    return question, reply, in_form


def train_classifier(out: Path) -> None:
    """Train the reward model and write it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    model = AutoModelForSequenceClassification.from_pretrained(
        DEMO_MODEL_DIR, num_labels=1, num_hidden_layers=1, layer_types=["full_attention"], dtype=torch.float32
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.1)
    rng, start = random.Random(SEED), time.time()
    for step in range(STEPS):
        scores, targets = score_batch(model, tokenizer, [draw_answer(rng) for _ in range(BATCH_SIZE)])
        loss = torch.nn.functional.mse_loss(scores, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 40 == 39:
            hits = ((scores > 0.5) == (targets > 0.5)).float().mean()
            print(
                f"step {step + 1}/{STEPS}  loss {loss:.4f}  right {hits:.2f}  {time.time() - start:.0f} s", flush=True
            )
    save(model, tokenizer, out)


def score_batch(model, tokenizer, drawn: list[tuple[str, str, bool]]):
    """Scores at the last token of each conversation and what they should be, both of shape (batch,)."""
    import torch

    texts = [conversation(tokenizer, question, reply) for question, reply, _ in drawn]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    hidden = model.base_model(**{name: batch[name] for name in ("input_ids", "attention_mask")})[0]
    last = batch["attention_mask"].sum(-1) - 1
    scores = model.score(hidden[torch.arange(len(drawn)), last]).squeeze(-1)
    return scores, torch.tensor([float(in_form) for _, _, in_form in drawn])


def conversation(tokenizer, question: str, reply: str) -> str:
    """The text that verl gives a reward model."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return tokenizer.apply_chat_template(messages, tokenize=False)


def train_judge(out: Path) -> None:
    """Train the judge in words and write it; it is asked with the answer alone (``prompt: "{answer}"``)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL_DIR, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    rng = random.Random(SEED)
    for _ in range(STEPS):
        drawn = [draw_answer(rng) for _ in range(BATCH_SIZE)]
        verdicts = [
            [
                {"role": "user", "content": reply},
                {"role": "assistant", "content": f"Score: {10 * in_form}"},
            ]
            for _, reply, in_form in drawn
        ]
        input_ids, labels = encode_batch(verdicts, tokenizer)
        model(input_ids=input_ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    save(model, tokenizer, out)


def main() -> None:
    """Command line entry."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEMO_REWARD_MODEL_DIR, help="where the reward model goes")
    parser.add_argument("--judge", type=Path, help="write a judge in words here instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two that wait for each other are slower on a busy machine
    if arguments.judge:
        train_judge(arguments.judge)
    else:
        train_classifier(arguments.out)
    print(f"wrote {arguments.judge or arguments.out}")


if __name__ == "__main__":
    main()
