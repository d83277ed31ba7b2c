/**
 * A written text on the page: each piece a button, coloured by how likely it was. It knows elements, not models.
 * Invariant: one piece at most is chosen; the text is one stop of the Tab key, and arrows move in it.
 */

import { element } from "./dom.js";

const LIKELY = [0.9, 0.5, 0.2, 0.05]; // from which shares a colour is stronger by one
const NAMES = { " ": "space", "\n": "line break", "\t": "tab" };

/** Return the class of the colour of a share. */
export function shade(share) {
  return `share-${LIKELY.filter((least) => share < least).length}`;
}

export class WrittenText {
  /** `choose(count)` is called with how many pieces there are up to the one that was chosen. */
  constructor(label, choose) {
    this.choose = choose;
    this.at = 0;
    const acts = { onclick: (event) => this.take(event.target), onkeydown: (event) => this.move(event) };
    this.element = element("div", { class: "written", role: "group", "aria-label": label, ...acts });
    this.prompt = element("span", { class: "prompt" });
    this.element.append(this.prompt);
  }

  /** Show a prompt and pieces; of the elements only those are made that are new. */
  show(prompt, pieces) {
    this.prompt.textContent = prompt;
    const { children } = this.element;
    while (children.length > pieces.length + 1) this.element.lastChild.remove();
    for (const piece of pieces.slice(children.length - 1)) this.element.append(this.button(piece));
    this.at = Math.min(this.at, Math.max(0, pieces.length - 1));
    this.focusable(this.at);
  }

  button({ text, share }) {
    const told = `${NAMES[text] ?? text}, ${(100 * share).toFixed(1)} %`;
    const about = { role: "button", tabindex: "-1", title: told, "aria-label": told, "aria-pressed": "false" };
    const breaks = text.includes("\n") ? " breaks" : "";
    return element("span", { class: `piece ${shade(share)}${breaks}`, ...about }, text); // a button would not wrap as text
  }

  pieces() {
    return [...this.element.children].slice(1);
  }

  focusable(at) {
    this.element.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    this.element.children[at + 1]?.setAttribute("tabindex", "0");
    this.at = at;
  }

  move(event) {
    if (["Enter", " "].includes(event.key)) {
      event.preventDefault();
      this.take(event.target);
      return;
    }
    const last = this.element.children.length - 2;
    const to = { ArrowLeft: this.at - 1, ArrowRight: this.at + 1, Home: 0, End: last }[event.key];
    if (to === undefined || to < 0 || to > last) return;
    event.preventDefault();
    this.focusable(to);
    this.element.children[to + 1].focus();
  }

  take(target) {
    const at = this.pieces().indexOf(target);
    if (at < 0) return;
    this.focusable(at);
    this.mark(at);
    this.choose(at + 1);
  }

  /** Mark the piece that is chosen; none where there is no such piece. */
  mark(at) {
    this.element.querySelector('[aria-pressed="true"]')?.setAttribute("aria-pressed", "false");
    this.element.children[at + 1]?.setAttribute("aria-pressed", "true");
  }
}
