// Markdown becomes nodes; nothing that a model says becomes markup.

import { answers, expect, force, say, test } from "./support.mjs";

/** The HTML that the page's own renderer makes of a text. */
const rendered = (page, text) =>
  page.evaluate(async (given) => {
    const { markdown } = await import("/web/markdown.js");
    const holder = document.createElement("div");
    holder.append(markdown(given));
    return holder.innerHTML;
  }, text);

const LINK = 'target="_blank" rel="noopener noreferrer"';

for (const [text, html] of [
  ["one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"],
  ["# A\n### B #\n####### no", "<h4>A</h4><h6>B</h6><p>####### no</p>"],
  ["**bold** and *italic*, __bold__ and _italic_, ***both***", "<p><strong>bold</strong> and <em>italic</em>, <strong>bold</strong> and <em>italic</em>, <strong><em>both</em></strong></p>"],
  ["snake_case_name, 2 * 3 * 4, 5*6, __init__.py", "<p>snake_case_name, 2 * 3 * 4, 5*6, <strong>init</strong>.py</p>"],
  ["`a * b` and ``a ` b`` ~~gone~~ \\*kept\\*", "<p><code>a * b</code> and <code>a ` b</code> <s>gone</s> *kept*</p>"],
  ["```rust\nfn f() {}\n\n# no heading\n```\nafter", '<pre tabindex="0"><code>fn f() {}\n\n# no heading</code></pre><p>after</p>'],
  ["~~~\nnever closed", '<pre tabindex="0"><code>never closed</code></pre>'],
  ["- one\n- two\n  - inner\n\n    more\n- three", "<ul><li>one</li><li>two<ul><li>inner<p>more</p></li></ul></li><li>three</li></ul>"],
  ["3. three\n4. four", '<ol start="3"><li>three</li><li>four</li></ol>'],
  ["In\n1984. a year", "<p>In<br>1984. a year</p>"],
  ["> quoted\n> - item", "<blockquote><p>quoted</p><ul><li>item</li></ul></blockquote>"],
  ["a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"],
  ["| a | b |\n|---|:-:|\n| 1 | `x` |\n\nafter", '<div class="table" tabindex="0"><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><code>x</code></td></tr></tbody></table></div><p>after</p>'],
  ["[text](https://example.org/a_(b)) https://example.org/x.", `<p><a href="https://example.org/a_(b)" ${LINK}>text</a> <a href="https://example.org/x" ${LINK}>https://example.org/x</a>.</p>`],
  ["[**x**](http://example.org \"title\")", `<p><a href="http://example.org/" ${LINK}><strong>x</strong></a></p>`],
]) {
  test(`renders ${JSON.stringify(text)}`, async ({ page }) => {
    expect(await rendered(page, text)).toBe(html);
  });
}

const INJECTIONS = [
  "<img src=x onerror=alert(1)>",
  "<script>alert(1)</script>",
  "[a](javascript:alert(1))",
  "[a](JaVaScRiPt:alert(1))",
  "[a](data:text/html,<script>alert(1)</script>)",
  "[a](//example.org/x) [b](/v1/models) [c](vbscript:x) [d](https:alert)",
  "![x](javascript:alert(1))",
  "<a href=javascript:alert(1)>x</a>",
  "`<img src=x onerror=alert(1)>`",
  "```\"><img src=x onerror=alert(1)>\n<img src=x onerror=alert(1)>\n```",
  "| <img src=x onerror=alert(1)> |\n|---|\n| <svg onload=alert(1)> |",
  "[<img src=x onerror=alert(1)>](https://example.org/\"onmouseover=\"alert(1))",
];

const ALLOWED = "p, br, code, pre, strong, em, s, a, ul, ol, li, blockquote, hr, table, thead, tbody, tr, th, td, div, h4, h5, h6";

test("nothing that is written becomes markup, an unsafe address or a listener", async ({ page }) => {
  for (const text of [...INJECTIONS, INJECTIONS.join("\n\n")]) {
    const found = await page.evaluate(
      async ([given, allowed]) => {
        const { markdown } = await import("/web/markdown.js");
        const holder = document.createElement("div");
        holder.append(markdown(given));
        document.body.append(holder);
        const all = [...holder.querySelectorAll("*")];
        const attributes = all.flatMap((node) => [...node.attributes].map(({ name }) => name));
        return {
          tags: all.filter((node) => !node.matches(allowed)).map((node) => node.tagName),
          attributes: attributes.filter((name) => !["href", "target", "rel", "class", "tabindex", "start"].includes(name)),
          addresses: all.filter((node) => node.matches("a") && !/^https?:$/.test(node.protocol)).map((node) => node.href),
        };
      },
      [text, ALLOWED],
    );
    expect(found, text).toEqual({ tags: [], attributes: [], addresses: [] });
  }
});

test("images are never fetched: they become links", async ({ page }) => {
  expect(await rendered(page, "![a cat](https://example.org/cat.png)")).toBe(
    `<p><a href="https://example.org/cat.png" ${LINK}>a cat</a></p>`,
  );
});

test("what the model streams is rendered, and none of it is obeyed", async ({ page }) => {
  const text = "**b** <img src=x onerror=alert(1)> [a](javascript:alert(2)) [ok](https://example.org/)";
  await force(page, text);
  await say(page, "Hello");
  const body = answers(page).locator(".body");
  await expect(body).toHaveText("b <img src=x onerror=alert(1)> [a](javascript:alert(2)) ok");
  await expect(body.locator("strong")).toHaveText("b");
  await expect(body.locator("img")).toHaveCount(0);
  await expect(body.locator("a")).toHaveCount(1);
  await expect(body.locator("a")).toHaveAttribute("href", "https://example.org/");
});

test("hostile texts take no time", async ({ page }) => {
  for (const piece of ["*", "**", "_a", "[", "[a](", "`", "~~a", "> ", "- ", "  - a\n", "|a", "\\", "https://", "![a](b "]) {
    const took = await page.evaluate(async (given) => {
      const { markdown } = await import("/web/markdown.js");
      const began = performance.now();
      markdown(given);
      return performance.now() - began;
    }, piece.repeat(20_000 / piece.length));
    expect(took, piece).toBeLessThan(5000);
  }
});
