// Shows the models and their latency, and asks one of them about a picture. Text from the server is only ever text.

const EVERY_MS = 2000;
const at = (id) => document.getElementById(id);

let token = ""; // kept here alone: neither stored nor part of any address
let asked = new AbortController();
let picture = null;
let drawn = "";

/** A request that the server refused, or that never reached it; its message is for people. */
class Refused extends Error {}

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...content);
  return made;
}

function show(id, text) {
  at(id).textContent = text;
  at(id).hidden = !text;
}

// The server

async function call(path, options = {}) {
  const shown = token;
  const headers = shown ? { Authorization: `Bearer ${shown}` } : {};
  const answer = await fetch(path, { ...options, headers }).catch((error) => {
    throw error.name === "AbortError" ? error : new Refused("The server does not answer.");
  });
  if (answer.status === 401) {
    if (shown === token) await askForToken(shown !== "");
    return call(path, options);
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(told.error ?? `The server answered ${answer.status}.`);
  return told;
}

let entered = null;

/** Wait until a token was given; all requests that were refused wait for the same one. */
function askForToken(refused) {
  entered ??= new Promise((resolve) => {
    at("refused").hidden = !refused;
    at("gate").showModal();
    at("key").onsubmit = (event) => {
      event.preventDefault();
      token = at("token").value.trim();
      at("token").value = "";
      at("gate").close();
      entered = null;
      resolve();
    };
  });
  return entered;
}

// The models

async function watch() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

async function refresh() {
  try {
    draw(await call("status"));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    at("server").textContent = error.message;
    drawn = "";
  }
}

function draw(status) {
  const text = JSON.stringify(status);
  if (text === drawn) return;
  drawn = text;
  document.querySelector("main").hidden = false;
  const ready = status.models.filter((model) => model.state === "READY");
  at("server").textContent = `${ready.length} of ${status.models.length} models ready, version ${status.version}`;
  at("rows").replaceChildren(...status.models.map(row));
  at("table").hidden = !status.models.length;
  at("none").hidden = status.models.length > 0;
  offer(ready);
}

function row(model) {
  const { latency } = model;
  const cells = [
    ["", "Format", format(model)],
    ["takes", "Takes", ...(model.inputs?.flatMap(tensor) ?? ["–"])],
    ["n", "p50", latency ? ms(latency.p50_ms) : "–"],
    ["n", "p99", latency ? ms(latency.p99_ms) : "–"],
    ["n", "Requests", latency ? latency.requests.toLocaleString("en") : "–"],
  ];
  const name = element("th", "", model.name, element("small", "", identity(model)));
  name.scope = "row";
  const state = element("td", "doing", element("span", `state ${model.state.toLowerCase()}`, model.state.toLowerCase()));
  if (model.reason) state.append(element("small", "", model.reason));
  return element("tr", "", name, state, ...cells.map(cell));
}

function cell([className, label, ...content]) {
  const made = element("td", className, ...content);
  made.dataset.label = label;
  return made;
}

const identity = (model) => [`version ${model.version}`, model.release?.slice(0, 12)].filter(Boolean).join(", ");
const format = (model) => [model.format, model.precision].filter((word) => word && word !== "none").join(" ") || "–";
const kinds = ({ datatype, stored }) => (stored === datatype ? datatype : `${datatype}, or ${stored} as stored`);
const tensor = (spec) => [
  element("div", "", `${spec.name} ${spec.shape.map((size) => (size < 0 ? "?" : size)).join("×")}`),
  element("small", "", kinds(spec)),
];
const ms = (value) => (value === null ? "–" : `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms`);

// The question

/** Offer the models that can name pictures, and say why the others cannot. */
function offer(ready) {
  const able = ready.filter((model) => model.classifies);
  const wanted = able.map((model) => `${model.name} ${model.version}`);
  const select = at("model");
  if ([...select.options].map((option) => option.value).join() !== wanted.join()) {
    const before = select.value;
    select.replaceChildren(...able.map(option));
    if (wanted.includes(before)) select.value = before;
  }
  at("ask").hidden = !able.length;
  show("unable", doubts(ready.filter((model) => !model.classifies), able.length ? "Not offered: " : "No model here names pictures: "));
}

const doubts = (models, begin) =>
  models.length ? `${begin}${models.map((model) => `${model.name}, which ${model.doubt}`).join("; ")}.` : "";

function option(model) {
  const made = element("option", "", `${model.name}, version ${model.version}`);
  made.value = `${model.name} ${model.version}`;
  Object.assign(made.dataset, { name: model.name, version: model.version });
  return made;
}

async function ask(files) {
  if (at("ask").hidden) return;
  if (files.length !== 1) {
    fail(files.length ? "Give one picture at a time." : "That was no file.");
    return;
  }
  asked.abort();
  asked = new AbortController();
  const { signal } = asked;
  preview(files);
  at("wrong").hidden = true;
  document.querySelector(".answering").setAttribute("aria-busy", "true");
  try {
    answer(await question(files[0], signal));
  } catch (error) {
    if (error instanceof Refused) fail(error.message);
    else if (error.name !== "AbortError") throw error;
  } finally {
    if (!signal.aborted) document.querySelector(".answering").removeAttribute("aria-busy");
  }
}

async function question(file, signal) {
  const { name, version } = at("model").selectedOptions[0].dataset;
  const body = new FormData();
  body.append("image", file);
  body.append("model", name);
  body.append("version", version);
  const began = performance.now();
  const told = await call("predict", { method: "POST", body, signal });
  return { ...told, all: performance.now() - began };
}

function preview([file]) {
  if (file === picture) return;
  URL.revokeObjectURL(at("shown").src);
  picture = file;
  at("shown").src = URL.createObjectURL(file);
  shown(true);
}

function shown(whether) {
  at("shown").hidden = !whether;
  at("drop").classList.toggle("full", whether);
}

// The answer

function answer({ model, version, predictions, ms: took, all }) {
  const [best] = predictions;
  say(`${best.label}, ${percent(best.score)}`);
  at("answer").replaceChildren(...predictions.map(prediction));
  at("answer").hidden = false;
  show("took", `${model}, version ${version}: ${ms(took.compute)} for the picture and the model, ${ms(all)} with the way there and back`);
}

function prediction({ label, score }) {
  const bar = element("div", "bar");
  bar.style.width = `${100 * score}%`;
  return element(
    "li", "", element("span", "label", label), element("span", "score", percent(score)), element("div", "track", bar),
  );
}

const percent = (score) => `${(100 * score).toFixed(1)} %`;

function fail(text) {
  say("");
  for (const id of ["answer", "took"]) at(id).hidden = true;
  show("wrong", text);
}

/** Tell those who listen; the others see it. */
function say(text) {
  at("said").className = "heard";
  at("said").textContent = text;
}

// What people do

function listen() {
  at("file").addEventListener("change", ({ target }) => {
    if (target.files.length) ask([...target.files]);
    target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", ({ clipboardData }) => clipboardData.files.length && ask([...clipboardData.files]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? at("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    ask([...event.dataTransfer.files]);
  });
  at("shown").addEventListener("error", () => shown(false));
  at("model").addEventListener("change", () => picture && ask([picture]));
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  at("gate").addEventListener("cancel", (event) => event.preventDefault());
}

listen();
watch();
