/**
 * Handwrite: a text that a model writes by hand, stroke by stroke as its points come.
 *
 * It knows its controls and what a request has; how points are drawn is another module's. Invariant: one text is
 * written at a time, and the drawing has the points that the service answered for it, and no others.
 */

import { button, choice, clearError, element, enable, labelled, numberOf, showError, slider, whole } from "../dom.js";
import { downloadText } from "../plots.js";
import { Strokes } from "../strokes.js";

export const title = "Handwrite";

const LEAD = "The model moves a pen, one point after the other, while it reads the text. With more bias the hand is tidier; the same seed writes the same.";
const FIRST = "baton";
const BIAS_STEPS = 4; // of the slider, for a bias of 1
const MOST_BIAS = 5;
const PAUSE_MS = 12; // between points
const MOST_POINTS = 2000; // where the model does not come to an end before
const ENDS = { length: "its length", end: "the model", error: "an error" };

const handwrites = ({ feedback, start, answers }) =>
  answers.includes("generate") && feedback?.kind === "mixture" && Boolean(start?.text);

export function serves(models) {
  return models.some(handwrites);
}

export function mount(root, { api, models, info }) {
  new HandwritePanel(root, api, models.filter(handwrites), Math.min(MOST_POINTS, info.limits.max_steps));
}

class HandwritePanel {
  constructor(root, api, models, most) {
    Object.assign(this, { api, models, model: models[0], most, written: null, under: null });
    this.build(root);
    this.show();
  }

  build(root) {
    this.field = element("input", { type: "text", autocomplete: "off", spellcheck: "false", onkeydown: (event) => this.enter(event) });
    this.field.value = FIRST;
    this.problem = element("div");
    this.strokes = new Strokes();
    this.told = element("p", { class: "note", "aria-live": "polite" });
    this.warnings = element("ul", { class: "note warnings" });
    this.start = button("Write", () => this.write(), { class: "first" });
    this.stop = button("Stop", () => this.under.abort());
    this.save = button("Download SVG", () => downloadText("handwriting.svg", "image/svg+xml", this.written.svg));
    const acts = element("div", { class: "row acts" }, this.start, this.stop, this.save);
    root.append(
      element("p", { class: "lead" }, LEAD),
      element(
        "div", { class: "columns" },
        element("div", { class: "box" }, labelled("Text to write by hand", this.field), acts, this.problem, this.strokes.element, this.told, this.warnings),
        element("div", {}, element("div", { class: "box" }, element("h2", {}, "Settings"), ...this.settings())),
      ),
    );
  }

  settings() {
    const names = this.models.map(({ name }) => name);
    const select = choice(names, (name) => (this.model = this.models[names.indexOf(name)]));
    this.bias = slider("Bias", () => {});
    this.bias.fit(0, MOST_BIAS * BIAS_STEPS, BIAS_STEPS / 2, (value) => (value / BIAS_STEPS).toFixed(2));
    this.seed = element("input", { type: "number", min: "0", step: "1", value: "1" });
    return [...(names.length > 1 ? [labelled("Model", select)] : []), this.bias.field, labelled("Seed", this.seed)];
  }

  enter({ key }) {
    if (key === "Enter") this.start.click();
  }

  /** The request as the controls have it. Raises an error for a seed that is no whole number. */
  wanted() {
    return {
      model: this.model.name,
      items: [{ condition: { text: this.field.value } }],
      seed: numberOf(this.seed, "Seed", 0) ?? 0,
      bias: Number(this.bias.input.value) / BIAS_STEPS,
      max_steps: this.most,
      svg: true,
      stream: true,
    };
  }

  /** Write the text in the place of the one before, which stays where the seed will not do. */
  async write() {
    clearError(this.problem);
    try {
      const body = this.wanted();
      this.written = { seed: body.seed, points: 0, finish: null, svg: null };
      this.strokes.clear(`“${body.items[0].condition.text}”, written by hand`);
      this.under = new AbortController();
      this.show();
      await this.draw(body, this.written);
    } catch (error) {
      showError(this.problem, error);
      if (!this.written?.points) this.strokes.clear();
    } finally {
      this.under = null;
      this.show();
    }
  }

  /** Draw points as they come, but no faster than a hand, unless less motion is wanted. */
  async draw(body, written) {
    const { signal } = this.under;
    const pause_ms = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : PAUSE_MS;
    for await (const { points, finish, svg, warnings } of this.api.events("/v1/generate", body, signal)) {
      for (const point of points) {
        if (signal.aborted) return;
        this.strokes.add(point);
        written.points += 1;
        if (pause_ms) await new Promise((resolve) => setTimeout(resolve, pause_ms));
      }
      if (finish) Object.assign(written, { finish, svg, warnings });
    }
  }

  /** Set the controls to what can be done now, and tell of what was written. */
  show() {
    const busy = this.under !== null;
    enable(this.start, !busy);
    enable(this.stop, busy);
    enable(this.save, !busy && Boolean(this.written?.svg));
    if (busy) this.told.textContent = "It writes.";
    else this.told.textContent = this.written?.points || this.written?.finish ? this.tell(this.written) : "";
    this.warnings.replaceChildren(...(this.written?.warnings ?? []).map((warning) => element("li", {}, warning)));
  }

  tell({ seed, points, finish }) {
    const strokes = this.strokes.count === 1 ? "1 stroke" : `${whole(this.strokes.count)} strokes`;
    const ended = finish ? `ended by ${ENDS[finish]}` : "stopped";
    return `${whole(points)} points in ${strokes}, ${ended}; seed ${seed}.`;
  }
}
