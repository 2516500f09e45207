"""The knobs of a train.sh: which there are, what they may hold, what was set."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from common.algorithms import folder_of
from common.data.order import MARKS
from common.files import ROOT
from common.preference_losses import ANSWER_LOSSES, PAIR_LOSSES
from common.preflight.findings import Finding, Problem

if TYPE_CHECKING:
    from common.plan.fit import Fit
    from common.preflight.launch_data import LaunchData
    from common.preflight.model import ModelInfo

AUTO = "auto"
SUPERVISED = ("sft", "dpo", "reward_model")  # algorithms that learn from answers in the data and generate none
BLOCK = re.compile(r"^# =+ edit here =+\n(.*?)^# =+ nothing to edit", re.DOTALL | re.MULTILINE)
# NAME="${NAME:-default}", or what a person may write in its place: NAME="value", NAME='value', NAME=value
BLOCK_LINE = re.compile(
    r"""^(?P<name>[A-Z][A-Z0-9_]*)=(?:"\$\{(?P=name):-(?P<default>[^}]*)\}"|(?P<literal>"[^"]*"|'[^']*'|[^\s#]*))""",
    re.MULTILINE,
)
WHOLE, DECIMAL = r"[0-9]+", r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
COMMAND_LINE = re.compile(r'^ +\+?([\w.]+)="\$\{([A-Z_]+)\}"', re.MULTILINE)


