/**
 * Handwriting on the page, drawn as its points come. It knows points of a pen and SVG, not who writes.
 * Invariant: all points are in the picture, each at the sum of the offsets up to it; an SVG's y goes down, a point's up.
 */

import { svg } from "./dom.js";

const MARGIN = 0.05; // of the longer side

export class Strokes {
  constructor() {
    this.element = svg("svg", { class: "handwriting", role: "img", preserveAspectRatio: "xMinYMid" });
    this.clear();
  }

  /** Begin an empty picture, which a screen reader calls `label`. */
  clear(label = "Nothing is written yet") {
    this.element.replaceChildren();
    this.element.removeAttribute("viewBox");
    this.element.setAttribute("aria-label", label);
    Object.assign(this, { x: 0, y: 0, path: null, line: "" }); // the path of the stroke that is not at its end
    this.bounds = { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity };
  }

  /** How many strokes there are, the one that is not at its end among them. */
  get count() {
    return this.element.children.length;
  }

  /** Draw a point, [offset to the right, offset upwards, 1 where the stroke ends], and fit the picture to all. */
  add([right, up, ends]) {
    this.x += right;
    this.y -= up;
    this.draw();
    if (ends) this.path = null;
    this.fit();
  }

  draw() {
    const { x, y, bounds } = this;
    if (this.path === null) {
      this.element.append((this.path = svg("path", {})));
      this.line = `M${x} ${y}L`; // to itself: a stroke of one point is a dot, by its round ends
    }
    this.line += ` ${x} ${y}`;
    this.path.setAttribute("d", this.line);
    bounds.left = Math.min(bounds.left, x);
    bounds.right = Math.max(bounds.right, x);
    bounds.top = Math.min(bounds.top, y);
    bounds.bottom = Math.max(bounds.bottom, y);
  }

  fit() {
    const { left, top, right, bottom } = this.bounds;
    const margin = MARGIN * Math.max(right - left, bottom - top) || 1;
    const box = [left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin];
    this.element.setAttribute("viewBox", box.join(" "));
  }
}
