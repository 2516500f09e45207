"""Where the reward comes from (``REWARD``): a function, a reward model, or an API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.demo_model import DEMO_REWARD_MODEL_DIR
from common.preflight.findings import about, problem_of
from common.preflight.knobs import Knobs
from common.preflight.model import DEMO, ModelInfo, read_model

DEFAULT_FUNCTION = "grpo/reward_func.py"
API_FUNCTION = "ppo/api_reward.py"
ROOM = 256  # tokens that a reward model's own template may add, as in ppo/train.sh


def choose_function(knobs: Knobs, find: Callable[[str], Path | None]) -> dict[str, str]:
    """Resolve ``REWARD_FUNC_PATH`` by ``REWARD``; returns the parameters of the API's function.

    Args:
        knobs: ``REWARD_FUNC_PATH`` is emptied when no function scores.
        find: Looks a path up from where the user is.
    """
    source, given = knobs.values.get("REWARD", "function"), not knobs.is_auto("REWARD_FUNC_PATH")
    if source == "function":
        knobs.resolve("REWARD_FUNC_PATH", DEFAULT_FUNCTION, "the right number behind ####, as GSM8K writes it")
        return {}
    asks_api = source == "api" or (given and knobs["REWARD_FUNC_PATH"].endswith(API_FUNCTION))
    if source == "model":
        knobs.resolve("REWARD_FUNC_PATH", "", "the reward model's score is the reward")
    elif given and not knobs["REWARD_FUNC_PATH"].endswith(API_FUNCTION):
        path = knobs["REWARD_FUNC_PATH"]
        knobs.error("REWARD_FUNC_PATH", f"REWARD=api scores by {API_FUNCTION}", "set REWARD=function", value=path)
    knobs.resolve("REWARD_FUNC_PATH", API_FUNCTION, "asks the endpoint of API_REWARD_CONFIG")
    return _api_parameters(knobs, find) if asks_api else {}


def _api_parameters(knobs: Knobs, find: Callable[[str], Path | None]) -> dict[str, str]:
    from common.rewards.api.settings import read_settings

    path = find(knobs["API_REWARD_CONFIG"]) or Path(knobs["API_REWARD_CONFIG"])
    knobs.values["API_REWARD_CONFIG"] = str(path)
    try:
        settings = read_settings(path, knobs["ON_FAILURE"])
    except ValueError as error:
        knobs.error("API_REWARD_CONFIG", about(path, error))
        return {}
    if settings.api_key_env and not settings.key:
        local = any(host in settings.url for host in ("//127.0.0.1", "//localhost"))
        message = f"{settings.api_key_env} is not set, and {path.name} names it as the variable that holds the key"
        (knobs.warn if local else knobs.error)("API_REWARD_CONFIG", message, "export it, or empty api_key_env")
    return {"config": str(path), "on_failure": knobs["ON_FAILURE"]}


def check_reward_model(knobs: Knobs, folder: Callable[[str], str]) -> None:
    """The reward model of ``REWARD=model``: a sequence classifier with one score, unless a function asks it."""
    if knobs.values.get("REWARD") != "model":
        return
    given = knobs["REWARD_MODEL_PATH"]
    path = str(DEMO_REWARD_MODEL_DIR) if given == DEMO else folder(given)
    try:
        model = read_model(path)
    except (ValueError, OSError) as error:
        knobs.error("REWARD_MODEL_PATH", problem_of(error), value=given)
        return
    knobs.values["REWARD_MODEL_PATH"] = model.path
    if knobs["REWARD_FUNC_PATH"] and not knobs.number("REWARD_MODEL_GPUS"):
        knobs.error(
            "REWARD_MODEL_GPUS",
            "a judge that a function asks cannot share the GPUs (verl gives the function no row there)",
            "set REWARD_MODEL_GPUS=1 or more, taken from those that N_GPUS leaves",
            value="0",
        )
    if model.config:
        problem = _unfit(knobs, model)
        if problem:
            knobs.error("REWARD_MODEL_PATH", problem, value=given)


def _unfit(knobs: Knobs, model: ModelInfo) -> str | None:
    """Return why a model cannot score answers, or None."""
    architecture = (model.config.get("architectures") or ["?"])[0]
    judged = bool(knobs["REWARD_FUNC_PATH"])
    if judged and "ForCausalLM" not in architecture:
        return f"is a {architecture}; a judge that {Path(knobs['REWARD_FUNC_PATH']).name} asks must be a causal LM"
    if not judged and "ForSequenceClassification" not in architecture and "RewardModel" not in architecture:
        return (
            f"is a {architecture}, not a sequence classifier, so it gives no score; use a reward model, or let this "
            f"one judge in words: REWARD_FUNC_PATH={API_FUNCTION}"
        )
    labels = len(model.config.get("id2label") or {}) or model.config.get("num_labels", 1)
    if not judged and labels != 1:
        return f"has {labels} labels; a reward model has one score"
    if model.chat_template is None:
        return "its tokenizer has no chat template, so it cannot read a conversation; add chat_template.jinja to it"
    needed = knobs.number("MAX_PROMPT_LENGTH") + knobs.number("MAX_RESPONSE_LENGTH") + ROOM
    if model.context and needed > model.context:
        return f"reads {model.context} tokens, but prompt, answer and template may have {needed}; lower the lengths"
    return None
