"""From a request to what a train.sh is started with: its folder, environment variables and arguments."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.preflight.extensions import find_path
from common.preflight.knobs import RULES, SUPERVISED, check_value, read_block
from training_platform.queue.request import JobRequest, Value

FORBIDDEN = {  # knobs that a field of the request sets
    "EXPERIMENT_NAME": "name",
    "RESUME": "resume_from",
    "NNODES": "nnodes",
}
LEAST_CONTEXT = 32  # tokens
_COMMENT = re.compile(r'^(?P<name>[A-Z][A-Z0-9_]*)=(?:"[^"]*"|\'[^\']*\'|[^\s#]*)\s*#\s*(?P<text>.*)$', re.MULTILINE)
_KL = {"grpo": "KL_LOSS_COEF", "gspo": "KL_LOSS_COEF", "ppo": "KL_COEF"}


class RefusedRequestError(ValueError):
    """A request that cannot become a job.

    Args:
        fields: Field and what is wrong with it, all of them.
    """

    def __init__(self, fields: Iterable[tuple[str, str]]):
        self.fields = list(fields)
        super().__init__("; ".join(f"{name}: {text}" for name, text in self.fields))


@dataclass
class Translation:
    """What a train.sh is started with.

    Args:
        algorithm: Its folder.
        environment: Knobs that the request sets.
        arguments: For verl.
        warnings: What to know, none of it a reason to refuse.
    """

    algorithm: str
    environment: dict[str, str]
    arguments: list[str]
    warnings: list[str] = field(default_factory=list)


def algorithms(kit: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Each name that a request may give, with the folder of its train.sh and the knobs that it means."""
    folders = sorted(script.parent.name for script in kit.glob("*/train.sh"))
    found = {name: (name, {}) for name in folders}
    for variant in sorted(kit.glob("*/variants/*.yaml")):
        found.setdefault(variant.stem, (variant.parts[-3], {"VARIANT": variant.stem}))
    return found


def comments(script: Path) -> dict[str, str]:
    """What the block of a train.sh says of each knob."""
    return {match["name"]: match["text"].strip() for match in _COMMENT.finditer(script.read_text(encoding="utf-8"))}


