/**
 * Translate: a text in another language, other ways to say it, and what each piece attended to.
 * It knows its controls and how translations are shown. Invariant: what is shown is one answer of the service, to the
 * newest text.
 */

import { AttentionMap } from "../attention.js";
import { button, choice, clearError, element, labelled, showError, signed, slider, whole } from "../dom.js";
import { newest } from "../newest.js";

export const title = "Translate";

const FIRST = "I have never seen such a beautiful garden.";
const MOST_BEAMS = 16;
const PENALTY_STEPS = 4; // of the slider, for a length penalty of 1
const ENDS = { length: "its length", end: "the model" };

const translates = ({ answers }) => answers.includes("translate");
const attends = ({ outputs }) => outputs.filter(({ shape }) => shape.join() === "batch,time,memory").length === 1;

export function serves(models) {
  return models.some(translates);
}

export function mount(root, { api, models }) {
  new TranslatePanel(root, api, models.filter(translates));
}

class TranslatePanel {
  constructor(root, api, models) {
    Object.assign(this, { api, models, model: models[0] });
    this.give = newest((asked, isStale) => this.translate(asked, isStale));
    this.build(root);
    this.ask();
  }

  build(root) {
    this.field = element("textarea", { rows: "3", spellcheck: "false", oninput: () => this.ask() });
    this.field.value = FIRST;
    this.problem = element("div");
    this.warnings = element("ul", { class: "note warnings" });
    this.best = element("div", { "aria-live": "polite" });
    this.list = element("ol", { class: "translations", "aria-label": "Translations" });
    this.attention = element("div", { class: "box", hidden: true });
    const names = this.models.map(({ name }) => name);
    const select = choice(names, (name) => {
      this.model = this.models[names.indexOf(name)];
      this.ask();
    });
    const head = element("div", { class: "head" }, element("h2", {}, "Translation"), labelled("Translator", select));
    root.append(
      element(
        "div", { class: "columns" },
        element(
          "div", {},
          element("div", { class: "box" }, labelled("Text to translate", this.field)),
          element("div", { class: "box" }, head, this.problem, this.warnings, this.best),
          this.attention,
        ),
        element("div", {}, element("div", { class: "box" }, element("h2", {}, "The best by their scores"), this.list, ...this.settings())),
      ),
    );
  }

  settings() {
    this.beams = slider("Beams", () => this.ask());
    this.beams.fit(1, MOST_BEAMS, 4, String);
    this.penalty = slider("Length penalty", () => this.ask());
    this.penalty.fit(0, 3 * PENALTY_STEPS, PENALTY_STEPS, (value) => (value / PENALTY_STEPS).toFixed(2));
    return [this.beams.field, this.penalty.field];
  }

  /** Have the text translated as it stands; to draw what it attends to may be too much of an answer. */
  ask(drawn = true) {
    const { model, field } = this;
    const beams = Number(this.beams.input.value);
    const settings = { beams, length_penalty: Number(this.penalty.input.value) / PENALTY_STEPS, alternatives: beams };
    this.give({ model: model.name, inputs: [field.value], ...settings, ...(drawn && attends(model) && { attention: true }) });
  }

  async translate(body, isStale) {
    try {
      const { results } = body.inputs[0].trim() ? await this.api.call("POST", "/v1/translate", body) : { results: [] };
      if (isStale()) return;
      clearError(this.problem);
      this.show(results[0]);
      if (!results.length) this.best.append(element("p", { class: "note" }, "Nothing to translate yet: type a text."));
    } catch (error) {
      if (isStale()) return;
      this.show();
      const ways = [button("Try again", () => this.ask())];
      if (body.attention && error.code === "batch_too_large") ways.push(button("Translate without attention", () => this.ask(false)));
      showError(this.problem, error, ...ways);
    }
  }

  /** Show the translations of a result; where there is none, nothing. */
  show(result) {
    const found = result ? [result, ...(result.alternatives ?? [])] : [];
    const read = result && `Read: ${whole(result.tokens)} tokens, ${Math.round(100 * result.unknown_ratio)} % of them unknown.`;
    this.warnings.replaceChildren(...(result?.warnings ?? []).map((warning) => element("li", {}, warning)));
    const choose = (one, place) => button(textOf(one), () => this.choose(place, one, read));
    this.list.replaceChildren(...found.map((one, place) => element("li", {}, choose(one, place), scoreOf(one))));
    this.best.replaceChildren();
    this.attention.hidden = true;
    if (result) this.choose(0, result, read);
  }

  choose(place, one, read) {
    this.list.querySelectorAll("button").forEach((each, at) => (each.ariaPressed = String(at === place)));
    const ended = element("p", { class: "note" }, `Score ${signed(one.score, 4)}, ended by ${ENDS[one.finish]}. ${read}`);
    this.best.replaceChildren(element("p", { class: "translation" }, textOf(one)), ended);
    this.attention.hidden = !one.attention?.tokens.length;
    if (this.attention.hidden) return;
    this.attention.replaceChildren(element("h2", {}, "Attention"), new AttentionMap(one.attention).element);
  }
}

function textOf({ text }) {
  return /\S/u.test(text) ? text : "(blank)";
}

function scoreOf({ score }) {
  return element("span", { class: "number note" }, signed(score, 4));
}
