/**
 * Forecast: series from a CSV, an example or a drawing, and the fan of what comes next.
 *
 * It knows its controls; CSV, requests and the chart are other modules'. Invariant: what is drawn, listed and downloaded
 * is one answer of the service, to the series and settings that were sent for it.
 */

import { CsvField } from "../csv_field.js";
import { button, choice, clearError, element, labelled, shortly, showError, slider, wide } from "../dom.js";
import { drawingPlace } from "../drawing.js";
import { HEIGHT_PX, MOST_FANS, forecastChart } from "../forecast_chart.js";
import { arranged, forecastsIn, levelsOf, positions, requestFor, rowsOf } from "../forecasts.js";
import { newest } from "../newest.js";
import { Chart, download, downloadText } from "../plots.js";
import { readSeries, writeCsv } from "../series.js";
import { EXAMPLES } from "../series_examples.js";

export const title = "Forecast";

const LEAD = "Paste or drop a CSV, or draw: the model reads the history alone, and needs no training for it.";
const ALL = "All series";
const FIRST_HORIZON = 24;
const FILLINGS = { linear: "on a line between neighbours", ffill: "with the value before" };

/** Whether a model forecasts. */
export function serves(models) {
  return models.some(({ task }) => task === "forecast");
}

export function mount(root, { api, models }) {
  new ForecastPanel(root, api, models.filter(({ task }) => task === "forecast"));
}

class ForecastPanel {
  constructor(root, api, models) {
    this.api = api;
    this.models = models;
    this.model = models.find(({ name }) => name === "forecast") ?? models[0];
    this.table = null; // what the CSV holds; null where it cannot be read
    this.answer = null; // {series, length, start, freq, forecasts} of the last answer
    this.give = newest((request, isStale) => this.forecast(request, isStale));
    this.setByHand = new Set(); // which of start and freq
    this.build(root);
    this.csv.fill(EXAMPLES.Weekly());
  }

  build(root) {
    this.problem = element("div");
    const fail = (error) => showError(this.problem, error);
    this.chart = new Chart({ height: HEIGHT_PX, label: "Chart of the forecast", fail });
    this.summary = element("figcaption", { class: "note", "aria-live": "polite" });
    this.warnings = element("ul", { class: "note warnings" });
    this.which = choice([ALL], () => this.show());
    this.values = element("table");
    const table = wide("Values of the forecast", this.values);
    this.details = element("details", { ontoggle: () => this.list() }, element("summary", {}, "Values"), table);
    this.downloads = [button("Download CSV", () => this.saveCsv()), button("Download PNG", () => this.savePng())];
    const figure = element("figure", {}, this.chart.element, this.summary);
    const show = element("label", { class: "row" }, element("span", { class: "note" }, "Show"), this.which);
    const foot = element("div", { class: "row" }, ...this.downloads, show);
    root.append(
      element("p", { class: "lead" }, LEAD),
      element(
        "div", { class: "columns" },
        element("div", { class: "box" }, this.problem, figure, this.settings(), this.warnings, foot, this.details),
        element("div", {}, element("div", { class: "box" }, ...this.inputs())),
      ),
    );
  }

  /** Build the sliders and the choices of what to ask for. */
  settings() {
    this.horizon = slider("Horizon", () => this.ask());
    this.widest = slider("Widest interval", () => this.pairLevels(this.widest));
    this.narrowest = slider("Narrowest interval", () => this.pairLevels(this.narrowest));
    this.fitSliders();
    return element("div", { class: "sliders" }, this.horizon.field, this.widest.field, this.narrowest.field);
  }

