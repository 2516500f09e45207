"""The environment of ``ENV_PATH`` is played on real rows before the start."""

from __future__ import annotations

from typing import Any

from common.preflight import data
from common.preflight.chat_template import token_lengths
from common.preflight.extensions import find_file
from common.preflight.knobs import Knobs
from common.preflight.model import ModelInfo

ROWS = 3  # of each file, with one answer each
REFUSED_WITH = (  # knob, its values that do not go with an environment, why, what to do
    ("TOOLS_PATH", None, "an environment answers what the model writes, so no call would reach a tool", "empty it"),
    ("REWARD", ("model", "api"), "the environment gives the reward", "set REWARD=function"),
    ("ADV_ESTIMATOR", ("remax",), "its greedy answer is not played in an environment", "use another one"),
    ("VARIANT", ("remax",), "its greedy answer is not played in an environment", "use another one"),
    ("OVERLONG_BUFFER", None, "its penalty is the reward manager's, and the environment gives the reward", "leave it"),
)


def read_environment(knobs: Knobs, model: ModelInfo | None, files: list[data.DataFile]) -> int:
    """Try ``ENV_PATH``: load it, reset it with rows, give it an empty answer.

    Args:
        knobs: Gets errors.
        model: Its tokenizer measures the first observation.
        files: To train and validate on.

    Returns:
        Tokens that a first observation adds to a prompt, the most that was seen.
    """
    path = find_file(knobs, "ENV_PATH")
    if path is None:
        return 0
    _refuse_what_does_not_go_with_it(knobs)
    rows = [row for file in files for row in file.sample[:ROWS] if row.get("prompt")]
    try:
        observations = trial(str(path), float(knobs.decimal("ENV_TIMEOUT") or 1), knobs.number("SEED"), rows)
    except (RuntimeError, OSError) as error:
        knobs.error("ENV_PATH", str(error), "it was tried on rows of the data, with an empty answer", value=path)
        return 0
    knobs.facts.append(("environment", path.name, f"reset and step tried on {len(rows)} rows"))
    return _added_tokens(model, rows, observations)


def trial(path: str, limit_s: float, seed: int, rows: list[dict[str, Any]]) -> list[str]:
    """First observations of rows; each row's episode also gets one empty answer.

    Raises:
        RuntimeError: If the file cannot be loaded, or an episode failed.
    """
    from common.verl_ext.environments import Environments

    environments, found = Environments(path, limit_s, seed, calls=1), []
    try:
        for row in rows:
            episode = environments.open(row)
            try:
                found.append(episode.ask("reset", row))
                episode.ask("step", "")
            finally:
                episode.close()
    finally:
        environments.stop()
    return found


def _refuse_what_does_not_go_with_it(knobs: Knobs) -> None:
    for name, values, problem, fix in REFUSED_WITH:
        value = knobs.values.get(name)
        wrong = value in values if values else value not in (None, "", "auto")
        if wrong and (values or name in knobs.given or name == "TOOLS_PATH"):
            knobs.error(name, f"{problem} (ENV_PATH)", fix)
    if "REWARD_FUNC_PATH" in knobs.given:
        knobs.error("REWARD_FUNC_PATH", "the environment gives the reward (ENV_PATH)", "leave it out")


def _added_tokens(model: ModelInfo | None, rows: list[dict[str, Any]], observations: list[str]) -> int:
    from common.verl_ext.observations import with_observation

    both = zip((row["prompt"] for row in rows), observations, strict=True)
    pairs = [(prompt, with_observation(list(prompt), text)) for prompt, text in both]
    if not model or not model.chat_template or not pairs:
        return 0
    try:
        lengths = token_lengths(model, [(messages, None) for pair in pairs for messages in pair], answer_next=True)
    except ValueError:  # said where rows are measured
        return 0
    return max(long - short for short, long in zip(lengths[::2], lengths[1::2], strict=True))
