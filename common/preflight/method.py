"""The method of an RL run: variant, advantage estimator, policy loss, and the knobs that they set."""

from __future__ import annotations

import re
from typing import Any

from common.preflight.knobs import ROOT, Knobs

# What a knob that is auto becomes where no variant sets it.
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
