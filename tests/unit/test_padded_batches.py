"""Micro-batches of attention with padding: no forward pass is larger than planned, and no row is lost."""

import pytest
import torch

pytest.importorskip("verl")
from benchmarks.padding import PLANNED, figures  # noqa: E402
from common.preflight.knobs import read_knobs  # noqa: E402
from common.preflight.resolved import verl_parts  # noqa: E402
from common.verl_ext import padded_batches, table  # noqa: E402


@pytest.fixture
def rows():
    """A batch whose rows tell their number, of 1 to 60 tokens."""
    from tensordict import TensorDict

    lengths = torch.randint(1, 61, (24,), generator=torch.Generator().manual_seed(0)).tolist()
    ids = torch.nested.nested_tensor(
        [torch.full((length,), number) for number, length in enumerate(lengths)], layout=torch.jagged
    )
    return TensorDict({"input_ids": ids}, batch_size=[24])


def test_the_largest_forward_pass_is_the_planned_one_with_each_distribution_of_lengths():
    for lengths, ways in figures().items():
        largest = {way: size / PLANNED for way, (size, _) in ways.items()}
        assert 0.9 <= largest["without padding"] <= 1 and 0.9 <= largest["kit, padded"] <= 1, lengths
        assert largest["verl, padded"] > 2  # what it is for
        assert ways["kit, padded"][1] < 1.15  # the work


@pytest.mark.parametrize("group", [1, 2])
def test_each_row_is_in_one_micro_batch_and_groups_stay_together(rows, group):
    made, numbers = padded_batches.replacement(None)(rows, 120, force_group_size=group)
    assert sorted(sum(numbers, [])) == list(range(24)) and len(made) > 3
    for part, wanted in zip(made, numbers, strict=True):
        sizes = part["input_ids"].offsets().diff()
        assert part["input_ids"].values()[part["input_ids"].offsets()[:-1]].tolist() == wanted
        assert len(sizes) * int(sizes.max()) <= 120
        assert [number // group for number in wanted[::group]] == [
            number // group for number in wanted[group - 1 :: group]
        ]


def test_all_processes_make_as_many_and_a_pipeline_gets_its_multiple(rows, monkeypatch):
    monkeypatch.setattr(padded_batches, "most", lambda count, group: 11)
    made, numbers = padded_batches.replacement(None)(rows, 600, num_batches_divided_by=4)
    assert len(made) == 12 and all(numbers) and sorted(sum(numbers, [])) == list(range(24))
    monkeypatch.setattr(padded_batches, "most", lambda count, group: 25)
    with pytest.raises(ValueError, match="24 rows cannot fill 25"):
        padded_batches.replacement(None)(rows, 600)


def test_runs_whose_attention_pads_replace_verls_filling():
    assert "padded" in verl_parts(read_knobs("sft", {"ATTENTION": "sdpa", "DEVICE": "cpu"}))
    assert "padded" not in verl_parts(read_knobs("sft", {"ATTENTION": "sdpa_varlen", "DEVICE": "cpu"}))
    (row,) = (row for row in table.REPLACEMENTS if row.part == "padded")
    assert row.expected in row.source.text
