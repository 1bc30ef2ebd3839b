// Calls of tools are shown, and their results are sent back.

import { PROMPT, TOOLS, answers, exchanges, expect, say, test } from "./support.mjs";

test("a call is shown with its arguments, and its result goes back", async ({ page }) => {
  await page.getByLabel("List of tools, JSON").fill(JSON.stringify(TOOLS));
  await page.getByLabel("Calls in answer to a message").selectOption("required");
  const [first] = await exchanges(page, 1, async () => {
    await say(page, "What will the weather be in Paris?");
    await expect(answers(page)).toHaveCount(1);
  });
  expect(first.request).toMatchObject({ tools: TOOLS, tool_choice: "required" });
  const calls = page.locator(".call");
  const count = await calls.count();
  expect(count).toBeGreaterThan(0);
  for (let index = 0; index < count; index += 1) {
    await expect(calls.nth(index)).toContainText("Calls forecast");
    const { city } = JSON.parse(await calls.nth(index).locator("pre").textContent());
    expect(["Paris", "Lima", "Oslo"]).toContain(city);
    await page.getByLabel("Result of forecast").nth(index).fill(`Sunny, ${index} degrees`);
  }
  const [second] = await exchanges(page, 1, async () => {
    await page.getByRole("button", { name: /^Send results?$/ }).click();
    await expect(answers(page)).toHaveCount(2);
  });
  const [user, assistant, ...results] = second.request.messages;
  expect(user).toEqual({ role: "user", content: "What will the weather be in Paris?" });
  expect(assistant.tool_calls).toHaveLength(count);
  expect(results).toEqual(
    assistant.tool_calls.map(({ id }, index) => ({ role: "tool", tool_call_id: id, content: `Sunny, ${index} degrees` })),
  );
  expect(second.request).not.toHaveProperty("tool_choice");
  await expect(page.getByRole("button", { name: /^Send results?$/ })).toHaveCount(0);
});

test("what is no list of tools is not sent", async ({ page }) => {
  for (const [text, message] of [
    ["[{", "Not JSON"],
    ['{"type": "function"}', "This is no list"],
  ]) {
    await page.getByLabel("List of tools, JSON").fill(text);
    await say(page, PROMPT);
    await expect(page.locator("#tools-error")).toContainText(message);
    await expect(page.getByLabel("List of tools, JSON")).toBeFocused();
    await expect(page.locator(".turn")).toHaveCount(0);
  }
});
