// What the server says of itself: its model, its requests and its memory.

import { ApiError, figures, request } from "./api.js";
import { byId, bytes, count } from "./dom.js";

const EVERY = 2000;

let model = null;
let timer = null;
/** Whether the question for a key was answered with none: it is not asked again by itself. */
let isDeclined = false;

/** Begins to look, for as long as the page can be seen. */
export function watchServer() {
  document.addEventListener("visibilitychange", look);
  look();
}

/** Looks now, and asks for a key again if one is wanted. */
export function lookAgain() {
  isDeclined = false;
  look();
}

async function look() {
  clearTimeout(timer);
  if (document.visibilityState === "hidden") return;
  try {
    model ??= (await (await request("v1/models", {}, !isDeclined)).json()).data[0];
    byId("model").textContent = model.id;
    byId("context").textContent = `${count(model.max_model_len)} tokens`;
    show(figures(await (await request("metrics", {}, !isDeclined)).text()));
    byId("model").classList.remove("error");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    complain(error);
  }
  clearTimeout(timer);
  timer = setTimeout(look, EVERY);
}

function complain(error) {
  const words = { loading: "The model is being loaded…", invalid_api_key: "An API key is needed" };
  byId("model").textContent = words[error.code] ?? error.message;
  byId("model").classList.toggle("error", error.code !== "loading");
  if (error.status === 401) isDeclined = true;
  // The next to answer may be another server.
  model = null;
}

function show(figure) {
  byId("running").textContent = count(figure.sparkv_requests_running);
  byId("waiting").textContent = count(figure.sparkv_requests_waiting);
  const whole = figure.sparkv_kv_cache_budget_bytes;
  byId("budget-bytes").textContent = bytes(whole);
  for (const part of ["active", "prefix"]) {
    const held = figure[`sparkv_kv_cache_${part}_bytes`];
    byId(`${part}-bytes`).textContent = bytes(held);
    byId(`${part}-bar`).style.width = `${(100 * held) / whole}%`;
  }
}
