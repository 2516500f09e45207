"""Learning rates that are usual for a method and the size of a model, and those that cannot work."""

from __future__ import annotations

from common.preflight.auto import SMALL_MODEL
from common.preflight.knobs import Knobs
from common.preflight.model import ModelInfo

# Lowest and highest that published recipes of 1B models and above use: full, LoRA (about ten times as high).
USUAL = {
    "sft": ((1e-6, 5e-5), (1e-5, 1e-3)),
    "dpo": ((1e-7, 5e-6), (5e-7, 5e-5)),
    "reward_model": ((1e-6, 5e-5), (1e-5, 1e-3)),
    "rl": ((1e-7, 1e-5), (1e-6, 1e-4)),
}
HOPELESS = 30.0  # times the highest: such a run has collapsed within its first steps


def usual_range(algorithm: str, lora: bool, parameters: int) -> tuple[float, float]:
    """Lowest and highest usual learning rate; small models take higher ones."""
    low, high = USUAL.get(algorithm, USUAL["rl"])[lora]
    if 0 < parameters < SMALL_MODEL:
        return low, 1000 * high
    return low, high * (10 if 0 < parameters < 1e9 else 1)


def check_rate(knobs: Knobs, model: ModelInfo | None) -> None:
    """A learning rate far outside is an error, outside a warning."""
    rate = knobs.decimal("LEARNING_RATE")
    if rate is None:
        return  # its own error is on the list
    lora = knobs.number("LORA_RANK") > 0
    low, high = usual_range(knobs.algorithm, lora, model.parameters if model else 0)
    kind = "LoRA" if lora else "full fine-tuning"
    size = model.size if model and model.parameters else "a model of unknown size"
    text = f"for {knobs.algorithm} with {kind} of {size}"
    if rate > HOPELESS * high:
        knobs.error("LEARNING_RATE", f"{text} this destroys the model", f"set {low:g} to {high:g}, or auto")
    elif rate > 2 * high or rate < low / 10:
        knobs.warn("LEARNING_RATE", f"{text} {low:g} to {high:g} is usual")
