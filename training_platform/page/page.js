// The page: slots, the table of jobs, and the job that is open, with its curves and log as they come.
"use strict";
const ACTIONS = {  // what a state allows
  created: ["start", "delete"], queued: ["stop"], starting: ["stop"], running: ["stop"], stopping: [],
  failed: ["resume", "restart", "delete"], stopped: ["resume", "restart", "delete"], finished: ["restart", "delete"],
};
const LOG_KEPT = 60_000;  // letters on the screen
let opened = new URLSearchParams(location.search).get("job");
let stream = null;
let shownKey = "";
let limit = 200;  // jobs in the table
const MOST = 1000;

class ApiError extends Error {}

async function api(path, { method = "GET", body } = {}) {
  const options = { method, headers: body ? { "Content-Type": "application/json" } : {}, body: body && JSON.stringify(body) };
  const answer = await fetch(path, options);
  if (answer.status === 204) return null;
  const read = await answer.json();
  if (!answer.ok) throw new ApiError(read.error.code === "no_token" ? text("no_token") : read.error.message);
  return read;
}

async function refresh() {
  try {
    const filter = document.getElementById("filter").value;
    const [jobs, queue] = await Promise.all([api(`/api/jobs?limit=${limit}&q=${encodeURIComponent(filter)}`), api("/api/queue")]);
    showSlots(queue, jobs);
    showJobs(jobs);
    document.getElementById("lost").hidden = true;
  } catch (error) {
    document.getElementById("lost").hidden = false;
    document.getElementById("lost").textContent = error instanceof ApiError ? error.message : text("lost");
  }
}

function showSlots(queue, jobs) {
  const names = Object.fromEntries(jobs.map((job) => [job.uuid, job.name]));
  document.getElementById("slots").replaceChildren(...queue.slots.map((slot) => {
    const who = slot.state === "job" ? names[slot.job] || slot.job : slot.state === "held" ? text("held", slot.holder) : text("free");
    return element("span", { class: `slot ${slot.state}` }, `${slot.slot.replace(/^(\d)/, "GPU $1")}: ${who}`);
  }));
}

function showJobs(jobs) {
  const key = JSON.stringify([limit, jobs.map((job) => [job.uuid, job.backend, job.state, job.name, job.priority, job.reason]), opened]);
  if (key === shownKey) return;  // a table that is drawn anew under the mouse takes clicks away
  shownKey = key;
  const heads = ["state", "name", "algorithm", "priority", "actions"];
  document.querySelector("#jobs thead").replaceChildren(element("tr", {},
    ...heads.map((name) => element("th", { class: ["algorithm", "priority"].includes(name) ? "wide" : "" }, text(name)))));
  const rows = jobs.map((job) => element("tr", {
    tabindex: 0, "data-job": job.uuid, class: job.uuid === opened ? "chosen" : "",
    onclick: () => open(job.uuid), onkeydown: (event) => { if (event.key === "Enter") open(job.uuid); },
  }, element("td", {}, element("span", { class: `state ${job.state}` }, text(job.state))),
  element("td", {}, job.name, job.reason ? element("div", { class: "quiet" }, job.reason.slice(0, 200)) : null),
  element("td", { class: "wide" }, job.algorithm), element("td", { class: "wide" }, String(job.priority)),
  element("td", { class: "actions" }, ...buttons(job))));
  const none = element("tr", {}, element("td", { colspan: 5, class: "quiet" }, text("no_jobs")));
  document.querySelector("#jobs tbody").replaceChildren(...(rows.length ? rows : [none]), ...rest(jobs));
}

/** That there are more jobs than are shown: a button for more of them, and in the end a word that the search finds all. */
function rest(jobs) {
  if (jobs.length < limit) return [];
  const more = element("button", { "data-act": "more", onclick: () => { limit = MOST; refresh(); } }, text("more"));
  return [element("tr", {}, element("td", { colspan: 5, class: "quiet" }, limit < MOST ? more : text("search_finds", MOST)))];
}

function buttons(job) {
  if (job.backend !== "local") return [];
  return (ACTIONS[job.state] || []).map((name) => element("button", {
    "data-act": name, onclick: (event) => { event.stopPropagation(); act(job, name); },
  }, text(name)));
}

async function act(job, name) {
  if (["stop", "delete"].includes(name) && !confirm(text(`sure_${name}`, job.name))) return;
  try {
    const path = `/api/jobs/${encodeURIComponent(job.uuid)}`;
    if (name === "delete") {
      await api(path, { method: "DELETE" });
      if (opened === job.uuid) close();
    } else {
      const changed = await api(`${path}/${name}`, { method: "POST", ...(name === "restart" ? { body: { from: "scratch" } } : {}) });
      if (changed.uuid !== job.uuid) open(changed.uuid);
    }
  } catch (error) {
    alert(error.message);
  }
  refresh();
}

function close() {
  if (stream) stream.close();
  stream = opened = null;
  document.getElementById("job").hidden = true;
  history.replaceState(null, "", "/");
}

