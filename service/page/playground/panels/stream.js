/**
 * Stream: observations as they come, each with the intervals that were predicted for it and its anomaly score.
 *
 * It knows controls and what they do to branches; sessions and the chart are other modules'. Invariant: what happens to
 * the connection shows in the status and the log, and changes nothing that is drawn.
 */

import { Branch, isLive } from "../branch.js";
import { Checkpoints, MOST } from "../checkpoints.js";
import { button, choice, clearError, element, labelled, showError, slider, whole } from "../dom.js";
import { Chart } from "../plots.js";
import { SourceChoice } from "../source_choice.js";
import { HEIGHT_PX, StreamChart, sentence } from "../stream_chart.js";

export const title = "Stream";

const LEAD = "One session on a WebSocket. Its state is a token: cut the connection, go back, or go two ways at once.";
const FULL = `there are ${MOST} that were made by hand; a rewind forgets those behind it`;
const PATH = "/v1/stream";
const CHECKPOINT_EVERY = 20; // observations
const MOST_LOGGED = 8;
const MOST_RECORDED = 20; // frames of a stream
const MOST_WAITING = 100; // frames without an answer, before the clock waits
const FASTEST = 40; // observations a second
const FIRST_SPEED = 10;
const SPIKE = 1.5; // of the spread of what is drawn

export function serves(models) {
  return models.some(isLive);
}

export function mount(root, { api, models }) {
  new StreamPanel(root, api, models.filter(isLive));
}

class StreamPanel {
  constructor(root, api, models) {
    this.api = api;
    this.models = models;
    this.model = models[0];
    this.clock = null;
    this.branches = [];
    this.attempt = null; // {branch, enter}: one that begins at a checkpoint, and what to do once it is open
    this.chosen = new SourceChoice((source) => this.changeSource(source));
    this.checkpoints = new Checkpoints(
      {
        Checkpoint: () => this.branches[0].checkpoint(true),
        Rewind: (checkpoint) => this.rewind(checkpoint),
        Fork: (checkpoint) => this.fork(checkpoint),
      },
      ({ step }) => this.mark(step),
    );
    this.build(root);
    this.restart();
  }

  build(root) {
    this.problem = element("div");
    const fail = (error) => showError(this.problem, error);
    this.chart = new Chart({ height: HEIGHT_PX, label: "Chart of observations, intervals and scores", fail });
    this.status = element("p", { class: "note status" });
    this.summary = element("figcaption", { class: "note" });
    this.log = element("ul", { class: "log", "aria-live": "polite", "aria-label": "What happened" });
    const figure = element("figure", {}, this.chart.element, this.summary);
    root.append(
      element("p", { class: "lead" }, LEAD),
      element(
        "div", { class: "columns" },
        element("div", { class: "box" }, this.problem, this.playing(), figure, this.status),
        element(
          "div", {},
          element("div", { class: "box" }, element("h2", {}, "Observations"), ...this.sources()),
          element("div", { class: "box" }, element("h2", {}, "Checkpoints"), ...this.checkpoints.parts),
          element("div", { class: "box" }, element("h2", {}, "What happened"), this.log),
        ),
      ),
    );
  }

  playing() {
    this.play = button("Start", () => (this.clock ? this.pause() : this.run()), { class: "first" });
    this.endFork = button("End the fork", () => this.dropFork());
    const spike = () => this.tick(SPIKE * this.branches[0].points.spread());
    this.steps = [button("One observation", () => this.tick()), button("Spike", spike)];
    return element(
      "div", { class: "row" },
      this.play,
      ...this.steps,
      button("Kill the connection", () => this.kill()),
      this.endFork,
      button("New stream", () => this.restart()),
    );
  }

  sources() {
    this.speed = slider("Speed", () => this.clock && this.run());
    this.speed.fit(1, FASTEST, FIRST_SPEED, (value) => `${value} a second`);
    const models = this.models.length > 1 ? [labelled("Model", this.modelChoice())] : [];
    return [...this.chosen.parts, this.speed.field, ...models];
  }

  modelChoice() {
    return choice(this.models.map(({ name }) => name), (name) => {
      this.model = this.models.find((model) => model.name === name);
      this.restart();
    });
  }

  /** Begin a new session of the model, with nothing drawn; where there is no source, it waits for one. */
  restart() {
    clearError(this.problem);
    this.leaveAttempt();
    for (const branch of this.branches) branch.session.close();
    const source = this.chosen.make();
    if (!source) this.pause();
    this.recorded = null;
    this.drawing = new StreamChart(this.model);
    const main = this.branch("Main", this.model, source);
    main.begin();
    this.checkpoints.clear();
    this.setBranches([main]);
    this.chart.show(this.drawing.build);
    this.note("Main: a new stream.");
  }

  branch(name, model, source) {
    const tell = {
      changed: (branch, value) => this.changed(branch, value),
      status: (branch) => this.moved(branch),
      log: (text) => this.note(text),
      checkpoint: (branch, checkpoint) => this.keep(branch, checkpoint),
      failed: (branch, error) => this.failed(branch, error),
    };
    return new Branch({ name, open: () => this.api.openSocket(PATH), model, source, tell });
  }

  setBranches(branches) {
    this.branches = branches;
    this.drawing.set(branches);
    this.endFork.hidden = branches.length === 1;
    this.chart.draw();
    this.showStatus();
  }

