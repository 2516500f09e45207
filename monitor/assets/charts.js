// Draws a grid of live charts from props.value = [{key, title, latest, data, layout}, ...].
// gr.Plot builds its chart anew at every update, which loses the zoom and makes the page jump; this keeps each chart
// and hands it the new points (Plotly.react). Charts out of sight wait until they are scrolled to.
const grid = element.querySelector(".charts");
const cells = new Map();
const touch = matchMedia("(pointer: coarse)").matches;
const config = {
  displaylogo: false, responsive: true, scrollZoom: false, doubleClick: false, displayModeBar: touch ? false : "hover",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"],
};
const sight = new IntersectionObserver((entries) => entries.forEach((entry) => {
  const cell = entry.target.cell;
  cell.seen = entry.isIntersecting;
  paint(cell);
}), { rootMargin: "200px" });

function make(key) {
  const node = document.createElement("div");
  node.className = "chart";
  node.innerHTML = '<div class="chart-head"><span class="chart-title"></span><span class="chart-latest"></span></div>' +
    '<div class="chart-legend"></div><div class="chart-plot"></div>';
  const part = (name) => node.querySelector(".chart-" + name);
  const cell = { node, title: part("title"), latest: part("latest"), legend: part("legend"), plot: part("plot"), seen: false };
  node.cell = cell;
  node.dataset.key = key;
  sight.observe(node);
  return cell;
}

// A zoom is kept while the points change; a double click, or other axes, ends it.
function watchZoom(cell) {
  cell.plot.on("plotly_relayout", (change) => {
    const { xaxis, yaxis } = cell.plot.layout;
    if (Object.keys(change).some((key) => /axis.*range/.test(key))) cell.zoom = { x: xaxis.range, y: yaxis.range };
  });
  cell.plot.on("plotly_doubleclick", () => reset(cell));
}

function reset(cell) {
  cell.zoom = null;
  cell.next = cell.last;
  paint(cell);
}

function paint(cell) {
  if (!cell.seen || !cell.next || !window.Plotly) return;
  const chart = cell.last = cell.next;
  cell.next = null;
  const layout = { ...chart.layout, xaxis: { ...chart.layout.xaxis }, yaxis: { ...chart.layout.yaxis } };
  if (cell.axes !== layout.uirevision) cell.zoom = null;
  cell.axes = layout.uirevision;
  if (cell.zoom) {
    layout.xaxis.range = cell.zoom.x;
    layout.yaxis.range = cell.zoom.y;
  }
  if (touch) layout.dragmode = false;  // a finger scrolls the page
  const home = { name: "reset", title: "↺", icon: window.Plotly.Icons.home, click: () => reset(cell) };
  const file = { filename: chart.key.replace(/[^\w.-]+/g, "_"), scale: 2 };
  const first = !cell.plot.on;
  window.Plotly.react(cell.plot, chart.data, layout, { ...config, modeBarButtonsToAdd: [home], toImageButtonOptions: file });
  if (first) watchZoom(cell);
}

function draw() {
  const charts = Array.isArray(props.value) ? props.value : [];
  const keys = new Set(charts.map((chart) => chart.key));
  for (const [key, cell] of cells) {
    if (keys.has(key)) continue;
    sight.unobserve(cell.node);
    if (window.Plotly) window.Plotly.purge(cell.plot);
    cell.node.remove();
    cells.delete(key);
  }
  charts.forEach((chart, place) => {
    const cell = cells.get(chart.key) || make(chart.key);
    cells.set(chart.key, cell);
    if (grid.children[place] !== cell.node) grid.insertBefore(cell.node, grid.children[place] || null);
    cell.title.textContent = chart.title;
    cell.title.title = chart.key;
    cell.latest.textContent = chart.latest;
    cell.legend.replaceChildren(...(chart.legend || []).map(([name, colour]) => {
      const entry = document.createElement("span");
      entry.textContent = name;
      entry.style.setProperty("--dot", colour);
      return entry;
    }));
    cell.next = chart;
    paint(cell);
  });
}

window.plotlyComes.then(() => cells.forEach(paint));  // the page's head loads the library
watch("value", draw);
draw();