  /** Build what series come from, and what is said about them. */
  inputs() {
    const failed = (error) => this.refuse(error);
    this.csv = new CsvField({ edited: () => this.read(), filled: () => this.begin(), failed });
    this.found = element("ul", { class: "note warnings" });
    const byHand = (name) => () => {
      this.setByHand.add(name);
      this.ask();
    };
    this.start = element("input", { type: "text", oninput: byHand("start") });
    this.freq = element("input", { type: "text", size: "8", oninput: byHand("freq") });
    this.missing = choice(Object.keys(FILLINGS), () => this.ask());
    for (const option of this.missing.options) option.textContent = FILLINGS[option.value];
    this.gaps = labelled("Gaps are filled", this.missing);
    const example = ([name, make]) => button(name, () => this.csv.fill(make()), { class: "small" });
    const drawing = drawingPlace((values) => this.csv.fill(writeCsv([["drawn"], ...values.map((value) => [value])])));
    return [
      element("h2", {}, "Series"),
      element("div", { class: "row" }, ...Object.entries(EXAMPLES).map(example)),
      this.csv.element,
      this.found,
      element("div", { class: "field" }, element("span", {}, "or drawn here, with the mouse or a finger"), drawing),
      ...(this.models.length > 1 ? [labelled("Model", this.modelChoice())] : []),
      element("div", { class: "row pair" }, labelled("First time", this.start), labelled("Frequency", this.freq)),
      this.gaps,
    ];
  }

  modelChoice() {
    const select = choice(this.models.map(({ name }) => name), (name) => {
      this.model = this.models.find((model) => model.name === name);
      this.fitSliders();
      this.ask();
    });
    select.value = this.model.name;
    return select;
  }

  /** Set the sliders to what the model can give. */
  fitSliders() {
    const { horizon } = this.model.forecast;
    const kept = this.levels ? Number(this.horizon.input.value) : FIRST_HORIZON;
    this.horizon.fit(1, horizon, Math.min(kept, horizon), String);
    this.levels = levelsOf(this.model);
    const level = (index) => (this.levels.length ? `${this.levels.at(-1 - index)} %` : "none");
    const most = Math.max(0, this.levels.length - 1);
    this.widest.fit(0, most, most, level);
    this.narrowest.fit(0, most, Math.min(1, most), level);
  }

  /** Move the other slider along where the intervals would cross. */
  pairLevels(moved) {
    const [narrow, wide] = [Number(this.narrowest.input.value), Number(this.widest.input.value)];
    if (narrow > wide) (moved === this.widest ? this.narrowest : this.widest).set(moved.input.value);
    this.ask();
  }

  chosenLevels() {
    const from = this.levels.length - 1 - Number(this.widest.input.value);
    return this.levels.slice(from, this.levels.length - Number(this.narrowest.input.value));
  }

  /** Show why there is nothing to forecast. */
  refuse(error) {
    this.table = null;
    this.found.replaceChildren();
    this.clear();
    showError(this.problem, error);
  }

  /** Read another CSV, of which nothing was set by hand yet. */
  begin() {
    this.start.value = this.freq.value = "";
    this.setByHand.clear();
    this.read();
  }

  /** Read the CSV; what was found of times goes into fields that can be changed, and stays out of those that were. */
  read() {
    try {
      this.table = readSeries(this.csv.text);
    } catch (error) {
      this.refuse(error);
      return;
    }
    for (const name of ["start", "freq"]) if (!this.setByHand.has(name)) this[name].value = this.table[name];
    this.gaps.hidden = !this.table.series.some(({ values }) => values.includes(null));
    this.ask();
  }

  /** Say what was taken as times and as series, and what was set otherwise by hand. */
  tell() {
    const { notes, start: found } = this.table;
    const [start, freq] = [this.start, this.freq].map(({ value }) => value.trim());
    const said = [...notes];
    if (found && this.setByHand.size) said.push(`Set by hand: first time ${start || "none"}, frequency ${freq || "none"}.`);
    if (start && !freq) said.push("No times are forecast: the first time needs a frequency too, like D, W or h.");
    if (freq && !start) said.push("No times are forecast: the frequency needs a first time too, like 2026-01-31.");
    this.found.replaceChildren(...said.map((note) => element("li", {}, note)));
  }

  clear() {
    this.answer = null;
    this.chart.show(forecastChart([]));
    this.which.parentElement.hidden = true;
    this.summary.textContent = "";
    this.warnings.replaceChildren();
    this.values.replaceChildren();
    for (const control of this.downloads) control.disabled = true;
  }

