// Keys: asked for where one is wanted, kept for the tab, and sent to this server only.

import { ANSWER, KEY, PROMPT, answers, expect, say, test } from "./support.mjs";

test.use({ key: null });

test("a key is asked for, a wrong one is refused, the right one is kept for the tab", async ({ page }) => {
  const dialog = page.getByRole("dialog", { name: "API key" });
  await expect(dialog).toContainText("This server wants a key");
  await expect(dialog.getByLabel("Key", { exact: true })).toBeFocused();
  await dialog.getByLabel("Key", { exact: true }).fill("wrong");
  await page.keyboard.press("Enter");
  await expect(dialog).toContainText("The server refused this key.");
  await dialog.getByLabel("Key", { exact: true }).fill("schlüssel…");
  await page.keyboard.press("Enter");
  await expect(dialog).toContainText("ASCII");
  await dialog.getByLabel("Key", { exact: true }).fill(KEY);
  await page.keyboard.press("Enter");
  await expect(dialog).toBeHidden();
  await expect(page.locator("#model")).toHaveText("sparkv-demo");
  await say(page, PROMPT);
  await expect(answers(page).locator(".body")).toHaveText(ANSWER);
  await page.reload();
  await expect(page.locator("#model")).toHaveText("sparkv-demo");
  expect(await page.evaluate(() => [localStorage.length, document.cookie])).toEqual([0, ""]);
});

test("who gives no key is not asked time and again, but when something is sent", async ({ page }) => {
  const dialog = page.getByRole("dialog", { name: "API key" });
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await expect(page.locator("#model")).toHaveText("An API key is needed");
  await page.waitForTimeout(3000);
  await expect(dialog).toBeHidden();
  await say(page, PROMPT);
  await expect(dialog).toBeVisible();
  await dialog.getByLabel("Key", { exact: true }).fill(KEY);
  await dialog.getByRole("button", { name: "Use this key" }).click();
  await expect(answers(page).locator(".body")).toHaveText(ANSWER);
  await expect(page.locator("#model")).toHaveText("sparkv-demo");
});

test("a refusal of the question ends the answer with what is missing", async ({ page }) => {
  const dialog = page.getByRole("dialog", { name: "API key" });
  await expect(dialog).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(dialog).toBeHidden();
  await say(page, PROMPT);
  await expect(dialog).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(answers(page).locator(".error")).toContainText("API key");
  await page.getByRole("button", { name: "API key…" }).click();
  await dialog.getByLabel("Key", { exact: true }).fill(KEY);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Try again" }).click();
  await expect(answers(page).last().locator(".body")).toHaveText(ANSWER);
});
