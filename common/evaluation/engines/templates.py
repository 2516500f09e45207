"""From a conversation to the token ids that a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.data.conversation import Renderer, RenderError
from common.data.messages import Message
from common.evaluation.settings import EvaluationError, Settings

BATCH = 512  # texts that are encoded at once

# ChatML: https://github.com/openai/openai-python/blob/release-v0.28.1/chatml.md
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Llama 3: https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/
LLAMA3 = (
    "<|begin_of_text|>{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Llama 2: the system prompt is inside the first user turn.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'assistant' %} {{ message['content'] | trim }} </s>"
    "{% else %}<s>[INST] {{ (system if loop.first else '') + message['content'] }} [/INST]{% endif %}{% endfor %}"
)
ENDS = {"chatml": ("<|im_end|>",), "llama": ("<|eot_id|>", "</s>"), "default": ("\nUser:",)}


class Prompter:
    """Renders and encodes conversations for one tokenizer.

    Args:
        tokenizer: Of the model.
        settings: ``template``, ``thinking`` and ``system`` count.
        name: Of the model, for errors.

    Raises:
        EvaluationError: If the template is ``auto`` and the tokenizer has none.
    """

    def __init__(self, tokenizer: Any, settings: Settings, name: str):
        self.tokenizer, self.settings = tokenizer, settings
        self.template: str | None = None
        if settings.template == "auto" and not tokenizer.chat_template:
            raise EvaluationError(
                f"--model_path {name}: its tokenizer has no chat template, as base models often have none; give "
                "--template chatml or llama if it was trained with one of them, or --template default for bare text"
            )
        if settings.template == "chatml":
            self.template = CHATML
        if settings.template == "llama":
            known = tokenizer.get_vocab()
            is_llama2 = "<|start_header_id|>" not in known and "<s>" in known
            self.template = LLAMA2 if is_llama2 else LLAMA3

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer: the user's, and those of a template that the model may not have been made for."""
        return (*self.settings.stop, *ENDS.get(self.settings.template, ()))

    def with_system(self, messages: Sequence[Message]) -> list[Message]:
        """Put the system prompt in front unless there is one."""
        if not self.settings.system or messages[0]["role"] == "system":
            return list(messages)
        return [{"role": "system", "content": self.settings.system}, *messages]

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
        """The text that the model sees.

        Raises:
            EvaluationError: If the chat template refuses it.
        """
        messages = self.with_system(messages)
        if self.settings.template == "default":
            return _bare(messages)
        options = {} if self.template is None else {"chat_template": self.template}
        thinking = {"on": True, "off": False}.get(self.settings.thinking)
        try:
            return Renderer.of(self.tokenizer, thinking, **options).text(messages, list(tools) or None, True)
        except RenderError as error:
            raise EvaluationError(str(error)) from error

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered texts."""
        special = self.settings.template == "default"  # a template brings its own
        ids: list[list[int]] = []
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            encoded = self.tokenizer(part, add_special_tokens=special, return_attention_mask=False)
            ids += encoded["input_ids"]
        return ids


def _bare(messages: Sequence[Message]) -> str:
    """One message as it is, for base models; several as a transcript."""
    if len(messages) == 1:
        return messages[0]["content"]
    lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
    return "\n".join([*lines, "Assistant:"])
