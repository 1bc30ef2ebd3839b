// For everybody: no violations that axe knows, on any screen, in any state; keyboards; screen readers; small screens.

import AxeBuilder from "@axe-core/playwright";
import { ANSWER, PROMPT, TOOLS, amend, answers, busy, expect, force, say, test } from "./support.mjs";

const SCREENS = { desktop: { width: 1280, height: 860 }, phone: { width: 360, height: 740 } };

const isPhone = (page) => page.viewportSize().width < 800;

/** Does something in the settings, which small screens open and close. */
async function inSettings(page, act) {
  if (isPhone(page)) await page.getByRole("button", { name: "Settings", exact: true }).click();
  await act();
  if (isPhone(page)) await page.getByRole("button", { name: "Done" }).click();
}

const MARKDOWN = "# Title\n\n- one\n- two\n\n`x` [l](https://example.org/)\n\n```\nlet x = 1;\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |";

/** Each state of the page, and how it is reached. */
const STATES = {
  empty: async () => {},
  chat: async (page) => {
    await say(page, PROMPT);
    await expect(answers(page)).toHaveCount(1);
    await page.getByLabel("Message", { exact: true }).fill("And for brave lion?");
  },
  markdown: async (page) => {
    await force(page, MARKDOWN);
    await say(page, PROMPT);
    await expect(answers(page).locator("table")).toBeVisible();
  },
  compare: async (page) => {
    await page.getByRole("button", { name: "Two settings side by side" }).click();
    await expect(answers(page)).toHaveCount(2);
  },
  error: async (page) => {
    await inSettings(page, () => page.getByLabel("Max tokens").fill("1000000"));
    await say(page, PROMPT);
    await expect(answers(page).locator(".error")).toBeVisible();
  },
  tools: async (page) => {
    await inSettings(page, async () => {
      await page.getByLabel("List of tools, JSON").fill(JSON.stringify(TOOLS, null, 2));
      await page.getByLabel("Calls in answer to a message").selectOption("required");
    });
    await say(page, "What will the weather be in Paris?");
    await expect(page.getByRole("button", { name: /^Send results?$/ })).toBeVisible();
  },
  settings: async (page) => {
    if (isPhone(page)) await page.getByRole("button", { name: "Settings", exact: true }).click();
    await page.getByLabel("Compare two settings side by side").check();
    await page.getByRole("group", { name: "KV cache A" }).getByRole("slider").fill("40");
    await page.getByRole("group", { name: "KV cache B" }).getByRole("combobox").selectOption("custom");
    await page.getByLabel("List of tools, JSON").fill("[{");
    await page.getByLabel("Temperature").focus();
    await expect(page.locator("#tools-error")).toBeVisible();
    await page.locator("#settings").evaluate((node) => node.scrollTo(0, 0));
  },
  key: async (page) => {
    if (isPhone(page)) await page.getByRole("button", { name: "Settings", exact: true }).click();
    await page.getByRole("button", { name: "API key…" }).click();
    await page.keyboard.press("Escape");
    await expect(page.getByRole("dialog")).toBeHidden();
    await page.getByRole("button", { name: "API key…" }).click();
    await expect(page.getByRole("dialog")).toBeVisible();
  },
};

for (const [screen, viewport] of Object.entries(SCREENS)) {
  for (const colorScheme of ["light", "dark"]) {
    test.describe(`${screen}, ${colorScheme}`, () => {
      test.use({ viewport, colorScheme, contextOptions: { reducedMotion: "reduce" } });
      for (const [state, reach] of Object.entries(STATES)) {
        test(`axe finds nothing, and nothing is wider than the screen: ${state}`, async ({ page }) => {
          await expect(page.locator("#model")).toHaveText("sparkv-demo");
          await reach(page);
          await page.screenshot({ path: `screenshots/${state}-${screen}-${colorScheme}.png` });
          const { violations } = await new AxeBuilder({ page }).analyze();
          expect(violations.map(({ id, nodes }) => [id, ...nodes.map(({ html, any }) => [html, any[0]?.message])])).toEqual([]);
          const widths = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
          expect(widths[0]).toBeLessThanOrEqual(widths[1]);
        });
      }
    });
  }
}

