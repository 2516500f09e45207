"""What columns are called: each part of a row has one name here, whatever name, case or language a file gives it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from common.data.messages import RowError, text_of
from common.data.rankings import MARKS, as_pair

QUESTIONS = ("question", "problem", "prompt", "query", "instruction", "input")
WORKED = ("response", "output", "completion", "solution")  # whole answers
ANSWERS = ("answer", "target", *WORKED)
TRUTHS = ("ground_truth", "final_answer")
TESTS = ("test", "entry_point", "tests", "test_list", "test_setup_code", "assertion", "test_cases", "input_output")
KEPT = ("data_source", "ability", "extra_info", "reward_model", "self_play", "enable_thinking", "agent_name", "margin")
LETTERS = "ABCDEFGHIJ"

_NAMES = {
    "messages": "conversations conversation dialogue dialog 对话 会话 消息",
    "question": "问题 提问 题干 user human 用户 user_input user_prompt",
    "problem": "题目",
    "prompt": "提示 提示词",
    "instruction": "指令",
    "input": "输入",
    "answer": "answers 答案 正确答案 标准答案 参考答案 correct_answer reference_answer answerkey answer_key",
    "response": "回答 回复 assistant reply",
    "output": "输出",
    "solution": "解答 解析 解题过程 canonical_solution reference_solution",
    "ground_truth": "groundtruth gold_answer golden_answer golden_answers gold_answers",
    "system": "system_prompt system_message 系统 系统提示 系统提示词",
    "history": "历史 历史对话 对话历史 chat_history",
    "chosen": "preferred preferred_output chosen_response chosen_messages chosen_answer response_j response_chosen "
    "优选 好回答",
    "rejected": "non_preferred_output dispreferred rejected_response rejected_messages rejected_answer response_k "
    "response_rejected 劣选 差回答",
    "choices": "options 选项",
    "reasoning": "reasoning_content complex_cot thinking 思考 思考过程",
    "context": "passage body 上下文 背景 材料",
    "tools": "functions 工具",
    "images": "image audio audios video videos image_path image_url image_urls 图片 图像",
    "label": "kto_tag",
    "rationale": "explanation",
    "correct": "correct_option correct_choice cop answer_idx answer_index gold",
}
PARTS = (
    *dict.fromkeys((*_NAMES, *QUESTIONS, *ANSWERS, *TRUTHS, *TESTS, *KEPT)),
    "weight",
)
_CANONICAL = {part: part for part in PARTS} | {name: part for part, names in _NAMES.items() for name in names.split()}
_OPTION = re.compile(r"(?:option|choice|op|选项)_?([a-j]|\d)")
_KINDS = (QUESTIONS, ANSWERS, TRUTHS)


@dataclass(frozen=True)
class Columns:
    """Names of columns that a user gave; None is detected.

    Args:
        input: The user's text (or the list of messages).
        output: The assistant's text.
        system: The system prompt.
        parts: Further pairs of a part (one of ``PARTS``) and the columns whose texts make it, joined by line breaks.
    """

    input: str | None = None
    output: str | None = None
    system: str | None = None
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def given(self) -> dict[str, tuple[str, ...]]:
        """The columns of each part that was named."""
        short = {"prompt": self.input, "answer": self.output, "system": self.system}
        return {part: (column,) for part, column in short.items() if column} | dict(self.parts)


def parse_map(text: str) -> tuple[str, tuple[str, ...]]:
    """A part and its columns from ``part=column`` or ``part=column+column``.

    Raises:
        ValueError: If it is something else.
    """
    part, mark, columns = text.partition("=")
    part = part.strip()
    if not mark or not columns.strip():
        raise ValueError(f"--map {text}: write part=column, or part=column+column")
    if part not in PARTS:
        raise ValueError(f"--map {text}: {part} is not a part of a row; parts are {', '.join(PARTS)}")
    return part, tuple(column.strip() for column in columns.split("+") if column.strip())


@dataclass(slots=True)
class View:
    """A row under the names of ``PARTS``.

    Args:
        values: By part, or by the file's own name where that is not known.
        origin: The file's names of each.
        named: Parts whose columns the user named.
        doubled: Names of ``values`` that are a second column of a known part.
        used: Names of ``values`` that were read.
        there: Names of ``values`` that hold something.
        plain: The question and the answer, when no other part is known.
    """

    values: dict[str, Any]
    origin: dict[str, tuple[str, ...]]
    named: frozenset[str] = frozenset()
    doubled: frozenset[str] = frozenset()
    used: set[str] = field(default_factory=set)
    there: set[str] = field(default_factory=set)
    plain: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        self.there = {name for name, value in self.values.items() if filled(value)}

    def has(self, name: str) -> bool:
        """Whether a part holds something."""
        return name in self.there

    def take(self, name: str) -> Any:
        """The value of a part, which counts as read."""
        self.used.add(name)
        return self.values.get(name)

    def first(self, names: tuple[str, ...]) -> str | None:
        """The first of some parts that holds something."""
        there = self.there
        for name in names:
            if name in there:
                return name
        return None

    def called(self, name: str) -> str:
        """What the file calls a part."""
        return "+".join(map(str, self.origin.get(name, (name,))))

    def said(self, problem: str) -> str:
        """A problem ``part: reason`` under the file's own name."""
        part, mark, reason = problem.partition(": ")
        return f"{self.called(part)}: {reason}" if mark and part in self.origin else problem


