"""OPTIMIZER: Muon and AdamW as one optimiser for verl, and what the preflight says of each."""

import copy

import pytest
import torch

from common.optimizers import MuonWithAdamW
from common.plan.memory import states
from common.plan.weights import read_weights
from common.preflight import optimizers
from common.preflight.knobs import read_knobs
from common.preflight.machine import Machine
from common.preflight.model import ModelInfo

VOCABULARY = 11


def network():
    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {
            "embed": torch.nn.Embedding(VOCABULARY, 6),
            "hidden": torch.nn.Linear(6, 8),
            "score": torch.nn.Linear(8, 1, bias=False),
        }
    )


def train(model, optimizer, steps, schedule=None):
    for step in range(steps):
        ids = torch.arange(4) + step
        model["score"](torch.tanh(model["hidden"](model["embed"](ids)))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule:
            schedule.step()


def test_it_is_torchs_muon_and_torchs_adamw():
    """The hidden matrix moves as Muon alone would move it, all else as AdamW alone would."""
    ours, theirs = network(), network()
    one = MuonWithAdamW(ours.parameters(), 0.01, 0.1, VOCABULARY, (0.9, 0.99))
    matrix = theirs["hidden"].weight
    others = [value for value in theirs.parameters() if value is not matrix]
    two = [
        torch.optim.Muon([matrix], 0.01, 0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, 0.01, (0.9, 0.99), weight_decay=0.1),
    ]

    class Both:
        step = staticmethod(lambda: [part.step() for part in two])
        zero_grad = staticmethod(lambda: [part.zero_grad() for part in two])

    train(ours, one, 3)
    train(theirs, Both, 3)
    for name, value in theirs.state_dict().items():
        assert ours.state_dict()[name].equal(value), name


def test_a_schedule_and_a_resume_reach_both():
    whole, halves = network(), network()

    def made(model):
        optimizer = MuonWithAdamW(model.parameters(), 0.01, 0.0, VOCABULARY)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    train(whole, *(lambda optimizer, schedule: (optimizer, 2, schedule))(*made(whole)))
    optimizer, schedule = made(halves)
    train(halves, optimizer, 1, schedule)
    saved = copy.deepcopy((halves.state_dict(), optimizer.state_dict(), schedule.state_dict()))
    resumed = network()
    resumed.load_state_dict(saved[0])
    optimizer, schedule = made(resumed)
    optimizer.load_state_dict(saved[1])
    schedule.load_state_dict(saved[2])
    ids = torch.arange(4) + 1  # as the second step of the whole run
    resumed["score"](torch.tanh(resumed["hidden"](resumed["embed"](ids)))).square().sum().backward()
    optimizer.step()
    for name, value in whole.state_dict().items():
        assert resumed.state_dict()[name].equal(value), name
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.005]


def test_one_long_vector_has_no_matrices():
    with pytest.raises(ValueError, match="no hidden matrices"):
        MuonWithAdamW([torch.nn.Parameter(torch.zeros(64))], 0.1, 0.0, VOCABULARY)


SHAPE = {
    **{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 128, "vocab_size": 256, "tie_word_embeddings": False},
}


def test_bytes_of_the_plan():
    """By hand: two layers of four 64x64 and three 64x128 matrices, an embedding, a head, and five norms of 64."""
    model = read_weights(SHAPE)
    matrices, tables, norms = 2 * (4 * 64 * 64 + 3 * 64 * 128), 2 * 256 * 64, 5 * 64
    assert model.parameters == matrices + tables + norms
    assert states(model, 0, 1)["optimizer"] == 8 * model.parameters
    assert states(model, 0, 1, "muon")["optimizer"] == 4 * matrices + 8 * (tables + norms)
    assert states(model, 0, 1, "adamw_8bit")["optimizer"] == 2.03125 * (matrices + tables) + 8 * norms


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"OPTIMIZER": "adamw_8bit"}, "needs the package torchao"),
        ({"OPTIMIZER": "muon", "TRAIN_ENGINE": "fsdp"}, "TRAIN_ENGINE=fsdp cannot have it"),
        ({"OPTIMIZER": "muon", "LORA_RANK": "8"}, "LoRA trains pairs"),
        ({"OPTIMIZER": "muon"}, None),
        ({"OPTIMIZER": "adamw", "TRAIN_ENGINE": "fsdp"}, None),
    ],
)
def test_what_cannot_be_is_refused(given, said, monkeypatch):
    monkeypatch.setattr(optimizers, "has_package", lambda name: False)
    knobs = read_knobs("sft", given)
    knobs.model = ModelInfo("m", SHAPE, 1, "")
    optimizers.check_optimizer(knobs, knobs.model, Machine((), 2, 1))
    assert [finding.problem for finding in knobs.errors] == [] if said is None else said in knobs.errors[0].problem


def test_what_verl_is_told():
    knobs = read_knobs("grpo", {"OPTIMIZER": "muon"})
    knobs.model = ModelInfo("m", SHAPE, 1, "")
    told = optimizers.variables(knobs)
    assert told == {
        "OPTIMIZER_IMPL": "common.optimizers",
        "OPTIMIZER_CLASS": "MuonWithAdamW",
        "OPTIMIZER_OPTIONS": "{vocabulary: 256}",
    }
