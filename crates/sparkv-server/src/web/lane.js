// One of the conversations that are held side by side: its messages, and the answer that is being made.

import { streamChat } from "./api.js";
import { announce, follow } from "./dom.js";
import { AnswerView } from "./answer.js";
import { resultsForm } from "./tools.js";

export class Lane {
  #running = null;

  /** `changed` is called when an answer begins or ends. */
  constructor(name, kv, changed) {
    this.name = name;
    this.kv = kv;
    this.changed = changed;
    this.messages = [];
    /** Takes away what could still be done about the last answer. */
    this.settle = () => {};
  }

  get isRunning() {
    return this.#running !== null;
  }

  stop() {
    this.#running?.abort();
  }

  /** Says something. What was said before without being answered is no part of the conversation. */
  say(content) {
    this.settle();
    while (["user", "tool"].includes(this.messages.at(-1)?.role)) this.messages.pop();
    this.messages.push({ role: "user", content });
  }

  /**
   * Lets the model answer, within `column`. `ask` gives the request but for its messages, by the settings of this moment;
   * null if they are not right.
   */
  async answer(column, ask) {
    const settings = ask();
    if (!settings) return;
    // Whoever gives results does not ask for calls without end.
    if (this.messages.at(-1)?.role === "tool" && settings.tool_choice === "required") delete settings.tool_choice;
    this.settle();
    this.settle = () => {};
    const controller = new AbortController();
    this.#running = controller;
    this.changed();
    const { system, ...rest } = settings;
    const messages = system ? [{ role: "system", content: system }, ...this.messages] : this.messages;
    const view = new AnswerView(column);
    // A new conversation may begin meanwhile, of which this is no part.
    const isCurrent = () => this.#running === controller;
    try {
      for await (const chunk of streamChat({ ...rest, messages }, controller.signal)) view.take(chunk);
      view.end();
      if (!isCurrent()) return;
      this.messages.push(view.message());
      announce(`${column.dataset.announced}${view.spoken()}`);
      if (view.calls.length > 0) this.#askForResults(column, ask, view.calls);
    } catch (error) {
      const isStopped = error.name === "AbortError";
      view.fail(isStopped ? null : error);
      if (!isCurrent()) return;
      announce(isStopped ? "Stopped." : `Error: ${error.message}`);
      // Half a call is not one that anybody should answer.
      if (isStopped && view.text) this.messages.push({ role: "assistant", content: view.text });
      else this.#offerAgain(column, ask, view);
    }
    this.#running = null;
    this.changed();
  }

  /** Forgets everything. */
  clear() {
    this.stop();
    this.#running = null;
    this.messages = [];
    this.settle = () => {};
  }

  #askForResults(column, ask, calls) {
    const before = [...this.messages];
    const form = resultsForm(`${this.name}${before.length}`, calls, (results) => {
      this.messages = [...before, ...results];
      this.answer(column, ask);
    });
    follow(() => column.append(form.element));
    this.settle = form.settle;
  }

  #offerAgain(column, ask, view) {
    const button = view.offer("Try again", () => this.answer(column, ask));
    this.settle = () => button.remove();
  }
}
