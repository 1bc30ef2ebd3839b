// An answer as it comes: its text, calls of tools, and what it cost.

import { count, el, follow, rate, seconds } from "./dom.js";
import { kvFigures } from "./kv.js";
import { markdown } from "./markdown.js";
import { callView } from "./tools.js";

/** Below this, in milliseconds, tokens came together, and the time between them says nothing. */
const SHORTEST_MEASURE = 2;

/** The longest time between two pictures of an answer that comes, in milliseconds. */
const LONGEST_PAUSE = 200;

export class AnswerView {
  text = "";
  calls = [];
  #began = performance.now();
  #first = null;
  #last = null;
  #finish = null;
  #usage = null;
  #firstTokens = 0;
  #frame = null;
  #pause = 0;

  constructor(column) {
    this.body = el("div", { class: "body" });
    this.callList = el("div", { class: "calls" });
    this.stats = el("div", { class: "stats" }, el("p", { class: "waiting" }, "Waiting for the first token…"));
    this.element = el("div", { class: "answer", "aria-busy": "true" }, this.body, this.callList, this.stats);
    column.append(this.element);
  }

  /** A chunk of the stream. */
  take(chunk) {
    const [choice] = chunk.choices;
    this.#usage = chunk.usage ?? this.#usage;
    if (choice) {
      const { content, tool_calls: calls } = choice.delta;
      this.#finish = choice.finish_reason ?? this.#finish;
      this.text += content ?? "";
      for (const part of calls ?? []) this.#takeCall(part);
      if (content || calls) this.#time();
    }
    this.#frame ??= setTimeout(() => requestAnimationFrame(() => this.#draw()), this.#pause);
  }

  #takeCall({ index, id, function: part }) {
    const call = (this.calls[index] ??= { id, type: "function", function: { name: "", arguments: "" } });
    call.function.name += part?.name ?? "";
    call.function.arguments += part?.arguments ?? "";
  }

  #time() {
    this.#last = performance.now();
    if (this.#first === null) {
      this.#first = this.#last;
      this.#firstTokens = this.#usage?.completion_tokens ?? 0;
    }
  }

  #draw() {
    this.#frame = null;
    if (!this.element.hasAttribute("aria-busy")) return;
    const began = performance.now();
    follow(() => {
      this.body.replaceChildren(markdown(this.text));
      this.callList.replaceChildren(...this.calls.map(callView));
      if (this.#first !== null) this.stats.replaceChildren(this.#speed());
    });
    // Long texts take longer to draw: most of the time is left to everything else.
    this.#pause = Math.min(LONGEST_PAUSE, 4 * (performance.now() - began));
  }

  #speed() {
    const tokens = this.#usage?.completion_tokens ?? 0;
    const line = el("p", { class: "speed" }, tokens === 1 ? "1 token" : `${count(tokens)} tokens`);
    if (this.#first === null) return line;
    line.append(`, the first after ${seconds(this.#first - this.#began)}`);
    const took = this.#last - this.#first;
    const [made, time, note] =
      took >= SHORTEST_MEASURE
        ? [tokens - this.#firstTokens, took, ""]
        : [tokens, this.#last - this.#began, " with the prompt"];
    if (made > 0) line.prepend(el("strong", {}, `${rate((1000 * made) / time)} tokens/s${note}`), " · ");
    return line;
  }

  /** The stream has ended as it should. */
  end() {
    this.#close([...this.#ending(), this.#speed(), ...this.#cost()]);
  }

  #cost() {
    if (!this.#usage?.kv_cache) return [];
    const { prompt_tokens: prompt, prompt_tokens_details: details } = this.#usage;
    const cached = details?.cached_tokens ? `, ${count(details.cached_tokens)} of them computed before` : "";
    return [...kvFigures(this.#usage), el("p", { class: "hint" }, `${count(prompt)} tokens of prompt${cached}`)];
  }

  #ending() {
    const tokens = this.#usage?.completion_tokens ?? 0;
    if (this.#finish === "length") return [el("p", { class: "cut" }, `Cut off at ${count(tokens)} tokens.`)];
    if (["stop", "tool_calls", null].includes(this.#finish)) return [];
    return [el("p", { class: "cut" }, `Ended: ${this.#finish}.`)];
  }

  /** The stream was stopped, or broke off with an error. */
  fail(error) {
    const why = error
      ? el("p", { class: "error" }, error.message)
      : el("p", { class: "cut" }, "Stopped.");
    const speed = this.#first === null ? [] : [this.#speed()];
    this.#close([why, ...speed]);
  }

  #close(figures) {
    this.#draw();
    this.element.removeAttribute("aria-busy");
    follow(() => this.stats.replaceChildren(...figures));
  }

  /** A button at the end of the answer. */
  offer(text, onclick) {
    const button = el("button", { type: "button", onclick }, text);
    this.stats.append(button);
    return button;
  }

  /** The answer as a message of the conversation. */
  message() {
    const message = { role: "assistant", content: this.text || null };
    if (this.calls.length > 0) message.tool_calls = this.calls;
    else message.content = this.text;
    return message;
  }

  /** The answer in words. */
  spoken() {
    const calls = this.calls.map((call) => `Calls ${call.function.name} with ${call.function.arguments}.`);
    return [this.body.textContent, ...calls].join(" ").trim() || "The answer is empty.";
  }
}
