/** The chart of forecasts: histories, means and fans of intervals. It knows traces, not where values come from. */

import { axis, band, plain } from "./plots.js";

/** How high the chart is. */
export const HEIGHT_PX = 400;

/** Of how many series together fans are drawn: with more they would cover one another. */
export const MOST_FANS = 6;

const FAN_OPACITY = 0.16;
const DASHES = ["solid", "dash", "longdash", "dashdot"]; // which tell apart the series of one colour
const LONGEST_HISTORY = 5; // histories are drawn up to so many horizons back, and 100 values at least

/**
 * Return what draws `entries`, one for each series: {values, forecast, at, colour}, where `at` has the positions of both
 * and `forecast` is null where there is none; `colour` numbers the series. Of more than MOST_FANS the fans are left out.
 */
export function forecastChart(entries) {
  return (colours) => {
    const { series } = colours;
    const look = ({ colour }) => ({ colour: series[colour % series.length], dash: dashOf(Math.floor(colour / series.length)) });
    const fans = entries.length <= MOST_FANS;
    const data = entries.flatMap((entry) => traces(entry, { ...look(entry), fans }));
    const timed = entries.some(({ at }) => at.timed);
    const layout = {
      xaxis: axis(colours, { type: timed ? "date" : "linear", range: shownRange(entries) }),
      yaxis: axis(colours),
      showlegend: entries.length > 1,
    };
    return { data, layout };
  };
}

function dashOf(round) {
  return DASHES[round % DASHES.length];
}

function traces({ name: given, values, forecast, at }, { colour, dash, fans }) {
  const name = plain(given);
  const history = { x: at.history, y: values, name, mode: lone(values) ? "lines+markers" : "lines" };
  const drawn = [{ ...history, line: { color: colour, width: 1.5, dash }, marker: { color: colour, size: 4 } }];
  if (!forecast) return drawn;
  for (const { level, low, high } of fans ? forecast.bands : []) {
    drawn.push(...band(at.future, low, high, colour, FAN_OPACITY, `${name}, ${level} %`, { showlegend: false }));
  }
  const line = { color: colour, width: 2, dash: "dot" };
  const mean = { x: at.future, y: forecast.mean, name: `${name}, mean`, mode: "lines+markers", showlegend: false };
  drawn.push({ ...mean, line, marker: { color: colour, size: 3 } });
  return drawn;
}

/** Whether a value has gaps on both sides, so that no line shows it. */
function lone(values) {
  const isGap = (index) => (values[index] ?? null) === null;
  return values.some((value, index) => !isGap(index) && isGap(index - 1) && isGap(index + 1));
}

/** Return the part of the axis that is shown: not so much history that the forecast cannot be seen. */
function shownRange(entries) {
  if (!entries.length) return undefined;
  const { at } = entries[0];
  const kept = Math.max(100, LONGEST_HISTORY * at.future.length);
  const first = at.history[Math.max(0, at.history.length - kept)];
  return [first, at.future.at(-1) ?? at.history.at(-1)];
}
