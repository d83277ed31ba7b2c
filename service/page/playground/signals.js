/**
 * Signals: examples that are made, values that were typed, and sound as WAV. It knows numbers, not models or elements.
 * Invariant: an example is the same for the same seed.
 */

import { Source } from "./sources.js";

const BEAT_S = 0.8; // between two beats of the example
const WAVES = [ // of a beat: when, how wide, how high
  [0.2, 0.025, 0.15], [0.36, 0.01, -0.12], [0.4, 0.012, 1], [0.44, 0.01, -0.25], [0.62, 0.045, 0.3],
];

/** Return `seconds` of a signal that looks like a heartbeat, at `rate` samples a second, with noise of a deviation. */
export function heartbeat(rate, seconds, deviation, seed) {
  const source = new Source({ kind: "sine", seed });
  return Array.from({ length: Math.round(rate * seconds) }, (_, index) => {
    const at = (index / rate) % BEAT_S;
    const clean = WAVES.reduce((sum, [when, width, high]) => sum + high * Math.exp(-0.5 * ((at - when) / width) ** 2), 0);
    return round(clean + source.noise(deviation));
  });
}

/** Return `seconds` of a sound of falling pitch, at `rate` samples a second. */
export function chirp(rate, seconds) {
  let phase = 0;
  return Float32Array.from({ length: Math.round(rate * seconds) }, (_, index) => {
    const left = 1 - index / (rate * seconds);
    phase += (2 * Math.PI * (rate / 50 + (rate / 10) * left)) / rate;
    return 0.6 * left * Math.sin(phase);
  });
}

/** Read numbers, apart by commas, semicolons or white space. Raises an error for what is none. */
export function readNumbers(text) {
  const cells = text.split(/[\s,;]+/u).filter(Boolean);
  const bad = cells.find((cell) => !Number.isFinite(Number(cell)));
  const message = bad === undefined ? "There are no numbers yet: paste some." : `“${bad}” is no number.`;
  if (bad !== undefined || !cells.length) throw Object.assign(new Error(message), { code: "numbers" });
  return cells.map(Number);
}

/** Write samples from -1 to 1 as a WAV file of 16 bits, one channel: its bytes. */
export function wavOf(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, place) => view.setUint8(at + place, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, place) => view.setInt16(44 + 2 * place, 32767 * Math.max(-1, Math.min(1, sample)), true));
  return new Uint8Array(view.buffer);
}

/** Return bytes in base64. */
export function base64(bytes) {
  const [AT_ONCE, parts] = [0x8000, []]; // a call takes no more arguments
  for (let at = 0; at < bytes.length; at += AT_ONCE) parts.push(String.fromCharCode(...bytes.subarray(at, at + AT_ONCE)));
  return btoa(parts.join(""));
}

function round(value) {
  return Math.round(value * 1e4) / 1e4;
}
