/**
 * Write: a text that a model generates, as it comes, from a prompt or from any place of a text before.
 *
 * It knows controls and what they do to texts; how a text is written and shown are other modules'. Invariant: one text
 * is written at a time, and what is shown of each is what the service answered for it.
 */

import { button, choice, clearError, element, enable, labelled, numberOf, showError, slider, whole } from "../dom.js";
import { Writing, writes } from "../writing.js";
import { WrittenText } from "../written_text.js";

export const title = "Write";

const LEAD = "The model draws one character after the other, each by how likely it holds it. Choose a character to go on from there.";
const PROMPT = "ROMEO:\n";
const SEEDS = 2 ** 53; // which JavaScript writes exactly
const ENDS = { stop: "a stop text", length: "its length", end: "the model", error: "an error" };

export function serves(models) {
  return models.some(writes);
}

export function mount(root, { api, models }) {
  new WritePanel(root, api, models.filter(writes));
}

class WritePanel {
  constructor(root, api, models) {
    Object.assign(this, { api, models, model: models[0], texts: [], chosen: null, under: null });
    this.build(root);
    this.show();
  }

  build(root) {
    this.problem = element("div");
    this.list = element("div", { class: "texts" });
    this.told = element("p", { class: "note", "aria-live": "polite" });
    this.field = element("textarea", { rows: "3", spellcheck: "false" });
    this.field.value = PROMPT;
    this.start = button("Write", () => this.begin(), { class: "first" });
    this.stop = button("Stop", () => this.under?.abort());
    this.ways = [
      button("Go on", () => this.goOn()),
      button("Rewind to here", () => this.rewind()),
      button("Fork here", () => this.fork()),
    ];
    const acts = element("div", { class: "row acts" }, this.start, this.stop, ...this.ways);
    root.append(
      element("p", { class: "lead" }, LEAD),
      element(
        "div", { class: "columns" },
        element("div", { class: "box" }, labelled("Prompt", this.field), acts, this.problem, this.list, legend(), this.told),
        element("div", { class: "box" }, element("h2", {}, "Settings"), ...this.settings()),
      ),
    );
  }

  settings() {
    const names = this.models.map(({ name }) => name);
    const select = choice(names, (name) => (this.model = this.models[names.indexOf(name)]));
    const nothing = () => {};
    this.length = slider("Length", nothing);
    this.length.fit(1, 20, 8, (value) => `${25 * value} steps`);
    this.temperature = slider("Temperature", nothing);
    this.temperature.fit(0, 40, 16, (value) => (value ? (value / 20).toFixed(2) : "0: always the likeliest"));
    this.share = slider("Top p", nothing);
    this.share.fit(1, 20, 20, (value) => (value === 20 ? "1: of all" : (value / 20).toFixed(2)));
    this.count = element("input", { type: "number", min: "1", step: "1", placeholder: "all" });
    this.seed = element("input", { type: "number", min: "0", step: "1", value: "1" });
    return [
      ...(names.length > 1 ? [labelled("Model", select)] : []),
      this.length.field, this.temperature.field, this.share.field,
      labelled("Top k", this.count), labelled("Seed", this.seed),
    ];
  }

  /** The settings as a request has them. Raises an error for what is no whole number. */
  wanted() {
    const k = numberOf(this.count, "Top k", 1);
    const share = Number(this.share.input.value) / 20;
    return {
      seed: numberOf(this.seed, "Seed", 0) ?? 0,
      max_steps: 25 * Number(this.length.input.value),
      temperature: Number(this.temperature.input.value) / 20,
      ...(k && { top_k: k }),
      ...(share < 1 && { top_p: share }),
    };
  }

  /** Begin anew: a text of the prompt, in the place of all others. */
  begin() {
    this.write(() => {
      this.texts = [];
      this.list.replaceChildren();
      return this.add(new Writing(this.api, this.model, this.field.value));
    });
  }

  goOn() {
    this.write(() => this.chosen?.text ?? this.texts.at(-1));
  }

  rewind() {
    const { text, count } = this.chosen;
    this.write((settings) => {
      text.writing.rewind(count);
      this.otherSeed(settings);
      return text;
    });
  }

  fork() {
    const { text, count } = this.chosen;
    this.write((settings) => {
      this.otherSeed(settings);
      return this.add(text.writing.fork(count), `, forked from text ${text.number} after ${count} pieces`);
    });
  }

  /** From the same place the same seed would write the same text again. */
  otherSeed(settings) {
    settings.seed = (settings.seed + 1) % SEEDS;
    this.seed.value = settings.seed;
  }

  add(writing, origin = "") {
    const number = this.texts.length + 1;
    const shown = new WrittenText(`Text ${number}`, (count) => this.choose(text, count));
    const text = { number, writing, shown };
    this.texts.push(text);
    this.list.append(element("h2", {}, `Text ${number}${origin}`), shown.element);
    return text;
  }

  choose(text, count) {
    for (const { shown } of this.texts) if (shown !== text.shown) shown.mark(-1);
    this.chosen = { text, count };
    this.show();
  }

  /** Write the text that `take(settings)` returns. Where the settings will not do, the texts stay as they are. */
  async write(take) {
    clearError(this.problem);
    let text;
    try {
      const settings = this.wanted();
      text = take(settings);
      this.chosen?.text.shown.mark(-1);
      this.chosen = null;
      this.under = new AbortController();
      this.show();
      const { writing, shown } = text;
      const more = () => shown.show(writing.prompt, writing.pieces);
      more();
      await writing.write(settings, this.under.signal, more);
    } catch (error) {
      showError(this.problem, error);
    } finally {
      this.under = null;
      this.show(text);
    }
  }

  /** Set the controls to what can be done now, and tell of the text that was written last. */
  show(text) {
    const busy = this.under !== null;
    enable(this.start, !busy);
    enable(this.stop, busy);
    const [goOn, ...others] = this.ways;
    enable(goOn, !busy && this.texts.some(({ writing }) => writing.pieces.length));
    for (const way of others) enable(way, !busy && this.chosen !== null);
    if (busy) this.told.textContent = "It writes.";
    else if (this.chosen) this.told.textContent = tellPlace(this.chosen);
    else if (text) this.told.textContent = tell(text);
  }
}

function tell({ number, writing: { pieces, seed, finish } }) {
  const ended = finish ? `ended by ${ENDS[finish]}` : "stopped";
  return `Text ${number}: ${whole(pieces.length)} pieces, ${ended}; seed ${seed}.`;
}

function tellPlace({ text: { number, writing }, count }) {
  const { share, state, step } = writing.pieces[count - 1];
  return (
    `Text ${number}, piece ${whole(count)}, which was held likely by ${(100 * share).toFixed(1)} %. The state after ` +
    `step ${whole(step)} is in this page: a token of ${whole(state.length)} characters.`
  );
}

function legend() {
  const names = ["90 % and more", "50 %", "20 %", "5 %", "less likely"];
  const marks = names.map((name, place) => element("li", {}, element("span", { class: `mark share-${place}` }), name));
  return element("ul", { class: "legend note", "aria-label": "Colours: how likely a character was" }, ...marks);
}
