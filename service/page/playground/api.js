/**
 * Calls of the service's public API. It knows paths, keys and errors, not what calls are about.
 * Invariant: whatever is called or streamed is recorded, and those who listen are told.
 */

const KEY = "baton.key";
const MOST_RECORDS = 20;
const EVENT = "data: ";
const SENDABLE = /^[\x21-\x7e]+$/; // in a header

/** Why a call has no answer. `status` is 0 and `code` "unreachable" where the service did not answer at all. */
export class ApiError extends Error {
  constructor(status, { code, message, field, limit, request_id: requestId }, index) {
    super(message);
    Object.assign(this, { name: "ApiError", status, code, field, limit, requestId, index });
  }
}

const listeners = new Set();

/** The last calls and streams, newest first: {kind: "call" | "stream", method, path, body, status, ms}. */
export const records = [];

/** Have `listener(record)` called with each record from now on; return what ends that. */
export function onCall(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/**
 * Keep a record of what was done. Of a stream: {kind: "stream", path, open, frames}, where `open` is its first frame
 * and `frames` are those that followed, as objects.
 */
export function record(entry) {
  records.unshift(entry);
  records.length = Math.min(records.length, MOST_RECORDS);
  for (const listener of listeners) listener(entry);
}

/**
 * Send an API key with each call from now on, and keep it in this tab once the service has taken it; until then, and
 * where it is refused, the one before stays. Raises ApiError.
 */
export async function takeKey(wanted) {
  if (!SENDABLE.test(wanted)) {
    const message = "This cannot be a key of the service: keys are ASCII letters, digits and signs, without spaces.";
    throw new ApiError(0, { code: "key", message });
  }
  await send("GET", "/v1/models", undefined, wanted);
  sessionStorage.setItem(KEY, wanted);
}

/** The API key that this tab was given; null where it has none. */
export function key() {
  return sessionStorage.getItem(KEY);
}

/** Open a WebSocket of the service, with the key where there is one: a browser sends no header, but subprotocols. */
export function openSocket(path) {
  const protocols = key() === null ? [] : ["baton", `baton.key.${key()}`];
  return new WebSocket(new URL(path, location.origin.replace(/^http/, "ws")), protocols);
}

/**
 * Send a request and return its JSON. Raises ApiError: for the first item that failed, too, with its `index`, where
 * every item did.
 */
export async function call(method, path, body) {
  return JSON.parse(decode(await send(method, path, body)));
}

/** Get what stands at a path as text. Raises ApiError. */
export async function text(path) {
  return decode(await send("GET", path));
}

/** Get what stands at a path as bytes with their type. Raises ApiError. */
export async function blob(path) {
  const { bytes, type } = await send("GET", path);
  return new Blob([bytes], { type });
}

async function send(method, path, body, bearer = key()) {
  const began = performance.now();
  let status = 0;
  try {
    const answer = await fetch(path, request(method, body, bearer));
    status = answer.status;
    const content = { bytes: await answer.arrayBuffer(), type: answer.headers.get("content-type") };
    if (!answer.ok) throw refusal(status, decode(content));
    return content;
  } catch (error) {
    throw error instanceof TypeError ? unreachable() : error; // what fetch raises where no answer, or no whole one, comes
  } finally {
    record({ kind: "call", method, path, body, status, ms: performance.now() - began });
  }
}

/**
 * Yield the events of an answer that comes piece by piece, but for the last, which sums up. A loop that is left, and a
 * `signal` that aborts, leave the connection; after that signal the events end. Raises ApiError, of an item too.
 */
export async function* events(path, body, signal) {
  const began = performance.now();
  let status = 0;
  try {
    const answer = await fetch(path, { ...request("POST", body, key()), signal });
    status = answer.status;
    if (!answer.ok) throw refusal(status, await answer.text());
    for await (const line of lines(answer.body)) {
      if (signal.aborted) return;
      if (!line.startsWith(EVENT)) continue;
      const event = JSON.parse(line.slice(EVENT.length));
      if (event.error) throw new ApiError(status, event.error, event.index);
      if (event.summary) return;
      yield event;
    }
    throw unreachable(); // which broke off
  } catch (error) {
    if (signal.aborted) return;
    throw error instanceof TypeError ? unreachable() : error;
  } finally {
    record({ kind: "call", method: "POST", path, body, status, ms: performance.now() - began });
  }
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const whole = (rest + value).split("\n");
      rest = whole.pop();
      yield* whole;
    }
  } finally {
    reader.cancel().catch(() => {}); // of a stream that has failed, which whoever reads it was told
  }
}

function request(method, body, bearer) {
  const headers = bearer === null ? {} : { Authorization: `Bearer ${bearer}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  return { method, headers, body: JSON.stringify(body) };
}

function decode({ bytes }) {
  return new TextDecoder().decode(bytes);
}

function unreachable() {
  const message = `The service at ${location.host} does not answer. Is it running? Try again when it is.`;
  return new ApiError(0, { code: "unreachable", message });
}

function refusal(status, told) {
  try {
    const { error, results } = JSON.parse(told);
    return new ApiError(status, error, results?.findIndex((item) => item.error));
  } catch {
    const message = `Not the service, but something before it answered ${status}: ${told.slice(0, 200)}`;
    return new ApiError(status, { code: "no_json", message });
  }
}