  /** Ask for the forecast of what stands here; where one is under way, the newest is asked for next. */
  ask() {
    if (!this.table) return;
    this.tell();
    this.give({
      model: this.model, ...this.table, horizon: Number(this.horizon.input.value), levels: this.chosenLevels(),
      missing: this.missing.value, start: this.start.value.trim(), freq: this.freq.value.trim(),
    });
  }

  async forecast(request, isStale) {
    try {
      const series = arranged(request.model, request.series);
      const answer = await this.api.call("POST", "/v1/forecast", requestFor({ ...request, series }));
      if (isStale() || !this.table) return;
      clearError(this.problem);
      this.answer = { ...request, series, forecasts: forecastsIn(answer, request, series) };
      this.fitChoice();
      this.show();
    } catch (error) {
      if (isStale() || !this.table) return;
      this.fail(error);
    }
  }

  /** Show why no forecast came; what was drawn before stays where the service could not be reached, to be tried again. */
  fail(error) {
    const isAway = error.code === "unreachable";
    if (!isAway) this.clear();
    showError(this.problem, error, ...(isAway ? [button("Try again", () => this.ask())] : []));
  }

  fitChoice() {
    const names = [ALL, ...this.answer.series.map(({ name }) => name)];
    if (names.join("\n") !== [...this.which.options].map(({ value }) => value).join("\n")) {
      this.which.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    }
    this.which.parentElement.hidden = names.length === 2;
  }

  /** The forecasts that are shown, with the series and the number of each. */
  chosen() {
    const { series, forecasts } = this.answer;
    const entries = series.map((each, index) => ({ ...each, colour: index, forecast: forecasts[index] }));
    return this.which.selectedIndex < 1 ? entries : [entries[this.which.selectedIndex - 1]];
  }

  show() {
    const { horizon } = this.answer;
    const entries = this.chosen().map((entry) => {
      const forecast = entry.forecast.error ? null : entry.forecast;
      const at = positions(this.answer, { length: entry.values.length, horizon, timestamps: forecast?.timestamps });
      return { ...entry, forecast, at };
    });
    this.chart.show(forecastChart(entries));
    const told = entries.filter(({ forecast }) => forecast);
    const fanless = entries.length > MOST_FANS ? [`Of more than ${MOST_FANS} series no intervals are drawn: choose one.`] : [];
    this.summary.textContent = [...fanless, ...told.slice(0, 3).map(({ forecast }) => sentence(forecast))].join(" ");
    const warnings = this.chosen().flatMap(({ name, forecast: { error, warnings } }) =>
      error ? [`${name}: ${error.message} (${error.code})`] : warnings.map((warning) => `${name}: ${warning}`));
    this.warnings.replaceChildren(...warnings.map((warning) => element("li", {}, warning)));
    for (const control of this.downloads) control.disabled = !told.length;
    this.list();
  }

  rows() {
    const forecasts = this.chosen().map(({ forecast }) => forecast).filter(({ error }) => !error);
    return forecasts.length ? rowsOf(forecasts, this.answer.series[0].values.length) : [];
  }

  /** Fill the table of values, where it is open. */
  list() {
    if (!this.details.open || !this.answer) return;
    const [heading = [], ...rows] = this.rows();
    const head = element("tr", {}, ...heading.map((name) => element("th", { scope: "col" }, name)));
    const shown = (cell) => element("td", {}, typeof cell === "number" ? shortly(cell) : cell);
    const body = rows.map((row) => element("tr", {}, ...row.map(shown)));
    this.values.replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
  }

  saveCsv() {
    downloadText("forecast.csv", "text/csv", writeCsv(this.rows()));
  }

  async savePng() {
    download("forecast.png", await this.chart.png());
  }
}

function sentence({ name, mean, bands }) {
  const last = mean.length - 1;
  const [widest] = bands;
  const bounds = widest && [widest.low[last], widest.high[last]].map(shortly).join(" and ");
  const within = widest ? `, with ${widest.level} % between ${bounds}` : "";
  return `${name}: from ${shortly(mean[0])} next to ${shortly(mean[last])} after ${mean.length}${within}.`;
}
