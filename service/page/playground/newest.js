/**
 * Have `work(value, isStale)` done for one value at a time, and for the newest: those given while it is under way
 * replace one another, and `isStale()` says that there is one. Returns the function to give values to.
 */
export function newest(work) {
  let waiting = [];
  let busy = false;
  return async (value) => {
    waiting = [value];
    if (busy) return;
    busy = true;
    try {
      while (waiting.length) await work(waiting.pop(), () => waiting.length > 0);
    } finally {
      busy = false;
    }
  };
}
