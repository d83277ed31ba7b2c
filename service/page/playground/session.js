/**
 * A stream that outlives its connections: one session over /v1/stream.
 *
 * It knows frames, not what observations mean or how they are drawn. Invariants: an observation is kept until a
 * checkpoint covers it; each output is handed out once, in order, however often its observation is sent; a session never
 * goes on from another state than its own.
 */

const BACKOFF_MS = 250; // doubled with each attempt
const LONGEST_BACKOFF_MS = 4000;
const ATTEMPTS = 8; // without anything new between them, before the session gives up
const SILENCE_MS = 15_000; // that is taken for a lost connection, where something is awaited
const REFUSED = 1008; // the service will not go on with this session

/**
 * One session. `listener` has these functions:
 * `status(text)` connecting, open, waiting, idle, closed or failed; `output(frame, value)` each answer, once;
 * `checkpoint(facts, mark)`; `refused(error)` an observation or checkpoint that is no part of the session;
 * `resumed({step, again, lost})` after a connection was lost; `failed(error)` it has given up.
 */
export class Session {
  /** Begin with the model's first state, or go on from the token `state` where one is given; `open` makes a connection. */
  constructor({ open, model, state, listener }) {
    Object.assign(this, { open, listener, status: "closed", version: "" });
    this.opening = state === undefined ? { model } : { model, state };
    this.entries = []; // what no checkpoint covers: {frame, value, mark, step}
    this.sent = this.answered = 0; // of them, on this connection
    this.delivered = 0; // of them, over all connections: an output was handed out
    this.step = 0; // after the last answer on this connection
    this.attempts = 0;
    this.reason = null; // the service's last word on why a connection ended
    this.connect();
  }

  /** How many observations and checkpoints wait for an answer. */
  get backlog() {
    return this.entries.length - this.delivered;
  }

  /** Whether observations can be pushed: it has not ended. */
  get takes() {
    return this.status !== "closed" && this.status !== "failed";
  }

  /** Take a step with one observation. */
  push(value) {
    this.add({ frame: JSON.stringify({ values: [value] }), value, step: null });
  }

  /** Ask for a checkpoint after what was pushed so far; `mark` comes back with it. */
  checkpoint(mark) {
    this.add({ frame: '{"checkpoint":true}', mark });
  }

  /** Cut the connection, as a network does; the session goes on over a new one. */
  kill() {
    this.attempts = 0;
    if (this.socket) this.drop(this.socket, "cut here");
  }

  /** Go on after it has given up, from where it stands. */
  retry() {
    this.attempts = 0;
    this.reason = null;
    this.connect();
  }

  /** End the session for good. */
  close() {
    clearTimeout(this.timer);
    clearTimeout(this.watch);
    const socket = this.socket;
    this.socket = null;
    this.become("closed");
    if (socket) hangUp(socket);
  }

  add(entry) {
    this.entries.push(entry);
    if (this.status === "idle") this.connect();
    if (this.status !== "open") return;
    if (this.backlog === 1) this.listen();
    this.send();
  }

  /** Take a connection for lost on which nothing comes for a while, though something is awaited. */
  listen() {
    clearTimeout(this.watch);
    if (this.status === "open" && this.answered === this.entries.length) return;
    const socket = this.socket;
    const lost = () => this.drop(socket, `silent for ${SILENCE_MS / 1000} s`);
    this.watch = setTimeout(lost, SILENCE_MS);
  }

  connect() {
    this.become("connecting");
    const socket = this.open();
    this.socket = socket;
    const current = (act) => (event) => this.socket === socket && act(event);
    socket.onopen = current(() => socket.send(JSON.stringify(this.openingFrame())));
    socket.onmessage = current(({ data }) => this.receive(JSON.parse(data)));
    this.listen();
    socket.onclose = current(({ code }) => this.drop(socket, `closed with code ${code}`, code));
  }

  /** A session without a token is begun again with the version whose outputs were handed out. */
  openingFrame() {
    const begun = this.delivered && this.opening.state === undefined ? { version: this.version } : {};
    return { ...this.opening, ...begun };
  }

