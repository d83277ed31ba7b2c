/**
 * Forecasts: what a model can give, the request for it, and its answer as charts, tables and CSV show it.
 * It knows the API's forms, not the page. Invariant: numbers are those that the service answered.
 */

import { timesFrom } from "./frequency.js";

/** How many channels a model reads together; 1 for a model of single series. */
function channelsOf(model) {
  return model.inputs[0].shape[2] ?? 1;
}

/** The central intervals that a model can give, in percent, widest first. */
export function levelsOf(model) {
  const { quantiles } = model.forecast;
  const lower = quantiles.filter((low) => low < 0.5 && quantiles.some((high) => same(high, 1 - low)));
  return lower.map((low) => Math.round((1 - 2 * low) * 1e6) / 1e4);
}

function same(one, other) {
  return Math.abs(one - other) < 1e-9;
}

/**
 * Return `series` as the model takes them: those of a model of named channels in the order of its names, whatever their
 * own. @throws {Error} says what the model needs, where these are not it.
 */
export function arranged(model, series) {
  const channels = channelsOf(model);
  if (channels === 1) return series;
  const lines = series[0].values.length;
  const labels = model.inputs[0].labels ?? series.map(({ name }) => name);
  const ordered = labels.map((label) => series.find(({ name }) => name === label));
  const fits = series.length === channels && !ordered.includes(undefined) && lines >= model.forecast.min_history;
  if (fits) return ordered;
  const wanted = model.inputs[0].labels ? `, named ${labels.join(", ")} in any order` : "";
  const here = series.length === 1 ? "is 1 column" : `are ${series.length} columns`;
  const names = series.map(({ name }) => name).join(", ");
  const least = `at least ${model.forecast.min_history} lines`;
  const needs = `${model.name} reads ${channels} columns together${wanted}, and ${least}`;
  throw Object.assign(new Error(`${needs}; here ${here} of ${lines} lines: ${names}.`), { code: "series" });
}

/** Return the body of a request for the forecast of `series`. */
export function requestFor({ model, series, horizon, levels, missing, start, freq }) {
  const when = start && freq ? { start, freq } : {};
  const gaps = series.some(({ values }) => values.includes(null)) ? { missing } : {};
  const sent = series.map(({ name, values }) => ({ id: name, values, ...when }));
  const rows = () => series[0].values.map((_, row) => series.map(({ values }) => values[row]));
  const together = channelsOf(model) > 1 ? [{ values: rows(), ...when }] : sent;
  return { model: model.name, horizon, levels, ...gaps, series: together };
}

/**
 * Return the answer's forecasts by series: {name, mean, bands: [{level, low, high}], timestamps, warnings}, or {name, error}
 * for one that failed.
 */
export function forecastsIn({ results }, { model, levels }, series) {
  if (channelsOf(model) > 1) {
    const [result] = results;
    return series.map(({ name }, channel) => shape(name, result, levels, (rows) => rows.map((row) => row[channel])));
  }
  return results.map((result, index) => {
    const { name } = series[index];
    return result.error ? { name, error: result.error } : shape(name, result, levels, (values) => values);
  });
}

function shape(name, { mean, quantiles, timestamps, warnings }, levels, pick) {
  const of = (probability) => pick(Object.entries(quantiles).find(([key]) => same(Number(key), probability))[1]);
  const bands = levels.map((level) => ({ level, low: of((100 - level) / 200), high: of((100 + level) / 200) }));
  return { name, mean: pick(mean), bands, timestamps: timestamps ?? null, warnings };
}

/** Return where values and forecasts lie on the axis: their times where they are known, else their numbers from 1. */
export function positions({ start, freq }, { length, horizon, timestamps }) {
  const times = timestamps && timesFrom(start, freq, length);
  if (times) return { history: times, future: timestamps.map(withoutZone), timed: true };
  const numbers = Array.from({ length: length + horizon }, (_, index) => index + 1);
  return { history: numbers.slice(0, length), future: numbers.slice(length), timed: false };
}

function withoutZone(time) {
  return time.replace(/(Z|[+-]\d\d:\d\d)$/, "");
}

/** Return forecasts as rows of a table, with their heading; `length` is that of the history, for those without times. */
export function rowsOf(forecasts, length) {
  const { bands, timestamps } = forecasts[0];
  const heading = ["series", timestamps ? "time" : "number", "mean"];
  for (const { level } of bands) heading.push(`${level}% low`, `${level}% high`);
  const rows = forecasts.flatMap((forecast) =>
    forecast.mean.map((mean, step) => {
      const at = forecast.timestamps ? forecast.timestamps[step] : length + step + 1;
      return [forecast.name, at, mean, ...forecast.bands.flatMap(({ low, high }) => [low[step], high[step]])];
    }),
  );
  return [heading, ...rows];
}
