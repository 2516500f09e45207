"""Which reward function scores which row."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.answers import accepted
from common.answers.letters import only_letters
from common.answers.number import read_number
from common.evaluation.questions import Question
from common.evaluation.settings import EvaluationError
from common.rewards.bench.trial import FACE, find_target
from common.rewards.choice import truth_letters
from common.rewards.code_tests import is_tests
from common.rewards.compose import NEEDS_NO_TRUTH, REWARDS, route
from common.rewards.structured import kind_of
from common.run_dir import read_run
from common.small_files import read_yaml

OPTION = re.compile(r"(?:^|[\s(])([A-J])[.):、]", re.MULTILINE)
# What mathematics is written with, and single letters as variables.
FORMULA = re.compile(r"(?:[\d\s.,;+\-−*/^=()\[\]{}<>≤≥|!√π∞°%·×÷±]|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))+(?<![+\-*/^=])")
WORDS = re.compile(r"\b(?:sqrt|pi|sin|cos|tan|log|ln|exp|inf|infinity)\b")
# A range, date, or version; numbers side by side; a letter with digits and no operator (U2, F-16, 3D).
TEXTUAL = re.compile(
    r"^[A-Za-z][A-Za-z0-9]*$|^\s*\d+\s*[-−]\s*\d+|\d/\d+/\d|\d\.\d+\.|^\d+(?:\s+\d+)+$"
    r"|\b[A-Za-z]-?\d+\b(?!\s*[=+*/^])|^\d+\s?[A-Za-z]$"
)
ALIASES = {"exact": "exact_match", "normalized": "normalized_match", "choice": "multiple_choice"}
REASONS_SHOWN = 5


@dataclass(frozen=True)
class Spec:
    """A reward function.

    Args:
        path: Python file.
        name: Function in it.
        parameters: What verl would pass as ``reward_kwargs``, as JSON.
        is_builtin: It is one of ``common.reward_functions``.
    """

    path: str
    name: str
    parameters: str = "{}"
    is_builtin: bool = False

    @property
    def label(self) -> str:
        """How a person calls it."""
        return self.name if self.is_builtin else f"{Path(self.path).name}:{self.name}"

    @property
    def identity(self) -> str:
        """Tells it from other rewards, and from itself with another source."""
        changed = "" if self.is_builtin else Path(self.path).stat().st_mtime_ns
        return f"{self.path}:{self.name}:{self.parameters}:{changed}"

    @property
    def needs_truth(self) -> bool:
        """Whether it cannot do without a ground truth."""
        return self.is_builtin and self.name not in NEEDS_NO_TRUTH


@dataclass
class Rewards:
    """The choice for all rows.

    Args:
        specs: Of each row; None where there is nothing to score it with.
        reasons: What was chosen and why, one line each.
    """

    specs: list[Spec | None] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def labels(self) -> str:
        """The names of all that are used."""
        return ", ".join(dict.fromkeys(spec.label for spec in self.specs if spec))


def builtin(name: str) -> Spec:
    """A reward of ``common.reward_functions``."""
    return Spec(str(FACE), name, is_builtin=True)


def choose(
    questions: Sequence[Question], given: str, parameters: dict[str, Any], run_dir: Path | None, file: Path
) -> Rewards:
    """Choose the reward of every row.

    Args:
        questions: The rows.
        given: ``--reward``: ``auto``, ``none``, a name, ``FILE.py`` or ``FILE.py:NAME``.
        parameters: ``--reward_kwargs``.
        run_dir: Run that the model comes from; its reward is used where it fits.
        file: The input file.

    Raises:
        EvaluationError: If the reward does not exist, or needs a ground truth that no row has.
    """
    if given == "none":
        return Rewards([None] * len(questions), ["not scored (--reward none)"])
    if given != "auto":
        return _given(questions, given, parameters)
    run = _run_reward(run_dir)
    of_run = run is not None and str(file.resolve()) in _data_of(run_dir)
    chosen = [_auto(question, run, of_run) for question in questions]
    counts = Counter((spec.label if spec else "not scored", reason) for spec, reason in chosen)
    reasons = [f"{label} for {count:,} rows: {reason}" for (label, reason), count in counts.most_common(REASONS_SHOWN)]
    return Rewards([spec for spec, _ in chosen], reasons)


def _given(questions: Sequence[Question], given: str, parameters: dict[str, Any]) -> Rewards:
    try:
        target = find_target(ALIASES.get(given, given), parameters)
    except ValueError as error:
        raise EvaluationError(f"{error}, or auto, or none") from error
    spec = Spec(str(target.path), target.name, json.dumps(parameters, sort_keys=True), target.path == FACE)
    specs = [
        None if question.problem or (spec.needs_truth and question.ground_truth is None) else spec
        for question in questions
    ]
    if not any(specs):
        raise EvaluationError(
            f"--reward {given}: no row has a ground truth to compare with; add a column ground_truth, "
            "or leave scores out with --reward none"
        )
    lacking = sum(spec is None and question.problem is None for spec, question in zip(specs, questions, strict=True))
    note = f"; {lacking:,} rows have no ground_truth and get no score" if lacking else ""
    return Rewards(specs, [f"{spec.label} for {len(specs) - specs.count(None):,} rows{note}"])


def _auto(question: Question, run: Spec | None, of_run: bool) -> tuple[Spec | None, str]:
    """The reward of one row, and why."""
    if question.problem:
        return None, "the row cannot be used"
    if run is not None and of_run:
        return run, "the reward of the run"
    if question.ground_truth is None:
        return None, "no ground_truth" + (" (the reference answers are long texts)" if question.reference else "")
    if question.data_source:
        try:
            name = route(question.data_source)
            REWARDS[name](question.data_source, "", question.ground_truth)
            return builtin(name), f"data_source is {question.data_source}"
        except ValueError:
            pass  # no route, or a truth that its reward cannot use
    if run is not None:
        return run, "the reward of the run"
    return _by_truth(question)


def _by_truth(question: Question) -> tuple[Spec | None, str]:
    """What the form of the ground truth suggests."""
    truth = question.ground_truth
    if question.from_reference and "####" in question.reference and read_number(str(truth)) is not None:
        return builtin("gsm8k"), "the reference answers end in #### and a number"
    if described := kind_of(truth):
        return builtin(described), "the ground truth describes the answer"
    if is_tests(truth):
        return builtin("code"), "the ground truth is the tests of a program"
    try:
        texts = [str(one) for one in accepted(truth)]
    except ValueError as error:
        return None, f"the ground truth cannot be compared: {error}"
    if all(is_formula(text) for text in texts):
        return builtin("math"), "the ground truth is a number or a formula"
    if _is_letters(truth, texts, question.prompt):
        return builtin("multiple_choice"), "the ground truth is a letter"
    if not any(char.isalnum() for text in texts for char in text):  # normalized_match leaves punctuation out
        return builtin("exact_match"), "the ground truth is signs alone"
    return builtin("normalized_match"), "the ground truth is a text"


def _is_letters(truth: Any, texts: list[str], prompt: str) -> bool:
    """Tells letters of multiple choice. "AC" may be a word, so its letters must be options of the question."""
    if any(len(text.strip("(). ")) > 1 and only_letters(text, may_explain=False) is None for text in texts):
        return False
    try:
        letters = set().union(*truth_letters(truth))
    except ValueError:
        return False
    options = set(OPTION.findall(prompt))
    return letters <= options or all(len(text.strip("(). ")) == 1 for text in texts)


def is_formula(text: str) -> bool:
    """Tells whether a ground truth is a number, a formula, a tuple or a list of numbers, which `math` compares.

    Times (3:45), dates, ranges (1914-1918), versions (1.2.3), grades (A+) and names (C++) are texts.
    """
    text = text.strip()
    if read_number(text) is not None or "\\" in text or (len(text) > 2 and text[0] == text[-1] == "$"):
        return True
    plain = WORDS.sub("1", text)
    return bool(FORMULA.fullmatch(plain) and any(map(str.isdigit, plain)) and not TEXTUAL.search(text))


def _run_reward(run_dir: Path | None) -> Spec | None:
    """The reward function that a run was trained with, or None."""
    if run_dir is None:
        return None
    config = run_dir / ".hydra" / "config.yaml"
    entry: dict[str, Any] = {}
    if config.is_file():
        entry = _custom_reward(config)
    knobs = read_run(run_dir).get("knobs", {})
    path = entry.get("path") or knobs.get("REWARD_FUNC_PATH") or ""
    name = entry.get("name") or knobs.get("REWARD_FUNC_NAME") or "compute_score"
    if not path or not Path(path).is_file():
        return None
    path = str(Path(path).resolve())
    parameters = json.dumps(entry.get("reward_kwargs") or {}, sort_keys=True)
    return Spec(path, name, parameters, is_builtin=path == str(FACE))


def _custom_reward(config: Path) -> dict[str, Any]:
    """``reward.custom_reward_function`` of a composed config, empty where it has none."""
    try:
        read = read_yaml(config)
    except ValueError as error:
        raise EvaluationError(f"{error}; name the reward with --reward") from error
    for name in ("reward", "custom_reward_function"):
        read = read.get(name) if isinstance(read, dict) else None
    return read if isinstance(read, dict) else {}


def _data_of(run_dir: Path) -> set[str]:
    """Paths of the data files of a run."""
    data = read_run(run_dir).get("data") or {}
    return {str(Path(path).resolve()) for files in data.values() if isinstance(files, list) for path in files}
