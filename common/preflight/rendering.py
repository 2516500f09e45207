"""The sampled rows as the model will see them: too long, refused by the chat template, with nothing to learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.data.conversation import Rendered, Renderer, Side, answer_tokens, answers_of, as_messages, thinking_of
from common.data.templates import trial as template_trial
from common.data.templates.trial import DangerousTemplate
from common.data.turns import ANSWER, BESIDE_CALL, EARLIER_THOUGHT, LAST_THOUGHT, RenderError, has_thought
from common.preflight import data
from common.preflight.chat_template import FolderTokenizer, renderer_of
from common.preflight.findings import Problem
from common.preflight.knobs import SUPERVISED, Knobs
from common.preflight.model import ModelInfo

LOOKED_AT = 300  # rows of a file whose turns are looked for one by one, and the first of each further kind
FIX = {
    EARLIER_THOUGHT: "the model does not see them either when it answers; split a conversation to learn them all",
    LAST_THOUGHT: "use a model whose template shows reasoning_content, or write <think>...</think> into the content",
    BESIDE_CALL: "use a model whose template shows both, or give the text a separate turn",
    ANSWER: "see it with .venv/bin/python -m common.data_utils preview, and correct the rows",
}


@dataclass
class Measured:
    """Tokens of the sampled rows.

    Args:
        lengths: Of whole conversations (sft) or of prompts.
        answers: dpo and kto: of the longer answer of each row.
        teaches_from: sft and dpo: how many tokens a row must keep to teach anything: up to the first token that is
            learnt, or up to the first that differs between the answers of a pair.
    """

    lengths: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    teaches_from: list[int] = field(default_factory=list)


class _Look:
    """What is found in one file."""

    def __init__(self, renderer: Renderer, tokenizer: FolderTokenizer, form: str, tools: list[dict] | None):
        self.renderer, self.tokenizer, self.form, self.tools = renderer, tokenizer, form, tools
        self.measured = Measured()
        self.texts: list[str] = []
        self.refused: list[tuple[int, str]] = []
        self.lost: Counter[str] = Counter()
        self.endless = self.looked_at = self.thoughtful = 0
        self.kinds: set[tuple] = set()

    def row(self, number: int, row: dict[str, Any]) -> None:
        """Measure a row; note why the template cannot show it."""
        try:
            getattr(self, f"_{self.form}", self._prompt)(row)
        except RenderError as error:
            self.refused.append((number, str(error)))

    def finish(self) -> None:
        """Count the tokens of the texts."""
        self.measured.lengths += self.tokenizer.count(self.texts)

    def _prompt(self, row: dict[str, Any]) -> None:
        self.texts.append(self.renderer.prompt(row["prompt"], self.tools or row.get("tools")))

    def _sft(self, row: dict[str, Any]) -> None:
        messages, tools, thinking = row["messages"], row.get("tools"), row.get("enable_thinking")
        kind = tuple((one["role"], bool(one.get("tool_calls")), bool(one.get("reasoning_content"))) for one in messages)
        if self.looked_at >= LOOKED_AT and kind in self.kinds:
            self.texts.append(self.renderer.text(messages, tools, thinking=thinking))
            return
        self.kinds.add(kind)
        rendered = self.renderer.render(messages, tools, thinking)
        self.texts.append(rendered.text)
        self.looked_at += 1
        self._note(rendered, messages)
        before = rendered.text[: rendered.spans[0][0]] if rendered.spans else rendered.text
        self.measured.teaches_from += self.tokenizer.count([before])

    def _note(self, rendered: Rendered, messages: list[dict[str, Any]]) -> None:
        self.lost.update(rendered.lost)
        self.endless += bool(rendered.endless)
        self.thoughtful += any(has_thought(message) for message in messages)

    def _kto(self, row: dict[str, Any]) -> list[Side]:
        names = answers_of(self.form, row)
        sides = [answer_tokens(self.renderer, self.tokenizer, row, name, self.tools) for name in names]
        self.looked_at += 1
        for name, side in zip(names, sides, strict=True):
            self._note(side.rendered, as_messages(row[name], "assistant"))
        self.measured.lengths.append(max(len(side.prompt) for side in sides))
        self.measured.answers.append(max(len(side.answer) for side in sides))
        return sides

    def _dpo(self, row: dict[str, Any]) -> None:
        chosen, rejected = (side.answer for side in self._kto(row))
        same = next((at for at, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
        self.measured.teaches_from.append(min(len(chosen), len(rejected)) if same is None else same)


def measure(
    knobs: Knobs, model: ModelInfo | None, files: dict[str, list[data.DataFile]], tools: list[dict] | None = None
) -> Measured:
    """Token lengths of the sampled rows under the model's chat template; rows that it cannot show are errors.

    Args:
        knobs: ``THINKING`` counts; errors and warnings go to it.
        model: Nothing is measured without a chat template and ``tokenizer.json`` on this machine.
        files: Those of ``TRAIN_DATA`` and ``VAL_DATA``.
        tools: Of ``TOOLS_PATH``.
    """
    found = Measured()
    if knobs.data_form == "text":  # packed: see packing
        return found
    if not model or not model.chat_template or not any(files.values()):
        return found
    try:
        tokenizer = FolderTokenizer(Path(model.path))
        renderer = renderer_of(model, tokenizer, thinking_of(knobs.values.get("THINKING")))
    except DangerousTemplate as error:
        knobs.error("MODEL_PATH", str(error), template_trial.FIX)
        return found
    except ValueError as error:
        knobs.warn("", f"token lengths were not measured: {error}")
        return found
    for name, file in ((name, file) for name, these in files.items() for file in these):
        look = _Look(renderer, tokenizer, knobs.data_form, tools)
        for number, row in enumerate(file.sample, 1):
            look.row(number, row)
        look.finish()
        for problem in _problems(look, file):
            (knobs.error if look.refused else knobs.warn)(name, problem, value=file.path)
        if look.thoughtful and look.lost[LAST_THOUGHT] == look.thoughtful and name == "TRAIN_DATA":
            knobs.error(
                name,
                "the chat template shows no thought of any row, so answers would be learnt without them",
                f"{FIX[LAST_THOUGHT]}, or set THINKING=false to leave them out",
                value=file.path,
            )
        for part in vars(found):
            getattr(found, part).extend(getattr(look.measured, part))
    knob = "MAX_LENGTH" if knobs.algorithm == "sft" else "MAX_PROMPT_LENGTH"
    _warn_of_long_rows(knobs, knob, found.lengths)
    _warn_of_long_rows(knobs, "MAX_RESPONSE_LENGTH", found.answers)
    return found


def _problems(look: _Look, file: data.DataFile) -> Iterator[Problem]:
    """What is wrong with a file under the template."""
    if look.refused:
        number, why = look.refused[0]
        yield Problem(
            f"row {number}: {why} ({len(look.refused)} of {len(file.sample)} rows looked at)",
            "change or leave out such rows, as .venv/bin/python -m common.data_utils validate does with --model and "
            "--fix, or use a model whose chat template shows them",
        )
        return
    for what, count in look.lost.items():
        yield Problem(f"the chat template leaves out {what} in {count} of {look.looked_at} rows looked at", FIX[what])
    if look.endless:
        yield Problem(
            f"answers of {look.endless} of {look.looked_at} rows looked at have no end in the chat template, so the "
            "model does not learn to stop",
            "use a template that ends each answer with a token",
        )


def check_taught(knobs: Knobs, measured: Measured) -> None:
    """Rows that teach nothing because they are cut before their first learnt token (sft) or difference (dpo)."""
    if knobs.algorithm not in SUPERVISED or not measured.teaches_from:
        return
    knob = "MAX_LENGTH" if knobs.algorithm == "sft" else "MAX_RESPONSE_LENGTH"
    limit, rows = knobs.number(knob), len(measured.teaches_from)
    nothing = sum(start >= limit for start in measured.teaches_from)
    if not limit or not nothing:
        return
    what = "no token that is learnt" if knobs.algorithm == "sft" else "no difference between the two answers"
    text = f"{nothing} of {rows} rows looked at have {what} within it"
    if nothing == rows:
        knobs.error(knob, text, f"raise it (the first ones need {min(measured.teaches_from) + 1})", value=limit)
    else:
        knobs.warn(knob, f"{text} and teach nothing", "raise it, or leave them out", value=limit)


def _warn_of_long_rows(knobs: Knobs, knob: str, lengths: list[int]) -> None:
    limit = knobs.number(knob)
    over = sum(length > limit for length in lengths)
    if not limit or not over:
        return
    left_out = knobs.algorithm not in SUPERVISED
    fate = "will be left out" if left_out else "will be cut"
    knobs.warn(
        knob, f"{over} of {len(lengths)} rows looked at are longer and {fate} (longest {max(lengths)})", value=limit
    )
    if over == len(lengths) and left_out:
        knobs.error(knob, f"every prompt is longer (shortest {min(lengths)} tokens)", "raise it", value=limit)
