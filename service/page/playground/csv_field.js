/**
 * A field for CSV, with the ways to fill it: typed or pasted, a file chosen or dropped.
 * It knows texts and files, not what is in them.
 */

import { element, labelled } from "./dom.js";

const LABEL = "Values, as CSV: a column for each series, times in the first if there are any";
const ACCEPTED = ".csv,.tsv,.txt,text/csv,text/plain";

export class CsvField {
  /** `edited()` is called as the text is changed by hand, `filled()` as another takes its place, `failed(error)` for a file. */
  constructor({ edited, filled, failed }) {
    Object.assign(this, { filled, failed });
    this.input = element("textarea", { rows: "9", spellcheck: "false", class: "csv", oninput: edited });
    const choose = () => {
      this.take([...file.files]);
      file.value = ""; // so that the same file, mended, can be chosen again
    };
    const file = element("input", { type: "file", accept: ACCEPTED, onchange: choose });
    const acts = { ondragover: this.dragged, ondragleave: this.dragged, ondrop: (event) => this.dropped(event) };
    this.element = element(
      "div", { class: "drop", ...acts }, labelled(LABEL, this.input), labelled("or a file, chosen or dropped here", file),
    );
  }

  get text() {
    return this.input.value;
  }

  fill(text) {
    this.input.value = text;
    this.filled();
  }

  dragged = (event) => {
    event.preventDefault();
    event.currentTarget.classList.toggle("over", event.type === "dragover");
  };

  dropped(event) {
    this.dragged(event);
    const text = event.dataTransfer.getData("text/plain");
    if (event.dataTransfer.files.length) this.take(event.dataTransfer.files);
    else if (text) this.fill(text);
  }

  async take([file]) {
    if (!file) return;
    let text;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    } catch {
      const message = `${file.name} is no text in UTF-8; save it as CSV in UTF-8.`;
      this.failed(Object.assign(new Error(message), { code: "csv" }));
      return;
    }
    this.fill(text);
  }
}
