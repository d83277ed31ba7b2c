/**
 * Requests: what this page asked the service last, as lines to do it again elsewhere.
 * It knows records and how to copy. Invariant: what is shown of a request is what was sent.
 */

import { button, element } from "../dom.js";
import { linesOf } from "../lines.js";

export const title = "Requests";

const MOST_CHARS = 60; // of a text in a headline

export function serves() {
  return true;
}

/** Build the panel in `root`. */
export function mount(root, { api }) {
  const box = (record) => recordBox(record, api.key() !== null);
  const list = element("ol", { class: "records" }, ...api.records.map(box));
  const lead = "What this page asked the service, newest first, as lines that do the same elsewhere.";
  root.append(element("p", { class: "lead" }, lead), list);
  list.querySelector("details").open = true;
  api.onCall((record) => {
    list.prepend(box(record));
    while (list.children.length > api.records.length) list.lastChild.remove();
  });
}

function recordBox(record, keyed) {
  const inside = element("div");
  const head = element(
    "summary",
    {},
    element("code", {}, `${record.kind === "stream" ? "WS" : record.method} ${record.path}`),
    ...facts(record).map((fact) => element("span", { class: "note" }, fact)),
  );
  const box = element("details", { class: "box" }, head, inside);
  box.addEventListener("toggle", () => {
    if (box.open && !inside.hasChildNodes()) inside.append(...linesOf(record, location.origin, keyed).map(formBox));
  });
  return element("li", {}, box);
}

function facts({ kind, body, open, frames, status, ms }) {
  const text = body?.items?.[0]?.text ?? body?.inputs?.[0];
  const known = kind === "stream" ? `${frames.length} frames` : `${status || "no answer"} in ${ms.toFixed(0)} ms`;
  return [(body ?? open)?.model, typeof text === "string" && `“${text.slice(0, MOST_CHARS)}”`, known].filter(Boolean);
}

function formBox({ name, lines }) {
  const told = element("span", { class: "note", role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(lines);
      told.textContent = "Copied.";
    } catch (error) {
      told.textContent = `The browser does not let a page copy (${error.message}): select the lines instead.`;
    }
  };
  const copies = button("Copy", copy, { class: "small", "aria-label": `Copy ${name}` });
  const head = element("div", { class: "form" }, element("h2", {}, name), copies, told);
  const shown = element("pre", { tabindex: "0", role: "group", "aria-label": `${name} lines` }, lines);
  return element("div", {}, head, shown);
}
