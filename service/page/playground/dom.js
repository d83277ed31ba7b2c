/** What all panels build with: elements, errors, numbers for people. It knows the document, not the API. */

/**
 * Make an element. Of `properties`, functions named `on...` are listeners, true and false attributes that are there
 * or not, and all others attributes; `children` are nodes or texts, or arrays of them where they may be more than a call takes.
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") made.toggleAttribute(name, value);
    else made.setAttribute(name, value);
  }
  for (const child of children.flat()) made.append(child);
  return made;
}

/** Make an element of a drawing; `attributes` are as SVG names them. */
export function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Make a control with its label before it; the control is in the label. */
export function labelled(label, control) {
  return element("label", { class: "field" }, element("span", {}, label), control);
}

/** Make a select of `names`, which calls `choose(name)`. */
export function choice(names, choose) {
  const options = names.map((name) => element("option", { value: name }, name));
  return element("select", { onchange: (event) => choose(event.target.value) }, ...options);
}

/**
 * Make a slider that says its value: {field, input, set, fit}. It calls `changed()` as it is moved; `set(value)` moves it,
 * and `fit(least, most, value, say)` sets its bounds and how a value is said.
 */
export function slider(label, changed) {
  const said = element("b");
  const input = element("input", { type: "range", step: "1" });
  const field = element("label", { class: "field" }, element("span", {}, label, " ", said), input);
  let say = String;
  const set = (value) => {
    input.value = value;
    said.textContent = say(Number(input.value));
    input.setAttribute("aria-valuetext", said.textContent);
  };
  const fit = (least, most, value, saying) => {
    say = saying;
    Object.assign(input, { min: least, max: most });
    set(value);
  };
  input.addEventListener("input", () => {
    set(input.value);
    changed();
  });
  return { field, input, set, fit };
}

/** Make a button that acts where it is enabled, and does not send a form. */
export function button(label, act, properties = {}) {
  const onclick = (event) => event.currentTarget.ariaDisabled === "true" || act(event);
  return element("button", { type: "button", onclick, ...properties }, label);
}

/** Let a button act or not. It keeps the focus, which `disabled` would take from it. */
export function enable(button, isAble) {
  button.ariaDisabled = String(!isAble);
}

/** Make a bar for each of `scores`, [name, 0 to 1], in the order in which they are given. */
export function bars(scores) {
  const made = scores.map(([name, score]) => {
    const bar = element("span", { class: "bar-filled" });
    bar.style.width = `${100 * score}%`;
    const track = element("span", { class: "bar-track", "aria-hidden": "true" }, bar);
    return element("li", {}, element("span", {}, name), track, element("span", { class: "number" }, score.toFixed(3)));
  });
  return element("ul", { class: "bars" }, ...made);
}

/** Put what may be wider than the page into a box that scrolls, by keyboard too. */
export function wide(label, ...children) {
  return element("div", { class: "wide", tabindex: "0", role: "group", "aria-label": label }, ...children);
}

/** Show in `place` why something failed, what to do about it, and which request it was; `actions` are buttons. */
export function showError(place, error, ...actions) {
  const about = [
    error.field && `field ${error.field}`,
    error.limit !== undefined && `limit ${error.limit}`,
    error.code && `code ${error.code}`,
    error.requestId && `request ${error.requestId}`,
  ].filter(Boolean);
  const parts = [element("p", {}, error.message)];
  if (about.length) parts.push(element("p", { class: "note" }, about.join(" · ")));
  if (actions.length) parts.push(element("p", { class: "row" }, ...actions));
  place.replaceChildren(element("div", { class: "error", role: "alert" }, ...parts));
  if (error.code === undefined) throw error; // nobody's refusal, but a fault of the page: the console has where
}

export function clearError(place) {
  place.replaceChildren();
}

/** Return the whole number in a field, undefined where it is empty. Raises an error, by the field's name, for another. */
export function numberOf({ value }, name, least) {
  if (value === "") return undefined;
  const number = Number(value);
  if (Number.isSafeInteger(number) && number >= least) return number;
  throw Object.assign(new Error(`${name} is a whole number from ${least} on.`), { code: "number" });
}

const WHOLE = new Intl.NumberFormat("en");

/** Write a whole number with its thousands apart. */
export function whole(number) {
  return WHOLE.format(number);
}

/** Write a number with its sign, as "+0.71" or "−0.20". */
export function signed(number, digits = 2) {
  const shown = Math.abs(number).toFixed(digits);
  return `${number < 0 && Number(shown) !== 0 ? "−" : "+"}${shown}`;
}

const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });
const [LEAST, LONGEST] = [1e-4, 1e9]; // between which numbers are written without an exponent

/** Write a number with five digits, as "1,288.1", "4.8612e+22" or "5.6125e-45". */
export function shortly(number) {
  const size = Math.abs(number);
  return size === 0 || (size >= LEAST && size < LONGEST) ? SHORT.format(number) : number.toExponential(4);
}
