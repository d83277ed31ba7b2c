/**
 * The controls that choose where a stream's observations come from. They know sources, and no session.
 * Invariant: what is chosen makes a source, or the reason why it makes none is shown beside it.
 */

import { choice, clearError, element, labelled, showError, whole } from "./dom.js";
import { readSeries } from "./series.js";
import { KINDS, Source } from "./sources.js";

const PASTED = "pasted";
const HIGHEST_SEED = 4294967295;

export class SourceChoice {
  /** Begin with the first generator; `changed(source)` is called with what is chosen from then on, null for none. */
  constructor(changed) {
    const change = () => changed(this.make());
    this.kind = choice([...Object.keys(KINDS), PASTED], change);
    for (const option of this.kind.options) option.textContent = KINDS[option.value] ?? "Pasted series";
    this.seed = element("input", { type: "number", min: "0", max: String(HIGHEST_SEED), value: "1", onchange: change });
    this.seedField = labelled("Seed", this.seed);
    this.text = element("textarea", { rows: "6", class: "csv", spellcheck: "false", oninput: change });
    this.pasted = labelled("Values, as CSV; of several columns the first is played", this.text);
    this.problem = element("div");
    this.parts = [labelled("Source", this.kind), this.seedField, this.pasted, this.problem];
    this.fit();
  }

  /** Make the source that is chosen; null, with the reason shown, where it cannot be made. */
  make() {
    this.fit();
    clearError(this.problem);
    const [kind, text] = [this.kind.value, this.text.value];
    try {
      if (kind === PASTED) return new Source({ kind, values: readValues(text), text });
      return new Source({ kind, seed: readSeed(this.seed.value) });
    } catch (error) {
      showError(this.problem, error);
      return null;
    }
  }

  /** Show a source as the one that is chosen. */
  show({ kind, seed, text, values }) {
    clearError(this.problem);
    this.kind.value = kind;
    if (values) this.text.value = text;
    else this.seed.value = seed;
    this.fit();
  }

  fit() {
    this.seedField.hidden = this.kind.value === PASTED;
    this.pasted.hidden = !this.seedField.hidden;
  }
}

function readSeed(text) {
  if (/^\d+$/.test(text) && Number(text) <= HIGHEST_SEED) return Number(text);
  throw refusal(`A seed is a whole number from 0 to ${whole(HIGHEST_SEED)}.`, "seed");
}

function readValues(text) {
  if (!text.trim()) return [];
  const [{ values }] = readSeries(text).series;
  const gap = values.indexOf(null);
  if (gap < 0) return values;
  throw refusal(`Value ${gap + 1} is a gap, and a stream takes numbers alone.`, "csv");
}

function refusal(message, code) {
  return Object.assign(new Error(message), { code });
}
