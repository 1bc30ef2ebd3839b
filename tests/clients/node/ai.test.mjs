// The Vercel AI SDK, by its two providers for servers like this one, and over both APIs.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

import { ANSWER, all, messages, model as name } from "./support.mjs";

const place = { baseURL: `${process.env.CLIENTS_URL}/v1`, apiKey: process.env.CLIENTS_KEY };
const openai = createOpenAI(place);
const compatible = createOpenAICompatible({
  ...place,
  name: "server",
  includeUsage: true,
  supportsStructuredOutputs: true,
});

const schema = z.strictObject({ city: z.enum(["Paris", "Lima", "Oslo"]), days: z.int().min(1).max(14) });
const weather = tool({
  description: "The weather of the next days",
  inputSchema: schema,
  execute: async ({ city }) => ({ city, degrees: 21 }),
});
const prompt = messages[0].content;
const other = { role: "user", content: prompt.replace("for river?", "for brave lion?") };

// A call, and then an answer to its result.
const steps = {
  tools: { weather },
  stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
};

const models = {
  "openai-compatible": compatible(name),
  "openai chat": openai.chat(name),
  "openai responses": openai.responses(name),
};

for (const [kind, model] of Object.entries(models)) {
  const settings = {
    model,
    maxRetries: 0,
    temperature: 0,
    maxOutputTokens: 400,
    // Else the provider believes that answers are stored, and sends references to them.
    providerOptions: { openai: { store: false } },
  };

  // Errors in a stream go to a callback.
  const streaming = (stream, rest) => {
    const errors = [];
    const result = stream({ ...settings, ...rest, onError: ({ error }) => errors.push(error) });
    return { result, errors };
  };

  test(`AI SDK, ${kind}: streamed text is the whole text`, async () => {
    const whole = await generateText({ ...settings, system: "Answer from the text.", prompt });
    assert.match(whole.text, new RegExp(ANSWER));
    const { result, errors } = streaming(streamText, { system: "Answer from the text.", prompt });
    const parts = await all(result.textStream);
    assert.deepEqual(errors, []);
    assert.ok(parts.length > 2);
    assert.equal(parts.join(""), whole.text);
    assert.equal((await result.usage).outputTokens, whole.usage.outputTokens);
    assert.equal(await result.finishReason, "stop");
  });

  test(`AI SDK, ${kind}: nothing has to be set`, async () => {
    assert.ok((await generateText({ model, maxRetries: 0, prompt })).text);
  });

  test(`AI SDK, ${kind}: a conversation goes on`, async () => {
    const { response } = await generateText({ ...settings, prompt });
    const after = await generateText({ ...settings, messages: [...messages, ...response.messages, other] });
    assert.match(after.text, /307/);
  });

  test(`AI SDK, ${kind}: an answer follows a schema, streamed or not`, async () => {
    const { object } = await generateObject({ ...settings, schema, prompt });
    schema.parse(object);
    const { result, errors } = streaming(streamObject, { schema, prompt });
    await all(result.partialObjectStream);
    assert.deepEqual(errors, []);
    assert.deepEqual(await result.object, object);
  });

  for (const toolChoice of ["required", { type: "tool", toolName: "weather" }]) {
    test(`AI SDK, ${kind}: a tool is called, ${toolChoice.type ? "named" : "required"}`, async () => {
      const { toolCalls, finishReason } = await generateText({
        ...settings,
        tools: { weather },
        toolChoice,
        prompt,
      });
      assert.ok(toolCalls.length > 0);
      assert.equal(finishReason, "tool-calls");
      for (const call of toolCalls) schema.parse(call.input);
    });
  }

  test(`AI SDK, ${kind}: results are sent back, and all of it once more`, async () => {
    const result = await generateText({ ...settings, ...steps, prompt });
    assert.equal(result.steps.length, 2);
    assert.ok(result.steps[0].toolResults.length > 0);
    assert.ok(result.text);
    const after = await generateText({ ...settings, messages: [...messages, ...result.response.messages, other] });
    assert.ok(after.text);
    const streamed = streaming(streamText, { ...steps, prompt });
    await streamed.result.consumeStream();
    assert.deepEqual(streamed.errors, []);
    assert.equal(await streamed.result.text, result.text);
  });

  test(`AI SDK, ${kind}: tools and a format at once`, async () => {
    const result = await generateText({ ...settings, ...steps, output: Output.object({ schema }), prompt });
    assert.ok(result.steps[0].toolResults.length > 0);
    schema.parse(result.output);
  });

  test(`AI SDK, ${kind}: what cannot be is an error with its status`, async () => {
    await assert.rejects(generateText({ ...settings, topP: 7, prompt }), (error) => {
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 400);
      assert.match(error.message, /top_p/);
      return true;
    });
  });
}

for (const [kind, model] of [
  ["openai-compatible", compatible.completionModel(name)],
  ["openai", openai.completion(name)],
]) {
  test(`AI SDK, ${kind}: a text goes on`, async () => {
    const settings = { model, maxRetries: 0, temperature: 0, maxOutputTokens: 8, prompt: "It rained all night, but" };
    const { text } = await generateText(settings);
    assert.ok(text);
    assert.equal((await all(streamText(settings).textStream)).join(""), text);
  });
}
