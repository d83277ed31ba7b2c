const dark = matchMedia("(prefers-color-scheme: dark)");
const dress = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", dress);
dress();

const A_STATE = "<a state>"; // in examples, which cannot hold one: a token is of one service, and expires
const STEP = ["/v1/step", "begin"]; // the example that begins a session
const BEGINS = { "/v1/generate": ["/v1/generate", "prompt"], "/v1/completions": ["/v1/completions", "prompt"] };

const BODY = ["post", "requestBody", "content", "application/json", "examples"];
const example = ([path, name]) => ui.specSelectors.specJson().getIn(["paths", path, ...BODY, name, "value"]);

/** Return the first state of an answer: of a session's result, or of a choice. */
function stateIn(answer) {
  const first = answer.results?.[0] ?? answer;
  return (first.choices?.[0] ?? first).state;
}

/** Put a state, of a session that begins for it, in the place of A_STATE; where none begins, the call tells why. */
async function putState(request) {
  if (request.body?.includes?.(A_STATE)) {
    const begin = BEGINS[new URL(request.url, location.href).pathname] ?? STEP;
    const body = JSON.stringify(example(begin));
    const began = await fetch(begin[0], { method: "POST", headers: request.headers, body });
    if (began.ok) request.body = request.body.replaceAll(A_STATE, stateIn(await began.json()));
  }
  return request;
}

const ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#document",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  requestInterceptor: putState,
});
