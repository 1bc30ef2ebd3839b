// The page: settings, the message field, and turns of the conversation.

import { askForKey } from "./api.js";
import { byId, el, toEnd } from "./dom.js";
import { LONG, SHORT } from "./examples.js";
import { KvControls } from "./kv.js";
import { Lane } from "./lane.js";
import { lookAgain, watchServer } from "./status.js";
import { parseTools } from "./tools.js";

/** Characters and lines of a message that are shown without being asked for. */
const SHOWN = { characters: 700, lines: 12 };

const lanes = ["A", "B"].map((name) => new Lane(name, new KvControls(name), showRunning));
const [a, b] = lanes;

const isComparing = () => byId("compare").checked;
const active = () => (isComparing() ? lanes : [a]);
const isRunning = () => lanes.some((lane) => lane.isRunning);

// Settings.

byId("kv-controls").append(...lanes.map((lane) => lane.kv.element));

function showLanes() {
  byId("kv-controls").classList.toggle("one", !isComparing());
  b.kv.element.hidden = !isComparing();
}

function compare(isOn) {
  if (isOn === isComparing()) return;
  byId("compare").checked = isOn;
  startComparing();
}

function startComparing() {
  showLanes();
  if (isComparing()) {
    // Both go on from what was said so far.
    b.settle();
    b.clear();
    b.messages = [...a.messages];
  }
}

byId("compare").addEventListener("change", startComparing);
showLanes();

/** A number that was typed; undefined if there is none. Throws if it is none that will do. */
function number(id) {
  const input = byId(id);
  if (!input.checkValidity()) {
    showSettings(true);
    input.reportValidity();
    throw new SyntaxError(`${id} is no such number`);
  }
  return input.value === "" ? undefined : Number(input.value);
}

function tools() {
  const input = byId("tools");
  const error = byId("tools-error");
  try {
    const parsed = parseTools(input.value);
    error.hidden = true;
    input.setAttribute("aria-invalid", "false");
    return parsed;
  } catch (reason) {
    error.textContent = reason.message;
    error.hidden = false;
    input.setAttribute("aria-invalid", "true");
    throw reason;
  }
}

byId("tools").addEventListener("change", () => {
  try {
    tools();
  } catch {
    // It says so beside the field.
  }
});

/** What is asked for beside messages. Throws if a setting is not right; the page then says which. */
function settings() {
  const given = {
    system: byId("system").value.trim() || undefined,
    temperature: number("temperature"),
    max_tokens: number("max-tokens"),
  };
  try {
    const list = tools();
    if (list) Object.assign(given, { tools: list, tool_choice: byId("tool-choice").value || undefined });
  } catch (error) {
    showSettings(true);
    byId("tools").focus();
    throw error;
  }
  return given;
}

// On narrow screens, settings lie over the conversation.

const isNarrow = window.matchMedia("(max-width: 56rem)");

function showSettings(isOpen) {
  const covers = isOpen && isNarrow.matches;
  document.body.classList.toggle("settings-open", covers);
  byId("settings-toggle").setAttribute("aria-expanded", covers);
  byId("settings-toggle").textContent = covers ? "Done" : "Settings";
  byId("main").inert = covers;
}

byId("settings-toggle").addEventListener("click", () => showSettings(!document.body.classList.contains("settings-open")));
isNarrow.addEventListener("change", () => showSettings(false));
document.addEventListener("keydown", (event) => {
  const isOpen = document.body.classList.contains("settings-open") && !byId("key-dialog").open;
  if (event.key !== "Escape" || !isOpen) return;
  showSettings(false);
  byId("settings-toggle").focus();
});

// The message field.

const prompt = byId("prompt");

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

function showRunning() {
  byId("send").textContent = isRunning() ? "Stop" : "Send";
  byId("send").classList.toggle("primary", !isRunning());
}

prompt.addEventListener("input", fit);
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!isRunning()) submit();
});
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (isRunning()) lanes.forEach((lane) => lane.stop());
  else submit();
});

function submit() {
  const text = prompt.value;
  if (!text.trim() || !send(text)) return;
  prompt.value = "";
  fit();
}

// Turns.

/** What a lane asks for beside messages; null if a setting is not right, which the page then shows. */
function requestOf(lane) {
  try {
    return { ...settings(), kv_cache: lane.kv.value() };
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

/** Sends a message to each lane. Returns whether it could be. */
function send(text) {
  const asked = active();
  if (!asked.every(requestOf)) return false;
  showSettings(false);
  byId("welcome").hidden = true;
  const columns = el("div", { class: "columns" });
  byId("conversation").append(el("article", { class: "turn" }, said(text), columns));
  for (const lane of asked) {
    const isOne = asked.length === 1;
    const label = el("span");
    const badge = el("span", { class: `lane lane-${lane.name.toLowerCase()}` }, lane.name);
    const heading = isOne
      ? el("h3", { class: "visually-hidden" }, "Answer")
      : el("h3", { class: "column-name" }, badge, " ", label);
    const column = el("section", { class: "column", "aria-label": isOne ? "Answer" : `Answer ${lane.name}` }, heading);
    column.dataset.announced = isOne ? "" : `${lane.name}: `;
    columns.append(column);
    lane.say(text);
    lane.answer(column, () => {
      label.textContent = lane.kv.label();
      return requestOf(lane);
    });
  }
  toEnd();
  return true;
}

/** What the user said; long texts are folded. */
function said(text) {
  const body = el("p", { class: "text" }, text);
  const bubble = el("div", { class: "said" }, el("h3", { class: "visually-hidden" }, "You"), body);
  if (text.length > SHOWN.characters || text.split("\n").length > SHOWN.lines) {
    body.classList.add("folded");
    const toggle = el("button", { type: "button", class: "quiet", "aria-expanded": "false" }, "Show all");
    toggle.addEventListener("click", () => {
      const isFolded = body.classList.toggle("folded");
      toggle.textContent = isFolded ? "Show all" : "Show less";
      toggle.setAttribute("aria-expanded", !isFolded);
    });
    bubble.append(toggle);
  }
  return bubble;
}

byId("new-conversation").addEventListener("click", () => {
  lanes.forEach((lane) => lane.clear());
  byId("conversation").replaceChildren();
  byId("welcome").hidden = false;
  showRunning();
  showSettings(false);
  prompt.focus();
});

// Examples.

function example(text, isCompared, choices) {
  compare(isCompared);
  choices.forEach((choice, index) => lanes[index].kv.choose(...choice));
  send(text);
  prompt.focus({ preventScroll: true });
}

byId("example-short").addEventListener("click", () => example(SHORT, false, [["balanced"]]));
byId("example-long").addEventListener("click", () => example(LONG, false, [["budget", 25]]));
byId("example-compare").addEventListener("click", () => example(LONG, true, [["exact"], ["compact"]]));

// The server.

byId("key-button").addEventListener("click", async () => {
  if (await askForKey("It is kept until this tab is closed. An empty one forgets it.")) lookAgain();
});

watchServer();