def schema(kit: Path, algorithm: str) -> dict[str, object]:
    """The knobs of an algorithm as JSON Schema, for forms and editors."""
    folder, meant = algorithms(kit)[algorithm]
    script = kit / folder / "train.sh"
    said = comments(script)
    properties = {}
    for name, default in read_block(script).items():
        if name not in FORBIDDEN:
            properties[name] = {**_type(name), "default": meant.get(name, default), "description": said.get(name, "")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": algorithm,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _type(name: str) -> dict[str, object]:
    rule = RULES.get(name)
    if rule is None or rule.kind == "text":
        return {"type": "string"}
    if rule.kind == "choice":
        return {"enum": [*(["auto"] if rule.auto else []), *rule.choices]}
    number: dict[str, object] = {"type": "integer" if rule.kind == "int" else "number"}
    if rule.low is not None:
        number["exclusiveMinimum" if rule.above else "minimum"] = rule.low
    if rule.high is not None:
        number["maximum"] = rule.high
    return {"anyOf": [{"const": "auto"}, number]} if rule.auto else number


def translate(request: JobRequest, kit: Path, outputs: Path, several: bool = False) -> Translation:
    """Turns a request into knobs by the table of docs/platform.md.

    Args:
        request: What is asked for.
        kit: The folder with the algorithms' folders.
        outputs: The folder with the runs, for `resume_from`.
        several: Whether a job may have several machines: those of a Ray cluster.

    Raises:
        RefusedRequestError: If a field or knob is unknown to the algorithm, out of its range, or set twice.
    """
    known = algorithms(kit)
    if request.algorithm not in known:
        message = f"{request.algorithm!r}: there are {', '.join(known)}" + did_you_mean(request.algorithm, known)
        raise RefusedRequestError([("algorithm", message)])
    folder, meant = known[request.algorithm]
    block = read_block(kit / folder / "train.sh")
    asked = _Asked(folder, block)
    asked.take_fields(request)
    asked.take_knobs(request.knobs)
    for name, value in meant.items():
        asked.put("algorithm", name, value)
    if request.resume_from is not None:
        asked.put("resume_from", "RESUME", _resume(request.resume_from, outputs))
    asked.take_context(request.context_length)
    if request.nnodes != 1:
        asked.take_machines(request.nnodes, several)
    for number, text in enumerate(request.overrides):
        if text.startswith("-") or ("=" not in text and not text.startswith("~")):
            asked.refuse(f"overrides.{number}", f"{text!r}: expected key=value, e.g. trainer.total_epochs=1")
    if asked.wrong:
        raise RefusedRequestError(asked.wrong)
    warnings = asked.warnings + _missing_paths(asked.values)
    return Translation(folder, asked.values, list(request.overrides), warnings)


class _Asked:
    """Knobs as they are collected, with what is wrong with them."""

    def __init__(self, algorithm: str, block: Mapping[str, str]):
        self.algorithm = algorithm
        self.block = block
        self.values: dict[str, str] = {}
        self.sources: dict[str, str] = {}
        self.wrong: list[tuple[str, str]] = []
        self.warnings: list[str] = []

    def refuse(self, name: str, problem: str) -> None:
        self.wrong.append((name, problem))

    def put(self, source: str, knob: str, value: Value) -> None:
        """Sets a knob, once: two fields that set the same one differently are a mistake that nobody can resolve."""
        text = as_text(value)
        if knob not in self.block:
            self.refuse(source, f"{self.algorithm} has no {knob}")
            return
        if self.values.get(knob, text) != text:
            self.refuse(source, f"sets {knob}={text}, and {self.sources[knob]} sets {knob}={self.values[knob]}")
            return
        problem = check_value(knob, text)
        if problem:
            self.refuse(source, f"{knob}={text}: {problem.text}" + (f"; {problem.fix}" if problem.fix else ""))
            return
        self.values[knob], self.sources[knob] = text, source

    def take_fields(self, request: JobRequest) -> None:
        """The fields that each set one knob."""
        kl = _KL.get(self.algorithm, "KL_LOSS_COEF")
        table = {
            "model_path": "MODEL_PATH",
            "train_data_path": "TRAIN_DATA",
            "eval_data_path": "VAL_DATA",
            "learning_rate": "LEARNING_RATE",
            "batch_size": "BATCH_SIZE",
            "num_epochs": "TOTAL_EPOCHS",
            "rollout_n": "ROLLOUT_N",
            "kl_coef": kl,
        }
        for name, knob in table.items():
            value = getattr(request, name)
            if value is not None:
                self.put(name, knob, ",".join(value) if isinstance(value, list) else value)
        if request.num_gpus:
            self.put("num_gpus", "N_GPUS", request.num_gpus)
        elif request.num_gpus == 0:
            self.put("num_gpus", "DEVICE", "cpu")

    def take_knobs(self, knobs: Mapping[str, Value]) -> None:
        """The knobs that are named as they are."""
        for name, value in knobs.items():
            source = f"knobs.{name}"
            if name in FORBIDDEN:
                self.refuse(source, f"use the field {FORBIDDEN[name]}")
            elif name not in self.block:
                self.refuse(source, f"{self.algorithm} has no such knob" + did_you_mean(name, self.block))
            else:
                self.put(source, name, value)

    def take_machines(self, count: int, several: bool) -> None:
        """How many machines; each has N_GPUS."""
        if not several or count < 1:
            self.refuse("nnodes", f"{count}: the platform starts jobs on its own machine; 1")
        elif self.algorithm in SUPERVISED:
            self.refuse("nnodes", f"{count}: torchrun needs its launcher on each machine, see docs/cluster.md; 1")
        elif not self.values.get("N_GPUS", "").isdecimal():
            self.refuse("num_gpus", "say how many GPUs of each machine; on the CPU set knobs.N_GPUS")
        else:
            self.put("nnodes", "NNODES", count)

    def take_context(self, length: int | None) -> None:
        """Tokens of prompt and answer together; in RL the prompt gets a third of them where no knob divides them."""
        if length is None:
            return
        if self.algorithm in SUPERVISED:
            self.put("context_length", "MAX_LENGTH", length)
            return
        prompt, answer = (int(self.values.get(f"MAX_{side}_LENGTH", "0") or 0) for side in ("PROMPT", "RESPONSE"))
        if length < LEAST_CONTEXT or length - max(prompt, answer) < LEAST_CONTEXT // 2:
            self.refuse("context_length", f"{length}: too few tokens for a prompt and an answer")
            return
        if not prompt and not answer:
            prompt = length // 3
            self.warnings.append(
                f"context_length {length} became MAX_PROMPT_LENGTH={prompt} and MAX_RESPONSE_LENGTH={length - prompt}; "
                "set one of these knobs to divide it otherwise"
            )
        self.put("context_length", "MAX_PROMPT_LENGTH", prompt or length - answer)
        self.put("context_length", "MAX_RESPONSE_LENGTH", answer or length - prompt)


def as_text(value: Value) -> str:
    """A value as a train.sh takes it.

    >>> as_text(True), as_text(1e-6), as_text(8)
    ('true', '1e-06', '8')
    """
    return json.dumps(value) if isinstance(value, bool) else str(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a sentence, "" when none is near."""
    folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return f"; did you mean {folded[near[0]]}?" if near else ""


def _resume(text: str, outputs: Path) -> str:
    """A run's name is looked for in the outputs; anything else is a path."""
    if re.fullmatch(r"\w[\w.-]{0,99}", text) and (outputs / text).is_dir():
        return str(outputs / text)
    return text


def _missing_paths(values: Mapping[str, str]) -> list[str]:
    """Files that are not there yet; the preflight refuses them when the job starts."""
    found = []
    for knob in ("TRAIN_DATA", "VAL_DATA"):
        for path in values.get(knob, "").split(","):
            if path and path != "auto" and find_path(path) is None:
                found.append(f"{knob}={path}: no such file now; the job fails when it starts without it")
    return found
