"""What an RL run has answered: verl's dumps in ``rollouts/<step>.jsonl``, and the messages of their prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.data.conversation import Renderer

Messages = list[dict[str, Any]]


def groups(rollouts: Path, steps: range | None = None) -> Iterator[list[dict[str, Any]]]:
    """Yields the answers to each prompt of each step, in the order of the steps.

    Args:
        rollouts: Folder with verl's dumps, ``<step>.jsonl``.
        steps: Steps to read; None for all.
    """
    for file in sorted(rollouts.glob("*.jsonl"), key=lambda path: int(path.stem)):
        if steps is not None and int(file.stem) not in steps:
            continue
        of_prompt: dict[str, list[dict[str, Any]]] = {}
        for text in file.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            uid = line["uid"].rsplit("_", 2)[0]  # uid_session_index
            if not uid.startswith("pad"):  # verl's filling of a batch
                of_prompt.setdefault(uid, []).append(line)
        yield from of_prompt.values()


def dumped_texts(prompts: Iterable[Messages], tokenizer: Any) -> dict[str, Messages]:
    """The text that verl's dump shows for each prompt: the chat template's, without special tokens.

    Args:
        prompts: Messages of each prompt.
        tokenizer: Of the model.
    """
    texts = {}
    renderer = Renderer.of(tokenizer)
    for messages in prompts:
        ids = tokenizer(renderer.text(messages, answer_next=True), add_special_tokens=False)["input_ids"]
        texts[tokenizer.decode(ids, skip_special_tokens=True)] = messages
    return texts
