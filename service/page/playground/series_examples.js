/** Series to try a forecast on, as the CSV that a person would paste. The same on every visit. */

import { writeCsv } from "./series.js";
import { uniform } from "./sources.js";

/** The examples by the names on their buttons; each returns a CSV. */
export const EXAMPLES = { Weekly: weekly, Hourly: hourly, Constant: constant, "With gaps": withGaps };

function weekly() {
  const random = uniform(1);
  return table(["week", "visits"], 130, (index) => {
    const season = 1 + 0.25 * Math.sin((2 * Math.PI * index) / 52);
    return [dayAfter("2024-01-01", 7 * index), Math.round((900 + 3 * index) * season + 80 * (random() - 0.5))];
  });
}

function hourly() {
  const random = uniform(2);
  return table(["time", "load_kw"], 240, (index) => {
    const hour = index % 24, weekend = Math.floor(index / 24) % 7 > 4;
    const day = Math.max(0, Math.sin((Math.PI * (hour - 6)) / 14));
    const load = 40 + (weekend ? 15 : 45) * day + 4 * (random() - 0.5);
    return [`${dayAfter("2026-03-02", Math.floor(index / 24))}T${String(hour).padStart(2, "0")}:00`, load.toFixed(1)];
  });
}

function constant() {
  return table(["day", "level"], 48, (index) => [dayAfter("2026-01-01", index), 5]);
}

/** Two shops by months, of which one has months without a value. */
function withGaps() {
  const random = uniform(3), gaps = new Set([9, 10, 27, 41]);
  return table(["month", "north", "south"], 60, (index) => {
    const month = `${2021 + Math.floor(index / 12)}-${String((index % 12) + 1).padStart(2, "0")}-01`;
    const season = 12 * Math.cos((2 * Math.PI * index) / 12);
    const north = (80 + 0.4 * index + season + 6 * (random() - 0.5)).toFixed(1);
    const south = (50 - 0.1 * index - season / 2 + 6 * (random() - 0.5)).toFixed(1);
    return [month, gaps.has(index) ? null : north, south];
  });
}

function table(names, length, row) {
  return writeCsv([names, ...Array.from({ length }, (_, index) => row(index))]);
}

function dayAfter(day, days) {
  return new Date(Date.parse(day) + days * 86_400_000).toISOString().slice(0, 10);
}
