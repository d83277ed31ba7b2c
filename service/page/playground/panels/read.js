/**
 * Read: a text scored word by word while it is typed, beside the verdict of a model that reads it whole.
 * It knows how readings are shown. Invariant: of two answers the one for the newer text stands.
 */

import { bars, button, choice, clearError, element, labelled, showError, signed, whole } from "../dom.js";
import { EXAMPLES } from "../examples.js";
import { newest } from "../newest.js";
import { Reading, completeWords, readsLive } from "../reading.js";

export const title = "Read";

const readsWhole = ({ text, answers }) => Boolean(text) && answers.includes("classify");
const MOST_WORDS = 1000; // that are read one by one; each is a call
const STRENGTHS = [0.2, 0.5, 0.8]; // of a polarity, from which its colour is a stronger one

export function serves(models) {
  return models.some(readsLive) || models.some(readsWhole);
}

/** Build the panel in `root`. */
export function mount(root, { api, models }) {
  const field = element("textarea", { rows: "3", spellcheck: "false", "aria-describedby": "read-hint" });
  const examples = element("div", { class: "examples row", role: "group", "aria-label": "Examples" });
  const readers = { live: models.filter(readsLive), whole: models.filter(readsWhole) };
  let given = []; // the words that are complete

  const words = readers.live.length ? wordsBox(api, readers.live) : undefined;
  const verdict = readers.whole.length ? verdictBox(api, readers.whole, showExamples) : undefined;
  const parts = [words, verdict].filter(Boolean);
  const update = () => parts.forEach((part) => part.give(given));

  /** Have the text read as it stands; one that has `ended` is complete, though nothing follows its last word. */
  function see(ended) {
    const complete = completeWords(field.value, ended);
    if (complete.join(" ") === given.join(" ")) return; // what is shown stands, as a button there that is being pressed
    given = complete;
    update();
  }

  function take(text) {
    field.value = text;
    see(true);
  }

  /** Offer texts, and take the first one, unless the reader has written one of their own. */
  function showExamples(texts) {
    examples.replaceChildren(...texts.map((text) => button(text, () => take(text), { class: "small" })));
    if (texts.length && (field.value === "" || EXAMPLES.some(({ text }) => text === field.value))) {
      field.value = texts[0];
      given = completeWords(texts[0], true);
    }
  }

  const atOnce = ["insertFromPaste", "insertFromDrop"];
  field.addEventListener("input", ({ inputType }) => see(atOnce.includes(inputType)));
  field.addEventListener("change", () => see(true));
  const hint = "A word counts once a space follows it, or the field is left.";
  const note = element("p", { class: "note", id: "read-hint" }, hint);
  const typed = element("div", { class: "box" }, labelled("Text", field), note, examples);
  root.append(
    element(
      "div",
      { class: "columns" },
      element("div", {}, typed, ...(words ? [words.box] : [])),
      element("div", {}, ...(verdict ? [verdict.box] : [])),
    ),
  );
  parts.forEach((part) => part.begin(update));
}

/** The words, each with its score, of a model that reads along. */
function wordsBox(api, models) {
  const [list, told, problem] = [element("ol", { class: "words" }), element("p", { class: "note" }), element("div")];
  let reading = new Reading(api, models[0]);
  let again;

  const give = newest(async (words, isStale) => {
    const reader = reading;
    const wanted = words.slice(0, MOST_WORDS);
    const left = words.length - wanted.length;
    const show = () => reader === reading && showWords(list, told, reader, wanted, left);
    try {
      await reader.follow(wanted, () => isStale() || reader !== reading, show);
      clearError(problem);
    } catch (error) {
      if (reader !== reading) return;
      const ways = [button("Try again", again)];
      if (error.code?.startsWith("state_")) ways.push(button("Read from the start", () => begin(reader.model)));
      showError(problem, error, ...ways);
    }
  });

  function begin(model) {
    reading = new Reading(api, model);
    again();
  }

  const names = models.map(({ name }) => name);
  const select = choice(names, (name) => begin(models[names.indexOf(name)]));
  const head = element("div", { class: "head" }, element("h2", {}, "Word by word"), labelled("Live model", select));
  const box = element("div", { class: "box" }, head, list, scale(), told, problem);
  return { box, give, begin: (update) => begin(models[0], (again = update)) };
}

/** Show the words that were read, and those that wait; of the list's items only those are made that are new. */
function showWords(list, told, { words, model, last }, wanted, left) {
  if (last.sent === 0) {
    const waiting = wanted.slice(words.length).map((text) => element("li", { class: "waiting" }, text));
    list.replaceChildren(...words.map(({ shown }) => shown), ...waiting);
  } else {
    const word = words.at(-1);
    word.shown = showWord(word, model.outputs[0].labels);
    list.children[words.length - 1].replaceWith(word.shown);
  }
  const unread = left ? ` Read one by one are the first ${whole(MOST_WORDS)} words; ${whole(left)} more are not.` : "";
  told.textContent = words.length ? tell(words, last, model) + unread : "";
}

