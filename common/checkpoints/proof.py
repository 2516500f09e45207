"""A merged folder proved: it loads, every weight is in it, and it generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.checkpoints.model_class import auto_class

PROMPT = "Hello"
NEW_TOKENS = 8
MARGIN = 1.3  # memory next to the weights while a few tokens are generated


def _prompt(tokenizer: Any) -> Any:
    """A greeting as the model was trained to see one, as tensors."""
    if not tokenizer.chat_template:
        return tokenizer(PROMPT, return_tensors="pt")
    talk = [{"role": "user", "content": PROMPT}]
    return tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)


def prove_folder(folder: Path) -> str:
    """Load a Hugging Face folder on the CPU and generate a few tokens.

    Returns:
        The tokens as text, or why nothing was generated: no memory for the model, or a model that only gives values.

    Raises:
        ValueError: If weights are missing, or the numbers are not finite.
    """
    import psutil
    import torch
    from transformers import AutoTokenizer

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    free = psutil.virtual_memory().available
    if size * MARGIN > free:
        return f"not tried: the model needs {size * MARGIN / 2**30:.0f} GiB of memory, {free / 2**30:.0f} GiB are free"
    model, loading = auto_class(folder).from_pretrained(
        folder, dtype="auto", output_loading_info=True, trust_remote_code=False
    )
    absent = sorted(loading["missing_keys"]) + sorted(loading["unexpected_keys"])
    if absent:
        raise ValueError(f"{folder}: weights do not fit the model: {absent[:3]}")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    inputs = _prompt(tokenizer)
    with torch.inference_mode():
        logits = model(**inputs).logits
        if not torch.isfinite(logits).all():
            raise ValueError(f"{folder}: the merged model computes numbers that are not finite; the run has diverged")
        if not model.can_generate():
            return f"value of the last token {logits[0, -1].float().tolist()}"  # of a reward model its score
        answer = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :])
