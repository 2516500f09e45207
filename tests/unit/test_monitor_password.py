"""The monitor's password: few wrong ones a second, and only of the one who guesses."""

from __future__ import annotations

import asyncio
import base64

from starlette.responses import PlainTextResponse

from monitor import password
from monitor.password import Password

RIGHT = "ann:s3cret"


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def make():
    clock = Clock()
    return Password(PlainTextResponse("in"), RIGHT, clock), clock


def ask(app, pair=None, address="10.0.0.1", kind="http"):
    """Status of the answer."""
    headers = [(b"authorization", b"Basic " + base64.b64encode(pair.encode()))] if pair else []
    answers = []

    async def send(message):
        answers.append(message)

    scope = {"type": kind, "method": "GET", "path": "/", "headers": headers, "client": (address, 1)}
    asyncio.run(app(scope, None, send))
    return answers[0]["status"]


def test_after_five_wrong_ones_one_a_second():
    app, clock = make()
    assert [ask(app, f"ann:{number}") for number in range(7)] == [401] * 5 + [429] * 2
    assert ask(app, RIGHT) == 429  # or a guess would still be answered
    clock.now += 1
    assert [ask(app, f"ann:{number}") for number in range(3)] == [401, 429, 429]
    clock.now += 0.5
    assert ask(app, "ann:x") == 429
    clock.now += 0.5
    assert ask(app, RIGHT) == 200
    clock.now += 60
    assert [ask(app, f"ann:{number}") for number in range(6)] == [401] * 5 + [429]


def test_others_and_the_right_password_are_not_held_up():
    app, _ = make()
    assert {ask(app, "ann:x") for _ in range(20)} == {401, 429}
    assert ask(app, RIGHT, address="10.0.0.2") == 200
    assert [ask(app, RIGHT, address="10.0.0.3") for _ in range(50)] == [200] * 50


def test_to_ask_without_a_password_is_no_guess():
    """A browser does so first, and a page whose password has changed all the time."""
    app, _ = make()
    assert [ask(app) for _ in range(20)] == [401] * 20
    assert ask(app, RIGHT) == 200


def test_the_addresses_kept_are_limited(monkeypatch):
    monkeypatch.setattr(password, "MAX_KEPT", 3)
    app, _ = make()
    for number in range(10):
        ask(app, "ann:x", address=f"10.0.0.{number}")
    assert list(app._wrong) == ["10.0.0.7", "10.0.0.8", "10.0.0.9"]
