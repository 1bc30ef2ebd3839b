// client.chat.completions and client.completions.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { ANSWER, all, check, client, messages, model, schema } from "./support.mjs";

const ask = (settings) => client.chat.completions.create({ model, messages, temperature: 0, ...settings });
const tools = [{ type: "function", function: { name: "get_weather", parameters: schema } }];

test("streamed text is the whole text", async () => {
  const whole = await ask();
  const chunks = await all(await ask({ stream: true, stream_options: { include_usage: true } }));
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, whole.choices[0].message.content);
  assert.match(text, new RegExp(ANSWER));
  assert.equal(chunks.at(-1).usage.total_tokens, whole.usage.total_tokens);
});

test("the stream helper puts the same answer together", async () => {
  const whole = await ask();
  const stream = client.chat.completions.stream({ model, messages, temperature: 0 });
  assert.equal(await stream.finalContent(), whole.choices[0].message.content);
});

test("several choices are told apart", async () => {
  const answer = await ask({ n: 3, temperature: 1, seed: 1 });
  assert.deepEqual(answer.choices.map((choice) => choice.index).sort(), [0, 1, 2]);
});

test("logprobs belong to the tokens of the answer", async () => {
  const [choice] = (await ask({ logprobs: true, top_logprobs: 2 })).choices;
  const tokens = choice.logprobs.content;
  assert.equal(tokens.map((token) => token.token).join(""), choice.message.content);
  assert.ok(tokens.every((token) => token.top_logprobs[0].token === token.token));
});

test("a required call is made, streamed or not", async () => {
  const settings = { tools, tool_choice: "required", temperature: 1, seed: 3 };
  const [choice] = (await ask(settings)).choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const calls = choice.message.tool_calls;
  assert.ok(calls.length > 0);
  for (const call of calls) {
    assert.equal(call.function.name, "get_weather");
    check(call.function.arguments);
  }
  const stream = client.chat.completions.stream({ model, messages, ...settings });
  const streamed = (await stream.finalMessage()).tool_calls;
  assert.deepEqual(
    streamed.map((call) => call.function.arguments),
    calls.map((call) => call.function.arguments),
  );
});

test("answers follow a schema", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "weather", strict: true, schema } };
  for (let seed = 0; seed < 5; seed++) {
    const answer = await ask({ response_format, temperature: 1, seed, max_tokens: 200 });
    check(answer.choices[0].message.content);
  }
});

test("a stream that is aborted leaves a server that answers", async () => {
  const stream = await ask({ stream: true, max_tokens: 3000, ignore_eos: true });
  for await (const _ of stream) break;
  assert.ok(stream.controller.signal.aborted);
  const start = performance.now();
  assert.match((await ask()).choices[0].message.content, new RegExp(ANSWER));
  assert.ok(performance.now() - start < 1000);
});

test("completions are streamed and whole", async () => {
  const settings = { model, prompt: messages[0].content, temperature: 0, max_tokens: 8, ignore_eos: true };
  const whole = await client.completions.create(settings);
  const chunks = await all(await client.completions.create({ ...settings, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join(""), whole.choices[0].text);
});

test("fields of our own are sent, and come back", async () => {
  const answer = await ask({ kv_cache: { preset: "balanced" } });
  assert.equal(answer.usage.kv_cache.preset, "balanced");
});

test("errors are told apart", async () => {
  await assert.rejects(ask({ model: "no-such-model" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  await assert.rejects(ask({ top_p: 2 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "top_p");
    return true;
  });
  await assert.rejects(ask({ messages: [{ role: "user", content: "word ".repeat(9000) }] }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "context_length_exceeded");
    return true;
  });
  const nobody = client.withOptions({ apiKey: "wrong" });
  await assert.rejects(nobody.models.list(), OpenAI.AuthenticationError);
});
