// Elements, whose content is always text and never markup.

/**
 * Returns the element of the page with this id.
 *
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} type
 */
export function find(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${id}`);
  return found;
}

/**
 * Makes an element with a class and with content.
 *
 * @template {keyof HTMLElementTagNameMap} N
 * @param {N} name
 * @param {string} className
 * @param {(Node | string)[]} content
 */
export function make(name, className, ...content) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

/** The moment at which simulations begin, in milliseconds since 1970. */
let beginning = 0;

/** @param {number} ms */
export function beginAt(ms) {
  beginning = ms;
}

/**
 * Returns simulated milliseconds as seconds.
 *
 * @param {number} ms
 */
export function seconds(ms) {
  return `${Math.floor(ms / 1000)}.${String(ms % 1000).padStart(3, "0")}`;
}

/** How far from the beginning a number is still taken for a moment: ten years. */
const NEAR_MS = 315_360_000_000;

/**
 * Returns how a word is shown if it is a moment.
 *
 * @param {string} word
 */
function momentOf(word) {
  const since = Number(word) - beginning;
  if (!/^\d{13}$/.test(word) || Math.abs(since) > NEAR_MS) return undefined;
  return `${since < 0 ? "-" : ""}${seconds(Math.abs(since))} s`;
}

/**
 * Returns a text with each moment in simulated seconds.
 *
 * @param {string} text
 */
export function plain(text) {
  return text.replace(/\b\d{13}\b/g, (word) => momentOf(word) ?? word);
}

/**
 * Returns a text in parts: each call as a button, and each moment in simulated seconds.
 *
 * @param {string} text
 * @param {string | undefined} chosen the call that is chosen
 */
export function rich(text, chosen) {
  /** @type {(Node | string)[]} */
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(/\bc\d+\b|\b\d{13}\b/g)) {
    const word = match[0];
    const shown = momentOf(word);
    if (!word.startsWith("c") && shown === undefined) continue;
    parts.push(text.slice(end, match.index));
    end = match.index + word.length;
    if (word.startsWith("c")) {
      const call = make("button", chosen === word ? "call chosen" : "call", word);
      call.type = "button";
      call.dataset.call = word;
      parts.push(call);
    } else {
      const moment = make("span", "moment", shown ?? word);
      moment.title = `${word} ms since 1970`;
      parts.push(moment);
    }
  }
  parts.push(text.slice(end));
  return parts;
}

/**
 * Returns whether a text mentions a call.
 *
 * @param {string} text
 * @param {string | undefined} call
 */
export function mentions(text, call) {
  return call !== undefined && new RegExp(`\\b${call}\\b`).test(text);
}
