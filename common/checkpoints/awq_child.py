"""llm-compressor's AWQ on a folder, in an environment of its own: ``python awq_child.py SOURCE FOLDER TOKENS``.

A program by itself, which imports nothing of the kit: llm-compressor asks for other versions of transformers.
``TOKENS`` is a JSONL file with a list of token ids a line. The last line of its output is JSON with ``proof``, a few
tokens of what was written, loaded again.

Source: AWQ, arXiv 2306.00978; the modifier's arguments are those of llm-compressor's example (examples/awq).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def _recipe() -> list[Any]:
    """Four bits in groups with a zero point, all linear layers but the head."""
    layers = {"ignore": ["lm_head"], "scheme": "W4A16_ASYM", "targets": ["Linear"]}
    try:
        from llmcompressor.modifiers.quantization import QuantizationModifier
        from llmcompressor.modifiers.transform.awq import AWQModifier
    except ImportError:  # before 0.12
        from llmcompressor.modifiers.awq import AWQModifier

        return [AWQModifier(**layers)]
    return [AWQModifier(), QuantizationModifier(**layers)]


def main(source: str, folder: str, tokens: str) -> None:
    """Quantise weights to 4 bits in groups, write them, load them again."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [json.loads(line) for line in Path(tokens).read_text().splitlines()]
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    model = AutoModelForCausalLM.from_pretrained(source, torch_dtype="auto", trust_remote_code=False)
    longest = max(map(len, rows))
    oneshot(model=model, dataset=data, recipe=_recipe(), max_seq_length=longest, num_calibration_samples=len(rows))
    model.save_pretrained(folder, save_compressed=True)
    again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    prompt = torch.tensor([rows[0][:16]], device=again.device)
    with torch.inference_mode():
        made = again.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
    print(json.dumps({"proof": AutoTokenizer.from_pretrained(source, trust_remote_code=False).decode(made)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
