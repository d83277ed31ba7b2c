/**
 * A text that a model writes, piece by piece. It knows pieces and state tokens, not how they are shown.
 * Invariant: after each piece the state is kept, so that the text can go on from any of its places, here or in a fork.
 */

/** Whether a model writes texts from a prompt alone: one with a start graph begins from a condition. */
export function writes({ text, answers, start }) {
  return Boolean(text) && answers.includes("generate") && start === null;
}

/** What one model has written after `prompt`: `pieces` are {text, share, state, step}; `share` is how likely it was. */
export class Writing {
  constructor(api, model, prompt, pieces = []) {
    Object.assign(this, { api, model, prompt, pieces, seed: null, finish: null });
  }

  /** Return a text that begins with the first pieces of this one. */
  fork(count) {
    return new Writing(this.api, this.model, this.prompt, this.pieces.slice(0, count));
  }

  /** Leave the first pieces only. */
  rewind(count) {
    this.pieces.length = count;
  }

  /** Write on by `settings`, {seed, max_steps, ...}, until the end or until `signal` aborts. Raises ApiError. */
  async write(settings, signal, onPiece) {
    const state = this.pieces.at(-1)?.state;
    const item = state !== undefined ? { state } : this.prompt ? { prompt: this.prompt } : {};
    const more = { probabilities: true, stream: true, state_every: 1 };
    const body = { model: this.model.name, items: [item], ...settings, ...more };
    Object.assign(this, { seed: settings.seed, finish: null });
    let told = { text: "", share: 1 }; // since the last state, and how likely its tokens were together
    for await (const event of this.api.events("/v1/generate", body, signal)) {
      told.text += event.text ?? "";
      told.share = event.probabilities?.reduce((product, each) => product * each, told.share) ?? told.share;
      if (this.take(event, told)) told = { text: "", share: 1 };
      this.finish = event.finish ?? null;
      onPiece();
    }
  }

  /** Make a piece of what was told up to a state; return whether there is one. Text behind the last state is left out. */
  take({ state, step, finish }, { text, share }) {
    if (state === undefined) return false;
    if (text) this.pieces.push({ text, share, state, step });
    else if (finish && this.pieces.length) Object.assign(this.pieces.at(-1), { state, step });
    return Boolean(text);
  }
}
