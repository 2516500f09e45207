"""System: GPUs, CPU, memory and disk, now and over the last hour; of a run on several machines those of all."""

from __future__ import annotations

import time
from html import escape

from common.machine_use import Gpu, Moment
from common.metrics.progress_line import format_duration
from monitor.change_token import Asked, changed
from monitor.figures import plain_panel
from monitor.i18n import Words
from monitor.machines import Figures, Machine, machines_of
from monitor.plain import plain
from monitor.tables import note, number, table
from monitor.tabs import Page, Tab, charts, view

GIB = 1 << 30
MAX_POINTS = 360  # of one line


def token(asked: Asked) -> str:
    """Changes with every look at the machine."""
    moments = asked.sampler.moments
    others = "|".join(changed(machine.file) for machine in machines_of(asked.monitor, asked.run))
    return f"{moments[-1].time:.1f}|{others}" if moments else others


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w, sampler = page.words, page.sampler
    now = view()
    grid = charts()
    figures = Figures()

    def fill(run):
        """Inputs: top.run. Outputs: now, grid."""
        moments = list(sampler.moments)
        others = {machine: figures.of(machine) for machine in machines_of(page.monitor, run)}
        if not moments and not others:
            return note(w("measuring")), []
        head = _of_run(others, run, w)
        if others:
            head += f'<h3 class="part">{escape(w("this_machine"))}</h3>'
        here = _now(moments[-1], w("no_gpu", sampler.gpu_problem or "0"), w) if moments else note(w("measuring"))
        return head + here, _of_all(others, w) + (_hour(moments, w) if moments else [])

    return Tab(fill, [page.run], [now, grid])


def _of_run(machines: dict[Machine, list[Moment]], run: str, w: Words) -> str:
    """Each machine of a run as it was when it last wrote; nothing for a run on one machine."""
    if not machines:
        return ""
    parts = [f'<h3 class="part">{escape(w("machines_of", plain(run)))}</h3>']
    for machine, moments in machines.items():
        parts.append(f'<h4 class="machine">{escape(machine.title)}')
        if not moments:
            parts.append(f"</h4>{note(w('nothing_written'))}")
            continue
        age = format_duration(max(0.0, time.time() - moments[-1].time))
        parts.append(f" <small>{escape(w('written_ago', age))}</small></h4>")
        parts.append(_now(moments[-1], w("no_gpus"), w))
    return "".join(parts)


def _of_all(machines: dict[Machine, list[Moment]], w: Words) -> list[dict]:
    """Charts with a line for each machine of a run; minutes before now on x."""
    now = time.time()
    kept = {machine: moments for machine, moments in machines.items() if moments}

    def panel(key: str, title: str, top: float | None, value) -> list[dict]:
        lines = {}
        for machine, moments in kept.items():
            values = [value(one) for one in moments]
            if any(one is not None for one in values):
                lines[machine.title] = ([(one.time - now) / 60 for one in moments], values)
        return [plain_panel(key, title, lines, top, "")] if lines else []

    def mean_use(moment: Moment) -> float | None:
        uses = [gpu.use for gpu in moment.gpus if gpu.use is not None]
        return sum(uses) / len(uses) if uses else None

    def gpu_memory(moment: Moment) -> float | None:
        used = [gpu.memory for gpu in moment.gpus if gpu.memory is not None]
        return sum(used) / GIB if used else None

    machines_of_it = w("machines")
    return [
        *panel("all_gpu_use", f"{w('gpu_use')} (%) · {machines_of_it}", 100, mean_use),
        *panel("all_gpu_memory", f"GPU {w('memory')} (GiB) · {machines_of_it}", None, gpu_memory),
        *panel("all_cpu", f"CPU (%) · {machines_of_it}", 100, lambda one: one.cpu),
        *panel("all_memory", f"{w('memory')} (GiB) · {machines_of_it}", None, lambda one: one.memory / GIB),
    ]


def _now(moment: Moment, without_gpu: str, w: Words) -> str:
    meters = [
        _meter("CPU", moment.cpu / 100, f"{moment.cpu:.0f}%"),
        _meter(w("memory"), moment.memory / moment.memory_total, _gib(moment.memory, moment.memory_total)),
        _meter(w("disk"), moment.disk / moment.disk_total, _gib(moment.disk, moment.disk_total)),
    ]
    head = f'<div class="meters">{"".join(meters)}</div>'
    if not moment.gpus:
        return head + f'<div class="problem mild">{escape(without_gpu)}</div>'
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
            f"{plain(one.name)} {one.pid}" + (f" ({one.memory / GIB:.1f} GiB)" if one.memory else "")
            for one in gpu.processes
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
