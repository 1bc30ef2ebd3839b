// Nodes and numbers as they are shown. Text goes into nodes as text, never as markup.

/** A new element: attributes, listeners (`onclick`), and children, which are nodes or text. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** Tells those who listen to a screen reader. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** How far from its end, in pixels, a page is still at its end. */
const END = 80;

/** Makes a change. Whoever looks at the end of the page goes on looking at it. */
export function follow(change) {
  const isAtEnd = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - END;
  change();
  if (isAtEnd) toEnd();
}

/** Shows the end of the page. */
export function toEnd() {
  window.scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
}

const whole = new Intl.NumberFormat("en");

/** A count: 2,460. */
export const count = (number) => whole.format(number);

/** Bytes in binary units, to one decimal: 1.3 MiB. */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? number : number.toFixed(1)} ${units[unit]}`;
}

/** Seconds: 0.31 s. */
export const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(milliseconds < 9950 ? 2 : 0)} s`;

/** A rate: 143, or 8.2. */
export const rate = (number) => (number < 99.95 ? number.toFixed(1) : count(Math.round(number)));
