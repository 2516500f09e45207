"""WebSockets over the wire: what a client sees of a real server, with the package that setup_env.sh installs."""

import asyncio
import importlib
import json

import pytest

pytestmark = pytest.mark.nightly  # an environment that was made before the package was listed does not have it


def test_a_job_over_a_websocket(platform):
    connect = importlib.import_module("websockets.asyncio.client").connect
    uuid = platform.submit(name="run", does="seconds=1,steps=5")
    address = platform.url.replace("http", "ws") + f"/api/jobs/{uuid}/ws?types=state,metrics"

    async def follow(after=""):
        async with connect(address + after) as socket:
            return [json.loads(message) async for message in socket]

    found = asyncio.run(follow())
    steps = [row["step"] for one in found if one["type"] == "metrics" for row in one["data"]["records"]]
    assert steps == [1, 2, 3, 4, 5] and found[-1]["type"] == "end"
    middle = next(one for one in found if one["type"] == "metrics")
    rest = asyncio.run(follow(f"&after={middle['id']}"))
    seen = {row["step"] for row in middle["data"]["records"]}
    again = [row["step"] for one in rest if one["type"] == "metrics" for row in one["data"]["records"]]
    assert again == [step for step in steps if step not in seen]