/** Shows a job: its state, curves and log come by push from its beginning on. */
async function open(uuid) {
  if (stream) stream.close();
  opened = uuid;
  history.replaceState(null, "", `/?job=${encodeURIComponent(uuid)}`);
  const path = `/api/jobs/${encodeURIComponent(uuid)}`;
  const head = element("div"), charts = element("div", { class: "charts" }), log = element("pre"), saved = element("div");
  const box = document.getElementById("job");
  box.replaceChildren(head, charts, saved, element("h2", {}, text("log")), log);
  box.hidden = false;
  const curves = new Curves(charts);
  curves.draw();
  await about(path, head, saved, log);
  const kinds = "state,queue,attempt,metrics,validation,log";
  const source = stream = new EventSource(`${path}/events?types=${kinds}`);
  let timer = null;
  source.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (["metrics", "validation"].includes(message.type)) curves.add(message.data.records);
    if (message.type === "attempt") curves.forget(message.data.from_step);
    if (message.type === "reset") { curves.series.clear(); log.textContent = ""; }
    if (message.type === "log") append(log, message.data.text);
    if (message.type === "end") source.close();
    if (message.type !== "log") timer ??= setTimeout(() => { timer = null; if (opened === uuid) about(path, head, saved, log); }, 700);
    if (message.type === "state") refresh();
  };
  refresh();
}

function append(log, more) {
  const bottom = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
  if (log.dataset.launch) { log.textContent = ""; delete log.dataset.launch; }
  log.textContent = (log.textContent + more).slice(-LOG_KEPT);
  if (bottom) log.scrollTop = log.scrollHeight;
}

let asked = 0;  // answers may overtake each other; only the last question's is shown

async function about(path, head, saved, log) {
  const number = ++asked;
  let job, checkpoints, health;
  try {
    [job, checkpoints, health] = await Promise.all([api(path), api(`${path}/checkpoints`), api(`${path}/health`)]);
    if (!job.run_dir && ["failed", "starting"].includes(job.state)) {
      log.textContent = (await api(`${path}/log?source=launch`)).text;
      log.dataset.launch = "yes";  // until the run's own log comes
    }
  } catch (error) {
    if (number === asked) head.replaceChildren(element("p", { class: "wrong" }, error.message));
    return;
  }
  if (number !== asked) return;
  const lines = [];
  if (job.queue) {
    const { position, needs, free, waits_for } = job.queue;
    lines.push(text("waits", position, needs, free) + (waits_for.length ? `; ${text("behind")} ${waits_for.join(", ")}` : ""));
  }
  if (job.progress && job.progress.step !== null) {
    const { step, total_steps, eta_seconds } = job.progress;
    const where = total_steps ? text("step_of", step, total_steps) : text("step", step);
    lines.push(where + (job.state === "running" && eta_seconds ? `, ${text("left", duration(eta_seconds))}` : ""));
  }
  const wrong = [];
  if (job.error) wrong.push(`${text("cause")}: ${job.error.cause}`, ...(job.error.fix ? [`${text("fix")}: ${job.error.fix}`] : []));
  else if (job.reason) wrong.push(job.reason);
  wrong.push(...health.filter((one) => one.now).map((one) => `${text("health")}: ${one.message || one.metric}`));
  head.replaceChildren(element("h2", {}, element("span", { class: `state ${job.state}` }, text(job.state)), ` · ${job.name} · ${job.algorithm}`),
    ...lines.map((line) => element("p", {}, line)), ...wrong.map((line) => element("p", { class: "wrong" }, line)),
    ...job.warnings.map((line) => element("p", { class: "quiet" }, line)));
  const rows = checkpoints.map((one) => element("tr", {}, element("td", {}, String(one.step) + (one.best ? " ★" : "")),
    element("td", {}, Object.entries(one.eval_results || {}).map(([name, value]) => `${name} ${short(value ?? NaN)}`).join(", ")),
    element("td", { class: "quiet" }, one.path)));
  saved.replaceChildren(...(rows.length ? [element("h2", {}, text("checkpoints")), element("div", { class: "scroll" }, element("table", {}, element("tbody", {}, ...rows)))] : []));
}

function duration(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

document.documentElement.lang = language;
document.title = text("title");
for (const one of document.querySelectorAll("[data-text]")) one.textContent = text(one.dataset.text);
for (const one of document.querySelectorAll("[data-placeholder]")) one.placeholder = text(one.dataset.placeholder);
const switcher = document.getElementById("language");
switcher.textContent = text("other");
switcher.onclick = (event) => { event.preventDefault(); localStorage.setItem("language", language === "zh" ? "en" : "zh"); location.reload(); };
document.getElementById("new").onclick = () => openForm(api, (job) => open(job.uuid)).catch((error) => alert(error.message));
document.getElementById("filter").oninput = refresh;
refresh();
if (opened) open(opened);
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
