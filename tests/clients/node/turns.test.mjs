// Helpers of the client that send back what they got: parsed messages, and runs of tools.

import assert from "node:assert/strict";
import { test } from "node:test";

import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import { check, client, messages, model } from "./support.mjs";

const schema = z.strictObject({ city: z.enum(["Paris", "Lima", "Oslo"]), days: z.int().min(1).max(14) });
const settings = { model, messages, temperature: 0, max_tokens: 400 };
const other = { role: "user", content: messages[0].content.replace("for river?", "for brave lion?") };

const ask = async (...more) =>
  (await client.chat.completions.create({ ...settings, messages: [...messages, ...more] })).choices[0].message.content;

test("turns: a message that was parsed", async () => {
  const response_format = zodResponseFormat(schema, "weather");
  const { message } = (await client.chat.completions.parse({ ...settings, response_format })).choices[0];
  schema.parse(message.parsed);
  assert.ok(await ask(message, other));
});

test("turns: a message put together of a stream", async () => {
  const message = await client.chat.completions.stream(settings).finalMessage();
  assert.match(await ask(message, other), /307/);
});

test("turns: a call that was parsed", async () => {
  const tools = [zodFunction({ name: "get_weather", parameters: schema })];
  const asked = { ...settings, tools, tool_choice: "required", parallel_tool_calls: false };
  const { message } = (await client.chat.completions.parse(asked)).choices[0];
  const [call] = message.tool_calls;
  schema.parse(call.function.parsed_arguments);
  assert.ok(await ask(message, { role: "tool", tool_call_id: call.id, content: "21 degrees" }, other));
});

for (const stream of [false, true]) {
  test(`turns: a run of tools, ${stream ? "streamed" : "whole"}`, async () => {
    const cities = [];
    const run = client.chat.completions.runTools(
      {
        ...settings,
        stream,
        // Else the same is asked for once more after the call; a function that is named ends the run.
        tool_choice: { type: "function", function: { name: "get_weather" } },
        tools: [
          {
            type: "function",
            function: {
              name: "get_weather",
              parameters: z.toJSONSchema(schema),
              parse: JSON.parse,
              function: ({ city }) => cities.push(city) && "21 degrees",
            },
          },
        ],
      },
      { maxChatCompletions: 2 },
    );
    await run.done();
    assert.ok(cities.length > 0);
    assert.ok(await ask(...run.messages.slice(messages.length), other));
  });
}

test("turns: an item that was parsed", async () => {
  const asked = { model, input: messages, temperature: 0, text: { format: zodTextFormat(schema, "weather") } };
  const { output } = await client.responses.parse(asked);
  check(output[0].content[0].text);
  assert.ok(output[0].content[0].parsed);
  const after = await client.responses.create({ model, input: [...messages, ...output, other], temperature: 0 });
  assert.ok(after.output_text);
});