  send() {
    for (; this.sent < this.entries.length; this.sent++) this.socket.send(this.entries[this.sent].frame);
  }

  receive(frame) {
    if (frame.type === "open") this.opened(frame);
    else if (frame.type === "step") this.stepped(frame);
    else if (frame.type === "checkpoint") this.covered(frame);
    else if (frame.final) this.reason = frame.error;
    else this.refuse(frame.error);
    if (this.socket) this.listen();
  }

  opened({ version, step }) {
    const resumed = this.version !== "";
    if (resumed && step !== this.begun) return this.fail(`the service goes on at step ${step}, and not at ${this.begun}`);
    [this.version, this.begun, this.step] = [version, step, step];
    this.sent = this.answered = 0;
    this.become("open");
    if (resumed) this.listener.resumed({ step, again: this.delivered, lost: this.lost });
    this.send();
  }

  stepped(frame) {
    const entry = this.entries[this.answered];
    if (!entry || !isStep(entry) || (entry.step !== null && entry.step !== frame.step)) {
      return this.fail(`the service answers for step ${frame.step}, which was not due`);
    }
    entry.step = this.step = frame.step;
    this.answered++;
    if (this.answered <= this.delivered) return; // sent again: its output was handed out
    this.delivered = this.answered;
    this.advance();
    this.listener.output(frame, entry.value);
  }

  covered({ asked, state, step, expires_at: expires }) {
    if (step !== this.step) return this.fail(`the service made a checkpoint at step ${step}, and not at ${this.step}`);
    const entry = asked ? this.entries[this.answered++] : null;
    if (asked && (!entry || isStep(entry))) return this.fail("the service made a checkpoint that was not asked for");
    this.opening.state = state;
    this.begun = step;
    this.entries.splice(0, this.answered);
    this.sent -= this.answered;
    this.delivered = Math.max(0, this.delivered - this.answered);
    this.answered = 0;
    this.advance();
    const facts = { model: this.opening.model, version: this.version, step, expires, state };
    this.listener.checkpoint(facts, entry?.mark);
  }

  /** Take out what the service refused: it is no part of the session. */
  refuse(error) {
    if (this.answered < this.delivered) return this.fail(`what was answered before is refused: ${error.message}`);
    this.entries.splice(this.answered, 1);
    this.sent--;
    this.advance();
    this.listener.refused(error);
  }

  advance() {
    this.attempts = 0;
    this.reason = null;
  }

  /**
   * The connection is gone. Connect again after a while, unless the service has said that it will not go on; where it
   * was ended from outside and nothing waits for an answer, when there is something to send.
   */
  drop(socket, why, code) {
    const wasOpen = this.status === "open";
    clearTimeout(this.watch);
    this.socket = null;
    hangUp(socket);
    this.lost = why;
    if (code === REFUSED) return this.fail(this.reason?.message ?? "the service refused the session");
    if (code !== undefined && wasOpen && !this.backlog) return this.become("idle");
    if (++this.attempts > ATTEMPTS) {
      const last = this.reason?.message ?? `the connection was ${why}`;
      return this.fail(`${ATTEMPTS} attempts to connect again came to nothing; the last: ${last}`);
    }
    const backoff_ms = Math.min(LONGEST_BACKOFF_MS, BACKOFF_MS * 2 ** (this.attempts - 1));
    this.become("waiting");
    this.timer = setTimeout(() => this.connect(), Math.max(backoff_ms, this.reason?.retry_after_ms ?? 0));
  }

  fail(why) {
    this.close();
    this.become("failed");
    const code = this.reason?.code ?? "stream_lost";
    this.listener.failed(Object.assign(new Error(`The stream has ended: ${why}.`), { code }));
  }

  become(status) {
    this.status = status;
    this.listener.status(status);
  }
}

/** Close a socket; one that is not open yet as soon as it is, for browsers warn of what is closed before. */
function hangUp(socket) {
  if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
  else socket.close();
}

function isStep({ value }) {
  return value !== undefined;
}
