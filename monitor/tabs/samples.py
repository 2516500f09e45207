"""Samples: what the model was asked and answered, its group side by side, and one prompt through the training."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from monitor.change_token import NO_RUN, Asked, changed
from monitor.i18n import Words
from monitor.plain import plain
from monitor.samples import SOURCES, Sample, choose, follow, group_of, question, read_step, steps_of, turns_of
from monitor.tables import facts, note, number, problem, table
from monitor.tabs import QUIET, Page, Tab, clickable, view

PER_PAGE = 25
MAX_TEXT = 6_000  # characters of one prompt or answer on the page
NEWEST = "newest"


def token(asked: Asked) -> str:
    """Changes with the newest file of each source."""
    if asked.row is None:
        return NO_RUN
    folders = [asked.monitor.file(asked.run, name) for name in SOURCES]
    newest = [folder / f"{steps[-1]}.jsonl" for folder in folders if folder and (steps := steps_of(folder))]
    return "|".join(changed(path) for path in newest)


def build(page: Page) -> Tab:
    """Lays out the tab."""
    w = page.words
    with gr.Row(elem_classes="controls"):
        source = gr.Radio([(w(name), name) for name in SOURCES], value=SOURCES[0], label=w("source"), min_width=250)
        newest = (w("newest"), NEWEST)
        step = gr.Dropdown([newest], value=NEWEST, label=w("step"), min_width=120, allow_custom_value=True)
        orders = [(w(f"order_{name}"), name) for name in ("high", "low", "file")]
        order = gr.Dropdown(orders, value="high", label=w("order"), min_width=160)
        text = gr.Textbox(label=w("filter_text"), max_lines=1, scale=3, min_width=180)
    status = view()
    listing = clickable()
    picked, first, known = gr.State(None), gr.State(0), gr.State("")

    def fill(run, source, step, order, text, picked, first, known):
        """Inputs: top.run, the controls, picked, first, known. Outputs: status, listing, step, known."""
        folder = page.monitor.file(run, source)
        steps = steps_of(folder) if folder else []
        if not steps:
            return note(w("no_samples")), "", gr.Dropdown([newest]), ""
        shown = next((one for one in steps if str(one) == str(step)), steps[-1])
        if picked and step == NEWEST and picked[0] in steps:
            shown = picked[0]  # a sample that is being read stays when a new step comes
        number = picked[1] if picked else None
        samples, wrong = read_step(folder, shown)
        found = choose(samples, text or "", order)
        start = min(first, max(0, len(found) - 1)) // PER_PAGE * PER_PAGE
        key = f"{run}/{source}/{steps[-1]}/{len(steps)}"
        choices = gr.skip() if key == known else gr.Dropdown([newest, *((str(one), str(one)) for one in steps[::-1])])
        head = problem(w(wrong)) if wrong else ""
        head += facts(_facts(shown, samples, found, w))
        body = _detail(folder, samples, number, w) + _listing(found, start, number, w)
        return head, body, choices, key

    def refill(run, source, step, order, text, known):
        """Shows another choice from its start. Inputs: as `fill`. Outputs: as `fill`, then picked, first."""
        return *fill(run, source, step, order, text, None, 0, known), None, 0

    def click(picked, first, event: gr.EventData):
        """Shows one sample, or another page. Inputs: picked, first. Outputs: picked, first."""
        kind, _, value = str(event._data.get("pick", "")).partition(":")
        numbers = [int(one) for one in value.split("/") if one.isdecimal()]
        if kind == "page" and len(numbers) == 1:
            return picked, numbers[0]
        if kind == "sample" and len(numbers) == 2:
            return (None if picked == tuple(numbers) else tuple(numbers)), first
        return picked, first

    inputs = [page.run, source, step, order, text, picked, first, known]
    outputs = [status, listing, step, known]
    listing.click(click, [picked, first], [picked, first], **QUIET).then(fill, inputs, outputs, **QUIET)
    changes = [source.input, step.input, order.input, text.input]
    fresh = [*inputs[:5], known]
    gr.on(changes, refill, fresh, [*outputs, picked, first], trigger_mode="always_last", **QUIET)
    return Tab(fill, inputs, outputs, step=step)


def _facts(step: int, samples: list[Sample], found: list[Sample], w: Words) -> list[str]:
    scores = [sample.score for sample in samples if sample.score is not None]
    parts = [f"{w('step')} <b>{step}</b>", w("samples_count", f"<b>{len(found)}</b>", len(samples))]
    if scores:
        parts.append(
            w("score_facts", f"<b>{sum(scores) / len(scores):.3f}</b>", f"{min(scores):g}", f"{max(scores):g}")
        )
    return parts


def _listing(found: list[Sample], start: int, picked: int | None, w: Words) -> str:
    if not found:
        return note(w("none_match_text"))
    rows = []
    for sample in found[start : start + PER_PAGE]:
        mark = " chosen" if sample.number == picked else ""
        rows.append(
            f'<div class="sample{mark}" data-pick="sample:{sample.step}/{sample.number}" tabindex="0">{_score(sample)}'
            f'<div class="asked">{_line(question(sample.prompt))}</div>'
            f'<div class="answered">{_line(sample.answer)}</div></div>'
        )
    pages = [
        f'<a data-pick="page:{place}" tabindex="0">{escape(label)}</a>'
        for label, place, there in (
            ("‹ " + w("previous"), start - PER_PAGE, start > 0),
            (w("next") + " ›", start + PER_PAGE, start + PER_PAGE < len(found)),
        )
        if there
    ]
    last = min(start + PER_PAGE, len(found))
    foot = f'<div class="facts pager"><span>{start + 1}–{last} / {len(found)}</span>{"".join(pages)}</div>'
    return f'<div class="samples">{"".join(rows)}</div>{foot}'


def _detail(folder: Path, samples: list[Sample], picked: int | None, w: Words) -> str:
    """The chosen prompt with all answers of its group side by side, and what it got in other steps."""
    sample = next((one for one in samples if one.number == picked), None)
    if sample is None:
        return ""
    truth = f'<h3 class="part">{w("truth")}</h3><pre>{_text(sample.truth)}</pre>' if sample.truth else ""
    answers = group_of(samples, sample)
    cards = "".join(_card(one, one.number == picked, w) for one in answers)
    through, complete = follow(folder, sample.prompt)
    close = f'<a class="close" data-pick="sample:{sample.step}/{picked}" tabindex="0">{w("close")} ×</a>'
    return (
        f'<div class="detail">{close}'
        f'<h3 class="part">{w("prompt")}</h3><pre>{_text(sample.prompt)}</pre>{truth}'
        f'<h3 class="part">{w("group", len(answers))}</h3><div class="cards">{cards}</div>'
        f'<h3 class="part">{w("through")}</h3>{_through(through, w)}{"" if complete else note(w("search_cut"))}</div>'
    )


def _card(sample: Sample, chosen: bool, w: Words) -> str:
    parts = "".join(
        f"<span>{escape(plain(str(key)))} <b>{_part(value)}</b></span>" for key, value in sample.parts.items()
    )
    mark = " chosen" if chosen else ""
    head = f'{_score(sample)}<div class="facts">{parts}</div>'
    return f'<div class="card{mark}">{head}{_turns(sample.answer, w)}</div>'


def _turns(answer: str, w: Words) -> str:
    """An answer, or the turns of a conversation one below the other, each under who said it."""
    turns = turns_of(answer)
    if len(turns) == 1:
        return f"<pre>{_text(answer)}</pre>"
    left, shown = MAX_TEXT, []
    for place, (role, text) in enumerate(turns, 1):
        shown.append(
            f'<div class="turn {role}"><b>{place}. {w(f"turn_{role}")}</b><pre>{_text(text[:left])}</pre></div>'
        )
        left -= len(text)
        if left <= 0:
            shown.append(note(f"… (+{len(turns) - place})") if place < len(turns) else "")
            break
    return "".join(shown)


def _through(found: list[tuple[int, list[Sample]]], w: Words) -> str:
    heads = [(w("step"), "number"), (w("mean_score"), "number"), (w("answers"), "number"), (w("best_answer"), "wrap")]
    rows = []
    for step, samples in found:
        scores = [one.score for one in samples if one.score is not None]
        best = choose(samples, "", "high")[0]
        mean = number(sum(scores) / len(scores), ".3f") if scores else "–"
        rows.append([str(step), mean, str(len(samples)), _line(best.answer)])
    return table(heads, rows)


def _score(sample: Sample) -> str:
    if sample.score is None:
        return '<span class="score">–</span>'
    kind = "good" if sample.score > 0 else "bad"
    return f'<span class="score {kind}">{sample.score:.3g}</span>'


def _part(value: object) -> str:
    return escape(f"{value:.3g}" if isinstance(value, float) else plain(str(value)[:200]))


def _line(text: str) -> str:
    """One line of a text, whatever it holds."""
    return escape(plain(" ".join(text.split())[:400]))


def _text(text: str) -> str:
    cut = f"\n… (+{len(text) - MAX_TEXT})" if len(text) > MAX_TEXT else ""
    return escape(plain(text[:MAX_TEXT]) + cut)
