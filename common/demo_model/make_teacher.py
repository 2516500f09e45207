"""Build the demo teacher for ``VARIANT=distill``: twice the demo model's size, trained on right answers alone.

    python -m common.demo_model.make_teacher --out outputs/demo-teacher    # two or three minutes

The recipe is the demo model's (``make.py``), and the tokenizer its own, so that student and teacher share their
tokens.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from common.demo_model import DEMO_MODEL_DIR, make

SIZES = {"hidden_size": 192, "intermediate_size": 512}


def right_answer(rng: random.Random, mixed: bool) -> list[dict[str, str]]:
    """A question and its right answer in the form that the reward wants; ``mixed`` is the demo model's and unused."""
    a, b = rng.randint(0, make.LARGEST), rng.randint(0, make.LARGEST)
    question = rng.choice(make.QUESTIONS).format(a=a, b=b)
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": f"{a} + {b} = {a + b}\n#### {a + b}"},
    ]


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description="Build the demo teacher.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write (replaced when it exists)")
    args = parser.parse_args()

    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(make.THREADS)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL_DIR)
    model = make.build_model(tokenizer, **SIZES)
    make.pretrain(model, tokenizer, right_answer)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    make.save(model, tokenizer, args.out)
    print(f"wrote {args.out} ({sum(p.numel() for p in model.parameters()):,} parameters)")


if __name__ == "__main__":
    main()
