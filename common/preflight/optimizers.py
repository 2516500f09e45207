"""The knob OPTIMIZER: what each needs, and what verl is told."""

from __future__ import annotations

from common.preflight.knobs import Knobs
from common.preflight.machine import Machine, has_package
from common.preflight.model import ModelInfo

NAME = "OPTIMIZER"
CLASSES = {  # module and class, as verl imports them
    "adamw": ("torch.optim", "AdamW"),
    "adamw_8bit": ("torchao.optim", "AdamW8bit"),
    "muon": ("common.optimizers", "MuonWithAdamW"),
}


def check_optimizer(knobs: Knobs, model: ModelInfo | None, machine: Machine) -> None:
    """Refuse what cannot be: a package that is missing, an engine whose parameters the optimiser cannot take."""
    name = knobs[NAME]
    if name not in CLASSES or name == "adamw":
        return
    if knobs["TRAIN_ENGINE"] != "fsdp2":
        knobs.error(NAME, f"TRAIN_ENGINE={knobs['TRAIN_ENGINE']} cannot have it", "set TRAIN_ENGINE=fsdp2, or adamw")
    package = CLASSES[name][0].partition(".")[0]
    if package != "common" and not (machine.planned or has_package(package)):
        knobs.error(
            NAME, f"needs the package {package}, which is not installed", f"pip install {package}, or set adamw"
        )
    if name == "muon" and knobs.number("LORA_RANK"):
        knobs.error(NAME, "is for whole matrices, and LoRA trains pairs of thin ones", "set LORA_RANK=0, or adamw")
    if name == "muon" and model and not vocabulary_of(model):
        knobs.error(NAME, "config.json of the model has no vocab_size, which tells its embedding", "set adamw")


def vocabulary_of(model: ModelInfo | None) -> int:
    """Rows of a model's embedding, 0 where that is not known; of a vision model the text part counts."""
    config = model.config if model else {}
    return int((config.get("text_config") or config).get("vocab_size") or 0)


def variables(knobs: Knobs) -> dict[str, str]:
    """What train.sh hands to verl."""
    module, optimizer = CLASSES.get(knobs[NAME], CLASSES["adamw"])
    options = f"{{vocabulary: {vocabulary_of(knobs.model)}}}" if knobs[NAME] == "muon" else "null"
    return {"OPTIMIZER_IMPL": module, "OPTIMIZER_CLASS": optimizer, "OPTIMIZER_OPTIONS": options}
