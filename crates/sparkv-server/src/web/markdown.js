// Markdown as nodes. Everything that came from a model ends up in text nodes; the only attribute made of it is the
// address of a link, which is http or https.

import { el } from "./dom.js";

/** Lists and quotes within one another, beyond which text is left as it is. */
const MAX_DEPTH = 12;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(\s+|$)/;
const DELIMITER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

// Spans are bounded, so that signs that nothing closes are not searched for through all of a long text.
const INLINE = new RegExp(
  [
    /\\(?<escaped>[!-/:-@[-`{-~])/,
    /(?<ticks>`+)(?<code>[^]{1,2000}?)(?<!`)\k<ticks>(?!`)/,
    /!?\[(?<label>[^[\]]{0,500})\]\(\s*<?(?<target>[^\s()<>]{0,2000}(?:\([^\s()<>]{0,500}\)[^\s()<>]{0,500})?)>?(?:\s+"[^"]{0,500}")?\s*\)/,
    /(?<strong>\*\*|(?<!\w)__)(?=\S)(?<bold>[^]{0,2000}?\S)(?<end>\k<strong>)(?![*_])/,
    /(?<mark>\*|(?<!\w)_)(?![\s*_])(?<italic>[^*_]{0,2000}?[^\s*_])\k<mark>(?!\w|\*)/,
    /~~(?=\S)(?<struck>[^]{0,2000}?\S)~~/,
    /(?<url>https?:\/\/[^\s<>()[\]]{0,2000}[^\s<>()[\].,:;!?'"*_])/,
  ]
    .map((part) => part.source)
    .join("|"),
  "g",
);

/** A text in Markdown, as a fragment. */
export function markdown(text) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.replaceAll("\t", "    ").split(/\r?\n/), 0));
  return fragment;
}

function blocks(lines, depth) {
  const nodes = [];
  let paragraph = [];
  const endParagraph = () => {
    if (paragraph.length > 0) nodes.push(el("p", {}, ...inlineLines(paragraph)));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; ) {
    const [node, taken] = block(lines, at, depth, paragraph.length > 0);
    if (taken === 0) {
      if (lines[at].trim()) paragraph.push(lines[at].trim());
      else endParagraph();
      at += 1;
    } else {
      endParagraph();
      nodes.push(node);
      at += taken;
    }
  }
  endParagraph();
  return nodes;
}

/** The block that begins at a line, and its number of lines; 0 if it is a line of a paragraph. */
function block(lines, at, depth, inParagraph) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  // The page itself has the first three levels.
  if (heading) return [el(`h${Math.min(heading[1].length + 3, 6)}`, {}, ...inline(heading[2])), 1];
  if (RULE.test(line)) return [el("hr"), 1];
  if (depth < MAX_DEPTH && QUOTE.test(line)) return quote(lines, at, depth);
  const item = ITEM.exec(line);
  // A number within a paragraph begins no list, unless it is the first.
  if (depth < MAX_DEPTH && item && !(inParagraph && /^\d/.test(item[2]) && parseInt(item[2], 10) !== 1)) {
    return list(lines, at, depth, item);
  }
  if (line.includes("|") && DELIMITER.test(lines[at + 1] ?? "") && cells(line).length === cells(lines[at + 1]).length) {
    return table(lines, at);
  }
  return [null, 0];
}

function code(lines, at, [, fence]) {
  let end = at + 1;
  const closes = (line) => line.trim().startsWith(fence) && /^(`+|~+)$/.test(line.trim());
  while (end < lines.length && !closes(lines[end])) end += 1;
  // It can be scrolled, so it can be reached.
  const pre = el("pre", { tabindex: 0 }, el("code", {}, lines.slice(at + 1, end).join("\n")));
  return [pre, end - at + 1];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [el("blockquote", {}, ...blocks(inner, depth + 1)), end - at];
}

function list(lines, at, depth, [, , marker]) {
  const isOrdered = /^\d/.test(marker);
  const start = parseInt(marker, 10);
  const node = el(isOrdered ? "ol" : "ul", { start: isOrdered && start !== 1 ? start : null });
  let end = at;
  for (let item; (item = ITEM.exec(lines[end] ?? "")) && item[2].at(-1) === marker.at(-1); ) {
    const inner = [lines[end].slice(item[0].length)];
    const width = Math.min(item[0].length, item[1].length + item[2].length + 1);
    end += 1;
    // What is indented belongs to the item, over empty lines, too.
    for (; end < lines.length; end += 1) {
      const indented = /^ */.exec(lines[end])[0].length;
      const isEmpty = !lines[end].trim();
      const goesOn = isEmpty && /^ {2,}\S/.test(lines[end + 1] ?? "");
      if (!goesOn && (isEmpty || indented < Math.min(width, 2))) break;
      inner.push(lines[end].slice(Math.min(indented, width)));
    }
    // An empty line between two items.
    if (end < lines.length && !lines[end].trim() && ITEM.test(lines[end + 1] ?? "") && !RULE.test(lines[end + 1])) end += 1;
    const nodes = blocks(inner, depth + 1);
    const [first] = nodes;
    if (first?.tagName === "P") nodes.splice(0, 1, ...first.childNodes);
    node.append(el("li", {}, ...nodes));
  }
  return [node, end - at];
}

const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());

function table(lines, at) {
  const width = cells(lines[at]).length;
  const row = (line, tag) =>
    el("tr", {}, ...cells(line).slice(0, width).map((cell) => el(tag, {}, ...inline(cell.replaceAll("\\|", "|")))));
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const body = lines.slice(at + 2, end).map((line) => row(line, "td"));
  const node = el("table", {}, el("thead", {}, row(lines[at], "th")), el("tbody", {}, ...body));
  return [el("div", { class: "table", tabindex: 0 }, node), end - at];
}

function inlineLines(lines) {
  return inline(lines.join("\n"));
}

/** Text with its marks, as nodes. Lines end where the model ended them. */
function inline(text, depth = 0) {
  const nodes = [];
  const plain = (part) =>
    part.split("\n").forEach((line, index) => nodes.push(...(index > 0 ? [el("br")] : []), document.createTextNode(line)));
  let at = 0;
  for (const match of depth < MAX_DEPTH ? text.matchAll(INLINE) : []) {
    plain(text.slice(at, match.index));
    nodes.push(...marked(match, depth + 1));
    at = match.index + match[0].length;
  }
  plain(text.slice(at));
  return nodes;
}

function marked({ 0: all, groups }, depth) {
  if (groups.escaped) return [groups.escaped];
  if (groups.code) return [el("code", {}, groups.code.replaceAll("\n", " ").replace(/^ (.*\S.*) $/, "$1"))];
  if (groups.bold) return [el("strong", {}, ...inline(groups.bold, depth))];
  if (groups.italic) return [el("em", {}, ...inline(groups.italic, depth))];
  if (groups.struck) return [el("s", {}, ...inline(groups.struck, depth))];
  const address = web(groups.url ?? groups.target);
  if (!address) return [all];
  const label = groups.url ? [groups.url] : inline(groups.label || groups.target, depth);
  // A link within a link would be none.
  const text = label.some((node) => node instanceof Element && (node.matches("a") || node.querySelector("a")))
    ? [groups.label]
    : label;
  return [el("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...text)];
}

/** The address, if it is one of the web. */
function web(address) {
  if (!/^https?:\/\//i.test(address ?? "")) return null;
  return URL.parse?.(address)?.href ?? (URL.canParse(address) ? new URL(address).href : null);
}