  // -- observations

  changeSource(source) {
    if (!source) this.pause();
    this.branches[0].source = source;
    this.showStatus();
  }

  run() {
    clearInterval(this.clock);
    this.clock = setInterval(() => this.tick(), 1000 / Number(this.speed.input.value));
    this.play.textContent = "Pause";
  }

  pause() {
    clearInterval(this.clock);
    this.clock = null;
    this.play.textContent = "Start";
  }

  /** Send each branch its next observation; `more` is added to that of the first. */
  tick(more = 0) {
    if (this.branches.some(({ session }) => !session.takes || session.backlog > MOST_WAITING)) return;
    for (const branch of this.branches) {
      const isFirst = branch === this.branches[0];
      if (!branch.advance(isFirst ? more : 0)) {
        this.pause();
        this.note(`${branch.name}: there are no more values to play.`);
        return;
      }
      if (branch.source.count % CHECKPOINT_EVERY === 0) branch.checkpoint();
    }
  }

  // -- sessions

  kill() {
    for (const { session } of this.branches) session.kill();
  }

  rewind(checkpoint) {
    const rewound = this.branches[0].at(checkpoint);
    this.begin(rewound, checkpoint, () => {
      const { session, step } = this.branches[0];
      session.close();
      this.dropFork();
      this.setBranches([rewound]);
      this.note(`Main: rewound from step ${step} to ${checkpoint.step}.`);
      this.recorded = null;
      this.chosen.show(rewound.source);
      this.checkpoints.cut(checkpoint.step);
    });
  }

  /** Begin a second branch at a checkpoint; a generator gets random numbers of its own there. */
  fork(checkpoint) {
    const { model } = this.branches[0];
    const fork = this.branch("Fork", model, checkpoint.source.copy((checkpoint.source.seed + 1) % 2 ** 32));
    this.begin(fork, checkpoint, () => {
      this.dropFork();
      this.setBranches([this.branches[0], fork]);
      this.note(`Fork: a second branch from the token of step ${checkpoint.step}.`);
    });
  }

  /** Have a branch begin at a checkpoint, and `enter()` once the service has taken the token; until then all stays. */
  begin(branch, checkpoint, enter) {
    this.leaveAttempt();
    if (this.branches.every(({ session }) => session.takes)) clearError(this.problem);
    this.attempt = { branch, enter };
    branch.begin(checkpoint);
  }

  leaveAttempt() {
    const left = this.attempt;
    this.attempt = null;
    left?.branch.session.close();
  }

  moved(branch) {
    if (branch === this.attempt?.branch && branch.session?.status === "open") {
      const { enter } = this.attempt;
      this.attempt = null;
      clearError(this.problem);
      enter();
    } else if (this.branches.includes(branch)) this.showStatus();
  }

  keep(branch, checkpoint) {
    if (branch !== this.branches[0] || this.checkpoints.keep(checkpoint)) return; // a fork's are for itself
    this.note(`The checkpoint of step ${checkpoint.step} is not kept: ${FULL}.`);
  }

  dropFork() {
    this.branches[1]?.session.close();
    this.setBranches(this.branches.slice(0, 1));
    if (this.branches[0].session.takes) clearError(this.problem);
  }

  /** Go on with what has failed, from where it stands. */
  retry() {
    clearError(this.problem);
    for (const { session } of this.branches) if (session.status === "failed") session.retry();
  }

  failed(branch, error) {
    if (branch === this.attempt?.branch) this.attempt = null;
    const goesOn = this.branches.every(({ session }) => session.takes);
    if (!goesOn) this.pause();
    const ways = [button("Try again", () => this.retry()), button("New stream", () => this.restart())];
    showError(this.problem, error, ...(goesOn ? [] : ways));
  }

  // -- what is shown

  /** Mark the checkpoint that is chosen. */
  mark(step) {
    this.drawing.chosen = step;
    this.chart.draw();
  }

  changed(branch, value) {
    if (branch === this.branches[0] && value !== undefined) this.record(branch.session, value);
    this.chart.draw();
    this.showStatus();
  }

  /** Record the first frames of a session, for the panel that shows requests. */
  record(session, value) {
    const frame = { values: [value] };
    if (this.recorded === null) {
      this.recorded = [frame];
      this.api.record({ kind: "stream", path: PATH, open: { ...session.opening }, frames: this.recorded });
    } else if (this.recorded.length < MOST_RECORDED) this.recorded.push(frame);
  }

  showStatus() {
    const said = this.branches.map(({ name, session, step }) => {
      const version = session.version ? `, version ${session.version}` : "";
      const waiting = session.backlog > MOST_WAITING ? `, ${session.backlog} frames wait for an answer` : "";
      return `${name}: ${session.status}${version}, step ${whole(step)}${waiting}`;
    });
    this.status.textContent = said.join(" · ");
    this.summary.textContent = sentence(this.branches[0].points, this.drawing.quantiles.wide);
    const plays = this.branches.every(({ session, source }) => session.takes && source);
    for (const control of [this.play, ...this.steps, this.checkpoints.make]) control.disabled = !plays;
  }

  note(text) {
    this.log.prepend(element("li", {}, text));
    while (this.log.children.length > MOST_LOGGED) this.log.lastChild.remove();
  }
}
