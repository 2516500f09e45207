"""The charts of a run: which panels, what survives broken values, and that no half file is seen."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest

from common.plots import collect, main, plot_records, plot_run, smooth


def sft_records(steps: int) -> list[dict]:
    records = []
    for step in range(1, steps + 1):
        data = {"train/loss": 3.0 / step, "train/grad_norm": 1.0, "train/lr": 1e-4, "train/mfu": 0.1}
        records.append({"step": step, "data": data})
        if step % 5 == 0:
            records.append({"step": step, "data": {"val/loss": 2.0 / step}})
    return records


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_panels_are_the_metrics_of_the_table_in_order():
    panels = collect(sft_records(20))
    assert list(panels) == ["loss", "val_loss", "grad_norm", "learning_rate"]
    assert panels["val_loss"] == ([5, 10, 15, 20], [0.4, 0.2, 2 / 15, 0.1])
    assert panels["loss"][0] == list(range(1, 21))


def test_later_record_of_a_step_wins_and_metrics_of_only_nan_are_left_out():
    records = [
        {"step": 1, "data": {"train/loss": 5.0, "train/grad_norm": None}},
        {"step": 1, "data": {"train/loss": 4.0}},
    ]
    assert collect(records) == {"loss": ([1], [4.0])}


def test_writes_a_picture_1400_pixels_wide_beside_and_renames_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from matplotlib.figure import Figure

    targets, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, target, **o: (targets.append(target), save(self, target, **o)))
    written = plot_records(sft_records(30), "demo | sft", tmp_path / "charts")
    assert written == [tmp_path / "charts" / "metrics.png"]
    assert len(targets) == 1 and targets[0] != written[0] and targets[0].parent == written[0].parent
    assert png_size(written[0])[0] == 1400
    assert [path.name for path in (tmp_path / "charts").iterdir()] == ["metrics.png"]


def test_grows_by_a_row_for_every_four_panels(tmp_path: Path):
    four = {"train/loss": 1.0, "train/grad_norm": 1.0, "train/lr": 1.0, "val/loss": 1.0}
    small = png_size(plot_records([{"step": 1, "data": four}], "t", tmp_path / "a")[0])[1]
    large = png_size(plot_records([{"step": 1, "data": {**four, "actor/entropy": 1.0}}], "t", tmp_path / "b")[0])[1]
    assert large - small == pytest.approx(235, abs=1)


@pytest.mark.parametrize("value", [0.0, 1e-10, -3.0, 1e9])
def test_one_step_and_constant_values_work(tmp_path: Path, value: float):
    assert plot_records([{"step": 0, "data": {"actor/kl_loss": value}}], "one", tmp_path)
    assert plot_records([{"step": s, "data": {"actor/kl_loss": value}} for s in range(20)], "flat", tmp_path)


def test_nan_in_the_middle_works(tmp_path: Path):
    records = [{"step": s, "data": {"train/loss": None if 5 < s < 9 else 1.0 / (s + 1)}} for s in range(30)]
    assert plot_records(records, r"a run named $\\frac{$ {braces}", tmp_path)


def test_nothing_to_plot_writes_nothing(tmp_path: Path):
    assert plot_records([], "t", tmp_path / "charts") == []
    assert plot_records([{"step": 1, "data": {"unknown": 1.0, "train/loss": None}}], "t", tmp_path / "charts") == []
    assert not (tmp_path / "charts").exists()


def test_a_failed_write_keeps_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from matplotlib.figure import Figure

    (path,) = plot_records(sft_records(10), "old", tmp_path)
    old = path.read_bytes()

    def half(self, target, **_):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space left"):
        plot_records(sft_records(20), "new", tmp_path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.png"]


def test_smoothing_keeps_a_straight_line_and_calms_noise():
    line = [float(step) for step in range(100)]
    assert smooth(line)[10:90] == pytest.approx(line[10:90])  # centred: no lag
    noise = [1.0, -1.0] * 200
    assert max(abs(value) for value in smooth(noise)[20:380]) < 0.1
    assert smooth([5.0]) == [5.0]
    broken = smooth([1.0, math.nan, 3.0, 4.0])
    assert math.isnan(broken[1]) and broken[2] == pytest.approx(3.5)


def test_command_line_refuses_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path / "nope")]) == 2
    assert "nope is not a folder" in capsys.readouterr().err


def test_plots_a_run_directory(tmp_path: Path):
    pytest.importorskip("psutil")  # common.run_dir needs it
    run_dir = tmp_path / "my run"
    run_dir.mkdir()
    assert plot_run(run_dir) == []
    (run_dir / "run.json").write_text('{"algorithm": "sft", "model": "/models/tiny", "state": "finished"}')
    (run_dir / "metrics.jsonl").write_text('{"step": 1, "data": {"train/loss": 2.5, "train/grad_norm": null}}\n')
    assert plot_run(run_dir) == [run_dir / "charts" / "metrics.png"]
    assert png_size(run_dir / "charts" / "metrics.png")[0] == 1400


def test_a_run_with_a_critic_has_a_picture_of_its_own(tmp_path):
    records = [{"step": step, "data": {"critic/score/mean": step / 9, "actor/pg_loss": 0.1}} for step in range(9)]
    assert [path.name for path in plot_records(records, "grpo", tmp_path)] == ["metrics.png"]
    for record in records:
        record["data"] |= {"critic/vf_loss": 1.0, "critic/advantages/max": 2.0, "actor/reward_kl_penalty": 0.01}
    written = plot_records(records, "ppo", tmp_path)
    assert [path.name for path in written] == ["metrics.png", "ppo.png"]
    assert written[1].read_bytes()[:4] == b"\x89PNG"
