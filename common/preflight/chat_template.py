"""The chat template and the tokenizer of a model folder, without importing transformers (seconds)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from common.data.conversation import Renderer
from common.data.templates.environment import environment
from common.data.templates.trial import check_template
from common.data.turns import RenderError
from common.preflight.model import ModelInfo
from common.small_files import MAX_TOKENIZER, read_json_object

NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


class FolderTokenizer:
    """``tokenizer.json`` with the face that ``common.data.conversation`` asks for.

    Raises:
        ValueError: If there is none.
    """

    is_fast = True

    def __init__(self, folder: Path):
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError("no tokenizer.json")
        self.tokenizer = Tokenizer.from_file(str(file))
        added = read_json_object(file, MAX_TOKENIZER).get("added_tokens") or []
        self.special = [token["content"] for token in added if token.get("special")]

    def __call__(self, text: str, **options: Any) -> dict[str, list]:
        """Ids of a text, and start and end of each token in it."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return {"input_ids": encoding.ids, "offset_mapping": encoding.offsets}

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(one.ids) for one in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def renderer_of(model: ModelInfo, tokenizer: FolderTokenizer, thinking: bool | None = None) -> Renderer:
    """The renderer of a model's template.

    Raises:
        DangerousTemplate: If the template takes too long or too much memory.
        RenderError: If it cannot be compiled.
    """
    tokens = {"bos_token": "", "eos_token": "", **_special_tokens(Path(model.path))}
    check_template(model.chat_template or "", **tokens)
    try:
        template = environment().from_string(model.chat_template or "")
    except TemplateError as error:
        raise RenderError(f"the chat template cannot be compiled: {error}") from error

    def write(messages: list[dict[str, Any]], **options: Any) -> str:
        return template.render(messages=messages, **{**tokens, **options})

    return Renderer(write, thinking, tokenizer.special, tokens["eos_token"] or None)


def token_lengths(
    model: ModelInfo, conversations: Sequence[tuple[list[dict[str, Any]], list[dict] | None]], answer_next: bool
) -> list[int]:
    """Tokens of each conversation under the model's chat template.

    Args:
        model: A model on disk with a fast tokenizer.
        conversations: Pairs of messages (``role``, ``content``) and descriptions of tools, or None.
        answer_next: Add the tokens that open the assistant's answer (prompts), or not (whole conversations).

    Raises:
        ValueError: If the tokenizer has no ``tokenizer.json`` or the template refuses a row.
    """
    tokenizer = FolderTokenizer(Path(model.path))
    renderer = renderer_of(model, tokenizer)
    return tokenizer.count([renderer.text(messages, tools, answer_next) for messages, tools in conversations])


def _special_tokens(folder: Path) -> dict[str, str]:
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return {}
    read = read_json_object(settings, MAX_TOKENIZER)
    tokens = {name: read[name] for name in NAMES if read.get(name)}
    return {name: token if isinstance(token, str) else token.get("content", "") for name, token in tokens.items()}
