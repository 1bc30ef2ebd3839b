// Conversations: what is asked, what comes, and how it ends.

import { ANSWER, PROMPT, amend, answers, busy, exchanges, expect, figure, say, test } from "./support.mjs";

test("an answer streams in, with its speed and what its cache held", async ({ page, request }) => {
  // Seen by the page itself, since streams are short.
  await page.evaluate(() => {
    window.seen = [];
    new MutationObserver(() => {
      const answer = document.querySelector(".answer");
      if (answer) window.seen.push(answer.textContent);
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  });
  await amend(page, { ignore_eos: true, max_tokens: 1200 });
  await busy(request, async () => {
    await say(page, PROMPT);
    await expect(answers(page)).toHaveCount(1);
  });
  await expect(answers(page).locator(".body")).toContainText(ANSWER);
  const seen = await page.evaluate(() => window.seen);
  const live = seen.filter((text) => /tokens\/s/.test(text) && !/held of/.test(text));
  expect(new Set(live).size).toBeGreaterThan(3);
  await expect(answers(page).locator(".stats")).toContainText(/[\d.,]+ tokens\/s · 1,200 tokens, the first after [\d.]+ s/);
});

test("the conversation so far goes along, until a new one begins", async ({ page }) => {
  const ask = (text, ended) =>
    exchanges(page, 1, async () => {
      await say(page, text);
      await expect(answers(page)).toHaveCount(ended);
    });
  const [first] = await ask(PROMPT, 1);
  expect(first.request.messages).toEqual([{ role: "user", content: PROMPT }]);
  for (const unset of ["temperature", "max_tokens", "kv_cache", "tools", "tool_choice"]) {
    expect(first.request).not.toHaveProperty(unset);
  }
  const [second] = await ask("And for brave lion?", 2);
  expect(second.request.messages).toEqual([
    { role: "user", content: PROMPT },
    { role: "assistant", content: ANSWER },
    { role: "user", content: "And for brave lion?" },
  ]);
  await page.getByRole("button", { name: "New conversation" }).click();
  await expect(page.getByRole("heading", { name: /may cost/ })).toBeVisible();
  const [third] = await ask("Hello", 1);
  expect(third.request.messages).toEqual([{ role: "user", content: "Hello" }]);
});

test("what is set is asked for, and an answer that was cut off says so", async ({ page }) => {
  await page.getByLabel("System prompt").fill("Answer briefly.");
  await page.getByLabel("Temperature").fill("0.5");
  await page.getByLabel("Max tokens").fill("3");
  const [{ request }] = await exchanges(page, 1, async () => {
    await say(page, PROMPT);
    await expect(answers(page)).toContainText("Cut off at 3 tokens.");
  });
  expect(request).toMatchObject({ temperature: 0.5, max_tokens: 3, stream: true });
  expect(request.messages[0]).toEqual({ role: "system", content: "Answer briefly." });
});

test("a number that will not do is not sent", async ({ page }) => {
  await page.getByLabel("Max tokens").fill("0");
  await say(page, PROMPT);
  await expect(page.getByLabel("Max tokens")).toBeFocused();
  await expect(page.getByLabel("Message", { exact: true })).toHaveValue(PROMPT);
  await expect(page.locator(".turn")).toHaveCount(0);
});

test("an answer can be stopped; the server ends it, and what came is part of the conversation", async ({ page, request }) => {
  const before = await figure(request, "sparkv_requests_cancelled_total");
  await amend(page, { ignore_eos: true, max_tokens: 3900 });
  await busy(request, async () => {
    await say(page, PROMPT);
    await expect(page.locator(".answer .body")).toContainText(ANSWER);
    await page.getByRole("button", { name: "Stop" }).click();
    await expect(answers(page)).toContainText("Stopped.");
  });
  await expect(page.getByRole("button", { name: "Send", exact: true })).toBeVisible();
  await expect.poll(() => figure(request, "sparkv_requests_cancelled_total")).toBe(before + 1);
  await expect.poll(() => figure(request, "sparkv_requests_running")).toBe(0);
  await page.unroute("**/v1/chat/completions");
  const [next] = await exchanges(page, 1, async () => {
    await say(page, "Hello");
    await expect(answers(page)).toHaveCount(2);
  });
  expect(next.request.messages.map(({ role }) => role)).toEqual(["user", "assistant", "user"]);
  expect(next.request.messages[1].content).toContain(ANSWER);
});

test("a refusal is shown, can be tried again, and is no part of the conversation", async ({ page }) => {
  await page.getByLabel("Max tokens").fill("1000000");
  await say(page, PROMPT);
  await expect(answers(page).locator(".error")).toContainText("1000000 to generate");
  await page.getByRole("button", { name: "Try again" }).click();
  await expect(answers(page)).toHaveCount(2);
  await page.getByLabel("Max tokens").fill("");
  const [{ request }] = await exchanges(page, 1, async () => {
    await say(page, "Hello");
    await expect(answers(page)).toHaveCount(3);
  });
  expect(request.messages).toEqual([{ role: "user", content: "Hello" }]);
  await expect(page.getByRole("button", { name: "Try again" })).toHaveCount(0);
});

test("a server that cannot be reached is told from one that refuses", async ({ page }) => {
  await page.route("**/v1/chat/completions", (route) => route.abort());
  await say(page, PROMPT);
  await expect(answers(page).locator(".error")).toHaveText("The server cannot be reached.");
});

test("messages of the user are text, and long ones are folded", async ({ page }) => {
  const text = "<b>bold</b> **not bold**\n".repeat(40);
  await page.getByLabel("Max tokens").fill("1");
  await say(page, text);
  const said = page.locator(".said");
  expect(await said.locator(".text").evaluate((node) => node.textContent)).toBe(text);
  await expect(said.locator("b, strong")).toHaveCount(0);
  const height = () => said.evaluate((node) => node.clientHeight);
  const folded = await height();
  await said.getByRole("button", { name: "Show all" }).click();
  expect(await height()).toBeGreaterThan(folded + 200);
});

test("examples are answered right, the long one too", async ({ page }) => {
  for (const name of ["A fact and a question", "The fact far back"]) {
    await page.getByRole("button", { name }).click();
    await expect(answers(page).locator(".body")).toHaveText(ANSWER);
    await page.getByRole("button", { name: "New conversation" }).click();
  }
});

test("what still comes when a new conversation begins is no part of it", async ({ page, request }) => {
  await amend(page, { ignore_eos: true });
  await say(page, PROMPT);
  await expect(page.locator(".answer .body")).toContainText(ANSWER);
  await page.getByRole("button", { name: "New conversation" }).click();
  await expect(page.locator(".turn")).toHaveCount(0);
  await expect.poll(() => figure(request, "sparkv_requests_running")).toBe(0);
  await page.unroute("**/v1/chat/completions");
  const [next] = await exchanges(page, 1, async () => {
    await say(page, "Hello");
    await expect(answers(page)).toHaveCount(1);
  });
  expect(next.request.messages).toEqual([{ role: "user", content: "Hello" }]);
});
