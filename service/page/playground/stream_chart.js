/**
 * The live chart: observations on the intervals that were predicted for them, anomaly scores below, one branch or two.
 *
 * Invariant: traces are made once for each theme and number of branches; from then on plotly reads the branches' own
 * columns, which move.
 */

import { WINDOW, quantilesOf } from "./branch.js";
import { shortly } from "./dom.js";
import { axis, band } from "./plots.js";

/** How high the chart is. */
export const HEIGHT_PX = 440;
const LEAST_SHOWN = 60; // steps, before there are so many
const LABEL_PX = 14; // of a label's row: those of two branches do not lie on one another
const LEAST_SCORE = 2; // at the top of the scores' axis

/** Axes that do not measure their labels at each frame: the margins have room for them. */
const STILL = { automargin: false, ticklabeloverflow: "allow", fixedrange: true };

/** What draws branches; `build` is for `Chart.show`. */
export class StreamChart {
  constructor(model) {
    this.quantiles = quantilesOf(model);
    this.branches = [];
    this.chosen = null; // the step of the checkpoint that is chosen
    this.made = { colours: null, data: [], layout: {} };
    this.build = (colours) => this.update(colours);
  }

  /** Draw these branches from now on. */
  set(branches) {
    this.branches = branches;
    this.made.colours = null;
  }

  update(colours) {
    if (this.made.colours !== colours) this.make(colours);
    const { data, layout } = this.made;
    const last = Math.max(1, ...this.branches.map(({ points }) => points.ahead.at(-1) ?? 1));
    const first = Math.max(0, last - WINDOW - 1);
    layout.xaxis.range = [first, Math.max(last, first + LEAST_SHOWN) + 0.5];
    const highest = Math.max(LEAST_SCORE, ...this.branches.map(({ points }) => Math.max(...points.anomaly)));
    layout.yaxis2.range = [0, 1.08 * highest];
    this.marks(layout, colours, first);
    layout.datarevision++;
    return { data, layout };
  }

  make(colours) {
    const data = this.branches.flatMap((branch, index) => this.traces(branch, colours.series[index], index > 0));
    const layout = {
      xaxis: axis(colours, { ...STILL, anchor: "y2", title: titled("step", colours) }),
      yaxis: axis(colours, { ...STILL, domain: [0.3, 1] }),
      yaxis2: axis(colours, { ...STILL, domain: [0, 0.24], title: titled("anomaly", colours), nticks: 3 }),
      showlegend: this.branches.length > 1,
      margin: { l: 64, r: 12, t: 28, b: 40 },
      datarevision: 0,
    };
    this.made = { colours, data, layout };
  }

  traces({ name, points }, colour, dashed) {
    const [low, lower, median, higher, high] = points.quantiles;
    const { wide, narrow } = this.quantiles;
    const dash = dashed ? "dash" : "solid";
    return [
      ...band(points.ahead, low, high, colour, 0.14, `${name}, ${wide} %`, { showlegend: false }),
      ...band(points.ahead, lower, higher, colour, 0.22, `${name}, ${narrow} %`, { showlegend: false }),
      {
        x: points.ahead, y: median, name: `${name}, median predicted`, mode: "lines", showlegend: false,
        line: { color: colour, width: 1, dash: "dot" },
      },
      {
        x: points.step, y: points.value, name: `${name}, observed`, mode: "lines",
        line: { color: colour, width: 1.5, dash },
      },
      {
        x: points.step, y: points.anomaly, name: `${name}, anomaly`, mode: "lines", yaxis: "y2", showlegend: false,
        line: { color: colour, width: 1.5, dash, shape: "hvh" },
      },
    ];
  }

  /** Mark the bound of ordinary scores, the chosen checkpoint, and where connections were lost. */
  marks(layout, { bad, muted }, first) {
    const resumed = this.branches.flatMap(({ breaks }, row) => breaks.map((step) => [step, bad, "dot", "resumed", row]));
    const uprights = [...resumed, [this.chosen, muted, "dash", "checkpoint", this.branches.length]];
    const seen = uprights.filter(([step]) => step !== null && step >= first);
    const ordinary = { color: muted, width: 1, dash: "dot" };
    const bound = { type: "line", xref: "paper", x0: 0, x1: 1, yref: "y2", y0: 1, y1: 1, line: ordinary };
    layout.shapes = [bound, ...seen.map(([step, color, dash]) => upright(step, { color, width: 1.5, dash }))];
    const place = { y: 1, yref: "paper", xanchor: "right", yanchor: "top", showarrow: false };
    layout.annotations = seen.map(([step, color, , text, row]) => {
      return { ...place, x: step + 0.5, yshift: -LABEL_PX * row, text, font: { color, size: 11 } };
    });
  }
}

function upright(step, line) {
  return { type: "line", x0: step + 0.5, x1: step + 0.5, y0: 0, y1: 1, yref: "paper", line };
}

function titled(text, { muted }) {
  return { text, standoff: 4, font: { color: muted } };
}

/** Say of a branch's points what was observed last, and what is predicted. */
export function sentence({ value, anomaly, likelihood, quantiles }, level) {
  if (!value.length) return "Nothing was observed yet.";
  const [low, , , , high] = quantiles.map((column) => shortly(column.at(-1)));
  const likely = likelihood.at(-1) === undefined ? "" : `, likelihood ${shortly(likelihood.at(-1))}`;
  const last = `Observed ${shortly(value.at(-1))}, anomaly ${shortly(anomaly.at(-1))}${likely}`;
  return `${last}; the next one with ${level} % between ${low} and ${high}.`;
}
