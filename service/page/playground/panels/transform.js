/**
 * Transform: a series before and after a model, as a signal and what is left of it without its noise.
 * It knows its controls and the chart. Invariant: what is drawn is one answer of the service, to the values in the field.
 */

import { button, choice, clearError, element, labelled, shortly, showError, slider, whole, wide } from "../dom.js";
import { newest } from "../newest.js";
import { Chart, axis } from "../plots.js";
import { heartbeat, readNumbers } from "../signals.js";

export const title = "Transform";

const LEAD = "As many numbers come out as go in. The example is a made-up heartbeat with noise; paste values of your own.";
const HEIGHT_PX = 400;
const STEP_RATE = 100; // samples a second of the example, where the model does not say
const SECONDS = 6;
const MOST_ROWS = 500; // of the table

const ofNumbers = ({ shape }) => shape.length === 2;
const transforms = ({ task, signal, inputs, outputs }) =>
  task === "transform" && (Boolean(signal) || (ofNumbers(inputs[0]) && ofNumbers(outputs[0])));

/** Whether a model makes a series of numbers of another; those of rows are called by programs alone. */
export function serves(models) {
  return models.some(transforms);
}

/** Build the panel in `root`. */
export function mount(root, { api, models }) {
  const able = models.filter(transforms);
  let model = able[0];
  let isEdited = false;
  const problem = element("div");
  const chart = new Chart({ height: HEIGHT_PX, label: "Chart of the series before and after", fail: (error) => showError(problem, error) });
  const summary = element("figcaption", { class: "note", "aria-live": "polite" });
  const field = element("textarea", { rows: "9", spellcheck: "false", class: "csv" });
  const body = element("tbody");

  const give = newest(async ({ text, asked }, isStale) => {
    const stale = () => isStale() || asked !== model;
    try {
      const values = readNumbers(text);
      const { results } = await api.call("POST", "/v1/transform", { model: asked.name, items: [{ values }] });
      if (stale()) return;
      clearError(problem);
      show(values, results[0].outputs, asked);
    } catch (error) {
      if (!stale()) showError(problem, error, button("Try again", ask));
    }
  });
  const ask = () => give({ text: field.value, asked: model });

  function show(before, outputs, { name, signal }) {
    const after = outputs.flat();
    const rate = signal?.sample_rate ?? null;
    const x = before.map((_, place) => (rate ? place / rate : place + 1));
    chart.show((colours) => drawn(colours, x, before, after, rate));
    const change = Math.sqrt(before.reduce((sum, value, place) => sum + (value - after[place]) ** 2, 0) / before.length);
    summary.textContent = `${name}: ${whole(before.length)} values; what was changed has a root mean square of ${shortly(change)}.`;
    const rows = before.slice(0, MOST_ROWS).map((value, place) => [x[place], value, after[place]].map(shortly));
    body.replaceChildren(...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", { class: "number" }, cell)))));
  }

  const noise = slider("Noise", example);
  noise.fit(0, 20, 5, (value) => (value / 20).toFixed(2));
  const seed = slider("Seed", example);
  seed.fit(0, 50, 1, String);
  function example() {
    const rate = model.signal?.sample_rate ?? STEP_RATE;
    const values = heartbeat(rate, SECONDS, Number(noise.input.value) / 20, Number(seed.input.value));
    field.value = values.join(" ");
    isEdited = false;
    ask();
  }

  const names = able.map(({ name }) => name);
  const select = choice(names, (name) => {
    model = able[names.indexOf(name)];
    (isEdited ? ask : example)();
  });
  field.addEventListener("input", () => {
    isEdited = true;
    ask();
  });
  const heads = ["at", "before", "after"].map((name) => element("th", { class: "number" }, name));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body);
  const details = element("details", {}, element("summary", {}, `Values, the first ${MOST_ROWS}`), wide("Values before and after", table));
  root.append(
    element("p", { class: "lead" }, LEAD),
    element(
      "div", { class: "columns" },
      element("div", { class: "box" }, problem, element("figure", {}, chart.element, summary), details),
      element(
        "div", { class: "box" },
        element("h2", {}, "Series"),
        labelled("Model", select), noise.field, seed.field,
        element("div", { class: "row acts" }, button("Example", example)),
        labelled("Values", field),
      ),
    ),
  );
  example();
}

function drawn(colours, x, before, after, rate) {
  const [first, second] = colours.series;
  const data = [
    { x, y: before, name: "before", mode: "lines", line: { color: second, width: 1 }, opacity: 0.6 },
    { x, y: after, name: "after", mode: "lines", line: { color: first, width: 2 } },
  ];
  const layout = { xaxis: axis(colours, { title: { text: rate ? "s" : "step" } }), yaxis: axis(colours), showlegend: true };
  return { data, layout };
}