@dataclass(frozen=True)
class Rule:
    """What a knob may hold.

    Args:
        kind: ``int``, ``float``, ``choice`` or ``text``.
        low: Smallest number allowed.
        high: Largest number allowed.
        choices: Words allowed.
        auto: Whether ``auto`` is allowed.
        above: The number must be larger than ``low``, not equal to it.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    auto: bool = False
    above: bool = False


def _count(auto: bool = True, low: int = 1) -> Rule:
    return Rule("int", low=low, auto=auto)


SWITCH = ("true", "false")
NOTIFY = ("NOTIFY_URLS", "NOTIFY_LEVEL")  # of the environment only: knobs are written down
# verl/experimental/agent_loop/tool_parser.py
TOOL_FORMATS = ("hermes", "gpt-oss", "qwen3_coder", "glm", "seed", "minimax", "kimi", "deepseek_v4", "gemma4")
RULES: dict[str, Rule] = {
    "DATA_FORM": Rule("choice", choices=("conversations", "text")),
    "DATA_ORDER": Rule("choice", choices=("shuffled", *MARKS)),
    "MAX_PROMPT_LENGTH": _count(),
    "MAX_RESPONSE_LENGTH": _count(),
    "MAX_LENGTH": _count(low=2),
    "BATCH_SIZE": _count(),
    "MINI_BATCH_SIZE": _count(),
    "TOKENS_PER_GPU": _count(),
    "LEARNING_RATE": Rule("float", low=0, auto=True, above=True),
    "OPTIMIZER": Rule("choice", choices=("adamw", "adamw_8bit", "muon")),
    "LR_SCHEDULER": Rule("choice", choices=("constant", "linear", "cosine", "wsd", "plateau")),
    "WARMUP_RATIO": Rule("float", low=0, high=1),
    "TOTAL_EPOCHS": _count(),
    "TOTAL_STEPS": _count(),
    "LORA_RANK": _count(auto=False, low=0),
    "LORA_ALPHA": _count(),
    "EARLY_STOP_PATIENCE": _count(auto=False, low=0),
    "SEED": _count(auto=False, low=0),
    "VARIANT": Rule("choice", choices=tuple(sorted(path.stem for path in ROOT.glob("*/variants/*.yaml")))),
    "ROLLOUT_N": _count(auto=False),
    "TEMPERATURE": Rule("float", low=0, above=True),
    "KL_LOSS_COEF": Rule("float", low=0, auto=True),
    "CLIP_RATIO_LOW": Rule("float", low=0, high=1, auto=True, above=True),
    "CLIP_RATIO_HIGH": Rule("float", low=0, auto=True, above=True),
    "OVERLONG_BUFFER": _count(),
    "SELF_PLAY_ROUNDS": _count(auto=False),
    "HARVEST_PAIRS": Rule("choice", choices=SWITCH),
    "PAIR_MARGIN": Rule("float", low=0),
    "PREFERENCE_LEARNING_RATE": Rule("float", low=0, auto=True, above=True),
    "TOOL_FORMAT": Rule("choice", choices=TOOL_FORMATS),
    "TOOL_TIMEOUT": Rule("float", low=0, above=True),
    "ENV_TIMEOUT": Rule("float", low=0, above=True),
    "MAX_TURNS": _count(auto=False),
    "MAX_TOOL_RESPONSE_LENGTH": _count(auto=False),
    "REWARD": Rule("choice", choices=("function", "model", "api")),
    "REWARD_MODEL_GPUS": _count(auto=False, low=0),
    "ON_FAILURE": Rule("choice", choices=("stop", "default")),
    "GAMMA": Rule("float", low=0, high=1),
    "LAM": Rule("float", low=0, high=1),
    "CLIP_RATIO": Rule("float", low=0, above=True),
    "PPO_EPOCHS": _count(auto=False),
    "KL_IN": Rule("choice", choices=("reward", "loss")),
    "KL_COEF": Rule("float", low=0, auto=True),
    "KL_TARGET": Rule("float", low=0),
    "KL_HORIZON": _count(),
    "ENTROPY_COEF": Rule("float", low=0),
    "CRITIC_LR": Rule("float", low=0, auto=True, above=True),
    "CRITIC_WARMUP": _count(auto=False, low=0),
    "VALUE_LOSS_COEF": Rule("float", low=0, above=True),
    "VALUE_CLIP": Rule("float", low=0, above=True),
    "MAX_GRAD_NORM": Rule("float", low=0, above=True),
    "LOSS_TYPE": Rule("choice", choices=(*PAIR_LOSSES, *ANSWER_LOSSES)),
    "BETA": Rule("float", low=0, above=True),
    "LABEL_SMOOTHING": Rule("float", low=0, high=0.499),
    "SIMPO_GAMMA": Rule("float", low=0),
    "NLL_COEF": Rule("float", low=0),
    "CENTER_COEF": Rule("float", low=0),
    "MARGIN": Rule("choice", choices=SWITCH, auto=True),
    "DESIRABLE_WEIGHT": Rule("float", low=0, auto=True, above=True),
    "UNDESIRABLE_WEIGHT": Rule("float", low=0, auto=True, above=True),
    "LENGTH_NORMALIZE": Rule("choice", choices=SWITCH),
    "REFERENCE": Rule("choice", choices=("model", "adapter", "precompute", "none"), auto=True),
    "DEVICE": Rule("choice", choices=("cuda", "cpu"), auto=True),
    "N_GPUS": _count(),
    "NNODES": _count(auto=False),
    "THINKING": Rule("choice", choices=("true", "false"), auto=True),
    "ATTENTION": Rule("choice", choices=("flash_attention_2", "sdpa_varlen", "sdpa", "eager"), auto=True),
    "TRAIN_ENGINE": Rule("choice", choices=("fsdp2", "fsdp", "megatron")),
    "FUSED_KERNELS": Rule("choice", choices=SWITCH, auto=True),
    "SEQUENCE_PARALLEL": _count(),
    "OFFLOAD": Rule("choice", choices=(*SWITCH, "full"), auto=True),
    "ROLLOUT_ENGINE": Rule("choice", choices=("vllm", "sglang", "hf"), auto=True),
    "TENSOR_PARALLEL_SIZE": _count(),
    "TRAINER_MODE": Rule("choice", choices=("sync", "colocate", "separate")),
    "ROLLOUT_GPUS": _count(),
    "MAX_OFF_POLICY_THRESHOLD": _count(auto=False),
    "MAX_OFF_POLICY_STRATEGY": Rule("choice", choices=("drop", "wait")),
    "GPU_MEMORY_UTILIZATION": Rule("float", low=0, high=1, auto=True, above=True),
    "SAVE_FREQ": _count(),
    "KEEP_CHECKPOINTS": _count(auto=False),
    "TEST_FREQ": _count(),
    "PROMETHEUS": Rule("choice", choices=SWITCH),
    "USE_WANDB": Rule("choice", choices=SWITCH, auto=True),
}


@dataclass
class Knobs:
    """Knobs of one algorithm, with what was detected about them.

    Args:
        algorithm: Folder of the train.sh.
        values: Knob -> value; starts as set by the user and ends resolved.
        arguments: ``key=value`` arguments for verl.
        reasons: Knob -> why ``auto`` became this value.
        given: Knob -> value, of those that the environment sets to something else than the block does.
        errors: What must be fixed; all of them are shown at once.
        warnings: What to look at.
        reward_kwargs: Parameters of the reward function that follow from the knobs.
        facts: What was looked at and is in order: what, value, note.
        model: The model, None when it was not found.
        plan: The memory plan, None where there is none.
        data: The files to train and validate on, None before they were looked for.
        cores: CPU cores of a node.
        resume_from: The ``global_step_N`` folder to resume from, None for a run from the start.
        registered: Key of verl -> names that the file of ``ALGORITHM_PATH`` adds to verl's own.
    """

    algorithm: str
    values: dict[str, str]
    arguments: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    reward_kwargs: dict[str, str] = field(default_factory=dict)
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    model: ModelInfo | None = None
    plan: Fit | None = None
    data: LaunchData | None = None
    cores: int = 1
    resume_from: Path | None = None
    registered: dict[str, list[str]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    @property
    def data_form(self) -> str:
        """What the rows of the data are, one of ``common.data.rows.ALGORITHMS``."""
        if self.algorithm not in ("dpo", "reward_model"):
            return "text" if self.values.get("DATA_FORM") == "text" else self.algorithm
        return "kto" if self.values.get("LOSS_TYPE") in ANSWER_LOSSES else "dpo"

    def error(self, knob: str, problem: str | Problem, fix: str = "", value: object = None) -> None:
        """Note what must be fixed.

        Args:
            knob: Knob, key or variable, "" for none.
            problem: What is wrong.
            fix: What to do.
            value: Of something that is not a knob, or as the user wrote it; by default the knob's.
        """
        self.errors.append(self._finding(knob, problem, fix, value))

    def warn(self, knob: str, problem: str | Problem, fix: str = "", value: object = None) -> None:
        """Note what to look at; arguments as those of `error`."""
        self.warnings.append(self._finding(knob, problem, fix, value))

    def _finding(self, knob: str, problem: str | Problem, fix: str, value: object) -> Finding:
        if isinstance(problem, Problem):
            problem, fix = problem
        return Finding(knob, self.values.get(knob, "") if value is None else value, problem, fix)

    def is_auto(self, name: str) -> bool:
        """Whether the knob exists and is still to be chosen."""
        return self.values.get(name) == AUTO

    def resolve(self, name: str, value: object, reason: str) -> None:
        """Choose the value of a knob that is ``auto``; what the user set stays as it is."""
        if self.is_auto(name):
            self.values[name] = str(value)
            self.reasons[name] = reason

    def number(self, name: str) -> int:
        """A whole-number knob; 0 when it is not resolved or was refused (its error is on the list)."""
        text = self.values.get(name, "")
        return int(text) if re.fullmatch(WHOLE, text) else 0

    def decimal(self, name: str) -> float | None:
        """A number knob; None when it is not there, not resolved, or was refused (its error is on the list)."""
        return _decimal(self.values.get(name, ""))


def read_block(script: Path) -> dict[str, str]:
    """Return the knobs of a train.sh and their defaults, in the order of its config block."""
    block = BLOCK.search(script.read_text(encoding="utf-8")).group(1)
    return {
        match["name"]: match["literal"].strip("\"'") if match["default"] is None else match["default"]
        for match in BLOCK_LINE.finditer(block)
    }


def knobs_of_keys(script: Path) -> dict[str, str]:
    """Return which knob of a train.sh sets which key of verl; derived variables are left out."""
    block = read_block(script)
    found = COMMAND_LINE.findall(script.read_text(encoding="utf-8"))
    behind = {"trainer.total_epochs": "TOTAL_EPOCHS"}  # knobs that reach verl as another variable
    behind |= {key: "LR_SCHEDULER" for key, name in found if name == "VERL_LR_SCHEDULER" and "critic" not in key}
    return {key: name for key, name in found if name in block} | behind


def script_of(algorithm: str) -> Path:
    """The train.sh of an algorithm."""
    return ROOT / folder_of(algorithm) / "train.sh"


def read_knobs(algorithm: str, environment: Mapping[str, str] | None = None, arguments: Sequence[str] = ()) -> Knobs:
    """Read the knobs of an algorithm as they are set, and check each on its own.

    Args:
        algorithm: Folder of the train.sh.
        environment: Where train.sh has exported the knobs; by default the process's.
        arguments: ``key=value`` arguments for verl; one for a key that a knob sets counts as that knob, so that
            batch sizes, steps and the like still fit together.

    Raises:
        ValueError: If there is no such algorithm.
    """
    script = script_of(algorithm)
    if not re.fullmatch(r"[a-z_]+", algorithm) or not script.is_file():
        known = sorted(path.parent.name for path in (*ROOT.glob("*/train.sh"), *ROOT.glob("*/*/train.sh")))
        raise ValueError(f"no algorithm {algorithm!r}; there are: {', '.join(known)}")
    environment = os.environ if environment is None else environment
    defaults = read_block(script)
    values = {name: environment.get(name) or default for name, default in defaults.items()}
    given = {name: value for name, value in values.items() if value != defaults[name]}
    knobs = Knobs(algorithm, values, arguments=tuple(arguments), given=given)
    owners = knobs_of_keys(script)
    for key, _, value in (argument.lstrip("+").partition("=") for argument in arguments):
        if owners.get(key) in RULES:
            knobs.values[owners[key]] = value
    for name, value in knobs.values.items():
        problem = check_value(name, value)
        if problem:
            knobs.error(name, problem, value=value)
    for name, near in misspelt(environment, defaults):
        knobs.warn("", f"{name} is set but is not a knob", f"did you mean {near}?")
    return knobs


def check_value(name: str, value: str) -> Problem | None:
    """Return what is wrong with the value of one knob, or None."""
    rule = RULES.get(name)
    if rule is None or (rule.auto and value == AUTO):
        return None
    or_auto, fix = " or auto" if rule.auto else "", ""
    if rule.kind == "choice":
        ok, expected = value in rule.choices, " | ".join(rule.choices)
        near = difflib.get_close_matches(value, rule.choices, n=1)
        fix = f"did you mean {near[0]}?" if near else ""
    else:
        ok, expected = _number_ok(rule, value), _number_words(rule)
    return None if ok else Problem(f"must be {expected}{or_auto}", fix)


def _decimal(text: str) -> float | None:
    """A finite number, None for any other text."""
    number = float(text) if re.fullmatch(DECIMAL, text) else math.inf
    return None if math.isinf(number) else number


def _number_ok(rule: Rule, text: str) -> bool:
    number = _decimal(text)
    if number is None or (rule.kind == "int" and not re.fullmatch(WHOLE, text)):
        return False
    low_ok = rule.low is None or (number > rule.low if rule.above else number >= rule.low)
    return low_ok and (rule.high is None or number <= rule.high)


def _number_words(rule: Rule) -> str:
    kind = "a whole number" if rule.kind == "int" else "a number"
    limits = []
    if rule.low is not None:
        limits.append(f"{'above' if rule.above else 'from'} {rule.low:g}")
    if rule.high is not None:
        limits.append(f"up to {rule.high:g}")
    return " ".join([kind, *limits])


def misspelt(environment: Mapping[str, str], known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each environment variable that looks like a knob with a slip in it, and that knob."""
    found = []
    others = set(RULES) | {"VERBOSE", "DRY_RUN", "MASTER_ADDR", "MASTER_PORT", "OUTPUT_DIR", "OUTPUTS_DIR", *NOTIFY}
    for name in environment:
        if name in known or name in others or not re.fullmatch(r"[A-Z][A-Z_]{4,}", name):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.88)
        if near:
            found.append((name, near[0]))
    return found
