"""System: GPUs, CPU, memory and disk, now and over the last hour."""

from __future__ import annotations

from html import escape

from monitor.change_token import Asked
from monitor.figures import plain_panel
from monitor.i18n import Words
from monitor.system import Gpu, Moment, Sampler
from monitor.tables import note, number, table
from monitor.tabs import Page, Tab, charts, view

GIB = 1 << 30
MAX_POINTS = 360  # of one line


def token(asked: Asked) -> str:
    """Changes with every look at the machine."""
    moments = asked.sampler.moments
    return f"{moments[-1].time:.1f}" if moments else ""


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w, sampler = page.words, page.sampler
    now = view()
    grid = charts()

    def fill():
        """Outputs: now, grid."""
        moments = list(sampler.moments)
        if not moments:
            return note(w("measuring")), []
        return _now(moments[-1], sampler, w), _hour(moments, w)

    return Tab(fill, [], [now, grid])


def _now(moment: Moment, sampler: Sampler, w: Words) -> str:
    meters = [
        _meter("CPU", moment.cpu / 100, f"{moment.cpu:.0f}%"),
        _meter(w("memory"), moment.memory / moment.memory_total, _gib(moment.memory, moment.memory_total)),
        _meter(w("disk"), moment.disk / moment.disk_total, _gib(moment.disk, moment.disk_total)),
    ]
    head = f'<div class="meters">{"".join(meters)}</div>'
    if not moment.gpus:
        return head + f'<div class="problem mild">{escape(w("no_gpu", sampler.gpu_problem or "0"))}</div>'
    return head + _gpu_table(moment.gpus, w)


def _meter(name: str, share: float, text: str) -> str:
    level = "high" if share >= 0.95 else ""
    return (
        f'<div class="meter {level}"><span>{escape(name)}</span><b>{escape(text)}</b>'
        f'<div class="bar"><i style="width:{min(100, 100 * share):.0f}%"></i></div></div>'
    )


def _gpu_table(gpus: tuple[Gpu, ...], w: Words) -> str:
    heads = [("GPU", "name"), (w("gpu_use"), "number"), (w("memory"), "number"), (w("temperature"), "number"),
             (w("power"), "number"), (w("processes"), "wrap")]  # fmt: skip
    rows = []
    for gpu in gpus:
        memory = _gib(gpu.memory, gpu.total) if gpu.memory is not None and gpu.total else "–"
        power = number(gpu.power, ".0f") + (f" / {gpu.limit:.0f}" if gpu.limit else "") + " W"
        used = ", ".join(
            f"{one.name} {one.pid}" + (f" ({one.memory / GIB:.1f} GiB)" if one.memory else "") for one in gpu.processes
        )
        rows.append([
            escape(f"{gpu.index}  {gpu.name}"),
            "–" if gpu.use is None else f"{gpu.use:.0f}%",
            memory,
            "–" if gpu.temperature is None else f"{gpu.temperature:.0f} °C",
            "–" if gpu.power is None else power,
            escape(used) or "–",
        ])  # fmt: skip
    return table(heads, rows)


def _hour(moments: list[Moment], w: Words) -> list[dict]:
    """Charts of the last hour; minutes before now on x."""
    stride = -(-len(moments) // MAX_POINTS)
    kept = moments[::-1][::stride][::-1]
    minutes = [(one.time - moments[-1].time) / 60 for one in kept]
    last = moments[-1]

    def panel(key: str, title: str, lines: dict[str, list], top: float, latest: str) -> dict:
        return plain_panel(key, title, {name: (minutes, values) for name, values in lines.items()}, top, latest)

    figures = [
        panel("cpu", f"CPU (%) · {w('last_hour')}", {"CPU": [one.cpu for one in kept]}, 100, f"{last.cpu:.0f}"),
        panel("memory", f"{w('memory')} (GiB)", {w("memory"): [one.memory / GIB for one in kept]},
              last.memory_total / GIB, f"{last.memory / GIB:.1f}"),
    ]  # fmt: skip
    for key, title, top, value in (
        ("gpu_use", f"{w('gpu_use')} (%)", 100.0, lambda gpu: gpu.use),
        ("gpu_memory", f"GPU {w('memory')} (GiB)", None, lambda gpu: None if gpu.memory is None else gpu.memory / GIB),
        ("gpu_temperature", f"{w('temperature')} (°C)", None, lambda gpu: gpu.temperature),
        ("gpu_power", f"{w('power')} (W)", None, lambda gpu: gpu.power),
    ):
        lines = {
            f"GPU {index}": [value(one.gpus[index]) if index < len(one.gpus) else None for one in kept]
            for index in range(len(last.gpus))
        }
        lines = {name: values for name, values in lines.items() if any(one is not None for one in values)}
        if lines:
            figures.append(panel(key, title, lines, top, ""))
    return figures


def _gib(used: int, total: int) -> str:
    return f"{used / GIB:.1f} / {total / GIB:.1f} GiB"
