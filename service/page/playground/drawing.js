/** A place to draw a series in, with the mouse, a pen or a finger. It knows pixels and values, not what they are for. */

import { svg } from "./dom.js";

const POSITIONS = 60;
const TOP = 100; // the value at the upper edge; 0 is at the lower one
const HEIGHT = 100; // of the drawing, in its own units; it is as wide as its place

/** Make a place to draw in; `done(values)` is called when the pointer is lifted. */
export function drawingPlace(done) {
  const line = svg("polyline", { class: "drawn" });
  const place = svg("svg", { class: "drawing", viewBox: `0 0 ${POSITIONS - 1} ${HEIGHT}`, preserveAspectRatio: "none" });
  place.append(line);
  place.setAttribute("aria-hidden", "true"); // by keyboard, the values are typed
  let values = null, last = null, before = "";

  const mark = (event) => {
    const { index, value } = pointIn(place, event);
    for (const [position, between] of fill(last ?? { index, value }, { index, value })) values[position] = between;
    last = { index, value };
    const points = values.flatMap((drawn, position) => (drawn === null ? [] : `${position},${TOP - drawn}`));
    line.setAttribute("points", points.join(" "));
  };
  place.addEventListener("pointerdown", (event) => {
    place.setPointerCapture(event.pointerId);
    values = Array(POSITIONS).fill(null);
    [last, before] = [null, line.getAttribute("points") ?? ""];
    mark(event);
  });
  place.addEventListener("pointermove", (event) => values && mark(event));
  const end = (isDrawn) => {
    const drawn = values?.filter((value) => value !== null) ?? [];
    values = null;
    if (isDrawn && drawn.length > 1) done(drawn);
    else line.setAttribute("points", before); // a click alone draws nothing
  };
  place.addEventListener("pointerup", () => values && end(true));
  place.addEventListener("pointercancel", () => values && end(false));
  return place;
}

function pointIn(place, { clientX, clientY }) {
  const { left, top, width, height } = place.getBoundingClientRect();
  const across = Math.min(1, Math.max(0, (clientX - left) / width));
  const down = Math.min(1, Math.max(0, (clientY - top) / height));
  return { index: Math.round(across * (POSITIONS - 1)), value: Math.round((1 - down) * TOP * 10) / 10 };
}

/** Return the positions from one point to another with their values, on a straight line. */
function fill(from, to) {
  const count = Math.abs(to.index - from.index);
  const way = Math.sign(to.index - from.index);
  return Array.from({ length: count + 1 }, (_, step) => {
    const value = count ? from.value + ((to.value - from.value) * step) / count : to.value;
    return [from.index + way * step, Math.round(value * 10) / 10];
  });
}
