// The form of a new job: the fields that matter, then every knob with the comment of its train.sh.
"use strict";
const FIELDS = ["name", "model_path", "train_data_path", "eval_data_path", "num_gpus", "nnodes", "learning_rate",
  "batch_size", "num_epochs", "priority", "max_restarts"];
const NUMBERS = ["num_gpus", "nnodes", "learning_rate", "batch_size", "num_epochs", "priority", "max_restarts"];
const OF_FIELDS = ["MODEL_PATH", "TRAIN_DATA", "VAL_DATA", "N_GPUS", "LEARNING_RATE", "BATCH_SIZE", "TOTAL_EPOCHS", "NNODES"];

async function openForm(api, made) {
  const dialog = document.getElementById("form");
  const names = await api("/api/algorithms");
  const choice = element("select", { name: "algorithm", onchange: () => fillKnobs(api, choice.value, knobs) },
    ...names.map((name) => element("option", { value: name, selected: name === "grpo" }, name)));
  const fields = element("div", { class: "fields" }, element("label", {}, text("algorithm"), choice), ...FIELDS.map(field));
  const knobs = element("details");
  const said = element("div", { class: "said", "aria-live": "polite" });
  const button = (key, act, kind) => element("button", { type: "button", class: kind, "data-act": key, onclick: act }, text(key));
  const send = async (address, start) => {
    try {
      return await api(address, { method: "POST", body: { ...request(dialog), ...(start ? { start: true } : {}) } });
    } catch (error) {
      said.replaceChildren(element("p", { class: "wrong" }, error.message));
      return null;
    }
  };
  const create = async (start) => {
    const job = await send("/api/jobs", start);
    if (job) { dialog.close(); made(job); }
  };
  const check = async () => {
    said.replaceChildren(element("p", { class: "quiet" }, text("checking")));
    const found = await send("/api/jobs/check", false);
    if (found) said.replaceChildren(...findings(found));
  };
  const buttons = element("div", { class: "buttons" }, button("check", check), button("create", () => create(false)),
    button("create_start", () => create(true), "main"), button("close", () => dialog.close()));
  dialog.replaceChildren(element("h2", {}, text("new_job")), fields, knobs, said, buttons);
  await fillKnobs(api, choice.value, knobs);
  dialog.showModal();
}

function field(name) {
  const kind = NUMBERS.includes(name) ? { inputmode: "decimal" } : {};
  const hint = { model_path: "demo", nnodes: "1", priority: "0", max_restarts: "0" }[name] || text("auto");
  return element("label", {}, text(`field_${name}`), element("input", { name, placeholder: hint, autocomplete: "off", ...kind }));
}

/** Every knob of an algorithm that has no separate field; left empty it stays as the train.sh has it. */
async function fillKnobs(api, algorithm, box) {
  const schema = await api(`/api/algorithms/${encodeURIComponent(algorithm)}/schema`);
  const made = Object.entries(schema.properties).filter(([name]) => !OF_FIELDS.includes(name)).map(([name, about]) => {
    const input = about.enum
      ? element("select", { "data-knob": name }, element("option", { value: "" }, about.default || "–"),
        ...about.enum.filter((one) => one !== about.default).map((one) => element("option", { value: one }, one)))
      : element("input", { "data-knob": name, placeholder: about.default, autocomplete: "off" });
    return element("label", {}, name, input, element("small", {}, about.description));
  });
  box.replaceChildren(element("summary", {}, text("knobs", algorithm)), element("div", { class: "fields" }, ...made));
}

/** What the form asks for, only what was filled in. */
function request(dialog) {
  const found = { algorithm: dialog.querySelector("[name=algorithm]").value };
  for (const name of FIELDS) {
    const value = dialog.querySelector(`[name=${name}]`).value.trim();
    if (value) found[name] = NUMBERS.includes(name) && Number.isFinite(Number(value)) ? Number(value) : value;
  }
  const knobs = [...dialog.querySelectorAll("[data-knob]")].map((input) => [input.dataset.knob, input.value.trim()]);
  const set = knobs.filter(([, value]) => value);
  return set.length ? { ...found, knobs: Object.fromEntries(set) } : found;
}

/** What the preflight has found, the errors first, and the plan. */
function findings(found) {
  const lines = found.errors.map((one) => element("p", { class: "wrong" }, one));
  lines.push(...found.warnings.map((one) => element("p", { class: "quiet" }, one)));
  if (found.plan && found.plan.bytes) {
    const sum = (parts) => Object.values(parts || {}).reduce((one, other) => one + other, 0);
    const peak = Math.max(...["training", "handing_over", "generating", "scoring"].map((phase) => sum(found.plan.bytes[phase])));
    const gpus = found.plan.gpus;
    lines.push(element("p", {}, `${text("plan")}: `, text("peak", (peak / 1e9).toFixed(1), (gpus.bytes / 1e9).toFixed(0), gpus.count)));
  }
  const chosen = found.rows.filter((row) => row.verdict === "auto");
  const rows = chosen.map((row) => element("tr", {}, element("td", {}, row.what), element("td", {}, row.value), element("td", {}, row.text)));
  const head = element("p", { class: found.ok ? "" : "wrong" }, text(found.ok ? "can_start" : "cannot_start"));
  const table = element("details", {}, element("summary", {}, `auto (${chosen.length})`), element("table", {}, element("tbody", {}, ...rows)));
  return [head, ...lines, ...(chosen.length ? [table] : [])];
}
