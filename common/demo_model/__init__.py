"""The built-in demo model: a Qwen2 of about a million parameters that can add small numbers, sometimes."""

from pathlib import Path

DEMO_MODEL_DIR = Path(__file__).resolve().parent / "model"
DEMO_REWARD_MODEL_DIR = Path(__file__).resolve().parent / "reward_model"
