/**
 * Series as CSV: read from what people paste, written from what was forecast.
 *
 * It knows no page and no service. Invariant: what is not understood is refused with its line and column; no cell is
 * guessed or dropped.
 */

import { areBareDates, findFrequency, isTime, timeIn } from "./frequency.js";

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const MISSING = new Set(["", "na", "n/a", "nan", "null"]);
const NAME_OF_TIMES = /^(date|time|datetime|timestamp|year|quarter|month|week|day|hour|ds)s?$/i;
const DECIMAL_COMMA = "Commas were taken to stand between columns; write decimals with a point.";
const MOST_NAMED = 6; // series that a note names

/** What is wrong with a CSV, and where: `line` and `column` count from 1. */
export class CsvError extends Error {
  constructor(message, line, column) {
    super(`Line ${line}, column ${column}: ${message}`);
    Object.assign(this, { name: "CsvError", code: "csv", line, column });
  }
}

/**
 * Read the series of a CSV: one for each column, but for a first column of times.
 *
 * A first line of names is optional; one with a number, a time or a gap in it is a line of values. Empty cells, NA, N/A,
 * NaN and null are gaps, as are times left out of an otherwise regular column of times. A single line of numbers is one
 * series. The first column is one of times where it is named like one, begins with a time, or counts years or dates.
 * @returns {{series: {name: string, values: (number|null)[]}[], start: string, freq: string, notes: string[]}}
 *   `start` and `freq` are empty where no column of times says them; `notes` say what was taken as what.
 * @throws {CsvError}
 */
export function readSeries(text) {
  const records = readRecords(text);
  if (!records.length) throw new CsvError("there is nothing here; give numbers, one a line, or columns of them", 1, 1);
  const [{ line, cells }] = records;
  if (cells[0].startsWith("#")) throw new CsvError("a comment; take it out, or the '#' where names follow it", line, 1);
  const header = areNames(cells) ? records[0] : null;
  const rows = header ? records.slice(1) : records;
  if (!rows.length) throw new CsvError("names of columns need lines of values below them", line + 1, 1);
  const width = cells.length;
  if (!header && rows.length === 1) return oneLine(rows[0]);
  checkWidths(rows, width, line);
  const names = namesOf(header, width);
  const times = timesIn(rows, header);
  if (times && width === 1) throw new CsvError("a column of times needs a column of values beside it", rows[0].line, 1);
  const columns = names.slice(times ? 1 : 0).map((name, index) => {
    const column = index + (times ? 1 : 0);
    return { name, values: rows.map((row) => readNumber(row, column, names)) };
  });
  const table = times ? onTimes(rows, times, columns) : { series: columns, start: "", freq: "", notes: [] };
  const notes = [...notesOf(times && { name: names[0], times, ...table }, table.series), ...table.notes];
  if (!header && !times && width === 2 && rows.every(areWhole)) notes.push(DECIMAL_COMMA);
  return { ...table, notes };
}

/** Return rows as CSV: cells are quoted where they have to be, null is an empty cell. */
export function writeCsv(rows) {
  return rows.map((row) => row.map(writeCell).join(",") + "\n").join("");
}

