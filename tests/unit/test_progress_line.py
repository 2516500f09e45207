"""The progress line: what it shows for RL and SFT, and durations."""

from __future__ import annotations

import pytest

from common.metrics.progress_line import format_duration, step_line

RL = {
    "reward_mean": 0.71,
    "policy_loss": 0.0123,
    "kl_divergence": 0.0021,
    "entropy": 0.31,
    "learning_rate": 1e-4,
    "grad_norm": 0.5,
    "response_length": 6.5,
    "step_time": 2.41,
}


def test_rl_line():
    assert step_line(12, 24, RL, 2.4, 29) == (
        "Step 12/24 | reward 0.710 | policy loss 0.0123 | KL 0.0021 | entropy 0.310 | lr 1e-04 | 2.4 s | ETA 0:29"
    )


def test_sft_line():
    sft = {"loss": 0.71, "val_loss": 0.6523, "grad_norm": 1.004, "learning_rate": 2.5e-6}
    assert step_line(50, 170, sft, 0.41, 754) == (
        "Step 50/170 | loss 0.7100 | val loss 0.6523 | grad norm 1.00 | lr 2.5e-06 | 0.4 s | ETA 12:34"
    )


def test_only_what_is_known_is_shown():
    assert step_line(3, None, {"loss": 0.5}) == "Step 3 | loss 0.5000"
    assert step_line(3, 0, {}) == "Step 3"
    assert step_line(1, 2, RL).endswith("| 2.4 s")  # the trainer's own step time


def test_small_numbers_are_not_rounded_to_nothing():
    assert "policy loss -5e-10" in step_line(1, 2, {"policy_loss": -5e-10})
    assert "KL 0.0000" in step_line(1, 2, {"kl_divergence": 0.0})
    assert "loss nan" in step_line(1, 2, {"loss": float("nan")})


def test_markup_colours_what_is_out_of_range_and_says_the_same():
    from rich.text import Text

    step = {"reward_mean": float("nan"), "policy_loss": 0.1, "kl_divergence": 0.5, "entropy": 0.3}
    line = step_line(1, 2, step, 1.0, 5, markup=True)
    assert "[yellow]KL 0.5000[/yellow]" in line and "[red]reward nan[/red]" in line
    assert "[yellow]entropy" not in line
    assert Text.from_markup(line).plain == step_line(1, 2, step, 1.0, 5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.6, "0:01"),
        (29, "0:29"),
        (59.7, "1:00"),
        (754, "12:34"),
        (3723, "1:02:03"),
        (86400 * 2 + 3 * 3600 + 4 * 60 + 5, "2d 3:04:05"),
        (float("nan"), "?"),
        (float("inf"), "?"),
        (-3, "?"),
    ],
)
def test_durations(seconds: float, text: str):
    assert format_duration(seconds) == text
