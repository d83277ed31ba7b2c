/**
 * The frequency of a column of times, in the words of pandas that the service reads.
 *
 * Invariant: a frequency is named only where every time lies on it.
 */

const TIME = /^\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?)?$/;
const DAY_MS = 86_400_000;
const UNITS_MS = [["W", 7 * DAY_MS], ["D", DAY_MS], ["h", 3_600_000], ["min", 60_000], ["s", 1000], ["ms", 1]];
const MOST_GAPS = 1; // for each time that is there: with more, the times are called irregular

/** Whether a cell is a time: ISO 8601, from a month to a fraction of a second. */
export function isTime(cell) {
  return TIME.test(cell) && !Number.isNaN(instantOf(cell));
}

/** Return a time, a date like 20260131 or a year as ISO 8601; "" for what is none of them. */
export function timeIn(cell) {
  const iso = /^\d{4}$/.test(cell) ? `${cell}-01-01` : cell.replace(/^(\d{4})(\d\d)(\d\d)$/, "$1-$2-$3");
  return isTime(iso) ? iso : "";
}

/** Whether all cells are dates like 20260131, or years of these centuries with equal steps, each after the one before. */
export function areBareDates(cells) {
  const numbers = cells.map(Number);
  const step = numbers[1] - numbers[0];
  const areYears = numbers.every((year, index) => year >= 1800 && year < 2200 && year === numbers[0] + index * step);
  const areDates = cells.every((cell) => /^\d{8}$/.test(cell) && timeIn(cell));
  return (areYears || areDates) && numbers.every((number, index) => !index || number > numbers[index - 1]);
}

/**
 * Find the frequency on which all `cells` lie, and the position of each on it.
 * @returns {{freq: string, start: string, positions: number[]} | {freq: ""} | {unordered: number}}
 *   `unordered` is the index of the first time that does not come after the one before.
 */
export function findFrequency(cells) {
  const instants = cells.map(instantOf);
  const unordered = instants.findIndex((instant, index) => index && instant <= instants[index - 1]);
  if (unordered > 0) return { unordered };
  const found = businessDays(instants) ?? evenSteps(instants) ?? months(instants);
  if (!found || found.positions.at(-1) > (1 + MOST_GAPS) * (cells.length - 1)) return { freq: "" };
  return { ...found, start: startOf(cells[0]) };
}

function startOf(cell) {
  return cell.length === "2026-01".length ? `${cell}-01` : cell.replace(" ", "T");
}

function partsOf(cell) {
  const [day, time = "00:00"] = startOf(cell).split("T");
  const [, clock, zone] = /^([\d:.]+)(.*)$/.exec(time);
  return { day, clock, zone: zone || "Z" };
}

/** Return a time's instant; one without a zone is taken in UTC, where no hour is skipped or comes twice. */
function instantOf(cell) {
  const { day, clock, zone } = partsOf(cell);
  const midnight = Date.parse(`${day}T00:00Z`);
  const exists = !Number.isNaN(midnight) && new Date(midnight).toISOString().startsWith(day); // no 31st of June
  return exists ? Date.parse(`${day}T${clock}${zone}`) : NaN;
}

function evenSteps(instants) {
  const steps = instants.slice(1).map((instant, index) => instant - instants[index]);
  const least = leastOf(steps);
  if (!steps.length || steps.some((step) => step % least)) return null;
  const [unit, size] = UNITS_MS.find(([, length]) => least % length === 0);
  return { freq: multiple(least / size, unit), positions: instants.map((instant) => (instant - instants[0]) / least) };
}

function leastOf(numbers) {
  return numbers.reduce((least, number) => Math.min(least, number), Infinity);
}

/** Mondays to Fridays: days of which all that are left out in a run are weekends. */
function businessDays(instants) {
  const days = instants.map((instant) => (instant - instants[0]) / DAY_MS);
  const weekdays = instants.map((instant) => new Date(instant).getUTCDay());
  const spansWeekend = days.at(-1) > 4 && days.some((day, index) => index && day - days[index - 1] === 1);
  if (!spansWeekend || days.some((day) => day % 1) || weekdays.some((day) => day === 0 || day === 6)) return null;
  const first = weekdays[0] - 1; // Monday is 0
  const positions = days.map((day) => Math.floor((first + day) / 7) * 5 + ((first + day) % 7) - first);
  return { freq: "B", positions };
}

function months(instants) {
  const dates = instants.map((instant) => new Date(instant));
  const counts = dates.map((date) => date.getUTCFullYear() * 12 + date.getUTCMonth());
  const steps = counts.slice(1).map((count, index) => count - counts[index]);
  const least = leastOf(steps);
  const sameHour = instants.every((instant) => (instant - instants[0]) % DAY_MS === 0);
  if (!steps.length || !least || !sameHour || steps.some((step) => step % least)) return null;
  const unit = monthsUnit(dates);
  return unit && { freq: multiple(least, unit), positions: counts.map((count) => (count - counts[0]) / least) };
}

function monthsUnit(dates) {
  const days = dates.map((date) => date.getUTCDate());
  if (days.every((day) => day === 1)) return "MS";
  if (dates.every(isMonthsEnd)) return "ME";
  return days.every((day) => day === days[0]) ? "M" : null;
}

function multiple(count, unit) {
  return count === 1 ? unit : `${count}${unit}`;
}

/**
 * Return `count` times from `start` on, as the service would; null for a frequency that this page does not find itself.
 * Times are as the service writes them, without a zone.
 */
export function timesFrom(start, freq, count) {
  const [, digits, unit] = /^(\d*)([A-Za-z]+)$/.exec(freq) ?? [];
  const step = Number(digits || 1);
  const length = UNITS_MS.find(([name]) => name === unit)?.[1];
  const first = isTime(start) ? wallClockOf(start) : null;
  if (first === null || !(length || unit in MONTHS || freq === "B")) return null;
  return Array.from({ length: count }, (_, index) => {
    if (length) return written(first + index * step * length);
    return freq === "B" ? written(businessDayAfter(first, index)) : MONTHS[unit](new Date(first), index * step);
  });
}

const MONTHS = {
  MS: (date, count) => written(inMonth(date, count, 1)),
  ME: (date, count) => written(inMonth(date, count, 31)),
  M: (date, count) => written(inMonth(date, count, isMonthsEnd(date) ? 31 : date.getUTCDate())),
};

/** Return a day `count` months later, the month's last one where it has no such day. */
function inMonth(date, count, day) {
  const [year, month] = [date.getUTCFullYear(), date.getUTCMonth() + count];
  const last = new Date(Date.UTC(year, month + 1, 0)).getUTCDate();
  return Date.UTC(year, month, Math.min(day, last)) + (date.getTime() % DAY_MS);
}

function isMonthsEnd(date) {
  return new Date(date.getTime() + DAY_MS).getUTCDate() === 1;
}

function businessDayAfter(first, count) {
  const weekday = new Date(first).getUTCDay() - 1; // Monday is 0
  const days = weekday + count;
  return first + (Math.floor(days / 5) * 7 + (days % 5) - weekday) * DAY_MS;
}

function wallClockOf(start) {
  const { day, clock } = partsOf(start);
  return Date.parse(`${day}T${clock}Z`);
}

function written(instant) {
  return new Date(instant).toISOString().replace(/(\.000)?Z$/, "");
}
