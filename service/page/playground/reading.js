/**
 * A text read word by word by a streamable model. It knows words and state tokens, not how they are shown.
 * Invariant: what is known of a word was answered for the words before it as they stand; a token is kept for each, so
 * that an edit goes back to the word before it, and only what is new from there is sent.
 */

/** Whether a model scores a text while it is read: a session of texts, with labels that weigh on a scale. */
export function readsLive({ task, text, outputs }) {
  return task === "step" && Boolean(text?.polarity && outputs[0].labels);
}

/** Return the words of a text that are complete: the last one is when a space follows it, or the text has `ended`. */
export function completeWords(text, ended) {
  const words = text.split(/\s+/u).filter(Boolean);
  return ended || /\s$/u.test(text) ? words : words.slice(0, -1);
}

/** What one model has read: `words` are {text, state, step, expires, scores, polarity}. */
export class Reading {
  constructor(api, model) {
    Object.assign(this, { api, model, words: [], last: { back: false, from: 0, sent: 0 } });
  }

  /**
   * Read the texts of `wanted`, of which those that stand as they stood were read before; stop where `isStale()`.
   * `onWord()` is called when words were forgotten, and after each that was read. `last` tells where it went on.
   * Raises ApiError; what was read until then is kept.
   */
  async follow(wanted, isStale, onWord) {
    const from = this.words.findIndex(({ text }, place) => text !== wanted[place]);
    const kept = from < 0 ? this.words.length : from;
    this.last = { back: kept < this.words.length, from: kept, sent: 0 };
    this.words.length = kept;
    onWord();
    for (const text of wanted.slice(kept)) {
      if (isStale()) return;
      this.words.push(await this.#step(text));
      this.last.sent += 1;
      onWord();
    }
  }

  async #step(text) {
    const state = this.words.at(-1)?.state;
    const item = state === undefined ? { text } : { text, state };
    const body = { model: this.model.name, items: [item] };
    const { results } = await this.api.call("POST", "/v1/step", body);
    const [result] = results;
    const scores = result.outputs[this.model.outputs[0].name];
    const polarity = scores.reduce((sum, score, label) => sum + score * this.model.text.polarity[label], 0);
    return { text, state: result.state, step: result.step, expires: result.expires_at, scores, polarity };
  }
}
