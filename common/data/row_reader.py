"""Which of the common forms a row has, and what it says: the one way in."""

from __future__ import annotations

import json
from typing import Any

from common.data import choices
from common.data.forms import Example, from_columns, from_messages
from common.data.messages import (
    RowError,
    structured,
    text_of,
    tools_of,
    weight_of,
)
from common.data.names import KEPT, QUESTIONS, TESTS, TRUTHS, WORKED, Columns, View, view_of
from common.data.pairs import from_pair, is_pair


def read_example(row: dict[str, Any], columns: Columns) -> Example:
    """Understand a row.

    Raises:
        RowError: If its form is not known or it lacks something; the message names the field.
    """
    view = view_of(row, columns)
    if view.plain:
        if example := _plain_example(row, view):
            return example
        view = View(row, view.origin)
    try:
        example = _read(view)
    except RowError as error:
        raise RowError(view.said(str(error))) from None
    example.view = view
    return example


def _plain_example(row: dict[str, Any], view: View) -> Example | None:
    """The short way for a row of a question and an answer that are plain texts: nearly all rows are, and it counts."""
    question, answer = row[view.plain[0]], row[view.plain[1]]
    if not type(question) is type(answer) is str or not question.strip() or not answer.strip():
        return None
    if question[0] in "[{" or answer[0] in "[{":  # perhaps JSON
        return None
    view.used.update(view.plain)
    prompt, following = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return Example([prompt], [following], view=view, form="question and answer")


def _read(view: View) -> Example:
    values = view.values
    if is_pair(view):
        example = from_pair(view)
    elif values.get("messages") is not None and not view.named.intersection(QUESTIONS):
        example = from_messages(view)
    elif "test_list" in values and "text" in values and not view.first(QUESTIONS):  # MBPP
        example = from_columns(view, "text")
    elif any(name in values for name in QUESTIONS):
        example = from_columns(view)
    else:
        columns = ", ".join(str(column) for names in view.origin.values() for column in names) or "(none)"
        if view.there == {"text"}:
            raise RowError(
                "text: plain text has no question and no answer, and answers are what is learnt; to learn all of it, "
                "as in pretraining, give --algo text (DATA_FORM=text ./sft/train.sh); where it is a question, name it: "
                "--map prompt=text"
            )
        raise RowError(
            f"columns {columns}: not a known form; name them with --input and --output, or --map part=column"
        )
    if not view.there.isdisjoint(KEPT):
        for name in KEPT:
            if values.get(name) is not None:
                example.columns[name] = view.take(name)
    if view.has("tools"):
        example.tools += tools_of(view.take("tools"))
    if view.has("label"):
        _take_verdict(view, example)
    _take_truth(view, example)
    if view.has("weight"):
        _take_weight(view, example)
    if example.answer and view.has("reasoning"):
        thought = text_of(view.take("reasoning"), "reasoning")
        example.answer[-1] = {**example.answer[-1], "reasoning_content": thought}
    return example


def _take_truth(view: View, example: Example) -> None:
    values = view.values
    scored = values.get("reward_model")
    given = next((name for name in TRUTHS if view.has(name)), None)
    if given:
        example.ground_truth = view.take(given)
    elif type(scored) is dict and scored.get("ground_truth") is not None:
        example.ground_truth = scored["ground_truth"]
    elif not view.there.isdisjoint(TESTS) and (tests := _tests(view)):
        example.ground_truth = tests
    elif example.ground_truth is None and (example.form == "messages" or view.has("choices")):
        name = next((name for name in ("answer", "target", "correct", "label", *WORKED) if view.has(name)), None)
        if name and (name not in view.used or view.has("choices")):
            example.ground_truth = values[name]
    if view.has("choices"):
        _take_letter(view, example)


def _take_letter(view: View, example: Example) -> None:
    """The right option as its letter."""
    options = choices.options_of(view.values["choices"])
    names = ("ground_truth", "final_answer", "answer", "correct", "label", "target")
    name = next((name for name in names if view.has(name)), None)
    if name is None:
        return
    columns = view.origin.get("choices", ())
    from_one = columns and str(columns[0])[-1:].isdigit() and str(columns[0])[-1:] != "0"
    value = view.values[name]
    value = structured(value) if type(value) is str else value
    letter = choices.right_letter(value, options, name, int(bool(from_one)))
    view.used.add(name)
    example.ground_truth = letter
    answer = example.answer[-1]["content"] if example.answer else ""
    if not answer:
        example.answer = [{"role": "assistant", "content": letter}]
    elif "answer" in view.used and answer == str(view.values.get("answer")):
        example.answer = [{"role": "assistant", "content": letter}]
    elif "rationale" in view.used and not answer.rstrip(" .。").endswith(letter):
        example.answer = [{"role": "assistant", "content": f"{answer}\nAnswer: {letter}"}]


def _tests(view: View) -> str | None:
    """Tests of a program as the code reward reads them, in JSON; None when there are none."""
    if view.has("test_list"):
        names: tuple[str, ...] = ("test_list", "test_setup_code")
    elif view.has("test") and type(view.values["test"]) is str and "entry_point" in view.values:
        names = ("test", "entry_point")
    else:
        name = view.first(("tests", "test_cases", "assertion", "input_output"))
        if name is None:
            return None
        value = structured(view.take(name))
        return value if type(value) is str else json.dumps(value, ensure_ascii=False)
    found = {name: structured(view.take(name)) for name in names if view.has(name)}
    return json.dumps(found, ensure_ascii=False)


def _take_verdict(view: View, example: Example) -> None:
    """The label of rows of good and bad answers (KTO)."""
    value = view.values["label"]
    if view.has("choices") or not (example.answer or "messages" in view.used):
        return
    known = {"true": True, "false": False}.get(value.strip().lower()) if type(value) is str else value
    kto = view.origin.get("label") == ("kto_tag",) or "completion" in view.used
    if type(known) is bool or (kto and known in (0, 1)):
        view.used.add("label")
        example.wanted = bool(known)


def _take_weight(view: View, example: Example) -> None:
    if not example.answer:
        return
    weight = weight_of(view.take("weight"), "weight")
    example.answer = [{"weight": weight, **message} for message in example.answer]
