"""Ollama's Modelfile of a model: its chat template in Ollama's own language, where the family is known.

Reference: https://docs.ollama.com/modelfile. A family is known when it renders a conversation to the very text that the
model's own template gives; a template that is almost the same is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.small_files import read_json_object

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Two?"},
]


@dataclass(frozen=True)
class Family:
    """A chat template in both languages.

    Args:
        name: For people.
        start: Before everything, in text.
        turn: One turn in text, with ``{role}`` and ``{content}``.
        answer: What an answer begins with.
        template: The same for Ollama.
        stop: Texts that end an answer.
    """

    name: str
    start: str
    turn: str
    answer: str
    template: str
    stop: tuple[str, ...]

    def render(self, messages: list[dict[str, str]]) -> str:
        """The text of a conversation, ready for an answer."""
        return self.start + "".join(self.turn.format(**message) for message in messages) + self.answer


FAMILIES = (
    Family(
        "ChatML",
        "",
        "<|im_start|>{role}\n{content}<|im_end|>\n",
        "<|im_start|>assistant\n",
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ("<|im_end|>",),
    ),
    Family(
        "Llama 3",
        "<|begin_of_text|>",
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|eot_id|>",),
    ),
)


def modelfile(folder: Path, weights: str) -> tuple[str, str]:
    """The Modelfile of a Hugging Face folder.

    Args:
        folder: Has the tokenizer.
        weights: Name of the GGUF file beside the Modelfile.

    Returns:
        Its text, and what was found out about the template.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    lines = [f"FROM ./{weights}"]
    family = family_of(tokenizer)
    if family is not None:
        lines += [f'TEMPLATE """{family.template}"""', *(f'PARAMETER stop "{text}"' for text in family.stop)]
        words = f"chat template: {family.name}"
    elif tokenizer.chat_template:
        words = "its chat template is of no family known here; ollama tries the one inside the file, look at an answer"
    else:
        words = "the model has no chat template; ollama continues bare text"
    lines += _parameters(folder)
    return "\n".join(lines) + "\n", words


def family_of(tokenizer: Any) -> Family | None:
    """The family whose text is that of the model's own template."""
    if not tokenizer.chat_template:
        return None
    try:
        text = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    except Exception:  # a template raises what it likes, e.g. when it takes no system prompt
        return None
    return next((family for family in FAMILIES if family.render(TALK) == text), None)


def _parameters(folder: Path) -> list[str]:
    """Sampling that the model brings along, and its context."""
    file = folder / "generation_config.json"
    given = read_json_object(file) if file.is_file() else {}
    lines = [f"PARAMETER {name} {given[name]}" for name in ("temperature", "top_p", "top_k") if given.get(name)]
    context = read_json_object(folder / "config.json").get("max_position_embeddings")
    return lines + ([f"PARAMETER num_ctx {min(context, 8192)}"] if context else [])
