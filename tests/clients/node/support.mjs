// What the tests share: the client, and what the demo model is asked. It finds facts in its context.

import OpenAI from "openai";

export const client = new OpenAI({
  baseURL: `${process.env.CLIENTS_URL}/v1`,
  apiKey: process.env.CLIENTS_KEY,
  maxRetries: 0,
});

export const model = (await client.models.list()).data[0].id;

export const ANSWER = "4821";
export const messages = [
  {
    role: "user",
    content:
      "The secret code for river is 4821. It rained all night, but the morning was clear. " +
      "The secret code for brave lion is 307.\nWhat is the secret code for river?",
  },
];

// Every answer by it is short.
export const schema = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Paris", "Lima", "Oslo"] },
    days: { type: "integer", minimum: 1, maximum: 14 },
  },
  required: ["city", "days"],
  additionalProperties: false,
};

// Fails unless `text` is JSON by the schema.
export function check(text) {
  const { city, days, ...rest } = JSON.parse(text);
  if (!schema.properties.city.enum.includes(city)) throw new Error(`no such city: ${text}`);
  if (!Number.isInteger(days) || days < 1 || days > 14) throw new Error(`no such number of days: ${text}`);
  if (Object.keys(rest).length > 0) throw new Error(`more than was asked for: ${text}`);
}

export async function all(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}
