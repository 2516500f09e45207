"""Rewards from an API (``REWARD=api``): a language model as judge, or a scoring service.

The endpoint is described in a YAML file, ``ppo/api_reward_config.yaml`` unless ``API_REWARD_CONFIG`` names another.

    python -m ppo.api_reward try --config ppo/api_reward_config.yaml     # scores two answers, shows the exchange

verl calls `compute_score` for each answer; calls run side by side within the limits of the settings. What it returns
next to the score becomes curves: each criterion, and ``api_latency`` (seconds, 0 from the cache), ``api_failed``,
``api_cached``, ``api_retries``, ``api_cost``. An answer that gets no score counts ``default_score`` and 1 in
``api_failed``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from common.rewards.api.client import ApiClient, Scored
from common.rewards.api.exchange import prompt_text
from common.rewards.api.settings import Settings, read_settings

TRIAL_SECONDS, TRIAL_ATTEMPTS = 50.0, 3  # less than the minute that the preflight gives a call

DEFAULT_CONFIG = Path(__file__).with_name("api_reward_config.yaml")

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple, ApiClient]] = WeakKeyDictionary()


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    config: str = str(DEFAULT_CONFIG),
    on_failure: str | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    trial: bool = False,
    **kwargs: Any,
) -> dict[str, float]:
    """Score one answer through the API; the signature is the one that verl calls by keyword.

    Args:
        data_source: Column `data_source` of the row.
        solution_str: The model's answer.
        ground_truth: Column `reward_model.ground_truth` of the row.
        extra_info: Column `extra_info`; its `prompt` (messages or text), which the kit's reward manager adds, is what
            was asked.
        config: The settings file.
        on_failure: ``stop`` or ``default``, instead of what the file says.
        reward_router_address: Where verl serves a generative reward model (``REWARD=model`` with this function):
            the judge is asked there instead of at the file's ``url``.
        reward_model_tokenizer: Of that model; its folder is the name under which vLLM and SGLang serve the model.
        trial: Before a run: any answer without a score is an error, and the endpoint is asked at least once.
        **kwargs: Whatever else verl passes.

    Returns:
        ``score``, each criterion, and the ``api_…`` figures; always these keys.

    Raises:
        ApiRewardError: If the endpoint refuses for good, or too many answers could not be scored.
        ValueError: If the settings are wrong.
    """
    served = getattr(reward_model_tokenizer, "name_or_path", "")
    client = _client(config, on_failure, reward_router_address, served, trial)
    question = (extra_info or {}).get("prompt", "")
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
    asked = {
        "prompt": prompt_text(messages),
        "messages": messages,
        "answer": solution_str,
        "ground_truth": _shown(ground_truth),
        "data_source": data_source,
    }
    try:
        return result_of(await client.score(asked), client)
    finally:
        if trial:  # each trial has a separate event loop, which ends with open connections otherwise
            await client.disconnect()


def _shown(truth: Any) -> Any:
    """The ground truth for JSON: numpy's values as Python's, a list of one as the one, none as an empty text."""
    truth = truth.tolist() if hasattr(truth, "tolist") else truth
    if isinstance(truth, (list, tuple)):
        truth = [_shown(one) for one in truth]
        return truth[0] if len(truth) == 1 else truth
    if isinstance(truth, Mapping):
        return {str(name): _shown(value) for name, value in truth.items()}
    return "" if truth is None else truth


def result_of(scored: Scored, client: ApiClient) -> dict[str, float]:
    """What verl gets: the score, the criteria, the figures of the call."""
    return {
        "score": scored.score,
        **scored.parts,
        "api_failed": float(bool(scored.failed)),
        "api_cached": float(scored.cached),
        "api_latency": scored.latency_s,
        "api_retries": float(max(0, scored.attempts - 1)),
        "api_cost": client.cost(scored.usage),
    }


def _client(config: str, on_failure: str | None, router: str | None, served: str, trial: bool) -> ApiClient:
    """The client of this event loop for these settings; made at the first call."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    key = (config, on_failure, router, trial)
    if key not in clients:
        settings = read_settings(config, on_failure)
        if router:
            url = f"http://{router}/v1/chat/completions"
            # The file's `model` names one at the file's url; vLLM answers 404 to a name that it does not serve.
            model = served or settings.model
            settings = replace(settings, url=url, url_secrets=(), api_key_env="", headers={}, model=model)
        clients[key] = ApiClient(for_trial(settings) if trial else settings, trial=trial)
    return clients[key]


def for_trial(settings: Settings) -> Settings:
    """Settings under which an endpoint that hangs or fails is reported within `TRIAL_SECONDS`."""
    quick = settings.timeout_s * TRIAL_ATTEMPTS <= TRIAL_SECONDS
    return replace(
        settings,
        attempts=min(settings.attempts, TRIAL_ATTEMPTS if quick else 1),
        timeout_s=min(settings.timeout_s, TRIAL_SECONDS),
        backoff_s=min(settings.backoff_s, 0.5),
        longest_wait_s=1.0,
        on_failure="stop",
        max_failed_share=0.0,
    )


def main() -> int:
    """Command line entry."""
    from common.rewards.api import probe

    parser = argparse.ArgumentParser(prog="python -m ppo.api_reward", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    try_parser = commands.add_parser("try", help="score two answers and show the exchange")
    try_parser.add_argument("--config", default=str(DEFAULT_CONFIG), help="settings file (default: %(default)s)")
    probe.add_arguments(try_parser)
    arguments = parser.parse_args()
    try:
        settings = read_settings(arguments.config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return probe.try_endpoint(settings, arguments)


if __name__ == "__main__":
    sys.exit(main())
