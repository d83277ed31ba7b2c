/**
 * Charts by plotly, which is loaded when the first one is drawn.
 *
 * It knows colours and sizes, not what is drawn. Invariants: nothing that the content security policy forbids is tried,
 * and no other host is asked; a chart is drawn at most once a frame, and not while it cannot be seen.
 */

import { element } from "./dom.js";

/** Plotly does not write the style elements of these ids where an element has them already; charts.css has its rules. */
const STYLES_OF_PLOTLY = [
  "plotly.js-style-global",
  "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53", // maplibre's, for maps that are not drawn here
];
const CONFIG = { displayModeBar: false, displaylogo: false, showTips: false, doubleClick: "reset", showLink: false };
const PNG_SCALE = 2;

let loading; // the promise of plotly

function load() {
  loading ??= new Promise((resolve, reject) => {
    const styles = STYLES_OF_PLOTLY.map((id) => element("meta", { id, class: "no-inline-styles" }));
    const failed = () => {
      loading = undefined;
      const error = new Error("The charts' library did not come. Is the service running?");
      reject(Object.assign(error, { code: "unreachable" }));
    };
    const script = element("script", { src: "/page/plotly.js", onload: () => resolve(window.Plotly), onerror: failed });
    document.head.append(...styles, script);
  });
  return loading;
}

/** One chart in an element of its own, `chart.element`, that takes the width of its place. */
export class Chart {
  /** Make a chart of a height in pixels, which a screen reader calls `label`; `fail(error)` is told why none came. */
  constructor({ height, label, fail }) {
    this.element = element("div", { class: "chart", role: "img", "aria-label": label });
    this.height = height;
    this.fail = fail;
    this.build = null;
    this.colours = null; // of the theme; the same object as long as that is
    this.due = false; // there is something newer than what is being drawn
    this.busy = false;
    new ResizeObserver(() => this.draw()).observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.colours = null;
      this.draw();
    });
  }

  /** Draw what `build(colours)` returns, `{data, layout}`, at the next frame, and again as the theme or the size changes. */
  show(build) {
    this.build = build;
    this.draw();
  }

  /** Draw again, at the next frame, what was shown last. */
  draw() {
    this.due = this.build !== null;
    if (this.busy || !this.due) return;
    this.busy = true;
    requestAnimationFrame(() => this.paint());
  }

  async paint() {
    this.due = false;
    try {
      if (this.element.clientWidth) await this.react(); // what cannot be seen is drawn when it can: that changes its size
    } catch (error) {
      this.fail(error);
    } finally {
      this.busy = false;
      if (this.due) this.draw();
    }
  }

  async react() {
    const plotly = await load();
    this.colours ??= themeColours();
    const { data, layout } = this.build(this.colours);
    await plotly.react(this.element, data, { ...frame(this.colours), ...layout, ...this.size() }, CONFIG);
  }

  size() {
    return { width: this.element.clientWidth, height: this.height };
  }

  /** Return the chart as a PNG, in a data URL. */
  async png() {
    const plotly = await load();
    return plotly.toImage(this.element, { format: "png", scale: PNG_SCALE, ...this.size() });
  }
}

/** Return the colours of the theme that is shown, by their names; `series` has one for each of several. */
function themeColours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const series = Array.from({ length: 6 }, (_, index) => colour(`series-${index + 1}`));
  const [surface, ink, muted, line, bad] = ["surface", "ink", "muted", "line", "bad"].map(colour);
  return { surface, ink, muted, line, bad, series };
}

function frame({ surface, ink, muted }) {
  return {
    paper_bgcolor: surface,
    plot_bgcolor: surface,
    font: { family: "system-ui, sans-serif", size: 12, color: ink },
    margin: { l: 48, r: 12, t: 12, b: 36 },
    showlegend: false,
    legend: {
      orientation: "h", traceorder: "normal", x: 0, y: 1, yanchor: "bottom", maxheight: 0.2, // of the chart; beyond, it scrolls
      itemclick: false, itemdoubleclick: false,
    },
    dragmode: false,
    hovermode: "x unified",
    hoverlabel: { namelength: -1, bgcolor: surface, bordercolor: muted, font: { color: ink } },
  };
}

/**
 * Return the look of an axis, with `more` of its own. Powers of ten are written with an e: plotly would raise their
 * digits by a style that the policy forbids.
 */
export function axis({ line, muted }, more = {}) {
  const look = { gridcolor: line, linecolor: line, zeroline: false, tickfont: { color: muted } };
  return { ...look, exponentformat: "e", automargin: true, ...more };
}

/** Return a colour of the theme, "#rrggbb", with an opacity. */
export function faint(colour, opacity) {
  const [red, green, blue] = [1, 3, 5].map((index) => parseInt(colour.slice(index, index + 2), 16));
  return `rgba(${red},${green},${blue},${opacity})`;
}

/** Return a text that plotly shows as it stands, and does not read as markup. */
export function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

/** Return the two traces of a band between `low` and `high`. */
export function band(x, low, high, colour, opacity, name, more = {}) {
  const edge = { x, mode: "lines", line: { width: 0, color: colour }, hoverinfo: "skip", ...more };
  return [
    { ...edge, y: low, name: `${name}, low` },
    { ...edge, y: high, name: `${name}, high`, fill: "tonexty", fillcolor: faint(colour, opacity) },
  ];
}

/** Have the browser save what a URL holds as a file. */
export function download(name, url) {
  element("a", { href: url, download: name }).click();
}

/** Have the browser save a text of a media type as a file. */
export function downloadText(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  download(name, url);
  URL.revokeObjectURL(url);
}
