// client.responses.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ANSWER, all, check, client, messages, model, schema } from "./support.mjs";

const ask = (settings) =>
  client.responses.create({
    model,
    input: messages,
    temperature: 0,
    max_output_tokens: 200,
    store: false,
    ...settings,
  });
const tools = [{ type: "function", name: "get_weather", parameters: schema, strict: true }];

test("responses: streamed text is the whole text", async () => {
  const whole = await ask();
  assert.equal(whole.status, "completed");
  assert.match(whole.output_text, new RegExp(ANSWER));
  const events = await all(await ask({ stream: true }));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), whole.output_text);
  assert.equal(events.at(-1).type, "response.completed");
  assert.equal(events.at(-1).response.usage.output_tokens, whole.usage.output_tokens);
});

test("responses: answers follow a schema", async () => {
  const text = { format: { type: "json_schema", name: "weather", strict: true, schema } };
  check((await ask({ text, temperature: 1 })).output_text);
});

test("responses: functions are called", async () => {
  const { output, status } = await ask({ tools, tool_choice: "required", temperature: 1 });
  assert.ok(output.length > 0);
  // This model may go on calling until it is cut off, within a call.
  for (const call of status === "incomplete" ? output.slice(0, -1) : output) {
    assert.equal(call.type, "function_call");
    assert.equal(call.name, "get_weather");
    check(call.arguments);
  }
});
