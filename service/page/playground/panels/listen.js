/**
 * Listen: what a model hears in a sound: recorded here, of a WAV file, or an example.
 * It knows its controls, the microphone and the chart. Invariant: the scores are of the sound that is drawn.
 */

import { bars, button, choice, clearError, element, enable, labelled, showError } from "../dom.js";
import { Chart, axis } from "../plots.js";
import { newest } from "../newest.js";
import { base64, chirp, wavOf } from "../signals.js";

export const title = "Listen";

const LEAD = "The sound goes to the service as a WAV file, and nowhere else; the model hears it at its own rate.";
const HEIGHT_PX = 220;
const EXAMPLE_S = 0.8;
const END = "End the recording";
const TOLD_EVERY_MS = 1000;
const MOST_POINTS = 2000; // that are drawn of a sound

const listens = ({ signal, answers }) => Boolean(signal) && answers.includes("classify");

export function serves(models) {
  return models.some(listens);
}

export function mount(root, { api, models }) {
  new ListenPanel(root, api, models.filter(listens));
}

class ListenPanel {
  constructor(root, api, models) {
    Object.assign(this, { api, models, model: models[0], sound: null, recorder: null });
    this.give = newest((asked, isStale) => this.classify(asked, isStale));
    this.build(root);
    this.example();
  }

  build(root) {
    this.problem = element("div");
    const fail = (error) => showError(this.problem, error);
    this.chart = new Chart({ height: HEIGHT_PX, label: "Chart of the sound", fail });
    this.summary = element("figcaption", { class: "note" });
    this.verdict = element("div", { "aria-live": "polite" });
    this.record = button("Record", () => (this.recorder ? this.recorder.stop() : this.listen()), { class: "first" });
    const file = element("input", { type: "file", accept: ".wav,audio/wav", onchange: () => this.take(file) });
    const names = this.models.map(({ name }) => name);
    const select = choice(names, (name) => {
      this.model = this.models[names.indexOf(name)];
      this.ask();
    });
    const acts = [this.record, button("Play", () => this.play()), button("Example", () => this.example())];
    root.append(
      element("p", { class: "lead" }, LEAD),
      element(
        "div", { class: "columns" },
        element(
          "div", { class: "box" },
          element("div", { class: "row acts" }, ...acts), labelled("or a WAV file", file), this.problem,
          element("figure", {}, this.chart.element, this.summary),
        ),
        element(
          "div", { class: "box" },
          element("div", { class: "head" }, element("h2", {}, "What it hears"), labelled("Listener", select)), this.verdict,
        ),
      ),
    );
  }

  example() {
    const rate = this.model.signal.sample_rate;
    const samples = chirp(rate, EXAMPLE_S);
    this.hear({ name: "A falling tone", wav: wavOf(samples, rate), samples, rate });
  }

  /** Take a WAV file: the service reads it as it is, and the browser what is drawn and played. */
  async take(input) {
    const [file] = input.files;
    input.value = ""; // so that the same file, mended, can be chosen again
    if (!file) return;
    const wav = new Uint8Array(await file.arrayBuffer());
    try {
      const sound = await decoded(wav, `${file.name} holds no sound that this browser reads; save it as a WAV file.`);
      this.hear({ name: file.name, wav, ...sound });
    } catch (error) {
      showError(this.problem, error);
    }
  }

  /** Record from the microphone until the button is pressed again. */
  async listen() {
    let stream;
    enable(this.record, false);
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (error) {
      const message = `The browser gives no microphone (${error.message}): allow it, or take a WAV file.`;
      showError(this.problem, Object.assign(new Error(message), { code: "microphone" }));
      return;
    } finally {
      enable(this.record, true);
    }
    const parts = [];
    this.recorder = new MediaRecorder(stream);
    const began = performance.now();
    this.recorder.addEventListener("dataavailable", ({ data }) => {
      if (data.size === 0) return;
      parts.push(data);
      this.record.textContent = `${END} (${Math.round((performance.now() - began) / 1000)} s)`;
    });
    this.recorder.addEventListener("stop", async () => {
      for (const track of stream.getTracks()) track.stop();
      this.recorder = null;
      this.record.textContent = "Record";
      await this.takeRecording(new Blob(parts));
    });
    this.recorder.start(TOLD_EVERY_MS);
    this.record.textContent = END;
  }

  async takeRecording(recording) {
    try {
      const bytes = new Uint8Array(await recording.arrayBuffer());
      const { samples, rate } = await decoded(bytes, "The recording holds no sound: let it go on for longer.");
      this.hear({ name: "A recording", wav: wavOf(samples, rate), samples, rate });
    } catch (error) {
      showError(this.problem, error);
    }
  }

  /** Show a sound, {name, wav, samples, rate}, and have it classified. */
  hear(sound) {
    this.sound = sound;
    const { name, samples, rate } = sound;
    this.summary.textContent = `${name}: ${(samples.length / rate).toFixed(2)} s.`;
    this.chart.show((colours) => drawn(colours, sound));
    this.ask();
  }

  ask() {
    this.give({ model: this.model, sound: this.sound });
  }

  async classify({ model, sound }, isStale) {
    try {
      const body = { model: model.name, items: [{ audio: base64(sound.wav) }], scores: "all" };
      const { results } = await this.api.call("POST", "/v1/classify", body);
      if (isStale()) return;
      clearError(this.problem);
      const { label, scores, steps } = results[0];
      const note = element("p", { class: "note" }, `Heard in ${steps} steps.`);
      const ordered = model.outputs[0].labels.map((name) => [name, scores[name]]);
      this.verdict.replaceChildren(element("p", { class: "verdict" }, label), bars(ordered), note);
    } catch (error) {
      if (isStale()) return;
      this.verdict.replaceChildren();
      showError(this.problem, error, button("Try again", () => this.ask()));
    }
  }

  play() {
    const { samples, rate } = this.sound;
    const context = new AudioContext();
    const buffer = context.createBuffer(1, samples.length, Math.max(3000, rate)); // slower ones no browser plays
    buffer.copyToChannel(samples, 0);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    source.addEventListener("ended", () => context.close());
    source.start();
  }
}

/** Return the samples of a sound file, of its channels the mean, and their rate. Raises an error of `refusal` for no sound. */
async function decoded(bytes, refusal) {
  const context = new OfflineAudioContext(1, 1, 48_000);
  const buffer = await context.decodeAudioData(bytes.slice().buffer).catch(() => {
    throw Object.assign(new Error(refusal), { code: "audio" });
  });
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, channel) => buffer.getChannelData(channel));
  const mean = (place) => channels.reduce((sum, channel) => sum + channel[place], 0) / channels.length;
  return { samples: channels[0].map((_, place) => mean(place)), rate: buffer.sampleRate };
}

function drawn(colours, { samples, rate }) {
  const every = Math.ceil(samples.length / MOST_POINTS);
  const places = Array.from({ length: Math.ceil(samples.length / every) }, (_, index) => index * every);
  const line = { color: colours.series[0], width: 1 };
  const data = [{ x: places.map((place) => place / rate), y: places.map((place) => samples[place]), mode: "lines", line, hoverinfo: "skip" }];
  return { data, layout: { xaxis: axis(colours, { title: { text: "s" } }), yaxis: axis(colours, { range: [-1, 1] }) } };
}
