"""The method of an RL run: variant, advantage estimator, policy loss, and the knobs that they set."""

from __future__ import annotations

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Any

from common.preflight.findings import Problem
from common.preflight.knobs import ROOT, Knobs

# What a knob that is auto becomes where there is no variant to say it.
DEFAULTS: dict[str, dict[str, str]] = {
    "gspo": {
        "ADV_ESTIMATOR": "grpo",
        "POLICY_LOSS": "gspo",
        "KL_LOSS_COEF": "0.001",
        "CLIP_RATIO_LOW": "3e-4",
        "CLIP_RATIO_HIGH": "4e-4",
    },
}
PAPERS = {"gspo": "GSPO, arXiv 2507.18071"}
# Estimators that need no group of answers to compare with; the others are 0 or undefined for a group of one.
WITHOUT_GROUP = ("reinforce_plus_plus",)
# They need what verl's v1 trainer does not hand them (`PPOTrainer._compute_advantage`), or a critic.
NOT_HERE = ("gae", "gdpo", "optimal_token_baseline", "tir_optimal_token_baseline")
OVERLONG_SHARE = 5  # DAPO's buffer is 4096 of 20480 tokens


def resolve_method(knobs: Knobs) -> None:
    """Give the knobs that are ``auto`` the values of the variant; needs the lengths to be resolved."""
    if "ADV_ESTIMATOR" not in knobs:
        return
    values, source = method_knobs(knobs)
    for name, value in values.items():
        if name not in knobs or value in knobs:  # a knob that equals another one waits until that is resolved
            continue
        knobs.resolve(name, value, source)
    if "OVERLONG_BUFFER" in knobs:
        length = knobs.number("MAX_RESPONSE_LENGTH")
        if knobs["VARIANT"] != "dapo" and not knobs.is_auto("OVERLONG_BUFFER"):
            knobs.error("OVERLONG_BUFFER", "only VARIANT=dapo has this penalty", "leave it auto")
        only = "" if knobs["VARIANT"] == "dapo" else "; only VARIANT=dapo has this penalty"
        knobs.resolve("OVERLONG_BUFFER", max(1, length // OVERLONG_SHARE), f"a fifth of MAX_RESPONSE_LENGTH{only}")


def method_knobs(knobs: Knobs) -> tuple[dict[str, str], str]:
    """Knobs that the method sets, and where they come from in words."""
    if "VARIANT" in knobs:
        return variant_knobs(knobs.algorithm, knobs["VARIANT"]), f"VARIANT={knobs['VARIANT']}"
    return DEFAULTS.get(knobs.algorithm, {}), PAPERS.get(knobs.algorithm, knobs.algorithm)


def variant_knobs(algorithm: str, variant: str) -> dict[str, str]:
    """The knobs in a variant's file."""
    return {name: str(value) for name, value in read_variant(algorithm, variant).get("knobs", {}).items()}


def read_variant(algorithm: str, variant: str) -> dict[str, Any]:
    """A variant's file; empty for a name without one (its error is on the list)."""
    import yaml

    path = ROOT / algorithm / "variants" / f"{variant}.yaml"
    if not re.fullmatch(r"\w+", variant) or not path.is_file():
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def group_metric(knobs: Knobs) -> str | None:
    """The key by which the variant filters groups, where the reward function has to give one."""
    if "VARIANT" not in knobs or any("filter_groups." in argument for argument in knobs.arguments):
        return None
    groups = read_variant(knobs.algorithm, knobs["VARIANT"]).get("algorithm", {}).get("filter_groups", {})
    metric = groups.get("metric") if groups.get("enable") else None
    return None if metric == "reward" else metric


def check_method(knobs: Knobs, own: dict[str, list[str]]) -> None:
    """Names that are registered, clip bounds in order, a group where one is needed.

    Args:
        knobs: With the method resolved.
        own: ``estimators`` and ``losses`` that the user's file registers.
    """
    if "ADV_ESTIMATOR" not in knobs:
        return
    known = {
        "ADV_ESTIMATOR": known_estimators() + own["estimators"],
        "POLICY_LOSS": known_losses() + own["losses"],
    }
    for name, names in known.items():
        if knobs[name] not in names and not knobs.is_auto(name):
            knobs.error(name, unknown_name(knobs[name], names))
    check_group(knobs, own["estimators"])
    low, high = knobs.decimal("CLIP_RATIO_LOW"), knobs.decimal("CLIP_RATIO_HIGH")
    if low is None or high is None:  # said already, or a variant with a slip in its name
        return
    if low > high and knobs["POLICY_LOSS"] != "cispo":  # CISPO has no lower bound
        knobs.error(
            "CLIP_RATIO_LOW",
            f"is above CLIP_RATIO_HIGH={knobs['CLIP_RATIO_HIGH']}",
            "the bounds are the wrong way round",
        )


def check_group(knobs: Knobs, own: list[str]) -> None:
    """A group of one answer has nothing to compare with; what an estimator of the user's needs is his business."""
    estimator = knobs["ADV_ESTIMATOR"]
    if knobs.number("ROLLOUT_N") == 1 and estimator not in (*WITHOUT_GROUP, *own, "auto"):
        variant = " (or VARIANT=reinforce_pp, which needs no group)" if "VARIANT" in knobs else ""
        knobs.error(
            "ROLLOUT_N",
            f"ADV_ESTIMATOR={estimator} compares the answers to one prompt",
            f"set ROLLOUT_N=2 or more{variant}",
            value="1",
        )


def unknown_name(name: str, known: list[str]) -> Problem:
    """What to say of an estimator or loss that nobody has registered."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    return Problem("not registered", f"{hint}known: {', '.join(known)}. ALGORITHM_PATH adds your own")


def known_estimators() -> list[str]:
    """Advantage estimators of the installed verl that need no critic, read without importing it."""
    names = re.findall(r'^    [A-Z_]+ = "(\w+)"$', _core_algos(), re.MULTILINE)
    return [name for name in names if name not in NOT_HERE]


def known_losses() -> list[str]:
    """Policy losses of the installed verl, read without importing it."""
    return re.findall(r'^@register_policy_loss\("(\w+)"\)', _core_algos(), re.MULTILINE)


def _core_algos() -> str:
    verl = importlib.util.find_spec("verl")
    return (Path(verl.origin).parent / "trainer" / "ppo" / "core_algos.py").read_text(encoding="utf-8")
