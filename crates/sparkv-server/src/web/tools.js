// Tools: the list that is pasted, calls as they are shown, and the results that are typed in.

import { el } from "./dom.js";

/** Characters of a call's arguments beside its result. */
const MAX_ARGUMENTS = 80;

/** The tools of a text: null if it is empty. Throws what is wrong with it. */
export function parseTools(text) {
  if (!text.trim()) return null;
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`Not JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) throw new SyntaxError("This is no list: it has to begin with [.");
  return tools.length > 0 ? tools : null;
}

/** A call: its name and arguments. */
export function callView(call) {
  return el(
    "div",
    { class: "call" },
    el("p", {}, "Calls ", el("code", {}, call.function.name)),
    el("pre", { tabindex: 0, "aria-label": `Arguments of ${call.function.name}` }, pretty(call.function.arguments)),
  );
}

/** JSON with indentation; anything else, such as arguments that go on, as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** The beginning of a text. */
const shortened = (text) => (text.length > MAX_ARGUMENTS ? `${text.slice(0, MAX_ARGUMENTS)}…` : text);

/** Fields for the results of calls. `send` gets the messages; `settle` makes text of the form. */
export function resultsForm(id, calls, send) {
  const fields = calls.map((call, index) => {
    const name = `result-${id}-${index}`;
    const input = el("textarea", { id: name, class: "code", rows: 2, spellcheck: "false" });
    // With arguments, since a model may call one tool several times.
    const made = `${call.function.name}(${shortened(call.function.arguments)})`;
    const label = el("label", { for: name }, "Result of ", el("code", {}, made));
    return { call, input, element: el("div", { class: "field" }, label, input) };
  });
  const button = el("button", { type: "submit", class: "primary" }, calls.length > 1 ? "Send results" : "Send result");
  const settle = () => {
    for (const { input } of fields) input.readOnly = true;
    button.remove();
  };
  const submit = (event) => {
    event.preventDefault();
    send(fields.map(({ call, input }) => ({ role: "tool", tool_call_id: call.id, content: input.value })));
  };
  const element = el("form", { class: "results", onsubmit: submit }, ...fields.map((field) => field.element), button);
  return { element, settle };
}
