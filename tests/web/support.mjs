// The page as tests get it: with the key, and held to what holds on every page. And what tests ask of it.

import { test as base, expect } from "@playwright/test";

export { expect };

export const KEY = process.env.CLIENTS_KEY;

/** Answers that are short, by a model that finds facts in its context. */
export const PROMPT =
  "The secret code for river is 4821. It rained all night, but the morning was clear. " +
  "The secret code for brave lion is 307.\nWhat is the secret code for river?";
export const ANSWER = "The secret code for river is 4821.";

export const TOOLS = [
  {
    type: "function",
    function: {
      name: "forecast",
      description: "The weather of the next days",
      parameters: {
        type: "object",
        properties: { city: { type: "string", enum: ["Paris", "Lima", "Oslo"] } },
        required: ["city"],
        additionalProperties: false,
      },
    },
  },
];

export const test = base.extend({
  /** The key that the browser has; null for none. */
  key: [KEY, { option: true }],

  page: async ({ page, key, baseURL }, use) => {
    const wrong = [];
    page.on("pageerror", (error) => wrong.push(`error: ${error.stack}`));
    page.on("console", (message) => {
      // Refusals by the server are part of what is tested; browsers report them.
      const isRefusal = message.text().startsWith("Failed to load resource");
      if (["error", "warning"].includes(message.type()) && !isRefusal) wrong.push(`console: ${message.text()}`);
    });
    page.on("dialog", (dialog) => wrong.push(`dialog: ${dialog.message()}`));
    page.on("request", (request) => {
      if (new URL(request.url()).origin !== new URL(baseURL).origin) wrong.push(`elsewhere: ${request.url()}`);
    });
    await page.exposeFunction("reportViolation", (what) => wrong.push(`policy: ${what}`));
    await page.addInitScript((given) => {
      document.addEventListener("securitypolicyviolation", (event) =>
        window.reportViolation(`${event.violatedDirective} ${event.blockedURI}`),
      );
      if (given && !sessionStorage.getItem("sparkv-api-key")) sessionStorage.setItem("sparkv-api-key", given);
    }, key);
    await page.goto("/");
    await use(page);
    expect(wrong).toEqual([]);
  },
});

/** Types a message and sends it. */
export async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByRole("button", { name: "Send", exact: true }).click();
}

/** The answers that have ended. */
export const answers = (page) => page.locator(".answer:not([aria-busy])");

/** Adds fields to the page's requests of answers: the server and the page are as they are. */
export async function amend(page, fields) {
  await page.route("**/v1/chat/completions", (route) =>
    route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ...fields }) }),
  );
}

/** Keeps the server busy while `act` goes on: the model in the binary answers in a moment if it is asked alone. */
export async function busy(request, act) {
  const data = { prompt: PROMPT, ignore_eos: true, max_tokens: 2000 };
  const headers = { Authorization: `Bearer ${KEY}` };
  const others = Array.from({ length: 16 }, () => request.post("/v1/completions", { data, headers }));
  await expect.poll(() => figure(request, "sparkv_requests_running")).toBe(others.length);
  await act();
  for (const other of await Promise.all(others)) expect(other.ok()).toBe(true);
}

/** Lets the model answer with exactly this text. */
export const force = (page, text) =>
  amend(page, { response_format: { type: "regex", regex: text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&") } });

/** What `act` makes the page ask, one for each of `count` requests: the request's body, and the last usage of its stream. */
export async function exchanges(page, count, act) {
  const responses = [];
  const listen = (response) => {
    if (response.url().endsWith("/v1/chat/completions")) responses.push(response);
  };
  page.on("response", listen);
  await act();
  await expect.poll(() => responses.length).toBe(count);
  page.off("response", listen);
  return Promise.all(
    responses.map(async (response) => {
      const events = (await response.text()).split("\n\n").filter((event) => event.startsWith("data: {"));
      const chunks = events.map((event) => JSON.parse(event.slice("data: ".length)));
      return { request: response.request().postDataJSON(), usage: chunks.at(-1).usage };
    }),
  );
}

/** A number of bytes, as people read it. */
export function size(bytes) {
  const power = bytes < 1024 ? 0 : Math.floor(Math.log2(bytes) / 10);
  return power === 0 ? `${bytes} B` : `${(bytes / 1024 ** power).toFixed(1)} ${["KiB", "MiB", "GiB"][power - 1]}`;
}

/** The server's own figure. */
export async function figure(request, name) {
  const reply = await request.get("/metrics", { headers: { authorization: `Bearer ${KEY}` } });
  const line = (await reply.text()).split("\n").find((text) => text.startsWith(`${name} `));
  return Number(line.split(" ")[1]);
}
