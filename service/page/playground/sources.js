/**
 * Where a stream's observations come from: generators by a seed, or a series that is played.
 *
 * Invariant: equal sources give equal observations, so a source that is copied at a checkpoint can be taken back to it.
 */

/** Return a function that gives numbers from 0 to 1, the same for the same seed (mulberry32, by Tommy Ettinger). */
export function uniform(seed) {
  const generator = { state: seed >>> 0 };
  return () => drawUniform(generator);
}

function drawUniform(generator) {
  generator.state = (generator.state + 0x6d2b79f5) >>> 0;
  let mixed = generator.state;
  mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
}

/** What each generator gives next; `source` has its count of observations, its level and its random numbers. */
const GENERATORS = {
  sine: (source) => 100 + 10 * Math.sin((2 * Math.PI * source.count) / 24) + source.noise(1),
  steps: (source) => {
    if (source.count % 40 === 0) source.level = 80 + 40 * source.uniform();
    return source.level + source.noise(0.5);
  },
  walk: (source) => (source.level += source.noise(1)),
};

/** The generators, by the names that people read. */
export const KINDS = { sine: "Sine with noise", steps: "Steps", walk: "Random walk" };

/** One source of observations. */
export class Source {
  /** Begin a generator of `kind` with a seed, or play `values` once where they are given, which were read from `text`. */
  constructor({ kind, seed = 0, values = null, text = "" }) {
    Object.assign(this, { kind, seed, values, text });
    this.count = 0;
    this.level = 100;
    this.state = seed >>> 0;
  }

  /** Return the next observation; undefined where a series has been played to its end. */
  next() {
    const value = this.values ? this.values[this.count] : round(GENERATORS[this.kind](this));
    this.count++;
    return value;
  }

  /** Return a source that goes on as this one would, or by random numbers of its own where a seed is given. */
  copy(seed = null) {
    const copied = Object.assign(Object.create(Source.prototype), this);
    if (seed !== null) Object.assign(copied, { seed, state: seed >>> 0 });
    return copied;
  }

  uniform() {
    return drawUniform(this);
  }

  /** Return a number whose distribution is close to normal (a sum of four), by its standard deviation. */
  noise(deviation) {
    let sum = 0;
    for (let index = 0; index < 4; index++) sum += this.uniform() - 0.5;
    return sum * Math.sqrt(3) * deviation;
  }
}

function round(value) {
  return Math.round(value * 1000) / 1000;
}