def filled(value: Any) -> bool:
    """Whether a cell holds something."""
    return value is not None and value != "" and value != [] and value != {}


def view_of(row: dict[str, Any], columns: Columns) -> View:
    """A row under the names of its parts.

    Raises:
        RowError: If a column that the user named is not there.
    """
    if any(mark in row for mark in MARKS) and not columns.given():
        row = as_pair(row)
    plan = _plan(tuple(row), columns)
    if plan.shared and type(row[plan.plain[0]]) is type(row[plan.plain[1]]) is str:
        return plan.shared
    if plan.as_it_is:
        return View(row, plan.origin, plain=plan.plain)
    values: dict[str, Any] = {}
    for name, origins in plan.origin.items():
        if name == "choices" and plan.letters:
            values[name] = {letter: row[column] for letter, column in plan.letters if filled(row[column])}
        elif len(origins) == 1:
            values[name] = row[origins[0]]
        else:
            parts = [text_of(row[column], column) for column in origins if filled(row[column])]
            values[name] = "\n".join(parts) or None
    return View(values, plan.origin, plan.named, plan.doubled)


@dataclass(frozen=True)
class _Plan:
    origin: dict[str, tuple[str, ...]]
    named: frozenset[str]
    doubled: frozenset[str]
    letters: tuple[tuple[str, str], ...]
    as_it_is: bool
    plain: tuple[str, str] | None
    shared: View | None  # of all rows that are a question and an answer and nothing else; it holds no values


@lru_cache(maxsize=1024)
def _plan(names: tuple[str, ...], columns: Columns) -> _Plan:
    given = columns.given()
    for part, chosen in given.items():
        for column in chosen:
            if column not in names:
                raise RowError(f"{column}: there is no such column for {part}; there are {', '.join(map(str, names))}")
    origin: dict[str, tuple[str, ...]] = dict(given)
    taken = {column for chosen in given.values() for column in chosen}
    shut = {name for kind in _KINDS for name in kind if any(part in given for part in kind)}
    shut |= {"answer"} & given.keys() and {"chosen"} - given.keys()
    letters = () if "choices" in given or "choices" in names or "options" in names else _letters(names)
    if letters:
        origin["choices"] = tuple(column for _, column in letters)
        taken |= set(origin["choices"])
    doubled = set()
    # a column that already has a part's own name goes first
    for column in sorted((name for name in names if name not in taken), key=lambda name: name not in PARTS):
        part = _CANONICAL.get(_plain(column))
        if part is None:
            origin[column] = (column,)
        elif part in shut or (part in given and part not in shut):
            origin[f"{column} (not named)"] = (column,)
        elif part in origin:
            origin[f"{column} (second)"] = (column,)
            doubled.add(f"{column} (second)")
        else:
            origin[part] = (column,)
    as_it_is = not given and not letters and all(origin.get(name) == (name,) for name in names)
    known = [name for name in origin if name in PARTS]
    plain = None
    if as_it_is and len(known) == 2:
        question, answer = sorted(known, key=lambda name: name in ANSWERS)
        plain = (question, answer) if question in QUESTIONS and answer in ANSWERS else None
    shared = View({}, origin, plain=plain, used=set(plain)) if plain and len(names) == 2 else None
    return _Plan(origin, frozenset(given), frozenset(doubled), letters, as_it_is, plain, shared)


def _plain(name: Any) -> str:
    return re.sub(r"[\s\-]+", "_", str(name).strip().lower().lstrip("\ufeff"))


def _letters(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Columns that each hold one option, with their letters."""
    found: dict[str, str] = {}
    plain = {str(name).strip().upper(): name for name in names}
    if "A" in plain and "B" in plain:
        for letter in LETTERS:
            if letter not in plain:
                break
            found[letter] = plain[letter]
        return tuple(found.items())
    marks = {match[1]: name for name in names if (match := _OPTION.fullmatch(_plain(name)))}
    if len(marks) < 2:
        return ()
    numbers = sorted(int(mark) for mark in marks if mark.isdigit())
    for mark, name in marks.items():
        found[LETTERS[int(mark) - numbers[0]] if mark.isdigit() else mark.upper()] = name
    return tuple(sorted(found.items()))
