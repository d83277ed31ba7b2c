/**
 * Tag: the words of a text, each with its label.
 * It knows how labels are shown. Invariant: of two answers the one for the newer text stands.
 */

import { bars, button, choice, clearError, element, labelled, showError } from "../dom.js";
import { newest } from "../newest.js";

export const title = "Tag";

const FIRST = "The old man who feeds the birds can't hear the train.";
const COLOURS = 6; // of labels, with as many kinds of lines below them as it takes

const tags = ({ task }) => task === "tag";

export function serves(models) {
  return models.some(tags);
}

/** Build the panel in `root`. */
export function mount(root, { api, models }) {
  const taggers = models.filter(tags);
  let model = taggers[0];
  const field = element("textarea", { rows: "3", spellcheck: "false" });
  const [list, legend, problem] = [element("ol", { class: "words tags" }), element("ul", { class: "legend note" }), element("div")];
  const scores = element("div", { "aria-live": "polite" });
  legend.setAttribute("aria-label", "Labels");

  const give = newest(async ({ text, asked }, isStale) => {
    const stale = () => isStale() || asked !== model;
    try {
      const body = { model: asked.name, inputs: [text], scores: "all" };
      const { results } = text.trim() ? await api.call("POST", "/v1/tag", body) : { results: [{ tokens: [] }] };
      if (stale()) return;
      clearError(problem);
      show(results[0].tokens, asked.outputs[0].labels);
    } catch (error) {
      if (stale()) return;
      show([], []);
      showError(problem, error, button("Try again", ask));
    }
  });
  const ask = () => give({ text: field.value, asked: model });

  function show(tokens, labels) {
    const look = (label) => lookOf(labels.indexOf(label));
    const choose = (token) => scores.replaceChildren(...scoresOf(token));
    list.replaceChildren(...tokens.map((token) => word(token, look(token.label), () => choose(token))));
    const used = labels.filter((label) => tokens.some((token) => token.label === label));
    legend.replaceChildren(...used.map((label) => element("li", {}, element("span", { class: `mark ${look(label)}` }), label)));
    scores.replaceChildren(element("p", { class: "note" }, tokens.length ? "Choose a word to see its scores." : "Nothing to tag yet: type a text."));
  }

  const names = taggers.map(({ name }) => name);
  const select = choice(names, (name) => {
    model = taggers[names.indexOf(name)];
    ask();
  });
  field.value = FIRST;
  field.addEventListener("input", ask);
  const head = element("div", { class: "head" }, element("h2", {}, "Word by word"), labelled("Tagger", select));
  root.append(
    element(
      "div", { class: "columns" },
      element(
        "div", {},
        element("div", { class: "box" }, labelled("Text to tag", field)),
        element("div", { class: "box" }, head, list, legend, problem),
      ),
      element("div", { class: "box" }, element("h2", {}, "Scores"), scores),
    ),
  );
  ask();
}

function lookOf(place) {
  return `label-${place % COLOURS} line-${Math.floor(place / COLOURS) % 3}`;
}

function word(token, look, choose) {
  const { text, label, score } = token;
  const act = button(text, choose, { class: look, title: `${label} ${score.toFixed(3)}` });
  act.append(element("small", {}, label));
  return element("li", {}, act);
}

function scoresOf({ text, start, end, scores }) {
  const ordered = Object.entries(scores).sort(([, one], [, other]) => other - one);
  const place = `“${text}”, characters ${start} to ${end}`;
  return [element("p", { class: "note" }, place), bars(ordered)];
}
