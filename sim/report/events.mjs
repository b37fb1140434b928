// The lines of the trace. Only those in view are elements of the page.

import { make, mentions, plain, seconds } from "./dom.mjs";
import { kindOf } from "./timeline.mjs";

/** @typedef {import("./simulator.mjs").Line} TraceLine */

const ROW = 22;
/** How many rows beyond the view are kept ready. */
const AHEAD = 12;

export class EventList {
  /** @type {TraceLine[]} */
  #shown;
  #event = -1;
  /** @type {string | undefined} */
  #call;
  #space = make("div", "");

  /**
   * @param {HTMLElement} element
   * @param {TraceLine[]} lines
   * @param {(event: number) => void} pick
   */
  constructor(element, lines, pick) {
    this.element = element;
    this.lines = lines;
    this.#shown = lines;
    this.#space.setAttribute("role", "presentation");
    element.append(this.#space);
    element.addEventListener("scroll", () => this.#render());
    element.addEventListener("click", (event) => {
      const row = event.target instanceof Element ? event.target.closest(".row") : null;
      if (row instanceof HTMLElement) pick(Number(row.dataset.event));
    });
    new ResizeObserver(() => this.#render()).observe(element);
  }

  /**
   * Shows only the lines that contain a text. Returns how many these are.
   *
   * @param {string} text
   */
  filter(text) {
    const wanted = text.trim().toLowerCase();
    const contains = (/** @type {TraceLine} */ line) =>
      /^c\d+$/.test(wanted)
        ? mentions(line.text, wanted)
        : `${line.lane} ${line.text}`.toLowerCase().includes(wanted);
    this.#shown = wanted ? this.lines.filter(contains) : this.lines;
    this.#reveal();
    this.#render();
    return this.#shown.length;
  }

  /**
   * Goes to an event, and chooses a call.
   *
   * @param {number} event
   * @param {string | undefined} call
   */
  select(event, call) {
    this.#event = event;
    this.#call = call;
    this.#reveal();
    this.#render();
  }

  #reveal() {
    const after = this.#shown.findIndex((line) => line.event >= this.#event);
    const first = after < 0 ? this.#shown.length - 1 : after;
    const here = this.#shown.filter((line) => line.event === this.#event).length;
    const { scrollTop, clientHeight } = this.element;
    const [top, bottom] = [first * ROW, (first + Math.max(1, here)) * ROW];
    if (top < scrollTop + ROW || bottom > scrollTop + clientHeight - ROW) {
      this.#space.style.height = `${this.#shown.length * ROW}px`;
      this.element.scrollTop = top - clientHeight / 2;
    }
  }

  #render() {
    const { element } = this;
    this.#space.style.height = `${this.#shown.length * ROW}px`;
    const from = Math.max(0, Math.floor(element.scrollTop / ROW) - AHEAD);
    const to = Math.min(
      this.#shown.length,
      Math.ceil((element.scrollTop + element.clientHeight) / ROW) + AHEAD,
    );
    const rows = [];
    let active = "";
    for (let at = from; at < to; at += 1) {
      const line = this.#shown[at];
      if (!line) break;
      const row = this.#row(line, at);
      if (line.event === this.#event && !active) active = row.id;
      rows.push(row);
    }
    element.replaceChildren(this.#space, ...rows);
    if (active) element.setAttribute("aria-activedescendant", active);
    else element.removeAttribute("aria-activedescendant");
  }

  /**
   * @param {TraceLine} line
   * @param {number} at
   */
  #row(line, at) {
    const now = line.event === this.#event;
    const classes = ["row"];
    if (now) classes.push("now");
    if (mentions(line.text, this.#call)) classes.push("related");
    if (["failure", "fault", "breaks"].includes(line.mark)) classes.push(`${line.mark}-row`);
    const row = make(
      "div",
      classes.join(" "),
      make("span", "time", seconds(line.simulated_ms)),
      make("span", "event", `e${line.event}`),
      make("span", `lane ${kindOf(line.lane)}`, line.lane === "!!" ? "oracle" : line.lane),
      make("span", "text", plain(line.text)),
    );
    row.id = `line-${at}`;
    row.dataset.event = String(line.event);
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(now));
    row.setAttribute("aria-setsize", String(this.#shown.length));
    row.setAttribute("aria-posinset", String(at + 1));
    row.style.top = `${at * ROW}px`;
    return row;
  }
}
