/**
 * Models: what is served, model by model: figures beside their floors, states, pictures, the card.
 * It knows what the facts of a model mean. Invariant: every model has its place here, whatever its task.
 */

import { button, clearError, element, showError, whole, wide } from "../dom.js";
import { render } from "../markdown.js";

export const title = "Models";

const CALLED = ["sentiment", "forecast", "step", "tag", "transform", "classify", "translate"]; // tasks whose call has their name

export function serves() {
  return true;
}

/** Build the panel in `root`. `panelsOf(model)` are the panels that run a model: {name, title}. */
export function mount(root, { api, models, info, panelsOf }) {
  const limits = `Baton ${info.version}, ONNX Runtime ${info.versions.onnxruntime}; workers: ${info.workers}.`;
  root.append(
    element("p", { class: "lead" }, `${models.length === 1 ? "1 model is" : `${whole(models.length)} models are`} served, on ${limits}`),
    ...models.map((model) => modelBox(api, model, panelsOf(model))),
  );
}

function modelBox(api, model, panels) {
  const tags = [`version ${model.version}`, model.task, ...(model.streamable ? ["streams"] : []), model.device];
  const head = element(
    "summary",
    {},
    element("h2", {}, model.name),
    ...tags.map((tag) => element("span", { class: "tag" }, tag)),
    element("p", { class: "note" }, model.description),
  );
  const inside = element("div", { class: "model" });
  const box = element("details", { class: "box" }, head, inside);
  box.addEventListener("toggle", () => {
    if (box.open && !inside.hasChildNodes()) inside.append(...modelParts(api, model, panels));
  });
  return box;
}

function modelParts(api, model, panels) {
  return [
    runs(model, panels),
    ...(model.metrics.length ? [element("h3", {}, "Figures"), figures(model.metrics)] : []),
    element("h3", {}, "Tensors"),
    tensors(model),
    ...(model.pictures.length ? [element("h3", {}, "Pictures"), pictures(api, model)] : []),
    ...(model.card ? [card(api, model)] : []),
  ];
}

/** Say where on the page a model runs, or which call runs it. */
function runs({ name, task }, panels) {
  const call = element("code", {}, CALLED.includes(task) ? `POST /v1/${task}` : `POST /v2/models/${name}/infer`);
  if (!panels.length) return element("p", {}, "Runs by ", call, "; this page has no part for it.");
  const links = panels.map((panel) => element("a", { href: `#${panel.name}` }, panel.title));
  return element("p", {}, "Try it: ", ...links.flatMap((link) => [link, " · "]), "runs by ", call, ".");
}

function figures(metrics) {
  const rows = metrics.map(({ name, value, seeds, floor, floor_method: method }) => [
    name,
    number(value),
    seeds?.length > 1 ? `${number(Math.min(...seeds))} to ${number(Math.max(...seeds))}` : "",
    floor === null || floor === undefined ? "" : number(floor),
    method ?? "",
  ]);
  return table("Figures", ["figure", "value", "over seeds", "floor", "floor is"], rows, [1, 2, 3]);
}

function number(value) {
  return String(Number(value.toPrecision(4)));
}

function tensors({ inputs, outputs, states, start, state_bytes: bytes, memory_bytes: more, token_chars: chars }) {
  const row = (kind) => ({ name, input, dtype, shape }) => [kind, name ?? input, dtype, shape.join(" × ")];
  const condition = (start?.inputs ?? []).map(row("condition"));
  const rows = [...condition, ...inputs.map(row("input")), ...outputs.map(row("output")), ...states.map(row("state"))];
  const memory = more ? `; ${whole(more)} bytes more for each entry of its condition` : "";
  const session = `The state of a session: ${whole(bytes)} bytes, in a token of ${whole(chars ?? 0)} characters${memory}.`;
  const none = "It reads whole sequences: there is no state to carry.";
  const note = element("p", { class: "note" }, chars === null ? none : session);
  return element("div", {}, table("Tensors", ["kind", "name", "type", "shape"], rows), note);
}

function table(label, heads, rows, numeric = []) {
  const cell = (tag) => (text, place) => element(tag, numeric.includes(place) ? { class: "number" } : {}, text);
  const head = element("thead", {}, element("tr", {}, ...heads.map(cell("th"))));
  const body = rows.map((row) => element("tr", {}, ...row.map(cell("td"))));
  const made = element("table", {}, head, element("tbody", {}, ...body));
  return wide(label, made);
}

function pictures(api, { name, pictures: files }) {
  const made = files.map((file) => {
    const place = element("div");
    const path = `/v1/models/${encodeURIComponent(name)}/pictures/${encodeURIComponent(file)}`;
    load(place, async () => picture(await api.blob(path), file));
    return element("figure", {}, place, element("figcaption", { class: "note" }, file));
  });
  return element("div", { class: "pictures" }, ...made);
}

function picture(blob, file) {
  const address = URL.createObjectURL(blob);
  const free = () => URL.revokeObjectURL(address);
  return [element("img", { src: address, alt: `Picture ${file} of the model's report`, onload: free, onerror: free })];
}

function card(api, { name }) {
  const place = element("div", { class: "card" });
  const box = element("details", {}, element("summary", {}, element("h3", {}, "Card")), place);
  const read = async () => render(await api.text(`/v1/models/${encodeURIComponent(name)}/card`));
  box.addEventListener("toggle", () => box.open && !place.hasChildNodes() && load(place, read));
  return box;
}

/** Put into `place` what `make()` comes to, or why it does not. */
async function load(place, make) {
  clearError(place);
  try {
    const made = await make();
    place.replaceChildren();
    for (const node of made) place.append(node); // one by one: a card may have more than a call takes
  } catch (error) {
    showError(place, error, button("Try again", () => load(place, make)));
  }
}
