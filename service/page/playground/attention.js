/**
 * What a translation attended to: its pieces, those of the text that was read, and a table of the weights between them.
 * It knows elements and weights, not models. Invariants: one piece of the translation is looked at, and what it attended
 * to is shaded by its weights; the pieces are one stop of the Tab key, and arrows move among them.
 */

import { element, whole, wide } from "./dom.js";

const MOST_CELLS = 10_000; // of the table
const MOST_TOLD = 3; // pieces that are named beside a piece that attended to them
const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥" };

export class AttentionMap {
  /** `attention` is that of an answer: {source, tokens, weights}, with a token at least. */
  constructor(attention) {
    Object.assign(this, attention, { at: 0 });
    this.read = this.source.map((piece) => element("li", { class: "shaded" }, visible(piece), element("small")));
    this.written = this.tokens.map((piece, place) => this.button(piece, place));
    this.rows = this.tokens.slice(0, Math.max(1, Math.floor(MOST_CELLS / this.source.length))).map((piece, place) => this.row(piece, place));
    this.told = element("p", { class: "note" });
    const see = ({ target }) => this.look(target.closest("[data-piece]")?.dataset.piece);
    this.element = element(
      "div", { onpointerover: see, onfocusin: see, onclick: see },
      element("h3", {}, "Piece by piece"),
      list("Translation", this.written.map((piece) => element("li", {}, piece)), { onkeydown: (event) => this.move(event) }),
      list("Text", this.read),
      this.told,
      element("h3", {}, "All pieces"),
      element("p", { class: "note" }, this.caption()),
      this.table(),
    );
    this.look(0);
  }

  button(piece, place) {
    const told = `${visible(piece)}: ${this.tell(place)}`;
    return element("button", { type: "button", tabindex: "-1", title: told, "aria-label": told, "data-piece": place }, visible(piece));
  }

  row(piece, place) {
    const cells = this.weights[place].map((weight) => shade(element("td", { class: "shaded", title: weight.toFixed(4) }, percent(weight)), weight));
    return element("tr", { "data-piece": place }, element("th", { scope: "row" }, visible(piece)), ...cells);
  }

  table() {
    const heads = this.source.map((piece) => element("th", { scope: "col" }, visible(piece)));
    const head = element("thead", {}, element("tr", {}, element("td"), ...heads));
    return wide("Attention, in %", element("table", { class: "matrix" }, head, element("tbody", {}, this.rows)));
  }

  caption() {
    const left = this.tokens.length - this.rows.length;
    const unseen = left ? ` Of the translation these are the first ${whole(this.rows.length)} pieces; ${whole(left)} more are not drawn.` : "";
    return `A row for each piece of the translation: how much of its attention each piece of the text had, in %.${unseen}`;
  }

  /** Say what a piece attended to most. */
  tell(place) {
    const shares = this.weights[place].map((weight, of) => [weight, visible(this.source[of])]);
    const most = shares.sort(([one], [other]) => other - one).slice(0, MOST_TOLD);
    return most.map(([weight, piece]) => `“${piece}” ${percent(weight)} %`).join(", ");
  }

  /** Look at the piece at a place, if it is one. */
  look(place) {
    if (place === undefined) return;
    this.mark(false);
    this.at = Number(place);
    this.mark(true);
    this.read.forEach((piece, of) => {
      const weight = this.weights[this.at][of];
      shade(piece, weight).lastChild.textContent = `${percent(weight)} %`;
    });
    this.told.textContent = `“${visible(this.tokens[this.at])}” attended to ${this.tell(this.at)}.`;
  }

  mark(isLookedAt) {
    const piece = this.written[this.at];
    piece.tabIndex = isLookedAt ? 0 : -1;
    for (const each of [piece, this.rows[this.at]]) each?.toggleAttribute("data-looked-at", isLookedAt);
  }

  move(event) {
    const last = this.written.length - 1;
    const to = { ArrowLeft: this.at - 1, ArrowRight: this.at + 1, Home: 0, End: last }[event.key];
    if (to === undefined || to < 0 || to > last) return;
    event.preventDefault();
    this.written[to].focus();
  }
}

function list(label, items, acts = {}) {
  return element("ol", { class: "words pieces", "aria-label": label, ...acts }, items);
}

function visible(piece) {
  return piece.replaceAll(/[ \n\t]/gu, (sign) => SIGNS[sign]);
}

function percent(weight) {
  return (100 * weight).toFixed(0);
}

function shade(made, weight) {
  made.style.setProperty("--weight", weight);
  return made;
}
