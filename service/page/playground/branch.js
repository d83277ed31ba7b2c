/**
 * One branch of a stream: its session, where its observations come from, and the window of them that is drawn.
 *
 * It knows the live forecaster's outputs, not how they are drawn. Invariants: the window holds what the service answered,
 * each step once; it never grows beyond its length.
 */

import { Session } from "./session.js";

export const WINDOW = 300;

/**
 * What of an observation's answer is drawn: the median and two intervals of the next one. Null for a model without a
 * median, or whose quantiles do not make intervals around it.
 */
export function quantilesOf(model) {
  const labels = model.outputs.find(({ name }) => name === "quantiles")?.labels ?? [];
  const low = labels.filter((label) => label < 0.5);
  if (!low.length) return null;
  const inner = low.reduce((best, label) => (Math.abs(label - 0.1) < Math.abs(best - 0.1) ? label : best));
  const probabilities = [low[0], inner, 0.5, 1 - inner, 1 - low[0]];
  const indices = probabilities.map((wanted) => labels.findIndex((label) => Math.abs(label - wanted) < 1e-9));
  return indices.includes(-1) ? null : { indices, wide: percent(low[0]), narrow: percent(inner) };
}

/** Whether a model predicts the next observation of a stream of numbers, and scores the one that came. */
export function isLive({ task, inputs, outputs }) {
  const of = (name) => outputs.find((output) => output.name === name);
  const takesNumbers = task === "step" && inputs.length === 1 && inputs[0].shape.length === 2 && inputs[0].name === "values";
  return takesNumbers && of("anomaly")?.shape.length === 2 && quantilesOf({ outputs }) !== null;
}

function percent(low) {
  return Math.round((1 - 2 * low) * 1e6) / 1e4;
}

/** The last observations and what was predicted for the one after each, as columns; nothing is made anew as they move. */
export class Points {
  constructor() {
    this.step = [];
    this.value = [];
    this.anomaly = [];
    this.likelihood = []; // undefined where the model gives none
    this.ahead = []; // step + 1: for which the quantiles of the same row are
    this.quantiles = [[], [], [], [], []];
    this.columns = [this.step, this.value, this.anomaly, this.likelihood, this.ahead, ...this.quantiles];
  }

  add(step, value, { anomaly, likelihood, quantiles }, indices) {
    if (this.step.length === WINDOW) for (const column of this.columns) column.shift();
    this.step.push(step);
    this.value.push(value);
    this.anomaly.push(anomaly);
    this.likelihood.push(likelihood);
    this.ahead.push(step + 1);
    this.quantiles.forEach((column, index) => column.push(quantiles[indices[index]]));
  }

  /** Return how far apart the highest and the lowest value are, and 1 at least. */
  spread() {
    return Math.max(1, Math.max(...this.value) - Math.min(...this.value));
  }

  /** Forget what came after a step. */
  cut(step) {
    while (this.step.at(-1) > step) for (const column of this.columns) column.pop();
  }
}

/**
 * A branch; `tell` has these functions: `changed(branch, value)` (no value where none came), `status(branch)`, `log(text)`, `checkpoint(branch, facts)` and
 * `failed(branch, error)`.
 */
export class Branch {
  constructor({ name, open, model, source, tell }) {
    Object.assign(this, { name, open, model, source, tell });
    this.points = new Points();
    this.indices = quantilesOf(model).indices;
    this.breaks = []; // steps after which the connection was lost
  }

  /** Begin a new session, or go on from a checkpoint. */
  begin(checkpoint = null) {
    this.step = checkpoint ? checkpoint.step : 0;
    const listener = {
      status: () => this.tell.status(this),
      output: (frame, value) => this.take(frame, value),
      checkpoint: (facts, mark) => mark && this.tell.checkpoint(this, { ...facts, ...mark }), // no mark: the service's own
      refused: (error) => this.tell.log(`${this.name}: refused, and no part of the session: ${error.message}`),
      resumed: (how) => this.resumed(how),
      failed: (error) => this.tell.failed(this, error),
    };
    this.session = new Session({ open: this.open, model: this.model.name, state: checkpoint?.state, listener });
  }

  /** Return a branch that is to begin at a checkpoint in this one's place; what came after it is no part of that. */
  at(checkpoint) {
    const { name, open, model, tell } = this;
    const branch = new Branch({ name, open, model, source: checkpoint.source.copy(), tell });
    this.points.columns.forEach((column, index) => branch.points.columns[index].push(...column));
    branch.points.cut(checkpoint.step);
    branch.breaks = this.breaks.filter((step) => step <= checkpoint.step);
    return branch;
  }

  /** Send the next observation, `more` above what its source gives; false where the source has no more. */
  advance(more = 0) {
    const value = this.source.next();
    if (value === undefined) return false;
    this.session.push(value + more);
    return true;
  }

  /** Ask for a checkpoint, `byHand` or by itself; the source goes with it, so that a rewind takes both back. */
  checkpoint(byHand = false) {
    this.session.checkpoint({ source: this.source.copy(), byHand });
  }

  take({ step, outputs }, value) {
    this.step = step;
    this.points.add(step, value, outputs, this.indices);
    this.tell.changed(this, value);
  }

  resumed({ step, again, lost }) {
    this.breaks.push(this.step);
    if (this.breaks.length > WINDOW) this.breaks.shift();
    const sent = again === 0 ? "nothing had to be sent again" : `${again} of its observations sent again, none drawn twice`;
    this.tell.log(`${this.name}: connection lost at step ${this.step} (${lost}); resumed from step ${step}, ${sent}.`);
    this.tell.changed(this);
  }
}
