/** The checkpoints of a stream: a list to choose from, and what a token says of itself. It knows no session. */

import { button, element, labelled, whole } from "./dom.js";

/** How many are kept of those made by hand, and of the others. */
export const MOST = 30;
const LATEST = "latest";

/** The checkpoints that were kept, and the controls over them, which are `parts`. */
export class Checkpoints {
  /**
   * Begin with none. `acts` are the buttons: Checkpoint, and by name those that act on the one that is chosen;
   * `chosen(checkpoint)` is called as another one is, with `{step: null}` for none.
   */
  constructor({ Checkpoint: make, ...acts }, chosen) {
    this.make = button("Checkpoint", make);
    this.kept = []; // oldest first
    this.tell = chosen;
    this.which = element("select", { onchange: () => this.choose() });
    this.buttons = Object.entries(acts).map(([name, act]) => button(name, () => act(this.chosen())));
    this.facts = element("dl", { class: "facts" });
    const row = element("div", { class: "row acts" }, this.make, ...this.buttons);
    this.parts = [labelled("Go back to, or fork from", this.which), row, this.facts];
  }

  clear() {
    this.kept = [];
    this.list();
  }

  /**
   * Keep a checkpoint, in the place of one of the same step; the oldest of those that were not made by hand makes room,
   * but for the chosen one. Returns false where it was made by hand and there are too many of these: it is not kept.
   */
  keep(checkpoint) {
    const others = this.kept.filter(({ step }) => step !== checkpoint.step);
    const same = this.kept.find(({ step }) => step === checkpoint.step);
    const byHand = checkpoint.byHand || same?.byHand === true;
    if (byHand && others.filter((other) => other.byHand).length === MOST) return false;
    const free = others.filter((other) => !other.byHand);
    const dropped = byHand || free.length < MOST ? null : free.find(({ step }) => String(step) !== this.which.value);
    this.kept = [...others.filter((other) => other !== dropped), { ...checkpoint, byHand }];
    this.list();
    return true;
  }

  /** Forget those that were made after a step. */
  cut(step) {
    this.kept = this.kept.filter((checkpoint) => checkpoint.step <= step);
    this.list();
  }

  chosen() {
    return this.kept.findLast(({ step }) => String(step) === this.which.value) ?? this.kept.at(-1);
  }

  list() {
    const value = this.which.value;
    const steps = this.kept.map(({ step }) => String(step)).reverse();
    this.which.replaceChildren(
      element("option", { value: LATEST }, steps.length ? `Latest, step ${steps[0]}` : "None yet"),
      ...steps.map((step) => element("option", { value: step }, `Step ${step}`)),
    );
    this.which.value = steps.includes(value) ? value : LATEST;
    for (const control of this.buttons) control.disabled = !steps.length;
    this.choose();
  }

  choose() {
    const checkpoint = this.chosen();
    this.tell(checkpoint ?? { step: null });
    const facts = Object.entries(checkpoint ? factsOf(checkpoint) : {});
    this.facts.replaceChildren(...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  }
}

/** What may be known of a token; the state in it is sealed. */
function factsOf({ model, version, step, expires, state }) {
  return {
    Model: model,
    Version: version,
    Step: whole(step),
    Expires: new Date(expires).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }),
    Bytes: whole(state.length),
    Token: element("code", {}, `${state.slice(0, 24)}…`),
  };
}
