"""Smoothing, thinning, ranges, time, the figures made of them, and the texts."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest

from common.metrics.names import BY_NAME, VALIDATION_OF
from monitor.columns import Columns
from monitor.exports import csv_lines, png
from monitor.figures import Look, compare_panel, metric_panel
from monitor.i18n import ADVICE_ZH, TEXTS, Words
from monitor.metrics_collector import RunMetrics
from monitor.series import hours, smooth, thin, value_range, within
from monitor.tabs.curves import default_names, step_range


def test_smoothing_is_that_of_tensorboard():
    values, weight = np.array([1.0, 3.0, np.nan, 2.0, 8.0]), 0.6
    last = count = 0
    expected = []
    for value in values:  # TensorBoard's line chart: a moving average, divided by its weights so far
        if np.isnan(value):
            expected.append(np.nan)
            continue
        last, count = last * weight + (1 - weight) * value, count + 1
        expected.append(last / (1 - weight**count))
    assert smooth(values, weight) == pytest.approx(expected, nan_ok=True)
    assert smooth(values, 0) is values


def test_thinning_keeps_every_spike():
    y = np.zeros(100_000)
    y[[777, 50_001, 99_998]] = [5, -7, 9]
    keep = thin(np.arange(len(y)), y)
    assert {0, 777, 50_001, 99_998, 99_999} <= set(keep.tolist())
    assert len(keep) <= 1000 and (np.diff(keep) > 0).all()
    assert thin(np.arange(5), y[:5]).tolist() == [0, 1, 2, 3, 4]
    assert len(thin(np.arange(5000), np.full(5000, np.nan))) > 0


def test_ranges():
    low, high = value_range([np.full(50, 2.0)], False, False)
    assert low < 2 < high and high - low > 0.5  # a flat line is not drawn as noise
    outlier = np.append(np.linspace(0, 1, 100), 1e6)
    assert value_range([outlier], False, False)[1] > 1e6
    assert value_range([outlier], True, False)[1] < 2
    assert value_range([np.array([1e-3, -5, 10.0])], False, True) == pytest.approx((-3.24, 1.24))
    assert value_range([np.array([np.nan, np.inf])], False, False) is None
    assert value_range([], False, False) is None


def test_time_is_the_sum_of_the_steps():
    steps, seconds = np.array([1, 2, 4]), np.array([3600.0, 1800.0, 3600.0])
    assert hours(np.array([0, 1, 2, 4]), (steps, seconds)) == pytest.approx([0, 1, 1.5, 2.5])
    assert hours(steps, (np.empty(0, int), np.empty(0))) is None
    assert within((steps, seconds), 2, None)[0].tolist() == [2, 4]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100-500", (100, 500)),
        ("100-", (100, None)),
        ("- 5", (None, 5)),
        ("", (None, None)),
        ("x", (None, None)),
        (None, (None, None)),
    ],
)
def test_step_range(text, expected):
    assert step_range(text) == expected


def columns_of(count, **metrics):
    columns = Columns()
    columns.add((n, {name: values[n - 1] for name, values in metrics.items()}) for n in range(1, count + 1))
    return columns


def test_a_panel():
    columns = columns_of(40, **{"train/loss": np.linspace(3, 1, 40).tolist()})
    columns.add([(10, {"val/loss": 2.5}), (20, {"val/loss": 2.0})])
    figure = metric_panel(columns, "loss", Look(smoothing=0.5), Words("en"))
    raw, line, validation = figure["data"]
    assert raw["y"][0] == 3 and raw["opacity"] < line.get("opacity", 1)  # the raw line behind
    assert line["y"] == pytest.approx(smooth(np.array(raw["y"]), 0.5).tolist(), rel=1e-4)
    assert (validation["x"], validation["y"], validation["mode"]) == ([10, 20], [2.5, 2.0], "lines+markers")
    assert figure["latest"] == "1" and figure["layout"]["uirevision"] == Look().key()
    json.dumps(figure, allow_nan=False)
    assert default_names(columns) == ["loss"]  # the validation has no separate panel
    assert metric_panel(columns, "nothing", Look(), Words("en")) is None


def test_a_panel_shows_limits_nan_and_resumes(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": n, "data": {"actor/kl_loss": 0.08}}) + "\n" for n in range(1, 9))
    )
    (tmp_path / "metrics.2.jsonl").write_text('{"step":6,"data":{"actor/kl_loss":null}}\n')
    metrics = RunMetrics(tmp_path)
    metrics.poll(5)
    figure = metric_panel(metrics.columns, "kl_divergence", Look(), Words("zh"))
    limit, resumed = figure["layout"]["shapes"]
    assert limit["y0"] == BY_NAME["kl_divergence"].high and resumed["x0"] == 6
    assert figure["title"] == BY_NAME["kl_divergence"].zh and figure["latest"] == "NaN"
    assert figure["data"][-1]["name"] == "NaN" and figure["data"][-1]["x"] == [6]
    json.dumps(figure, allow_nan=False)


def test_names_with_html_are_escaped_where_plotly_reads_it():
    name = "<b>x</b><img src=y onerror=alert(1)>"
    columns = columns_of(5, **{name: [1.0] * 5})
    figure = metric_panel(columns, name, Look(), Words("en"))
    assert figure["title"] == name  # set as text, not as HTML
    shown = json.dumps([figure["data"], figure["layout"]])
    assert "<img" not in shown and "<b>" not in shown
    assert "<img" not in json.dumps(compare_panel({name: columns}, name, Look(), Words("en"))["data"])


def test_csv_and_png(tmp_path):
    lines = ['{"step":1,"data":{"a,b":0.1,"=x":1}}', '{"step":2,"data":{"a,b":null}}', '{"step":3,"data":{"a,b":2.5}}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    metrics = RunMetrics(tmp_path)
    metrics.poll(5)
    assert "".join(csv_lines(metrics, [])) == 'step,\'=x,"a,b"\n1,1.0,0.1\n2,,nan\n3,,2.5\n'
    assert "".join(csv_lines(metrics, ["a,b"])).splitlines()[0] == 'step,"a,b"'
    from PIL import Image

    with Image.open(io.BytesIO(png(metrics, "<run> $x", ["a,b"], Words("en")))) as picture:
        assert picture.format == "PNG" and picture.width > 300
    assert png(metrics, "run", ["nothing"], Words("en")) is None


def test_every_text_is_there_in_both_languages():
    for key, texts in TEXTS.items():
        assert set(texts) == {"en", "zh"} and all(texts.values()), key
        holes = [sorted(re.findall(r"{\d}", text)) for text in texts.values()]
        assert holes[0] == holes[1], key
    assert all(metric.zh and metric.zh != metric.label for metric in BY_NAME.values())
    advice = {f"{m.name}_{side}" for m in BY_NAME.values() for side in ("above", "below") if getattr(m, side)}
    assert advice <= set(ADVICE_ZH), "advice_zh of texts.yaml"
    assert {*VALIDATION_OF, *VALIDATION_OF.values()} <= set(BY_NAME)
