"""User-supplied files that extend a run: an algorithm, tools, an adapter to start from."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from common.plan.weights import read_weights
from common.preflight import config_checks
from common.preflight.chat_template import token_lengths
from common.preflight.knobs import ROOT, Knobs
from common.preflight.model import ModelInfo
from common.small_files import read_json_object

ASK = [{"role": "user", "content": "2 + 2?"}]


def find_path(text: str) -> Path | None:
    """Return the absolute path of an existing file or folder: as given from where the user is, else from here."""
    path = Path(text).expanduser()
    for base in (Path(os.environ.get("CALLER_DIR", ".")), ROOT):
        candidate = base / path
        if candidate.exists():
            return candidate.resolve()
    return None


def find_file(knobs: Knobs, name: str) -> Path | None:
    """The file of a knob that may be empty; sets the knob to its absolute path, or says that there is none."""
    if not knobs.values.get(name):
        return None
    path = find_path(knobs[name])
    if path is None or not path.is_file():
        knobs.error(name, "no such file")
        return None
    knobs.values[name] = str(path)
    return path


def read_algorithm(knobs: Knobs) -> None:
    """Note what the file of ``ALGORITHM_PATH`` registers; it becomes the choice where the knobs are ``auto``."""
    path = find_file(knobs, "ALGORITHM_PATH")
    if path is None:
        return
    from common.verl_ext.registered import registered

    try:
        found = registered(path)
    except ValueError as error:
        knobs.error("ALGORITHM_PATH", str(error), value=path)
        return
    knobs.registered = {config_checks.ESTIMATOR: found["estimators"], config_checks.LOSS: found["losses"]}
    if not any(found.values()):
        knobs.error(
            "ALGORITHM_PATH",
            "registers nothing",
            "put @register_adv_est(name) or @register_policy_loss(name) of verl.trainer.ppo.core_algos above a "
            "function",
            value=path,
        )
    for knob, kind in (("ADV_ESTIMATOR", "estimators"), ("POLICY_LOSS", "losses")):
        if len(found[kind]) == 1:
            knobs.resolve(knob, found[kind][0], f"registered by {path.name}")
        elif len(found[kind]) > 1 and knobs.is_auto(knob):
            knobs.error(
                "", f"{knob}=auto: {path.name} registers {', '.join(found[kind])}", f"set {knob} to one of them"
            )


def read_tools(knobs: Knobs, model: ModelInfo | None) -> list[dict[str, Any]] | None:
    """Descriptions of the tools of ``TOOLS_PATH``, when the model's chat template can show them."""
    path = find_file(knobs, "TOOLS_PATH")
    if path is None:
        return None
    from common.verl_ext.tool_descriptions import descriptions

    try:
        tools = descriptions(path)
    except ValueError as error:
        knobs.error("TOOLS_PATH", str(error), value=path)
        return None
    if not tools:
        knobs.error(
            "TOOLS_PATH",
            "has no tool",
            "put @function_tool of verl.tools.function_tool above a function with type hints and a docstring that "
            "describes its arguments",
            value=path,
        )
    elif model and model.chat_template and not _shows_tools(model, tools):
        knobs.error(
            "TOOLS_PATH",
            f"the chat template of {knobs['MODEL_PATH']} does not show tools to the model",
            "use a model with tool support, or add it to its chat_template",
            value=path,
        )
    if knobs.number("MAX_TURNS") == 1:
        knobs.error("MAX_TURNS", "leaves no answer after a call", "set 2 or more", value="1")
    return tools or None


def _shows_tools(model: ModelInfo, tools: list[dict[str, Any]]) -> bool:
    try:
        with_tools, without = token_lengths(model, [(ASK, tools), (ASK, None)], answer_next=True)
    except ValueError:  # said elsewhere
        return True
    return with_tools > without


def check_adapter(knobs: Knobs) -> None:
    """An adapter to start from against the LoRA knobs."""
    text = knobs.values.get("LORA_ADAPTER_PATH")
    if not text:
        return
    folder = find_path(text)
    config = folder / "adapter_config.json" if folder else None
    if config is None or not config.is_file():
        knobs.error("LORA_ADAPTER_PATH", "no folder with an adapter_config.json", value=text)
        return
    knobs.values["LORA_ADAPTER_PATH"] = str(folder)
    try:
        adapter = read_json_object(config)
    except ValueError as error:
        knobs.error("LORA_ADAPTER_PATH", str(error), "is the download complete?", value=text)
        return
    rank = adapter.get("r")
    if knobs.number("LORA_RANK") != rank:
        knobs.error("LORA_RANK", f"the adapter in {text} has rank {rank}", f"set LORA_RANK={rank}")
    alpha = adapter.get("lora_alpha")
    knobs.resolve("LORA_ALPHA", alpha, "of the adapter")
    if knobs["LORA_ALPHA"] != str(alpha):
        knobs.error("LORA_ALPHA", f"the adapter in {text} was trained with {alpha}", "set LORA_ALPHA=auto")


# Model types whose experts are chosen by a bias of the router, `self.gate.e_score_correction_bias`; a test compares.
BIASED_ROUTERS = (
    "deepseek_v3", "dots1", "exaone_moe", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "solar_open",
)  # fmt: skip
LAYERS = ("fc1", "fc2", "dense", "query_key_value")  # linear layers of families that do not call them `..._proj`


def check_targets(knobs: Knobs, model: ModelInfo | None) -> None:
    """The layers of ``LORA_TARGETS`` against those of the model; PEFT passes over a name that it does not find."""
    text = knobs.values.get("LORA_TARGETS", "all-linear")
    kind = model.config.get("model_type") if model else None
    if not knobs.number("LORA_RANK") or not kind or text == "all-linear" and kind not in BIASED_ROUTERS:
        return
    try:
        weights = read_weights(model.config).weights
    except ValueError:  # said where the memory is planned
        return
    stacked = (".experts.gate_up_proj", ".experts.down_proj")  # no layers, so PEFT does not find them by name
    found = {weight.name.removesuffix(".weight") for weight in weights if not weight.name.endswith(stacked)}
    names = found | {"lm_head"}
    layers = sorted({leaf for leaf in (name.rpartition(".")[2] for name in names) if leaf in LAYERS or "_proj" in leaf})
    targets = [part for part in (part.strip() for part in text.split(",")) if part]
    if kind in BIASED_ROUTERS and {"all-linear", "gate", "mlp.gate"} & set(targets):
        problem = f"PEFT hides e_score_correction_bias of the router of a {kind}, which no forward pass does without"
        knobs.error("LORA_TARGETS", problem, f"set LORA_TARGETS={','.join(layers)}", value=text)
        return
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in names):
            continue
        near = difflib.get_close_matches(target, layers, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        knobs.error(
            "LORA_TARGETS",
            f"the model has no layer {target!r}",
            f"{hint}use all-linear, or some of {', '.join(layers)}",
            value=text,
        )
