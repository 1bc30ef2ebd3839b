// What a cache may cost, and what it did cost.

import { ANSWER, PROMPT, answers, exchanges, expect, figure, say, size, test } from "./support.mjs";

/** Asks for the long example's answer, with the settings that are chosen. */
async function askLong(page, count) {
  const { LONG } = await page.evaluate(() => import("/web/examples.js").then(({ LONG }) => ({ LONG })));
  return exchanges(page, count, async () => {
    await say(page, LONG);
    await expect(answers(page)).toHaveCount(count);
  });
}

test("the slider is a budget; the bytes shown are those of the usage", async ({ page }) => {
  const slider = page.getByRole("slider", { name: "Budget" });
  await expect(slider).toHaveAttribute("aria-valuetext", "not set");
  await slider.fill("40");
  await expect(page.getByRole("combobox", { name: "Setting" })).toHaveValue("budget");
  const [{ request, usage }] = await askLong(page, 1);
  expect(request.kv_cache).toEqual({ budget: "40%" });
  const { bytes, dense_bytes: dense, kept_tokens: kept, keys, values } = usage.kv_cache;
  expect(bytes).toBeLessThanOrEqual(0.4 * dense);
  const stats = answers(page).locator(".stats");
  await expect(stats).toContainText(`${size(bytes)} held of ${size(dense)} dense (${Math.round((100 * bytes) / dense)} %)`);
  await expect(stats).toContainText(`keys ${keys}, values ${values} · ${kept.toLocaleString("en")} tokens kept`);
  await expect(answers(page).locator(".body")).toHaveText(ANSWER);
});

test("presets, the default and other settings are asked for as they are chosen", async ({ page }) => {
  const setting = page.getByRole("combobox", { name: "Setting" });
  const asked = async () => {
    await page.getByRole("button", { name: "New conversation" }).click();
    const [{ request }] = await exchanges(page, 1, async () => {
      await say(page, PROMPT);
      await expect(answers(page)).toHaveCount(1);
    });
    return request.kv_cache;
  };
  await setting.selectOption("compact");
  expect(await asked()).toEqual({ preset: "compact" });
  await setting.selectOption("");
  expect(await asked()).toBeUndefined();
  await setting.selectOption("custom");
  await page.getByRole("textbox", { name: "kv_cache" }).fill('{"precision": "int4", "window": 64}');
  expect(await asked()).toEqual({ precision: "int4", window: 64 });
  await page.getByRole("textbox", { name: "kv_cache" }).fill("aggressive");
  expect(await asked()).toEqual({ preset: "aggressive" });
});

test("what is no JSON is not sent", async ({ page }) => {
  await page.getByRole("combobox", { name: "Setting" }).selectOption("custom");
  await page.getByRole("textbox", { name: "kv_cache" }).fill('{"precision":');
  await say(page, PROMPT);
  await expect(page.getByText("This is neither JSON nor a preset's name.")).toBeVisible();
  await expect(page.getByRole("textbox", { name: "kv_cache" })).toBeFocused();
  await expect(page.locator(".turn")).toHaveCount(0);
});

test("a setting that the server refuses is explained in its words", async ({ page }) => {
  await page.getByRole("combobox", { name: "Setting" }).selectOption("custom");
  await page.getByRole("textbox", { name: "kv_cache" }).fill('{"colour": "red"}');
  await say(page, PROMPT);
  await expect(answers(page).locator(".error")).toContainText("colour");
});

test("short conversations are said to save nothing, in place of a share", async ({ page }) => {
  await page.getByRole("slider", { name: "Budget" }).fill("30");
  const [{ usage }] = await exchanges(page, 1, async () => {
    await say(page, PROMPT);
    await expect(answers(page)).toHaveCount(1);
  });
  expect(usage.kv_cache.bytes).toBeGreaterThanOrEqual(usage.kv_cache.dense_bytes);
  const stats = answers(page).locator(".stats");
  await expect(stats).toContainText("Short conversations save nothing");
  await expect(stats).not.toContainText("%");
});

test("two settings answer one prompt side by side, and go on by themselves", async ({ page }) => {
  await page.getByLabel("Compare two settings side by side").check();
  await page.getByRole("group", { name: "KV cache A" }).getByRole("combobox").selectOption("exact");
  await page.getByRole("group", { name: "KV cache B" }).getByRole("slider").fill("30");
  const asked = await askLong(page, 2);
  expect(asked.map(({ request }) => request.kv_cache)).toEqual(
    expect.arrayContaining([{ preset: "exact" }, { budget: "30%" }]),
  );
  expect(asked[0].request.messages).toEqual(asked[1].request.messages);
  const columns = page.locator(".column");
  for (const [index, name] of ["A exact", "B budget 30 %"].entries()) {
    const column = columns.nth(index);
    const { usage } = asked.find(({ request }) => (request.kv_cache.preset === "exact") === (index === 0));
    await expect(column.getByRole("heading")).toHaveText(name);
    await expect(column.locator(".body")).toHaveText(ANSWER);
    await expect(column.locator(".stats")).toContainText(
      `${size(usage.kv_cache.bytes)} held of ${size(usage.kv_cache.dense_bytes)} dense`,
    );
    await expect(column.locator(".stats")).toContainText("tokens/s");
  }
  const boxes = await Promise.all([0, 1].map((index) => columns.nth(index).boundingBox()));
  expect(boxes[0].y).toBe(boxes[1].y);
  expect(boxes[1].x).toBeGreaterThan(boxes[0].x + boxes[0].width);
  const next = await exchanges(page, 2, async () => {
    await say(page, "Tell me the secret code for river.");
    await expect(answers(page)).toHaveCount(4);
  });
  for (const { request } of next) {
    expect(request.messages.map(({ role }) => role)).toEqual(["user", "assistant", "user"]);
  }
});

test("the server's figures are shown, and told anew", async ({ page, request }) => {
  const models = await request.get("/v1/models", { headers: { authorization: `Bearer ${process.env.CLIENTS_KEY}` } });
  const [model] = (await models.json()).data;
  await expect(page.locator("#model")).toHaveText(model.id);
  await expect(page.locator("#context")).toHaveText(`${model.max_model_len.toLocaleString("en")} tokens`);
  await expect(page.locator("#running")).toHaveText("0");
  await expect(page.locator("#waiting")).toHaveText("0");
  await expect(page.locator("#budget-bytes")).toHaveText(size(await figure(request, "sparkv_kv_cache_budget_bytes")));
  await say(page, `Something that nobody said before: ${Date.now()}`);
  await expect(answers(page)).toHaveCount(1);
  const kept = await figure(request, "sparkv_kv_cache_prefix_bytes");
  expect(kept).toBeGreaterThan(0);
  await expect(page.locator("#prefix-bytes")).toHaveText(size(kept));
});

test("nobody asks the server while the page cannot be seen", async ({ page }) => {
  const asked = [];
  page.on("request", (request) => asked.push(request.url()));
  await page.evaluate(() => {
    Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await page.waitForTimeout(500);
  asked.length = 0;
  await page.waitForTimeout(5000);
  expect(asked).toEqual([]);
  await page.evaluate(() => {
    delete document.visibilityState;
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await expect.poll(() => asked.length).toBeGreaterThan(0);
});