function writeCell(value) {
  const text = value === null ? "" : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function oneLine(row) {
  const values = row.cells.map((_, column) => readNumber(row, column, []));
  const series = [{ name: "series", values }];
  return { series, start: "", freq: "", notes: notesOf(null, series) };
}

/** Whether a first line holds names: some letters, and nothing that a line of values holds. */
function areNames(cells) {
  const isValue = (cell) => (cell && isMissing(cell)) || NUMBER.test(cell) || isTime(cell);
  return cells.some((cell) => /\p{L}/u.test(cell)) && !cells.some(isValue);
}

function areWhole({ cells }) {
  return cells.every((cell) => /^[+-]?\d+$/.test(cell));
}

/** Say what was taken as times, and what as series. */
function notesOf(timed, series) {
  const { length } = series[0].values;
  const named = series.slice(0, MOST_NAMED).map(({ name }) => name).join(", ");
  const others = series.length > MOST_NAMED ? ` and ${series.length - MOST_NAMED} more` : "";
  const of = `${length} ${length === 1 ? "value" : "values"}`;
  const count = series.length === 1 ? `One series of ${of}` : `${series.length} series of ${of} each`;
  const found = `${count}: ${named}${others}.`;
  if (!timed) return [`No column of times. ${found}`];
  const { name, times, freq } = timed;
  return [`Times: ${name}, from ${times[0]} to ${times.at(-1)}${freq ? `, frequency ${freq}` : ""}. ${found}`];
}

/** Return the first column as times where it is one of times; null where it is one of values. */
function timesIn(rows, header) {
  const first = rows.map(({ cells }) => cells[0]);
  const several = rows[0].cells.length > 1;
  const isNamed = several && header !== null && NAME_OF_TIMES.test(header.cells[0]);
  const isCounted = several && rows.length > 1 && areBareDates(first);
  if (!isNamed && !isCounted && !isTime(first[0])) return null;
  return rows.map(({ line, cells: [cell] }) => {
    const time = timeIn(cell);
    if (time) return time;
    const named = isNamed ? `; '${header.cells[0]}' is the name of a column of times` : "";
    throw new CsvError(`'${cell}' is not a time like 2026-01-31, 2026-01-31T13:00, 20260131 or 2026${named}`, line, 1);
  });
}

function checkWidths(rows, width, first) {
  for (const { line, cells } of rows) {
    if (cells.length === width) continue;
    const counted = `${cells.length} ${cells.length === 1 ? "cell" : "cells"}`;
    throw new CsvError(`${counted}, where line ${first} has ${width}`, line, Math.min(cells.length, width) + 1);
  }
}

function namesOf(header, width) {
  if (!header) return Array.from({ length: width }, (_, index) => (width === 1 ? "series" : `column ${index + 1}`));
  const names = header.cells.map((name, index) => name || `column ${index + 1}`);
  names.forEach((name, index) => {
    if (names.indexOf(name) < index) throw new CsvError(`a second column of the name '${name}'`, header.line, index + 1);
  });
  return names;
}

function readNumber({ line, cells, isFirst }, column, names) {
  const cell = cells[column];
  if (isMissing(cell)) return null;
  const value = NUMBER.test(cell) ? Number(cell) : NaN;
  if (Number.isFinite(value)) return value;
  const of = names[column] ? ` in '${names[column]}'` : "";
  const right = "write one like 1234.5, leave a gap empty, or begin each line with a time like 2026-01-31";
  const asNames = isFirst ? "; a line of names has letters, and no number, time or gap" : "";
  throw new CsvError(`'${cell}'${of} is not a number; ${right}${asNames}`, line, column + 1);
}

function isMissing(cell) {
  return MISSING.has(cell.toLowerCase());
}

/** Put the columns on the times of the first one; times that were left out become gaps. */
function onTimes(rows, times, columns) {
  const found = findFrequency(times);
  if (found.unordered !== undefined) {
    const { line, cells } = rows[found.unordered];
    const before = rows[found.unordered - 1].cells[0];
    throw new CsvError(`'${cells[0]}' does not come after '${before}'; sort the lines, each time once`, line, 1);
  }
  if (!found.freq) {
    const notes = ["The times are not evenly spaced: the values are taken in order, and the forecast has no times."];
    return { series: columns, start: "", freq: "", notes };
  }
  const length = found.positions.at(-1) + 1;
  const series = columns.map(({ name, values }) => {
    const spread = Array(length).fill(null);
    values.forEach((value, index) => (spread[found.positions[index]] = value));
    return { name, values: spread };
  });
  const left = length - rows.length;
  const notes = left ? [`${left} ${left === 1 ? "time is" : "times are"} left out of the column of times: gaps.`] : [];
  return { series, start: found.start, freq: found.freq, notes };
}

/**
 * Split a CSV into records of trimmed cells with the line where each begins; quotes as in RFC 4180. Empty lines around the
 * records are left out, and those among records of several cells; among single ones they are gaps.
 */
function readRecords(text) {
  const told = /^\ufeff?sep=(.)[ \t]*\r?\n/.exec(text); // as spreadsheets write it
  const separator = told ? told[1] : separatorOf(text);
  const first = told ? 2 : 1;
  const records = [];
  let cells = [], cell = "", quoted = false, closed = false, line = first, begun = first, opened = first;
  const endCell = () => { cells.push(cell.trim()); [cell, closed] = ["", false]; };
  const endRecord = () => {
    const empty = !cells.length && !closed && !cell.trim();
    endCell();
    records.push({ line: begun, cells, empty });
    [cells, begun] = [[], line];
  };
  for (let index = told ? told[0].length : 0; index < text.length; index++) {
    const character = text[index];
    if (character === "\n") line++;
    if (quoted) {
      if (character !== '"') cell += character;
      else if (text[index + 1] === '"') cell += text[++index];
      else [quoted, closed] = [false, true];
    } else if (character === separator) endCell();
    else if (character === "\n") endRecord();
    else if (closed && character.trim()) {
      throw new CsvError(`'${character}' after a closing quote; write a quote in quotes twice`, line, cells.length + 1);
    } else if (character === '"' && !cell.trim()) [quoted, cell, opened] = [true, "", line];
    else cell += character;
  }
  if (quoted) throw new CsvError("a quote that is opened here is never closed", opened, cells.length + 1);
  endRecord();
  while (records.at(-1)?.empty) records.pop();
  while (records[0]?.empty) records.shift();
  if (records.length) records[0].isFirst = true;
  return records.some(({ cells }) => cells.length > 1) ? records.filter(({ empty }) => !empty) : records;
}

/** Of comma, semicolon and tab, the one that the first line with anything in it has most of. */
function separatorOf(text) {
  const [line] = /[^\n]*[^\s][^\n]*/.exec(text) ?? [""];
  const count = (separator) => line.split(separator).length;
  return [",", ";", "\t"].reduce((best, separator) => (count(separator) > count(best) ? separator : best));
}
