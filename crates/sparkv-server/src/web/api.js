// Calls to the server, with the key that the user gave.

import { byId } from "./dom.js";

const KEY = "sparkv-api-key";

/** What the server refused, or why there is no answer. `status` is 0 if nothing came. */
export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The question for a key that is being asked, so that there is one at a time. */
let asking = null;

/** Asks for a key. Resolves to whether one was given. */
export function askForKey(message) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-message").textContent = message;
    byId("key").value = "";
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      const key = byId("key").value.trim();
      // What no header can carry is no key of this server.
      if (/[^\x20-\x7e]/.test(key)) {
        byId("key-message").textContent = "A key has letters, digits and signs of ASCII only.";
        return;
      }
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
      dialog.close("given");
    };
    byId("key-cancel").onclick = () => dialog.close("");
    dialog.onclose = () => {
      asking = null;
      resolve(dialog.returnValue === "given");
    };
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}

/** Fetches, and asks for a key where one is wanted and `mayAsk`. */
export async function request(path, init = {}, mayAsk = true) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...init.headers, ...(key && { authorization: `Bearer ${key}` }) };
    let response;
    try {
      // Relative, so that the page works behind a proxy that serves it under a path.
      response = await fetch(path, { ...init, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server cannot be reached.");
    }
    if (response.ok) return response;
    // Somebody may have given another key meanwhile.
    const isCurrent = key === sessionStorage.getItem(KEY);
    const message = key ? "The server refused this key." : "This server wants a key. It is kept until this tab is closed.";
    if (response.status === 401 && (!isCurrent || (mayAsk && (await askForKey(message))))) continue;
    throw await refusal(response);
  }
}

async function refusal(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // A proxy's page, say.
  }
  return new ApiError(error?.message ?? `The server answered with ${response.status}.`, response.status, error?.code);
}

/** The chunks of a streamed chat. */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } }),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await read(reader);
    if (done) throw new ApiError("The answer broke off.");
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, response.status, chunk.error.code);
      yield chunk;
    }
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection to the server was lost.");
  }
}

/** The figures without labels of a text in the OpenMetrics format, by name. */
export function figures(text) {
  const found = text.matchAll(/^(\w+) (\S+)$/gm);
  return Object.fromEntries([...found].map(([, name, value]) => [name, Number(value)]));
}
