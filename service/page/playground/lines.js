/**
 * The lines that do again what was recorded: for a shell, for Python with baton_client, for JavaScript.
 * They know the API's calls and the client's methods. Invariant: lines run as they stand; a form that a call has no
 * lines in is left out. A key is not in them: they read it from the variable API_KEY.
 */

/** Return the forms of a record: [{name, lines}]. `keyed` says that the service asks for a key. */
export function linesOf(record, origin, keyed) {
  const writers =
    record.kind === "stream"
      ? { Python: pythonOfStream, JavaScript: scriptOfStream }
      : { curl: curlOf, Python: pythonOf, JavaScript: scriptOf };
  const forms = Object.entries(writers).map(([name, write]) => ({ name, lines: write(record, origin, keyed) }));
  return forms.filter(({ lines }) => lines !== undefined);
}

const LONGEST_ARGUMENT_BYTES = 100_000; // a shell takes none over 131,072

function curlOf({ path, body }, origin, keyed) {
  const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const parts = [`curl -s ${quoted(origin + path)}`];
  if (keyed) parts.push('-H "Authorization: Bearer $API_KEY"');
  if (!body) return parts.join(" \\\n  ");
  const json = JSON.stringify(body); // one line, so none that ends the document
  const isLong = new TextEncoder().encode(quoted(json)).length > LONGEST_ARGUMENT_BYTES;
  const data = isLong ? `-d @- <<'END'\n${json}\nEND` : `-d ${quoted(json)}`;
  parts.push("-H 'Content-Type: application/json'", data);
  return parts.join(" \\\n  ");
}

function scriptOf({ method, path, body }, origin, keyed) {
  const headers = [];
  if (keyed) headers.push("Authorization: `Bearer ${process.env.API_KEY}`");
  if (body) headers.push('"Content-Type": "application/json"');
  const lines = [`const response = await fetch(${JSON.stringify(origin + path)}, {`, `  method: "${method}",`];
  if (headers.length) lines.push(`  headers: { ${headers.join(", ")} },`);
  if (body) lines.push(`  body: JSON.stringify(${JSON.stringify(body)}),`);
  const read = path.endsWith("/card") || body?.stream ? "text" : path.includes("/pictures/") ? "blob" : "json";
  return [...lines, "});", `const answer = await response.${read}();`, "console.log(answer);"].join("\n");
}

const CALLS = {
  "GET /v1/models": () => "client.models()",
  "GET /v1/info": () => "client.info()",
  "POST /v1/sentiment": ({ inputs, ...others }) => called("sentiment", literal(inputs), others),
  "POST /v1/forecast": ({ series, ...others }) => called("forecast", literal(series), others),
  "POST /v1/tag": ({ inputs, ...others }) => called("tag", literal(inputs), others),
  "POST /v1/translate": ({ inputs, ...others }) => called("translate", literal(inputs), others),
  "POST /v1/transform": ({ items, ...others }) => called("transform", literal(items), others),
  "POST /v1/classify": ({ items, ...others }) => called("classify", literal(items), others),
  "POST /v1/generate": ({ items, stream, ...others }) => {
    if (items.length !== 1) return called("generate_many", `[${items.map(stepItem).join(", ")}]`, others);
    const { state, id, condition, ...steps } = items[0];
    const [first, more] = [literal(stepsOf(steps)), { ...(state && { state }), ...(condition && { condition }), ...others }];
    return stream ? `list(${called("generate_stream", first, more)})` : called("generate", first, more);
  },
  "POST /v1/step": ({ model, items, ...others }) => {
    const first = literal(model);
    if (items.length !== 1) return called("step_many", `${first}, [${items.map(stepItem).join(", ")}]`, others);
    const { state, id, ...steps } = items[0];
    return called("step", `${first}, ${literal(stepsOf(steps))}`, { ...(state && { state }), ...others });
  },
};

function pythonOf({ method, path, body }, origin, keyed) {
  const write = CALLS[`${method} ${path}`];
  if (write === undefined) return undefined;
  const call = write(body);
  const isBatch = method === "POST" && !["client.step(", "client.generate("].some((single) => call.startsWith(single));
  return [
    ...opened(call.includes("StepItem(") ? "Client, StepItem" : "Client", origin, keyed),
    `    answer = ${call}`,
    isBatch ? 'print(*answer, sep="\\n")' : "print(answer)",
  ].join("\n");
}

function opened(names, origin, keyed) {
  const key = keyed ? ', api_key=os.environ["API_KEY"]' : "";
  const imports = [...(keyed ? ["import os", ""] : []), `from baton_client import ${names}`, ""];
  return [...imports, `with Client(${literal(origin)}${key}) as client:`];
}

function called(name, first, others) {
  return `client.${name}(${[first, ...keywords(others)].join(", ")})`;
}

function keywords(members) {
  return Object.entries(members).map(([name, value]) => `${name === "return" ? "returns" : name}=${literal(value)}`);
}

function stepItem({ state, id, ...steps }) {
  const others = { ...(state && { state }), ...(id && { id }) };
  return `StepItem(${[literal(stepsOf(steps)), ...keywords(others)].join(", ")})`;
}

function stepsOf({ text, prompt, values, inputs }) {
  return text ?? prompt ?? values ?? inputs ?? null;
}

/** Write a value of JSON as Python does. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const members = Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`);
  return `{${members.join(", ")}}`;
}

function pythonOfStream({ open: { model, ...others }, frames }, origin, keyed) {
  const steps = frames.map(stepsOf).filter((each) => each !== null);
  return [
    ...opened("Client", origin, keyed),
    `    with ${called("stream", literal(model), others)} as stream:`,
    `        for inputs in ${literal(steps)}:`,
    "            stream.send(inputs)",
    "            print(stream.recv())",
  ].join("\n");
}

function scriptOfStream({ path, open, frames }, origin, keyed) {
  const steps = frames.filter((frame) => stepsOf(frame) !== null).map(({ checkpoint, ...each }) => each);
  const protocols = keyed ? ', ["baton", `baton.key.${process.env.API_KEY}`]' : "";
  return [
    `const socket = new WebSocket("${origin.replace(/^http/u, "ws")}${path}"${protocols});`,
    `const frames = ${JSON.stringify([open, ...steps])};`,
    "let waiting = frames.length;",
    "socket.onopen = () => frames.forEach((frame) => socket.send(JSON.stringify(frame)));",
    "socket.onmessage = ({ data }) => {",
    "  console.log(data);",
    '  if (JSON.parse(data).type !== "checkpoint" && --waiting === 0) socket.close();',
    "};",
  ].join("\n");
}