function showWord({ text, polarity, scores }, labels) {
  const strength = STRENGTHS.filter((least) => Math.abs(polarity) >= least).length;
  const kind = strength === 0 ? "neutral" : `${polarity < 0 ? "negative" : "positive"}-${strength}`;
  return element("li", { class: kind, title: shares(labels, scores) }, text, element("small", {}, signed(polarity)));
}

function shares(labels, scores) {
  return labels.map((label, place) => `${label} ${scores[place].toFixed(3)}`).join(", ");
}

function tell(words, last, model) {
  const sent = last.sent === 1 ? "1 word sent" : `${last.sent} words sent`;
  const before = last.from ? `with the state token after “${words[last.from - 1].text}”` : "in a new session";
  const { text, scores, state, step, expires } = words.at(-1);
  const labels = model.outputs[0].labels;
  const until = new Date(expires).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  return (
    `${last.back && last.from ? "Went back: " : ""}${sent}, ${before}. The state, ${whole(model.state_bytes)} bytes after ` +
    `${step} steps, is in this page: a token of ${whole(state.length)} characters for each word, good until ${until}. ` +
    `After “${text}”: ${shares(labels, scores)}.`
  );
}

function scale() {
  const kinds = ["negative-3", "negative-2", "negative-1", "neutral", "positive-1", "positive-2", "positive-3"];
  const marks = kinds.map((kind) => element("span", { class: kind }));
  const shown = element("span", { "aria-hidden": "true" }, ...marks);
  return element("p", { class: "scale note" }, "negative −1", shown, "+1 positive");
}

/** The verdict of a model that reads the whole text, with its probabilities; `showExamples(texts)` gets the model's. */
function verdictBox(api, models, showExamples) {
  const [verdict, problem] = [element("div", { "aria-live": "polite" }), element("div")];
  let model = models[0];
  let again;

  const give = newest(async ({ words, asked }, isStale) => {
    const stale = () => isStale() || asked !== model;
    try {
      const text = words.join(" ");
      const { results } = text ? await api.call("POST", ...callFor(asked, text)) : { results: [] };
      if (stale()) return;
      clearError(problem);
      verdict.replaceChildren(...(text ? showVerdict(asked, text, results[0]) : [nothingYet()]));
    } catch (error) {
      if (stale()) return;
      verdict.replaceChildren();
      showError(problem, error, button("Try again", again));
    }
  });

  function choose(chosen) {
    model = chosen;
    const own = EXAMPLES.filter(({ read }) => model.outputs[0].labels.includes(read));
    showExamples(own.map(({ text }) => text));
    again();
  }

  const names = models.map(({ name }) => name);
  const first = models.find(({ name }) => name === "sentiment") ?? models[0];
  const select = choice(names, (name) => choose(models[names.indexOf(name)]));
  select.value = first.name;
  const heading = element("h2", {}, "The text as a whole");
  const head = element("div", { class: "head" }, heading, labelled("Whole-text model", select));
  const box = element("div", { class: "box" }, head, verdict, problem);
  return { box, give: (words) => give({ words, asked: model }), begin: (update) => choose(first, (again = update)) };
}

function callFor({ name, task }, text) {
  if (task === "sentiment") return ["/v1/sentiment", { model: name, inputs: [text], scores: "all" }];
  return ["/v1/classify", { model: name, items: [{ text }], scores: "all" }];
}

function nothingYet() {
  return element("p", { class: "note" }, "Nothing to read yet: type a text, or take an example.");
}

function showVerdict(model, text, { label, scores, tokens, truncated, unknown_ratio: unknown }) {
  const cut = truncated ? ", where the text was cut" : "";
  const read = `${whole(tokens)} tokens${cut}, ${Math.round(100 * unknown)} % of them unknown`;
  const shown = [
    element("p", { class: "verdict" }, label),
    bars(model.outputs[0].labels.map((name) => [name, scores[name]])),
    element("p", { class: "note" }, `Read: ${read}.`),
  ];
  const example = EXAMPLES.find((each) => each.text === text && model.outputs[0].labels.includes(each.read));
  if (example) {
    const right = example.read === label;
    const judged = right ? `${model.name} agrees.` : `${model.name} errs.`;
    shown.push(element("p", { class: right ? "note" : "errs" }, `A person reads this as ${example.read}; ${judged}`));
  }
  return shown;
}
