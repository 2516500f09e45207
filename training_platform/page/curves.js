// Curves of a run as SVG: the numbers come by push, each chart is drawn anew at most twice a second.
"use strict";
const MAX_POINTS = 600;  // of one line on the screen
const FIRST = ["reward_mean", "val_score", "loss", "val_loss", "policy_loss", "value_loss", "kl_divergence", "entropy",
  "clip_fraction", "response_length", "grad_norm", "learning_rate", "step_time"];
const SVG = "http://www.w3.org/2000/svg";

class Curves {
  /** Args: box, the element that the charts go to. */
  constructor(box) {
    this.box = box;
    this.series = new Map();  // name -> Map of step -> value
    this.timer = null;
  }

  add(records) {
    for (const { step, ...values } of records) {
      for (const [name, value] of Object.entries(values)) {
        if (typeof value !== "number") continue;
        if (!this.series.has(name)) this.series.set(name, new Map());
        this.series.get(name).set(step, value);
      }
    }
    this.timer ??= setTimeout(() => { this.timer = null; this.draw(); }, 500);
  }

  /** Steps from one on are trained again: what was there did not lead to the present model. */
  forget(step) {
    for (const points of this.series.values()) for (const one of [...points.keys()]) if (one >= step) points.delete(one);
  }

  draw() {
    const known = FIRST.filter((name) => this.series.has(name));
    const others = [...this.series.keys()].filter((name) => !FIRST.includes(name)).sort();
    const shown = [...known, ...(known.length ? others.slice(0, 6) : others)].slice(0, 24);
    this.box.replaceChildren(...(shown.length ? shown.map((name) => this.chart(name)) : [element("p", { class: "quiet" }, text("no_curves"))]));
  }

  chart(name) {
    const points = thin([...this.series.get(name).entries()].sort((one, other) => one[0] - other[0]));
    const last = points.length ? points[points.length - 1][1] : NaN;
    const box = element("div", { class: "chart", "data-metric": name }, element("b", {}, name), element("span", {}, short(last)));
    const low = Math.min(...points.map((one) => one[1])), high = Math.max(...points.map((one) => one[1]));
    const first = points[0][0], end = points[points.length - 1][0];
    const x = (step) => 44 + 272 * (end > first ? (step - first) / (end - first) : 0.5);
    const y = (value) => 130 - 118 * (high > low ? (value - low) / (high - low) : 0.5);
    const svg = shape("svg", { viewBox: "0 0 320 150", preserveAspectRatio: "none", role: "img", "aria-label": name });
    for (const value of high > low ? [low, high] : [low]) {
      svg.append(shape("line", { x1: 44, x2: 316, y1: y(value), y2: y(value), stroke: "var(--line)" }));
      svg.append(shape("text", { x: 40, y: y(value) + 3, "text-anchor": "end" }, short(value)));
    }
    svg.append(shape("text", { x: 44, y: 146 }, String(first)), shape("text", { x: 316, y: 146, "text-anchor": "end" }, String(end)));
    const line = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    svg.append(shape("polyline", { points: line, fill: "none", stroke: "#2563eb", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" }));
    if (points.length < 40) for (const [step, value] of points) svg.append(shape("circle", { cx: x(step), cy: y(value), r: 2, fill: "#2563eb" }));
    box.append(svg);
    return box;
  }
}

/** The lowest and the highest of each stretch, so that no spike is lost. */
function thin(points) {
  if (points.length <= MAX_POINTS) return points;
  const size = Math.ceil(points.length / (MAX_POINTS / 2));
  const kept = [];
  for (let start = 0; start < points.length; start += size) {
    const part = points.slice(start, start + size).sort((one, other) => one[1] - other[1]);
    kept.push(...[part[0], part[part.length - 1]].sort((one, other) => one[0] - other[0]));
  }
  return kept;
}

function shape(name, attributes, content) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (content !== undefined) made.textContent = content;
  return made;
}

function short(value) {
  if (!Number.isFinite(value)) return "–";
  return Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));
}