/** Presses Tab until the element has the focus; fails if it never gets it. */
async function tabTo(page, locator, most = 30) {
  for (let presses = 0; presses < most; presses += 1) {
    await page.keyboard.press("Tab");
    if (await locator.evaluate((node) => node === document.activeElement)) return;
  }
  throw new Error("it cannot be reached with the Tab key");
}

test("keys alone do: skip to the field, set a budget, send, stop, begin anew", async ({ page, request }) => {
  const field = page.getByLabel("Message", { exact: true });
  await page.keyboard.press("Tab");
  await expect(page.getByRole("link", { name: /^Skip/ })).toBeFocused();
  await expect(page.getByRole("link", { name: /^Skip/ })).toBeInViewport();
  await page.keyboard.press("Enter");
  await expect(field).toBeFocused();
  await page.keyboard.type("line one");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("line two");
  await expect(field).toHaveValue("line one\nline two");
  await field.fill("");

  await page.locator("body").evaluate(() => document.activeElement.blur());
  const slider = page.getByRole("slider", { name: "Budget" });
  await tabTo(page, slider);
  await page.keyboard.press("ArrowRight");
  await expect(slider).toHaveAttribute("aria-valuetext", "30 percent of dense");
  const outline = await slider.evaluate((node) => getComputedStyle(node).outlineStyle);
  expect(outline).toBe("solid");

  await tabTo(page, field);
  await page.keyboard.insertText(PROMPT);
  const asked = page.waitForRequest("**/v1/chat/completions");
  await page.keyboard.press("Enter");
  expect((await asked).postDataJSON().kv_cache).toEqual({ budget: "30%" });
  await expect(answers(page).locator(".body")).toHaveText(ANSWER);
  await expect(field).toBeFocused();

  await amend(page, { ignore_eos: true, max_tokens: 3900 });
  await busy(request, async () => {
    await page.keyboard.insertText(PROMPT);
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await expect(page.locator(".answer .body").nth(1)).toContainText(ANSWER);
    await expect(page.getByRole("button", { name: "Stop" })).toBeFocused();
    await page.keyboard.press("Enter");
    await expect(answers(page).nth(1)).toContainText("Stopped.");
  });

  await tabTo(page, page.getByRole("button", { name: "New conversation" }));
  await page.keyboard.press("Enter");
  await expect(page.locator(".turn")).toHaveCount(0);
  await expect(field).toBeFocused();
});

test("a screen reader hears the whole answer once, and of its end", async ({ page }) => {
  const heard = [];
  await page.exposeFunction("hear", (text) => heard.push(text));
  await page.evaluate(() => {
    const announcer = document.querySelector("[role=status]");
    new MutationObserver(() => window.hear(announcer.textContent)).observe(announcer, { childList: true });
  });
  await say(page, PROMPT);
  await expect(answers(page)).toHaveCount(1);
  await expect.poll(() => heard).toEqual([ANSWER]);
});

test.describe("a phone", () => {
  test.use({ viewport: SCREENS.phone, hasTouch: true });

  test("settings lie over the conversation, which cannot be reached meanwhile", async ({ page }) => {
    const toggle = page.locator("#settings-toggle");
    await expect(page.locator("#settings")).toBeHidden();
    await toggle.tap();
    await expect(toggle).toHaveAttribute("aria-expanded", "true");
    await expect(page.getByLabel("System prompt")).toBeVisible();
    await expect(page.locator("#main")).toHaveAttribute("inert", "");
    await page.keyboard.press("Escape");
    await expect(page.locator("#settings")).toBeHidden();
    await expect(toggle).toBeFocused();
    await expect(page.locator("#main")).not.toHaveAttribute("inert", "");
  });

  test("columns lie below one another", async ({ page }) => {
    await page.getByRole("button", { name: "Two settings side by side" }).tap();
    await expect(answers(page)).toHaveCount(2);
    const boxes = await Promise.all([0, 1].map((index) => page.locator(".column").nth(index).boundingBox()));
    expect(boxes[1].y).toBeGreaterThan(boxes[0].y + boxes[0].height);
  });
});
