"""Models mixed by slerp, ties and dare: the arithmetic by hand in float64, and whole folders in bounded memory."""

import json
import weakref

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from common.checkpoints import cli
from common.checkpoints.average import average
from common.checkpoints.integrity import mark_complete
from common.checkpoints.mixing import Recipe, drop, elect, mix, slerp, trim
from common.checkpoints.weight_files import WeightFiles
from common.run_dir import update_run
from tests.checkpoint_maker import write_checkpoint
from tests.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three tiny models of one architecture, the last as the base."""
    root = tmp_path_factory.mktemp("models")
    return [write_tiny_model("qwen2", root / name, seed) for seed, name in enumerate(("one", "two", "base"))]


@pytest.fixture(autouse=True)
def unproved(request, monkeypatch):
    """Loading and generating is shown once, and elsewhere; it takes most of the time."""
    if "whole_folders" not in request.node.name:
        monkeypatch.setattr("common.checkpoints.proof.prove_folder", lambda folder: "")


def state(folder):
    files = WeightFiles(folder)
    return {name: files.read(name).double().numpy() for name in files}


def slerp_by_hand(one, two, t):
    if not one.any() or not two.any():
        return (1 - t) * one + t * two
    a, b = one.ravel(), two.ravel()
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    if np.cos(angle) > 0.9995:
        return (1 - t) * one + t * two
    return (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / np.sin(angle)


def ties_by_hand(models, base, shares, density, scale):
    """Entry by entry, as algorithm 1 of the paper says it."""
    deltas = []
    for model in models:
        delta = (model - base).ravel()
        kept = np.argsort(-abs(delta), kind="stable")[: max(1, int(density * delta.size))]
        deltas.append(np.where(np.isin(np.arange(delta.size), kept), delta, 0))
    merged = np.zeros(base.size)
    for entry in range(base.size):
        values = [(share, delta[entry]) for share, delta in zip(shares, deltas, strict=True)]
        sign = 1 if sum(share * value for share, value in values) >= 0 else -1
        agreeing = [(share, value) for share, value in values if value * sign > 0]
        if agreeing:
            merged[entry] = sum(s * v for s, v in agreeing) / sum(s for s, _ in agreeing)
    return base + scale * merged.reshape(base.shape)


def test_slerp_goes_along_the_arc():
    right_angle = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    assert torch.allclose(right_angle, torch.full((2,), 0.5**0.5))  # a mean would be 0.5: shorter than either
    third = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), 1 / 3)
    assert torch.allclose(third, torch.tensor([3**0.5, 1.0]))
    assert slerp(torch.zeros(3), torch.ones(3), 0.25).tolist() == [0.25] * 3
    assert slerp(torch.ones(3), -torch.ones(3), 0.25).tolist() == [0.5] * 3
    huge = torch.full((8,), 1e30)
    assert torch.isfinite(slerp(huge, huge * torch.tensor([1.0, -1] * 4), 0.5)).all()


def test_ties_trims_elects_and_means():
    base = torch.zeros(6)
    deltas = torch.tensor([[9.0, 1, 5, -6, 0.5, 3], [8.0, 2, -4, 5, 7, 0.1]])
    assert trim(deltas[0], 0.5).tolist() == [9, 0, 5, -6, 0, 0]
    # Kept of the second: 9 -> 8, 5 and 7; -6 beats 5, and the third entry is the first model's alone.
    mixed = mix("w", list(deltas), base, Recipe("ties", (0.5, 0.5), density=0.5, scale=2.0))
    assert mixed.tolist() == [17, 0, 10, -12, 14, 0]
    assert elect([torch.tensor([3.0]), torch.tensor([-2.0])], (0.25, 0.75)).tolist() == [-2]


def test_dare_keeps_the_expected_change_and_is_drawn_by_name_and_seed():
    delta = torch.full((200, 500), 2.0)
    dropped = drop(delta, 0.25, seed=7)
    assert set(dropped.unique().tolist()) == {0.0, 8.0}
    assert abs(float(dropped.mean()) - 2.0) < 0.05  # 4 standard errors: 4 * 8 * sqrt(0.25 * 0.75 / 1e5)
    tensors, base, recipe = [torch.ones(1000), torch.ones(1000)], torch.zeros(1000), Recipe("dare", (0.5, 0.5), 0.5)
    first = mix("a", tensors, base, recipe)
    assert torch.equal(first, mix("a", tensors, base, recipe))
    assert not torch.equal(first, mix("b", tensors, base, recipe))
    assert not torch.equal(first, mix("a", tensors, base, Recipe("dare", (0.5, 0.5), 0.5, seed=1)))
    assert set(first.tolist()) == {0.0, 1.0, 2.0}  # the two models' draws are not the same


@pytest.mark.parametrize("method", ["slerp", "ties"])
def test_whole_folders_equal_float64_by_hand(folders, tmp_path, method):
    one, two, base = map(state, folders)
    recipe, root = Recipe(method, density=0.3, scale=0.8), folders[2] if method == "ties" else None
    average(folders[:2], tmp_path / "mix", (3, 1), "float32", recipe, root, shard_bytes=100_000)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mix", dtype=torch.float32)
    assert set(one) <= set(model.state_dict())
    for name, value in ((name, model.state_dict()[name].double().numpy()) for name in one):
        wanted = (
            slerp_by_hand(one[name], two[name], 0.25)
            if method == "slerp"
            else ties_by_hand([one[name], two[name]], base[name], (0.75, 0.25), 0.3, 0.8)
        )
        assert np.allclose(value, wanted, rtol=0, atol=2e-6), name
    assert len(list((tmp_path / "mix").glob("model-*.safetensors"))) > 3
    facts = json.loads((tmp_path / "mix" / "merged_from.json").read_text())
    assert facts["method"] == method and facts["weights"] == [0.75, 0.25] and facts["proof"]


@pytest.mark.parametrize("method", ["ties", "dare", "dare_ties"])
def test_models_alike_give_themselves_and_no_change_gives_the_base(method):
    model, base = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(method, (0.5, 0.5), density=1.0)
    assert torch.allclose(mix("w", [model, model], base, recipe), model)
    assert torch.equal(mix("w", [base, base], base, recipe), base)


def test_no_more_is_in_memory_than_a_weight_of_each_model_and_a_file_of_the_result(folders, tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []
    read = WeightFiles.read

    def counted(files, name):
        tensor = read(files, name)
        alive.add(tensor)
        most.append(sum(one.nbytes for one in alive))
        return tensor

    monkeypatch.setattr(WeightFiles, "read", counted)
    average(folders[:2], tmp_path / "mix", None, "float32", shard_bytes=100_000)
    sizes = [int(np.prod(WeightFiles(folders[0]).shape(name))) * 4 for name in WeightFiles(folders[0])]
    assert max(most) == 2 * max(sizes) < sum(sizes)


def test_runs_are_mixed_over_what_they_started_from(folders, tmp_path, capsys):
    runs = []
    for name, folder in zip("ab", folders[:2], strict=True):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        mark_complete(write_checkpoint(model, tmp_path / name / "checkpoints" / "global_step_3", 2), attempt=1)
        update_run(tmp_path / name, model=str(folders[2]), knobs={})
        runs.append(str(tmp_path / name))
    options = ["--method", "ties", "--density", "0.3", "--dtype", "float32"]
    assert cli.main(["average", *runs, *options, "--to", str(tmp_path / "of-runs")]) == 0
    average(folders[:2], tmp_path / "of-folders", None, "float32", Recipe("ties", density=0.3), folders[2])
    first, second = state(tmp_path / "of-runs"), state(tmp_path / "of-folders")
    assert all(np.array_equal(first[name], second[name]) for name in second)
    assert "ties over" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "of-folders", "of-runs"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "ties"], "--base is missing"),
        (["--method", "dare", "--base", "nowhere"], "--base nowhere: no such folder"),
        (["--method", "slerp", "--base", "BASE"], "--base has no use here"),
        (["--method", "slerp", "--density", "0.5"], "--density: --method slerp has none; it is for ties, dare"),
        (["--method", "ties", "--seed", "1"], "--seed: --method ties has none"),
        (["--method", "dare", "--base", "BASE", "--density", "0"], "--density 0: must be above 0"),
        (["--method", "slerp", "--weights", "2", "-1"], "a weight below 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(folders, tmp_path, capsys, options, words):
    options = [str(folders[2]) if option == "BASE" else option for option in options]
    target = tmp_path / "mix"
    assert cli.main(["average", str(folders[0]), str(folders[1]), *options, "--to", str(target)]) == 2
    assert words in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_slerp_is_of_two(folders, tmp_path):
    with pytest.raises(ValueError, match="an arc joins two models, 3 are given"):
        average([folders[0]] * 3, tmp_path / "mix", recipe=Recipe("slerp"))


def test_a_torn_file_and_a_missing_shard_are_named(folders, tmp_path):
    average(folders[:2], tmp_path / "mix", None, "float32", shard_bytes=100_000)
    shards = sorted((tmp_path / "mix").glob("model-*.safetensors"))
    shards[1].write_bytes(shards[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{shards[1].name} is torn"):
        average([tmp_path / "mix", folders[0]], tmp_path / "again")
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"{shards[1].name} is missing"):
        average([tmp_path / "mix", folders[0]], tmp_path / "again")
    assert not (tmp_path / "again").exists()
