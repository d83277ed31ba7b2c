/**
 * Markdown as far as model cards use it: headings, paragraphs, lists, tables, code, links, pictures.
 * It knows texts and makes nodes. Invariant: all that a card holds becomes text; a link is shown, not followed.
 */

import { element, wide } from "./dom.js";

// Code, a picture, a link, strong words.
// No part holds the sign that opens it, so that what is never closed is looked through once, and not from each sign on.
const INLINE = /`([^`]+)`|!\[([^[\]]*)\]\(([^()\s]+)\)|\[([^[\]]+)\]\(([^()\s]+)\)|\*\*([^*]+)\*\*/gu;
const TOP = 3; // the page's own headings, below which those of a card stand

/** Return the nodes of a Markdown text. */
export function render(markdown) {
  const lines = markdown.split(/\r\n?|\n/u).reverse(); // the next one last, where it is cheap to take
  const nodes = [];
  while (lines.length) {
    const read = READERS.find(([starts]) => starts.test(lines.at(-1)))[1];
    const node = read(lines);
    if (node) nodes.push(node);
  }
  return nodes;
}

const READERS = [
  [/^\s*$/u, (lines) => void lines.pop()],
  [/^```/u, readCode],
  [/^#{1,6} /u, readHeading],
  [/^\|/u, readTable],
  [/^[-*] /u, readList],
  [/^/u, readParagraph],
];

function readCode(lines) {
  lines.pop();
  const code = [];
  while (lines.length && !lines.at(-1).startsWith("```")) code.push(lines.pop());
  lines.pop();
  return element("pre", {}, code.join("\n"));
}

function readHeading(lines) {
  const [, marks, text] = /^(#+) (.*)$/su.exec(lines.pop());
  return element(`h${Math.min(TOP + marks.length, 6)}`, {}, inline(text));
}

function readTable(lines) {
  const taken = takeWhile(lines, /^\|/u);
  const rows = taken.map((line) => line.replace(/^\||\|\s*$/gu, "").split("|"));
  const [head, ...body] = rows.filter((row) => !row.every((cell) => /^\s*:?-+:?\s*$/u.test(cell)));
  if (!head) return element("p", {}, taken.join(" "));
  const cells = (row, tag) => element("tr", {}, row.map((cell) => element(tag, {}, inline(cell.trim()))));
  const parts = [element("thead", {}, cells(head, "th")), element("tbody", {}, body.map((row) => cells(row, "td")))];
  return wide("Table", element("table", {}, ...parts));
}

function readList(lines) {
  const items = takeWhile(lines, /^[-*] /u).map((line) => element("li", {}, inline(line.slice(2))));
  return element("ul", {}, items);
}

function readParagraph(lines) {
  const ends = READERS.slice(0, -1).map(([starts]) => starts);
  const text = [lines.pop()];
  while (lines.length && !ends.some((starts) => starts.test(lines.at(-1)))) text.push(lines.pop());
  return element("p", {}, inline(text.join(" ")));
}

function takeWhile(lines, pattern) {
  const taken = [];
  while (lines.length && pattern.test(lines.at(-1))) taken.push(lines.pop());
  return taken;
}

function inline(text) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, alt, picture, label, address, strong] = match;
    nodes.push(text.slice(from, match.index));
    from = match.index + whole.length;
    if (code) nodes.push(element("code", {}, code));
    else if (picture) nodes.push(element("em", {}, `Picture: ${alt || picture}.`));
    else if (address) nodes.push(`${label} (`, element("code", {}, address), ")");
    else nodes.push(element("strong", {}, strong));
  }
  return [...nodes, text.slice(from)];
}
