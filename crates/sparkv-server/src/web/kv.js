// What a cache may cost, as it is chosen, and what it did cost, as it is shown.

import { bytes, count, el } from "./dom.js";

const BUDGET = "budget";
const CUSTOM = "custom";

/** The least share of a budget, in percent. */
const MIN_SHARE = 10;

const CHOICES = [
  ["", "Server's default"],
  ["exact", "exact (uncompressed)"],
  ["quality", "quality"],
  ["balanced", "balanced"],
  ["compact", "compact"],
  ["aggressive", "aggressive"],
  [BUDGET, "Budget"],
  [CUSTOM, "Other (JSON, or a name)"],
];

/** Controls for the `kv_cache` of requests; `name` is A or B. */
export class KvControls {
  constructor(name) {
    const id = (part) => `kv-${name.toLowerCase()}-${part}`;
    this.name = name;
    this.choice = el(
      "select",
      { id: id("setting"), onchange: () => this.#show() },
      ...CHOICES.map(([value, text]) => el("option", { value }, text)),
    );
    this.share = el("input", {
      ...{ id: id("budget"), type: "range", min: MIN_SHARE, max: 100, step: 5, value: 25 },
      oninput: () => this.choose(BUDGET),
    });
    this.shown = el("output", { for: id("budget") });
    this.json = el("textarea", {
      ...{ id: id("json"), class: "code", rows: 3, spellcheck: "false", "aria-describedby": id("error") },
      placeholder: '{"precision": "int4"}',
      oninput: () => this.#complain(""),
    });
    this.error = el("p", { id: id("error"), class: "error", hidden: true });
    this.custom = el("div", { class: "field" }, el("label", { for: id("json") }, "kv_cache"), this.json, this.error);
    this.legend = el("legend", {}, el("span", { class: `lane lane-${name.toLowerCase()}` }, name));
    this.element = el(
      "fieldset",
      { class: "kv", "aria-label": `KV cache ${name}` },
      this.legend,
      el("div", { class: "field" }, el("label", { for: id("setting") }, "Setting"), this.choice),
      el(
        "div",
        { class: "field" },
        el("div", { class: "spread" }, el("label", { for: id("budget") }, "Budget"), this.shown),
        this.share,
      ),
      this.custom,
    );
    this.#show();
  }

  /** Sets the choice, and the share of a budget. */
  choose(choice, share) {
    this.choice.value = choice;
    if (share) this.share.value = share;
    this.#show();
  }

  /** The request's `kv_cache`; undefined for the server's default. Throws if what was typed is no JSON. */
  value() {
    const choice = this.choice.value;
    if (choice === BUDGET) return { budget: `${this.share.value}%` };
    if (choice !== CUSTOM) return choice ? { preset: choice } : undefined;
    const text = this.json.value.trim();
    if (/^[\w-]+$/.test(text)) return { preset: text };
    try {
      return JSON.parse(text);
    } catch {
      this.#complain("This is neither JSON nor a preset's name.");
      this.json.focus();
      throw new SyntaxError("kv_cache is neither JSON nor a preset's name");
    }
  }

  /** The choice in a word or two. */
  label() {
    const choice = this.choice.value;
    if (choice === BUDGET) return `budget ${this.share.value} %`;
    return choice || "server's default";
  }

  #show() {
    const isBudget = this.choice.value === BUDGET;
    this.shown.textContent = isBudget ? `${this.share.value} % of dense` : "not set";
    this.share.classList.toggle("unset", !isBudget);
    this.share.style.setProperty("--share", `${(100 * (this.share.value - MIN_SHARE)) / (100 - MIN_SHARE)}%`);
    this.share.setAttribute("aria-valuetext", isBudget ? `${this.share.value} percent of dense` : "not set");
    this.custom.hidden = this.choice.value !== CUSTOM;
    this.#complain("");
  }

  #complain(message) {
    this.error.textContent = message;
    this.error.hidden = !message;
    this.json.setAttribute("aria-invalid", Boolean(message));
  }
}

/** What an answer's cache held: `usage` with its `kv_cache`. */
export function kvFigures({ kv_cache: kv }) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${Math.min(100, (100 * kv.bytes) / kv.dense_bytes)}%`;
  const held = el("strong", {}, bytes(kv.bytes));
  const kept = `${count(kv.kept_tokens)} tokens kept`;
  return [
    el("div", { class: "bar", "aria-hidden": "true" }, fill),
    el("p", { class: "held" }, held, ` held of ${bytes(kv.dense_bytes)} dense${saved(kv)}`),
    el("p", { class: "hint" }, `${kv.preset} · keys ${kv.keys}, values ${kv.values} · ${kept}`),
  ];
}

/** What became of the bytes of a dense cache. */
function saved(kv) {
  if (kv.bytes < kv.dense_bytes) return ` (${Math.round((100 * kv.bytes) / kv.dense_bytes)} %)`;
  const isWhole = [kv.keys, kv.values].every((stored) => /^f(16|32)$/.test(stored)) && kv.kept_tokens >= kv.prompt_tokens;
  if (isWhole) return ": nothing is compressed.";
  return (
    ". Short conversations save nothing: the first tokens, the latest, and the block that fills up behind them stay dense, " +
    "and room is made ahead."
  );
}
