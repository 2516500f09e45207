"""``python -m ppo.api_reward try``: score two answers and show the whole exchange, the key left out."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import replace
from typing import Any

from rich.console import Console

from common.console import SafeConsole
from common.rewards.api.client import ApiClient, ApiRewardError, CallError
from common.rewards.api.exchange import build_request, read_scores, total
from common.rewards.api.settings import Settings
from common.rewards.api.verdict import BadReplyError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The question and the two answers."""
    parser.add_argument("--question", default="What is 15 + 37?", help="what was asked")
    parser.add_argument("--answers", nargs="+", default=["15 + 37 = 52\n#### 52", "I like turtles."], help="to score")
    parser.add_argument("--ground_truth", default="52", help="the right answer, for prompts that use {ground_truth}")


def try_endpoint(settings: Settings, arguments: argparse.Namespace) -> int:
    """Score the answers one after the other, without cache and retries; returns the exit status."""
    return asyncio.run(_try_all(replace(settings, cache="", attempts=1, on_failure="default"), arguments))


async def _try_all(settings: Settings, arguments: argparse.Namespace) -> int:
    console = SafeConsole(highlight=False, soft_wrap=True)
    key = f"key from {settings.api_key_env}" if settings.key else "no key"
    console.print(f"[bold]{settings.kind}[/bold] {settings.shown_url} ({key})")
    client, failures = ApiClient(settings), 0
    try:
        for answer in arguments.answers:
            failures += not await _try_one(client, _values(arguments, answer), console)
    finally:
        await client.close()
    if failures:
        console.print(f"[red]{failures} of {len(arguments.answers)} answers got no score[/red]")
    return 1 if failures else 0


async def _try_one(client: ApiClient, values: dict[str, Any], console: Console) -> bool:
    settings = client.settings
    body = build_request(settings, values)
    console.print(f"\n[bold]answer[/bold] {values['answer']!r}\n[dim]request[/dim]")
    console.print(json.dumps(body, indent=2, ensure_ascii=False), markup=False)
    try:
        status, text = await client.exchange(body)
        console.print(f"[dim]reply (HTTP {status})[/dim]")
        console.print(text[:4000], markup=False)
        parts, usage = read_scores(settings, text, values["answer"])
    except (BadReplyError, CallError, ApiRewardError) as error:
        console.print(settings.redact(f"{type(error).__name__}: {error}"), style="red", markup=False)
        return False
    shown = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
    console.print(
        f"[green]score {total(parts, settings.criteria):.3f}[/green]  ({shown}; cost {client.cost(usage):.6f})"
    )
    return True


def _values(arguments: argparse.Namespace, answer: str) -> dict[str, Any]:
    return {
        "prompt": arguments.question,
        "messages": [{"role": "user", "content": arguments.question}],
        "answer": answer,
        "ground_truth": arguments.ground_truth,
        "data_source": "try",
    }
