/**
 * The page: learns what is served, and mounts the panels that serve something of it.
 * It knows panels and tabs, not what is in a panel. Invariant: one panel is shown, the one that #hash names.
 */

import * as api from "./api.js";
import { button, clearError, element, showError } from "./dom.js";
import * as forecast from "./panels/forecast.js";
import * as handwrite from "./panels/handwrite.js";
import * as listen from "./panels/listen.js";
import * as models from "./panels/models.js";
import * as read from "./panels/read.js";
import * as requests from "./panels/requests.js";
import * as stream from "./panels/stream.js";
import * as tag from "./panels/tag.js";
import * as transform from "./panels/transform.js";
import * as translate from "./panels/translate.js";
import * as write from "./panels/write.js";

const PANELS = { read, forecast, stream, write, handwrite, translate, tag, transform, listen, models, requests };

const main = document.querySelector("main");
const tabs = document.getElementById("tabs");
const problem = document.getElementById("problem");
const keyForm = document.getElementById("key");
const otherKey = document.getElementById("other-key");

let served; // {api, models, info, panelsOf} for the panels
let shown = []; // the names of the panels that serve something

/** Learn from the service what it serves: the facts of each model, and its limits. */
async function learn() {
  const [{ models: lines }, info] = await Promise.all([api.call("GET", "/v1/models"), api.call("GET", "/v1/info")]);
  const facts = lines.map(({ name }) => api.call("GET", `/v1/models/${encodeURIComponent(name)}`));
  return { api, models: await Promise.all(facts), info, panelsOf };
}

/** The panels that run a model, which are those that would not be there without any. */
function panelsOf(model) {
  const running = Object.entries(PANELS).filter(([, panel]) => panel.serves([model]) && !panel.serves([]));
  return running.map(([name, { title }]) => ({ name, title }));
}

async function start() {
  clearError(problem);
  keyForm.hidden = true;
  otherKey.hidden = api.key() === null;
  try {
    served = await learn();
  } catch (error) {
    const isAsked = error.status === 401;
    if (isAsked) askForKey();
    if (!isAsked || api.key() !== null) showError(problem, error, ...(isAsked ? [] : [button("Try again", start)]));
    return;
  }
  shown = Object.keys(PANELS).filter((name) => PANELS[name].serves(served.models));
  for (const name of shown) addPanel(name, PANELS[name].title);
  select();
}

function askForKey() {
  keyForm.hidden = false;
  keyForm.querySelector("input").focus();
}

/** Begin the page anew with the key that was given, or say why it will not do. */
async function takeKey(event) {
  event.preventDefault();
  try {
    await api.takeKey(keyForm.querySelector("input").value);
  } catch (error) {
    showError(problem, error);
    return;
  }
  location.reload();
}

function addPanel(name, title) {
  const [tab, panel] = [`tab-${name}`, `panel-${name}`];
  const states = { role: "tab", id: tab, "aria-controls": panel };
  tabs.append(element("button", { type: "button", ...states, onclick: () => go(name) }, title));
  main.append(
    element("section", { role: "tabpanel", id: panel, "aria-labelledby": tab, tabindex: "0", hidden: true }),
  );
}

function go(name) {
  location.hash = name;
}

/** Show the panel that #hash names, the first one where it names none. */
function select() {
  const wanted = location.hash.slice(1);
  const chosen = shown.includes(wanted) ? wanted : shown[0];
  for (const name of shown) {
    const tab = document.getElementById(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === chosen));
    tab.tabIndex = name === chosen ? 0 : -1;
    document.getElementById(`panel-${name}`).hidden = name !== chosen;
  }
  const panel = document.getElementById(`panel-${chosen}`);
  if (panel.hasChildNodes()) return;
  try {
    PANELS[chosen].mount(panel, served);
  } catch (error) {
    const place = element("div");
    panel.replaceChildren(place);
    showError(place, error);
  }
}

/** Move among the tabs as the ARIA pattern of tabs has it. */
function move(event) {
  const at = shown.findIndex((name) => document.activeElement.id === `tab-${name}`);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: shown.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const name = shown[(to + shown.length) % shown.length];
  go(name);
  document.getElementById(`tab-${name}`).focus();
}

keyForm.addEventListener("submit", takeKey);
otherKey.addEventListener("click", askForKey);
tabs.addEventListener("keydown", move);
window.addEventListener("hashchange", () => served && select());
start();
